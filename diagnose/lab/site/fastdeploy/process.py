"""Small facts about processes, from /proc."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether the process runs; one that died and waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[:1] not in (["Z"], ["X"])


def end_with(main_pid: int, after: float) -> None:
    """End this process once its main process has been gone for so many seconds.

    The original stays for ever. A stand-in that did would fill the machine it is tried on.
    """

    def watch() -> None:
        gone_since: float | None = None
        while True:
            time.sleep(min(1.0, after / 4))
            if alive(main_pid):
                gone_since = None
                continue
            gone_since = gone_since or time.monotonic()
            if time.monotonic() - gone_since > after:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def unlink(path: str) -> None:
    """Remove a file that may be gone."""
    with contextlib.suppress(OSError):
        Path(path).unlink()
