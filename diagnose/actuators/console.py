"""What a server writes to its terminal goes into files of ours: they must not fill the disk it serves from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MOST_BYTES = 64 << 20
"""Of one console before it is turned over; its copy holds as much again."""

KEPT = 20
"""Starts whose consoles are kept."""

_PIECE = 1 << 20


def folder(run_dir: Path, generation: int) -> Path:
    """Name the folder that one start's console is in."""
    return run_dir / f"generation-{generation}"


def turn_over(console: Path, most: int = MOST_BYTES) -> bool:
    """Copy a console that has grown too large to ``console.log.1``, and empty it; say whether it was done.

    The server keeps the file open, so it cannot be renamed: this is logrotate's ``copytruncate``, and like there a
    line that is written between the last look and the emptying, some microseconds, is lost.

    Raises:
        OSError: It cannot be copied. It is emptied all the same: a full disk would end the server.
    """
    if console.stat().st_size < most:
        return False
    draft, former = console.with_name(".turning-over"), console.with_name(f"{console.name}.1")
    try:
        with console.open("rb") as source, draft.open("wb") as copy:
            shutil.copyfileobj(source, copy, _PIECE)
            draft.replace(former)
            shutil.copyfileobj(source, copy, _PIECE)  # what was written meanwhile
            copy.flush()
            os.truncate(console, 0)
    except OSError:
        draft.unlink(missing_ok=True)
        former.unlink(missing_ok=True)
        os.truncate(console, 0)
        raise
    return True


def forget_old(run_dir: Path, newest: int) -> None:
    """Remove the consoles of starts that are long past; what cannot be removed stays."""
    for one in run_dir.glob("generation-*"):
        number = one.name.rpartition("-")[2]
        if number.isdigit() and int(number) <= newest - KEPT:
            shutil.rmtree(one, ignore_errors=True)
