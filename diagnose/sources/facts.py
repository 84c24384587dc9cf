"""What a server can do and what model it serves, asked from outside: its ``--help``, its ``config.json``.

The daemon never imports what it supervises; the server's own Python answers.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

from diagnose.capacity.shapes import known_shape, shape_from_config
from diagnose.errors import DiagnoseError
from diagnose.launch import config, flags, settings
from diagnose.launch.spec import fastdeploy_part
from diagnose.model.launch import LaunchSpec, ModelShape
from diagnose.model.observation import ServerFacts

_PATIENCE = 90.0
"""Seconds: importing paddle takes ten and more on a cold disk."""

_VERSION_SCRIPT = """
import importlib.metadata as m
for name in ("fastdeploy-gpu", "fastdeploy", "fastdeploy-xpu"):
    try:
        print(m.version(name)); break
    except m.PackageNotFoundError:
        pass
"""


def learn(spec: LaunchSpec, *, target: str, now: datetime) -> ServerFacts:
    """Ask the server's own Python for its version and flags, and read the model's shape.

    What cannot be asked comes from the shipped tables; nothing is raised.
    """
    version = _version(spec)
    asked = flags.parse_help(_output(spec, ["--help"]))
    return ServerFacts(
        target=target,
        at=now,
        version=version,
        flags=asked or flags.accepted(version),
        flags_from="help" if asked else "table",
        model=model_shape(spec),
        config=config_values(spec),
    )


def config_values(spec: LaunchSpec) -> dict[str, str]:
    """Read the flags of the command's ``--config`` file; none where there is no such file, or no YAML in it."""
    named = config.config_path(spec)
    if named is None:
        return {}
    try:
        return config.flag_values((Path(spec.cwd) / named).read_text(encoding="utf-8"), named)
    except (OSError, ValueError, DiagnoseError):
        return {}


def model_shape(spec: LaunchSpec) -> ModelShape | None:
    """Read the shape of the command's model: its own ``config.json``, else the shipped table."""
    named = settings.model_path(spec, config_values(spec))
    folder = Path(spec.cwd) / named
    try:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return shape_from_config(folder.name, plain)
    except (OSError, ValueError, DiagnoseError):
        return known_shape(named)


def _version(spec: LaunchSpec) -> str | None:
    """Ask the Python of ``python -m ...`` for the version of the package; other launchers are not asked."""
    at = fastdeploy_part(spec.argv)
    if at < 3 or spec.argv[at - 2] != "-m":
        return None
    answer = _run(spec, [*spec.argv[: at - 2], "-c", _VERSION_SCRIPT]).split()
    return answer[-1] if answer else None


def _output(spec: LaunchSpec, words: list[str]) -> str:
    return _run(spec, [*spec.argv[: fastdeploy_part(spec.argv)], *words])


def _run(spec: LaunchSpec, argv: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own program
            argv,
            cwd=spec.cwd,
            env={**os.environ, **spec.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
