"""A server in a unit of its own: systemd starts and stops it, diagnose says when and with which arguments.

What remedies change goes into an environment file that the unit reads (``EnvironmentFile=-.../overlays/UNIT.env``),
beside the arguments that it was laid over; the launcher of ``fastdeploy@.service`` uses it as long as these still are
the operator's. So a person's edit always counts, and nobody's file is ever edited.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec

from diagnose.controllers import procfs
from diagnose.controllers.attach import is_server
from diagnose.controllers.process import ProcessController, drained_of, freed, handle_of, ports_of
from diagnose.errors import ControllerError, UnitDownError
from diagnose.launch.spec import fastdeploy_part
from diagnose.model.launch import LaunchSpec
from diagnose.ports import Exit, Handle, Ports, StopReport

ARGS, ARGS_FOR = "DIAGNOSE_ARGS", "DIAGNOSE_ARGS_FOR"

_ASK_SECONDS = 10.0
_EXEC_SECONDS = 15.0
_STOP_SECONDS = 900.0
_LOOK_SECONDS = 0.05
_RUNS, _CLD_EXITED = "0", "1"
_TRIED = "job for "
"""In what systemctl says where systemd took the order and the unit did not start: words that are not translated."""
_GRACE = timedelta(seconds=30)
_NOTHING = timedelta(0)
_SHOWN = (
    *("ActiveState", "MainPID", "InvocationID", "Result"),
    *("ExecMainPID", "ExecMainCode", "ExecMainStatus", "Environment", "EnvironmentFiles"),
)


class SystemdController(ProcessController):
    """Controls one server through ``systemctl``.

    Args:
        unit: Of the server, e.g. ``fastdeploy@ernie.service``.
        overlays: The folder that the unit's second ``EnvironmentFile=`` points to.
        systemctl: How it is called.
    """

    def __init__(
        self, unit: str, *, overlays: Path, systemctl: Sequence[str] = ("systemctl",), gpu_wait: timedelta | None = None
    ) -> None:
        super().__init__(gpu_wait=gpu_wait or timedelta(seconds=60))
        self._unit, self._overlays, self._systemctl = unit, overlays, tuple(systemctl)
        self._wish: tuple[str, ...] = ()

    @property
    def overlay_file(self) -> Path:
        """The environment file of what is laid over the unit's own arguments."""
        return self._overlays / f"{self._unit}.env"

    def start(
        self, target: str, generation: int, spec: LaunchSpec, *, run_dir: str, ports: Ports | None = None
    ) -> Handle:
        """Start the unit with this command; one without words as the unit itself says.

        Raises:
            UnitDownError: systemd tried, and it runs no server.
            ControllerError: systemd was not asked or refused; or its program is not the unit's.
        """
        del run_dir, ports
        if spec.argv:
            self._lay(spec)
        self._call("start", seconds=_EXEC_SECONDS + _ASK_SECONDS)
        handle = self._wait_exec(target, generation)
        if spec.argv and _args(handle.spec) != _args(spec):
            raise ControllerError(
                f"{self._unit} does not run the arguments that were worked out. Let it read {self.overlay_file} and "
                "start through fastdeploy-launch: diagnose service show."
            )
        return handle

    def find(self, target: str) -> Handle | None:
        """Return what the unit runs, as generation 0: who started it, and how often, is not known here."""
        shown = self._show()
        pid = int(shown.get("MainPID") or 0)
        if shown.get("ActiveState") not in {"active", "reloading"} or not pid or not is_server(procfs.cmdline(pid)):
            return None
        return self._handle(pid, target, 0, shown)

    def successor(self, handle: Handle) -> Handle | None:
        """Return what the unit runs where this server has ended and somebody else started it anew."""
        found = self.find(handle.target) if self._due() else None
        return found if found and found.instance != handle.instance else None

    def wish(self, handle: Handle) -> LaunchSpec:
        """Return the operator's command of what runs: without what was laid over it."""
        laid = read_environment(self.overlay_file)
        ran, wish = shlex.split(laid.get(ARGS, "")), shlex.split(laid.get(ARGS_FOR, ""))
        at = fastdeploy_part(handle.spec.argv)
        spec = handle.spec
        if laid and list(spec.argv[at:]) == ran:
            spec = msgspec.structs.replace(spec, argv=(*spec.argv[:at], *wish))
        self._wish = _args(spec)
        return spec

    def poll_exit(self, handle: Handle) -> Exit | None:
        """Return how the main process ended, as systemd tells; ``None`` while it runs."""
        ended = super().poll_exit(handle)
        if ended is None or (handle.pid, handle.ticks) in self._exits:
            return ended
        try:
            shown = self._show()
        except ControllerError:
            return ended
        if shown.get("ExecMainPID") == str(handle.pid):
            how, status = shown.get("ExecMainCode", "0"), int(shown.get("ExecMainStatus") or 0)
            if how == _RUNS:
                return None  # systemd will see it in a moment
            ended = Exit(code=status if how == _CLD_EXITED else -status)
        self._exits[handle.pid, handle.ticks] = ended
        return ended

    def stop(
        self,
        handle: Handle,
        *,
        drain: timedelta = _NOTHING,
        grace: timedelta = _GRACE,  # noqa: ARG002 - the unit has its own
        running: Callable[[], int | None] | None = None,
        gpu_own_bytes: Callable[[], int | None] | None = None,
    ) -> StopReport:
        """Stop the unit, all its processes, and wait until its GPU memory is free. A second call finds nothing to do.

        How long it may take to end by itself says the unit: ``TimeoutStopSec=``.
        """
        began = time.monotonic()
        drained = drained_of(running, drain) if running and self.tree(handle) else None
        before = self.tree(handle)
        self._call("stop", seconds=_STOP_SECONDS)
        left = self.tree(handle)
        killed = {handle.pid} if self._show().get("Result") == "timeout" else set()
        return StopReport(
            ended=tuple(sorted({one.pid for one in before} - killed - {one.pid for one in left})),
            killed=tuple(killed),
            left=tuple(one.pid for one in left),
            gpu_free=freed(gpu_own_bytes, self._gpu_wait),
            drained=drained,
            seconds=time.monotonic() - began,
        )

    def _lay(self, spec: LaunchSpec) -> None:
        """Write down what the unit's next start is to use, and over which arguments; nothing where it is these."""
        args = _args(spec)
        if any(set("\n\r") & set(word) for word in (*args, *self._wish)):
            raise ControllerError("an argument holds a line break, which no environment file can carry. Take it out.")
        try:
            if args == self._wish:
                self.overlay_file.unlink(missing_ok=True)
                return
            self._overlays.mkdir(mode=0o700, parents=True, exist_ok=True)
            told = "# Written by diagnose: what remedies changed, and for which arguments. Taken back by: "
            lines = [f"{told}diagnose remedies rollback"]
            lines += [f"{name}={quoted(shlex.join(words))}" for name, words in ((ARGS, args), (ARGS_FOR, self._wish))]
            beside = self.overlay_file.with_suffix(".new")
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write("\n".join(lines) + "\n")
            beside.replace(self.overlay_file)
        except OSError as error:
            raise ControllerError(
                f"{self.overlay_file} cannot be written: {error.strerror}. See to its folder."
            ) from error

    def _wait_exec(self, target: str, generation: int) -> Handle:
        """Wait until the launcher has become the server."""
        deadline = time.monotonic() + _EXEC_SECONDS
        while time.monotonic() < deadline:
            shown = self._show()
            pid = int(shown.get("MainPID") or 0)
            if pid and is_server(procfs.cmdline(pid)):
                return self._handle(pid, target, generation, shown)
            if shown.get("ActiveState") in {"failed", "inactive"}:
                break
            time.sleep(_LOOK_SECONDS)
        raise UnitDownError(f"{self._unit} runs no FastDeploy server. See: journalctl -u {self._unit}")

    def _handle(self, pid: int, target: str, generation: int, shown: Mapping[str, str]) -> Handle:
        spec = LaunchSpec(argv=procfs.cmdline(pid), env=_environment(shown), cwd=procfs.link(pid, "cwd") or "/")
        instance = f"{self._unit}#{shown.get('InvocationID', '')}"
        handle = handle_of(pid, target=target, generation=generation, spec=spec, instance=instance)
        return self.learn_ports(msgspec.structs.replace(handle, ports=ports_of(spec), how="adopted"))

    def _show(self) -> dict[str, str]:
        told = self._call("show", *[f"--property={name}" for name in _SHOWN], seconds=_ASK_SECONDS)
        found: dict[str, str] = {}
        for line in told.splitlines():
            name, _, text = line.partition("=")
            found[name] = f"{found[name]}\n{text}" if name in found else text
        return found

    def _call(self, verb: str, *options: str, seconds: float | None) -> str:
        words = [*self._systemctl, "--no-ask-password", verb, *options, "--", self._unit]
        tried = UnitDownError if verb == "start" else ControllerError
        try:
            done = subprocess.run(  # noqa: S603 - fixed words and a unit's name that the configuration has checked
                words, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise tried(f"systemctl {verb} {self._unit} does not come back. Look at systemd.") from error
        except OSError as error:
            raise ControllerError(
                f"{words[0]} cannot be run: {error.strerror}. Is this host's init systemd?"
            ) from error
        if done.returncode:
            told = " ".join(done.stderr.split()).rstrip(".") or f"exit status {done.returncode}"
            raise (tried if _TRIED in told.lower() else ControllerError)(
                f"systemctl {verb} {self._unit}: {told}. Where it is refused, the rights are missing: diagnose service "
                f"show; else see: systemctl status {self._unit}"
            )
        return done.stdout


def read_environment(path: Path) -> dict[str, str]:
    """Read an environment file of a unit; empty where it may not be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in re.split(r"[\n\r]", text.replace("\\\n", "")):
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            found[name] = _unquoted(value.strip())
    return found


def quoted(value: str) -> str:
    r"""Quote a value for an environment file (``man 5 systemd.exec``, EnvironmentFile=).

    >>> quoted('a "b" $c')
    '"a \\"b\\" \\$c"'
    """
    return '"' + "".join(f"\\{one}" if one in '"\\`$' else one for one in value) + '"'


def _unquoted(value: str) -> str:
    mark = value[:1]
    if mark not in {'"', "'"} or len(value) < 2:
        return value
    inner = value[1:].rpartition(mark)[0]
    return re.sub(r'\\(["\\`$])', r"\1", inner) if mark == '"' else inner


def _environment(shown: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the unit sets itself and by those of its files that may be read."""
    found = dict(word.split("=", 1) for word in shlex.split(shown.get("Environment", "")) if "=" in word)
    for line in shown.get("EnvironmentFiles", "").splitlines():
        found |= read_environment(Path(line.rpartition(" (")[0] or line))
    return {name: text for name, text in found.items() if name not in {ARGS, ARGS_FOR, "FASTDEPLOY_ARGS"}}


def _args(spec: LaunchSpec) -> tuple[str, ...]:
    return spec.argv[fastdeploy_part(spec.argv) :]
