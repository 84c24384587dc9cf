"""Whose processes hold memory of a card: the server's own, what an earlier server left, or somebody else's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from posixpath import basename
from typing import Literal

from diagnose.model.observation import GpuProcess

MOST = 8
"""Processes told of one card: the largest."""

_WORKERS = frozenset(
    {"worker_process.py", "cache_transfer_manager.py", "cache_messager.py", "paddle.distributed.launch"}
)
_MOST_ABOVE = 8


def told(held: Iterable[tuple[int, int | None]], own: Collection[int]) -> tuple[GpuProcess, ...]:
    """Name the processes that hold most.

    Args:
        held: Process and bytes; ``None`` where the driver does not tell. A process that is told twice counts once.
        own: The processes of the target.
    """
    most: dict[int, int | None] = {}
    for pid, size in held:
        most[pid] = max(most.get(pid) or 0, size) if size is not None else most.get(pid)
    largest = sorted(most.items(), key=lambda one: -(one[1] or 0))[:MOST]
    return tuple(_process(pid, size, own) for pid, size in largest)


def _process(pid: int, size: int | None, own: Collection[int]) -> GpuProcess:
    name = name_of(_command(pid))
    left = pid not in own and name in _WORKERS and _nobody_above(pid)
    whose: Literal["own", "leftover", "other"] = "own" if pid in own else "leftover" if left else "other"
    return GpuProcess(pid=pid, used_bytes=size, name=name, whose=whose)


def name_of(command: Sequence[str]) -> str:
    """Name a program; of Python its script or module, never arguments.

    >>> name_of(["/usr/bin/python3", "-u", "/opt/fastdeploy/worker/worker_process.py", "--model", "m"])
    'worker_process.py'
    >>> name_of(["python", "-m", "paddle.distributed.launch", "--devices", "0"])
    'paddle.distributed.launch'
    >>> name_of(["/opt/bin/train"])
    'train'
    """
    if not command:
        return ""
    program = basename(command[0])
    if not program.startswith("python"):
        return program.split(" ")[0]
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, program)
        if word == "-c":
            return program
        if not word.startswith("-"):
            return basename(word)
    return program


def _nobody_above(pid: int) -> bool:
    """Say whether no server runs above a worker: above it stand only launchers, and what takes in orphans."""
    for _ in range(_MOST_ABOVE):
        pid = _parent(pid)
        command = _command(pid) if pid else ()
        name = name_of(command)
        if name not in _WORKERS:
            program = basename(command[0]) if command else ""
            return name in {"", "diagnose"} or not program.startswith(("python", "fastdeploy"))
    return False


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _command(pid: int) -> tuple[str, ...]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return ()
    return tuple(word.decode(errors="replace") for word in words)
