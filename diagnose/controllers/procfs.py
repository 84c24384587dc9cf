"""The few words of ``/proc`` that a controller needs (``man 5 proc``).

A process that is gone reads as nothing. Where it is we who cannot look, for want of descriptors or memory, that is
raised: to take a live server for dead would start a second one beside it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that tell of this process or host, not of the process that is looked at."""


class Stat(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``/proc/PID/stat``.

    Attributes:
        ticks: Start, in clock ticks since boot.
        cpu_seconds: Own time and that of awaited children.
    """

    pid: int
    ppid: int
    state: str
    ticks: int
    cpu_seconds: float
    rss_bytes: int

    @property
    def alive(self) -> bool:
        """Neither a zombie nor dead."""
        return self.state not in "ZXx"


def stat(pid: int) -> Stat | None:
    """Read one process.

    Raises:
        OSError: It cannot be told whether it is there.
    """
    try:
        descriptor = os.open(f"{PROC}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _raise_ours(error)
        return None
    try:
        rest = os.read(descriptor, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if len(rest) < 22:
        return None
    return Stat(
        pid=pid,
        state=rest[0].decode(),
        ppid=int(rest[1]),
        cpu_seconds=sum(map(int, rest[11:15])) / _TICKS_PER_SECOND,
        ticks=int(rest[19]),
        rss_bytes=int(rest[21]) * _PAGE_BYTES,
    )


def pids() -> set[int]:
    """Return the numbers of all processes that can be seen."""
    entries = os.listdir(PROC)  # noqa: PTH208 - a Path for each process of the host costs too much
    return {int(entry) for entry in entries if entry.isdigit()}


def processes(numbers: Iterable[int] | None = None) -> Iterator[Stat]:
    """Yield these processes, or all."""
    for pid in pids() if numbers is None else numbers:
        if (found := stat(pid)) is not None:
            yield found


def cmdline(pid: int) -> tuple[str, ...]:
    """Return the command; empty for a kernel thread or a process that is gone."""
    words = _read(pid, "cmdline").split(b"\0")[:-1]
    return tuple(os.fsdecode(word) for word in words)


def environ(pid: int) -> dict[str, str]:
    """Return the environment at the process's start; empty where it may not be read."""
    pairs = (item.partition(b"=") for item in _read(pid, "environ").split(b"\0") if b"=" in item)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def link(pid: int, name: str) -> str:
    """Return where ``cwd``, ``exe`` or ``fd/1`` points; empty where it may not be read."""
    try:
        return str((PROC / str(pid) / name).readlink())
    except OSError:
        return ""


def boot_id() -> str:
    """Return what is new at each boot; empty where the kernel does not tell."""
    return _bytes(PROC / "sys/kernel/random/boot_id").decode().strip()


def _read(pid: int, name: str) -> bytes:
    return _bytes(PROC / str(pid) / name)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        _raise_ours(error)
        return b""


def _raise_ours(error: OSError) -> None:
    if error.errno in _OURS:
        raise error
