"""What a server can do and what model it serves, asked from outside: its ``--help``, its ``config.json``.

The daemon never imports what it supervises; the server's own Python answers, once a version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from datetime import datetime
from pathlib import Path

import msgspec

from diagnose.capacity.shapes import known_shape, shape_from_config
from diagnose.errors import DiagnoseError
from diagnose.launch import config, flags, settings
from diagnose.launch.spec import spelling
from diagnose.model.launch import LaunchSpec, ModelShape
from diagnose.model.observation import ServerFacts
from diagnose.sources import packages
from diagnose.sources.ask import ask
from diagnose.sources.packages import Package, Python

_PATIENCE = 90.0
"""Seconds: importing paddle takes ten and more on a cold disk."""


class _Known(msgspec.Struct, frozen=True):
    """The flags of one version, as a file keeps them."""

    flags: tuple[str, ...]


def learn(
    spec: LaunchSpec,
    *,
    target: str,
    now: datetime,
    cache: Path | None = None,
    stop: threading.Event | None = None,
) -> ServerFacts:
    """Ask the server's own Python for its version and flags, and read the model's shape.

    What cannot be asked comes from the shipped tables; nothing is raised.

    Args:
        cache: A folder where the answers are kept, by interpreter, version and time of installation.
        stop: Set by another thread when the answer is no longer wanted.
    """
    python = packages.python_of(spec, stop)
    found = packages.packages(python) if python else None
    server = packages.fastdeploy_of(found or {})
    version = server.version if server else _written_version(python)
    asked = _flags(spec, python, server, cache, stop)
    known = bool(asked or flags.parse_version(version))
    accepted = asked or (flags.accepted(version) if known else flags.everywhere())
    given = config_values(spec)
    return ServerFacts(
        target=target,
        at=now,
        version=version,
        flags=accepted,
        flags_from="help" if asked else "table",
        model=model_shape(spec),
        config={flag: text for flag, text in given.items() if not known or spelling(flag, accepted) in accepted},
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


def _flags(
    spec: LaunchSpec,
    python: Python | None,
    server: Package | None,
    cache: Path | None,
    stop: threading.Event | None,
) -> tuple[str, ...]:
    """Return what the server's ``--help`` names, asked at most once for each installed version."""
    words = packages.help_words(spec)
    file = _cached(cache, words, python, server)
    if file is not None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(file.read_bytes(), type=_Known).flags
    if not words:
        return ()
    env = {**settings.merged_env(spec, os.environ), "COLUMNS": "120"}
    asked = flags.parse_help(ask(words, cwd=spec.cwd, env=env, seconds=_PATIENCE, stop=stop))
    if asked and file is not None:
        with contextlib.suppress(OSError):  # asked again next time
            file.parent.mkdir(parents=True, exist_ok=True)
            written = file.with_suffix(f".{threading.get_ident()}")
            written.write_bytes(msgspec.json.encode(_Known(flags=asked)))
            written.replace(file)
    return asked


def _cached(cache: Path | None, words: tuple[str, ...], python: Python | None, server: Package | None) -> Path | None:
    """Name the file of one installed version; ``None`` where it is not known which one that is."""
    if cache is None or python is None or server is None:
        return None
    try:
        installed = Path(server.place).stat().st_mtime_ns
    except OSError:
        return None
    key = [python.executable, server.place, server.version, installed, words]
    return cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:20]}.json"


def _written_version(python: Python | None) -> str | None:
    """Read the version that FastDeploy's own build left, where it was not installed as a package.

    Source: fastdeploy/utils.py: ``current_package_version`` reads ``version.txt`` beside it.
    """
    for folder in python.path if python else ():
        with contextlib.suppress(OSError):
            for line in (Path(folder) / "fastdeploy" / "version.txt").read_text(errors="replace").splitlines():
                name, _, text = line.partition(":")
                if name.strip() == "fastdeploy version" and text.strip():
                    return text.strip()
    return None
