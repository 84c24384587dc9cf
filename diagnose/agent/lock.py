"""One daemon a state folder: two on one journal would act twice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from diagnose.errors import ConfigError

_PATIENCE = 2.0
"""Seconds."""


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder.

    Raises:
        ConfigError: Another daemon holds it, or it cannot be used.
    """
    path = state_dir / "lock"
    with contextlib.ExitStack() as stack:
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = stack.enter_context(path.open("a+", encoding="ascii"))
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror}. Give a state folder that this user can write (--state-dir DIR)."
            ) from error
        if not _taken(file.fileno()):
            raise ConfigError(
                f"{path}: another diagnose (process {_named(path) or 'unknown'}) looks after this folder. "
                "Stop it, or give this one its own folder (--state-dir DIR)."
            )
        with contextlib.suppress(OSError):  # the number is for people; a full disk keeps no daemon from its work
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _taken(descriptor: int) -> bool:
    """Take the lock; a child of a killed daemon, forked and not yet another program, may hold it for a moment."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PATIENCE / 40)


def holder(state_dir: Path) -> int | None:
    """Return the process that holds the folder, 0 where its number cannot be read, ``None`` where nobody does."""
    path = state_dir / "lock"
    try:
        with path.open(encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except OSError:
        return _named(path)
    return None


def _named(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return 0
