"""What makes the next start fast: parsed rules and the compiled database, in the user's cache folder.

Nothing depends on it: a folder that cannot be written, or a file that is damaged, is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from diagnose.engine.asked import fingerprint
from diagnose.engine.match import Matcher
from diagnose.model import codec
from diagnose.model.knowledge import Knowledge

_KEPT = 12


def matcher(knowledge: Knowledge) -> Matcher:
    """Make the matcher of this knowledge, in this machine's time zone, from the kept database if there is one."""
    name = f"{_machine()}-{fingerprint(knowledge)}.hsdb"
    database = _read(name)
    zone = datetime.now(timezone.utc).astimezone().tzinfo or timezone.utc
    made = Matcher(knowledge, zone=zone, database=database)
    if database is None and (dumped := made.dump()):
        _write(name, dumped)
    return made


def knowledge(key: str) -> Knowledge | None:
    """Return parsed knowledge that was kept under its key."""
    data = _read(f"{key}.json")
    if data is None:
        return None
    try:
        return codec.decode(data, Knowledge)
    except (msgspec.MsgspecError, ValueError):
        return None


def keep_knowledge(key: str, known: Knowledge) -> None:
    """Keep parsed knowledge under its key."""
    _write(f"{key}.json", codec.encode(known))


def _machine() -> str:
    """Name what a compiled database depends on: the library, and the kind of processor."""
    try:
        import hyperscan  # noqa: PLC0415 (the matcher works without it)

        version = str(getattr(hyperscan, "__version__", ""))
    except ImportError:
        version = "none"
    flags = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    whole = f"{version} {platform.machine()} {flags}"
    return hashlib.sha256(whole.encode()).hexdigest()[:12]


def _folder() -> Path:
    base = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0] or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "diagnose"


def _read(name: str) -> bytes | None:
    with contextlib.suppress(OSError, RuntimeError):
        path = _folder() / name
        state = path.stat()
        if state.st_uid == os.geteuid() and not state.st_mode & 0o022:  # nobody else wrote what will be obeyed
            return path.read_bytes()
    return None


def _write(name: str, data: bytes) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, draft = tempfile.mkstemp(dir=folder)  # readers never see half a file, writers never share one
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(draft).replace(folder / name)
        except OSError:
            Path(draft).unlink(missing_ok=True)
            raise
        old = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]
        for path in old:
            path.unlink(missing_ok=True)
