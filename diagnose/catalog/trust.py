"""Who may write the files that say what the daemon may do: its user and root, nobody else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from diagnose.errors import ConfigError

_ROOT = 0


def refuse_others(paths: Iterable[Path]) -> None:
    """Refuse files that others can write, or replace because they can write the folder.

    A file system that is mounted read-only (a ConfigMap in a container) cannot be written whatever its modes say.

    Raises:
        ConfigError: One of them can be; the message names it and the cure.
    """
    looked: set[Path] = set()
    for path in paths:
        real = path.resolve()
        for one in (path.parent.absolute(), real.parent, real):
            if one not in looked:
                looked.add(one)
                _refuse(one)


def _refuse(path: Path) -> None:
    try:
        found = path.stat()
        read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return  # it is not there, or not for us: who reads it says so better
    if read_only:
        return
    quoted = f"'{path}'"
    if found.st_uid not in {_ROOT, os.geteuid()}:
        raise ConfigError(
            f"{path} belongs to user {found.st_uid}, who could change what diagnose does. Run: chown root {quoted}"
        )
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & stat.S_IWOTH and not sticky:
        raise ConfigError(
            f"{path} can be written by everybody, who could change what diagnose does. Run: chmod o-w {quoted}"
        )
    if found.st_mode & stat.S_IWGRP and found.st_gid not in {_ROOT, os.getegid()} and not sticky:
        raise ConfigError(
            f"{path} can be written by group {found.st_gid}, who could change what diagnose does. "
            f"Run: chmod g-w {quoted}"
        )
