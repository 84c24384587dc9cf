"""Real control groups with a memory limit, for tests of kills for want of memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_CGROUPS = Path("/sys/fs/cgroup")
_HOG = """
import os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
held = bytearray(256 << 20)
"""


class MemoryGroup:
    """A group below our own; processes that are put into it share what little memory it has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    def run_out(self) -> None:
        """Ask for more than the limit; the kernel kills in the group until that is gone as well."""
        subprocess.run([sys.executable, "-c", _HOG, str(self.folder / "cgroup.procs")], check=False, timeout=30)


@contextlib.contextmanager
def limited_group(limit: int = 64 << 20) -> Iterator[MemoryGroup]:
    """Make a group with a limit in bytes; the test is skipped where that is not allowed."""
    rows = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    v1 = next((path for _, controllers, path in rows if "memory" in controllers.split(",")), None)
    v2 = next((path for _, controllers, path in rows if not controllers), "/")
    top, path, bound = (_CGROUPS / "memory", v1, "memory.limit_in_bytes") if v1 else (_CGROUPS, v2, "memory.max")
    folder = top / (path or "/").lstrip("/") / f"diagnose-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / bound).write_text(str(limit))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no control group with a memory limit can be made here: {error}")
    try:
        yield MemoryGroup(folder)
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Put what still runs back into our own group, and remove the other."""
    while pids := (folder / "cgroup.procs").read_text().split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (folder.parent / "cgroup.procs").write_text(pid)
    folder.rmdir()
