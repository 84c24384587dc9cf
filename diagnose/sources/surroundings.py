"""What stands around one start: read from outside, within a bounded time, and nothing of it imported."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from diagnose.errors import DiagnoseError
from diagnose.launch import settings
from diagnose.launch import surroundings as pure
from diagnose.launch.surroundings import Facts, Sealer
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import GpuReading, Surroundings
from diagnose.sources import packages
from diagnose.sources.facts import config_values
from diagnose.sources.packages import Python

_PATIENCE = 20.0
"""Seconds for all of it; what takes longer stays unseen."""

_TURN_SECONDS = 0.1
_MOST_FILES = 1000
_HASHED_BYTES, _ALL_HASHED_BYTES = 16 << 20, 48 << 20
_READ = re.compile(r".*\.(json|txt|py|jinja|model|vocab|yaml)|(tokenizer|vocab|merges).*")
"""Files of a model that are small enough to be read: their content counts, not when they were copied."""

_LIBRARIES = ("libcuda", "libnvidia-ml", "libcudart", "libcublas", "libcudnn", "libnccl")
_PLACES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/local/cuda/lib64")
_DRIVER = re.compile(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The start whose surroundings are asked for.

    Attributes:
        desired, running: The operator's command, and the one with what remedies laid over it.
        environ: What the server sees.
        cards: The cards that it may use; ``None`` where they could not be read.
        chosen: Flags that the daemon chose, anew at each start.
        fresh: The server was just started; False for one that was found running.
    """

    target: str
    at: datetime
    generation: int
    desired: LaunchSpec
    running: LaunchSpec
    environ: Mapping[str, str]
    cards: Sequence[GpuReading] | None = None
    chosen: frozenset[str] = frozenset()
    fresh: bool = True


def collect(
    look: Look,
    sealer: Sealer,
    stop: threading.Event | None = None,
    *,
    root: Path = Path("/"),
    patience: float = _PATIENCE,
) -> Surroundings:
    """Look at all of it; what cannot be seen, or not in time, is left out. Nothing is raised.

    Args:
        stop: Set by another thread when the answer is no longer wanted.
        root: Where ``proc`` and ``usr`` are.
        patience: Seconds for all of it. A folder that never answers (a dead network share) costs no more.
    """
    stop = stop or threading.Event()
    until = time.monotonic() + patience
    found: dict[str, Facts] = {}
    reader = threading.Thread(target=_read, args=(found, look, sealer, root, until, stop), daemon=True)
    reader.start()
    while reader.is_alive() and time.monotonic() < until and not stop.is_set():
        reader.join(_TURN_SECONDS)
    return Surroundings(
        target=look.target,
        at=look.at,
        generation=look.generation,
        facts={kind: pure.bounded(things) for kind, things in list(found.items())},
    )


def _read(found: dict[str, Facts], look: Look, sealer: Sealer, root: Path, until: float, stop: threading.Event) -> None:
    """Add kind after kind: what is told at once first, what a disk or network must answer last."""
    running, environ = look.running, look.environ
    parts: Mapping[str, Callable[[], Facts | None]] = {
        "command": lambda: pure.of_command(look.desired, sealer, chosen=look.chosen),
        "remedy": lambda: pure.of_remedies(look.desired, running, sealer),
        "env": lambda: pure.of_env(environ, sealer, given=look.desired.env if look.fresh else ()),
        "gpu": lambda: None if look.cards is None else pure.of_cards(look.cards),
        "neighbour": lambda: None if look.cards is None else pure.of_neighbours(look.cards, fresh=look.fresh),
        "host": lambda: host(environ, root),
        "config": lambda: {name: sealer.named(name, text) for name, text in config_values(running).items()},
    }
    for kind, part in parts.items():
        _add(found, kind, part)
    python = packages.python_of(running, stop)
    if python is not None:
        found["python"] = {"version": python.version, "program": python.executable}
        _add(found, "package", lambda: _packages(python, until))
    _add(found, "model", lambda: model(running, until))


def _add(found: dict[str, Facts], kind: str, part: Callable[[], Facts | None]) -> None:
    with contextlib.suppress(OSError, ValueError, DiagnoseError):
        if (told := part()) is not None:
            found[kind] = told


def _packages(python: Python, until: float) -> dict[str, str] | None:
    installed = packages.packages(python, until=until)
    return None if installed is None else {one.name: packages.version_text(one) for one in installed.values()}


def host(environ: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """Return the driver's version, the kernel's, the C library's, and which CUDA libraries are found by name."""
    found = {"kernel": os.uname().release}
    with contextlib.suppress(OSError):
        told = _DRIVER.search((root / "proc/driver/nvidia/version").read_text(errors="replace"))
        found["driver"] = told[1] if told else "of unknown version"
    with contextlib.suppress(OSError, ValueError):
        found["libc"] = os.confstr("CS_GNU_LIBC_VERSION") or ""
    places = [Path(one) for one in environ.get("LD_LIBRARY_PATH", "").split(":") if one.startswith("/")]
    places += [root / one[1:] for one in _PLACES]
    return {**found, **_libraries(places)}


def _libraries(places: Iterable[Path]) -> dict[str, str]:
    """Return, for each library, the file that is found first, its links followed: there its version stands."""
    found: dict[str, str] = {}
    for place in places:
        try:
            names = sorted(os.listdir(place))  # noqa: PTH208 - names are enough
        except OSError:
            continue
        for library in _LIBRARIES:
            name = next((one for one in names if one.startswith(f"{library}.so")), None)
            if name is not None and library not in found:
                found[library] = str((place / name).resolve())
    return found


def model(spec: LaunchSpec, until: float) -> dict[str, str] | None:
    """Return the model's files: size and time of change, of small ones a fingerprint of what they say.

    Args:
        until: Of the monotonic clock; ``None`` is returned when it passes.
    """
    folder = Path(spec.cwd) / settings.model_path(spec, config_values(spec))
    if not folder.is_dir():
        return {"folder": f"{folder} is no folder here"}
    found = {"folder": str(folder.resolve())}
    left = _ALL_HASHED_BYTES
    for name, file in _files(folder):
        if time.monotonic() > until:
            return None
        seen = file.stat()
        found[name] = f"{seen.st_size:,} bytes"
        if _READ.fullmatch(file.name) and seen.st_size <= min(_HASHED_BYTES, left):
            left -= seen.st_size
            found[name] += f", sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
        else:
            found[name] += f", changed {datetime.fromtimestamp(int(seen.st_mtime), timezone.utc):%Y-%m-%d %H:%M:%S}"
    return found


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a model's folder and of the folders in it; hidden ones are caches."""
    count = 0
    for place in (folder, *sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")):
        for file in sorted(place.iterdir()):
            if file.name[0] != "." and stat.S_ISREG(file.stat().st_mode) and count < _MOST_FILES:
                count += 1
                yield str(file.relative_to(folder)), file
