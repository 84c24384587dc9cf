"""How processes ended that are not our children: told by the kernel to who holds a descriptor of them.

A pidfd says at once that its process has ended (``man 2 pidfd_open``). How, it says from Linux 6.15 on
(``PIDFD_GET_INFO``, include/uapi/linux/pidfd.h); before, ``/proc/PID/stat`` does, until its parent has buried it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

_INFO = struct.Struct("=QQ11Ii")
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11
_TELLS_EXIT = 1 << 3


class ExitWatch:
    """Holds a descriptor of each process that is watched; may be closed from another thread."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._lock = threading.Lock()

    def keep(self, pids: Iterable[int]) -> None:
        """Watch these, and no others any more; one that cannot be watched is left out."""
        wanted = set(pids)
        with self._lock:
            for pid in self._held.keys() - wanted:
                os.close(self._held.pop(pid))
            for pid in wanted - self._held.keys():
                with contextlib.suppress(OSError, AttributeError):  # gone meanwhile, no descriptors left, an old kernel
                    self._held[pid] = os.pidfd_open(pid)

    def any_ended(self) -> bool:
        """Say whether one of them has ended; costs one call of the kernel."""
        with self._lock:
            if not self._held:
                return False
            asked = select.poll()
            for descriptor in self._held.values():
                asked.register(descriptor, select.POLLIN)
            return bool(asked.poll(0))

    def code(self, pid: int) -> int | None:
        """Return how one ended, as Python counts (negative for a signal); ``None`` where nobody tells."""
        with self._lock:
            descriptor = self._held.get(pid)
            status = _told_by(descriptor) if descriptor is not None else None
        status = _of_zombie(pid) if status is None else status
        return None if status is None else os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Watch nothing any more."""
        self.keep(())


def _told_by(descriptor: int) -> int | None:
    asked = bytearray(_INFO.pack(_TELLS_EXIT, *(0,) * 13))
    try:
        fcntl.ioctl(descriptor, _GET_INFO, asked)
    except OSError:
        return None
    told = _INFO.unpack(asked)
    return int(told[-1]) if told[0] & _TELLS_EXIT else None


def _of_zombie(pid: int) -> int | None:
    """Read the last field of a zombie's line; to another user than its own it shows 0 instead."""
    try:
        owner = Path(f"/proc/{pid}").stat().st_uid
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if os.geteuid() not in {0, owner} or fields[0] not in "ZX" or len(fields) < 50:
        return None
    return int(fields[49])
