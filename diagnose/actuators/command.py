"""``operator.command``: a program that the site allows, by name; its arguments are fixed, and no shell reads them."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from typing import IO

from diagnose.errors import ActuatorError
from diagnose.model.incident import Intent, Plan
from diagnose.model.remedy import OperatorCommand, Step
from diagnose.model.text import Text

_TOLD_BYTES = 400
_PASSED = ("PATH", "LANG", "HOME", "TZ")


class RunCommand:
    """Runs the site's own commands.

    Args:
        allowed: Program and arguments by name, as the configuration lists them. Nothing that was read anywhere is ever
            put among them.
    """

    action = "operator.command"

    def __init__(self, allowed: Mapping[str, tuple[str, ...]]) -> None:
        self._allowed = allowed
        self._done: set[tuple[str, str]] = set()

    def describe(self, step: Step, plan: Plan) -> Text:  # noqa: ARG002 - the port's words
        """Name the program. Touches nothing."""
        name = _name(step)
        words = shlex.join(self._allowed.get(name, ())) or "-"
        return Text(f"Run this site's command {name}: {words}", f"运行本站点命令 {name}：{words}")

    def perform(self, step: Step, intent: Intent) -> Text:
        """Run it to its end; a second call for the same intent does nothing.

        Raises:
            ActuatorError: It is not allowed, cannot be run, failed, or took too long; then it is killed.
        """
        name = _name(step)
        if name not in self._allowed:
            raise ActuatorError(
                f"the command {name} is not allowed here. List it under commands: in the configuration."
            )
        if (intent.id, name) in self._done:
            return Text(f"{name} has run already; nothing done", f"{name} 已运行过，未重复执行")
        self._done.add((intent.id, name))
        with tempfile.TemporaryFile() as output:
            status = _run(self._allowed[name], _environment(intent), step.timeout.total_seconds(), output)
            said = _last_words(output)
        if status != 0:
            how = "took too long and was killed" if status is None else f"ended with status {status}"
            raise ActuatorError(f"{name} {how}: {said or 'it said nothing'}. Run it by hand to see why.")
        more = f": {said}" if said else ""
        return Text(f"{name} ended well{more}", f"{name} 运行成功{more}")


def _name(step: Step) -> str:
    return step.command if isinstance(step, OperatorCommand) else ""


def _environment(intent: Intent) -> dict[str, str]:
    """What the command is told: our own words only, none that a log could have brought along."""
    told = {name: os.environ[name] for name in _PASSED if name in os.environ}
    told["DIAGNOSE_TARGET"] = intent.target
    told["DIAGNOSE_INCIDENT"] = intent.incident_id
    told["DIAGNOSE_REMEDY"] = intent.plan.remedy_id
    return told


def _run(argv: tuple[str, ...], env: Mapping[str, str], seconds: float, output: IO[bytes]) -> int | None:
    """Return the exit status; ``None`` where it took too long, and was killed with all that it had started."""
    try:
        child = subprocess.Popen(  # noqa: S603 - the site's own words, no shell
            argv, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    except OSError as error:
        raise ActuatorError(f"{argv[0]} cannot be run: {error.strerror}. Correct it under commands:.") from error
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return None


def _last_words(output: IO[bytes]) -> str:
    output.seek(max(output.seek(0, os.SEEK_END) - _TOLD_BYTES, 0))
    return " ".join(output.read().decode(errors="replace").split())
