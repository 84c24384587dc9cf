"""One daemon a state folder: two on one journal would act twice."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from diagnose.errors import ConfigError


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder.

    Raises:
        ConfigError: Another daemon holds it.
    """
    path = state_dir / "lock"
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{path}: another diagnose (process {_named(path) or 'unknown'}) looks after this folder. "
                "Stop it, or give this one its own folder (--state-dir DIR)."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


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
