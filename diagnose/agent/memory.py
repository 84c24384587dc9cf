"""What bursts took goes back to the system: an allocator keeps the most that was ever used."""

from __future__ import annotations

import contextlib
import ctypes

import anyio
import anyio.to_thread

_EVERY_SECONDS = 60.0


async def keep_small() -> None:
    """Give back what is free, now and each minute: glibc keeps more than 20 MB of what compiling rules takes."""
    while True:
        await anyio.to_thread.run_sync(_give_back)
        await anyio.sleep(_EVERY_SECONDS)


def _give_back() -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)
