"""Which files are logs: names, patterns, and the folders where they come and go."""

# ruff: noqa: PTH100, PTH114, PTH116, PTH119
# read a hundred times a second: plain strings, no Path objects

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

_MAGIC = re.compile(r"[*?[]")
_NO_LOG = re.compile(
    r"^\.|~$|\.(?:json|ya?ml|toml|ini|conf|cfg|pid|lock|sock|db|sqlite3?|db-wal|db-shm|swp|tmp|py|pyc|so|bin|"
    r"npy|npz|pdparams|safetensors|core|gz|tgz|xz|bz2|zst|lz4|zip|tar|png|jpg|html|csv|prom)$",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\[!?\]?[^\]]*\]|.")
_DEEPEST = 4
_SETTLED = 2.0
"""Seconds after which a change of a folder must have changed its time, however coarse that is."""

_RESCAN = timedelta(seconds=1)


def looks_like_log_name(name: str) -> bool:
    """Tell whether a file in a log folder may be a log, by its name: all but what is surely none.

    >>> looks_like_log_name("workerlog.0"), looks_like_log_name("fastdeploy.log.2025-09-02")
    (True, True)
    >>> looks_like_log_name("backup_env.0.json"), looks_like_log_name("api.log.1.gz")
    (False, False)
    """
    return not _NO_LOG.search(name)


def may_be_copy_of(name: str, original: str) -> bool:
    """Tell whether ``name`` is how a rotation would call a copy of ``original`` (no folders).

    >>> may_be_copy_of("api.log.1", "api.log"), may_be_copy_of("api-20250902.log", "api.log")
    (True, True)
    >>> may_be_copy_of("workerlog.10", "workerlog.1"), may_be_copy_of("api_server.log", "api.log")
    (False, False)
    """
    if name.startswith(original):
        return name[len(original) : len(original) + 1] in {".", "-", "_", "~"}
    stem, dot, suffix = original.rpartition(".")
    if not dot or not name.startswith(stem) or not name.endswith(dot + suffix):
        return False
    return bool(re.fullmatch(r"[-.]\d[\d.-]*", name[len(stem) : -len(suffix) - 1]))


class Name(NamedTuple):
    """A path that a pattern found.

    Attributes:
        source: How people know it: the folder's own name and the way from there.
        link: A symbolic link, such as the stable name of a file that changes daily.
    """

    path: str
    source: str
    link: bool


class Watch:
    """One folder (its logs, four levels deep) or one pattern (``*``, ``?``, ``[...]``, ``**``).

    The names are read anew when a folder's change time moves, for two seconds after that, and once
    a second in any case.
    """

    def __init__(self, pattern: str, is_log: Callable[[str], bool], *, label: str | None = None) -> None:
        self.pattern = pattern
        self.base, inner = _split(pattern)
        self.label = os.path.basename(self.base) if label is None else label
        self._is_log = is_log
        self._inner = re.compile(_translate(inner)) if inner else None
        self._depth = _DEEPEST if not inner or "**" in inner else inner.count("/") + 1
        self.current: tuple[Name, ...] = ()
        self._stamps: dict[str, int] = {}
        self._scanned: datetime | None = None
        self.problems: dict[str, OSError] = {}
        self.was_there = False

    def names(self, now: datetime) -> tuple[Name, ...]:
        """Return what matches now. ``problems`` holds the folders that could not be read."""
        if self._must_scan(now):
            self._scan()
            self._scanned = now
        return self.current

    def _must_scan(self, now: datetime) -> bool:
        if self._scanned is None or not timedelta(0) <= now - self._scanned < _RESCAN:
            return True
        stamps = {folder: _stamp(folder) for folder in self._stamps}
        return stamps != self._stamps or now.timestamp() - max(stamps.values()) / 1e9 < _SETTLED

    def _scan(self) -> None:
        self._stamps, self.problems = {}, {}
        self.current = tuple(self._walk(self.base, "", 1))

    def _walk(self, folder: str, way: str, depth: int) -> Iterator[Name]:
        self._stamps[folder] = _stamp(folder)
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except NotADirectoryError:
            if depth == 1 and self._inner is None:  # the pattern names one file
                self.was_there = True
                parent, name = os.path.split(folder)
                yield Name(folder, f"{os.path.basename(parent)}/{name}", os.path.islink(folder))
            return
        except OSError as error:
            if depth == 1 or not isinstance(error, FileNotFoundError):
                self.problems[folder] = error
            return
        self.was_there = True
        for entry in found:
            inner = way + entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    if depth < self._depth and not entry.name.startswith("."):
                        yield from self._walk(entry.path, inner + "/", depth + 1)
                elif self._counts(inner, entry.name):
                    yield Name(entry.path, f"{self.label}/{inner}".lstrip("/"), entry.is_symlink())
            except OSError as error:
                self.problems[entry.path] = error

    def _counts(self, inner: str, name: str) -> bool:
        return bool(self._inner.fullmatch(inner)) if self._inner else self._is_log(name)


def watches(patterns: Iterable[str], is_log: Callable[[str], bool]) -> tuple[Watch, ...]:
    """Build one watch a pattern; folders that share their last name are called by their whole path."""
    made = tuple(Watch(os.path.abspath(pattern), is_log) for pattern in dict.fromkeys(patterns))
    for watch in made:
        if any(other.label == watch.label and other.base != watch.base for other in made):
            watch.label = watch.base
    return made


def _stamp(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _split(pattern: str) -> tuple[str, str]:
    """Cut a path into the folder that is surely one, and the pattern below it (empty: the folder)."""
    parts = pattern.split("/")
    for place, part in enumerate(parts):
        if _MAGIC.search(part):
            return "/".join(parts[:place]) or "/", "/".join(parts[place:])
    return pattern, ""


def _translate(pattern: str) -> str:
    r"""Write a pattern as a regular expression in which only ``**`` crosses folders.

    >>> _translate("**/worker*.[0-9]")
    '(?:[^/]+/)*worker[^/]*\\.[0-9]'
    """
    parts = []
    for part in pattern.split("/"):
        tokens = _TOKEN.findall(part)
        parts.append("(?:[^/]+/)*" if part == "**" else "".join(map(_translate_token, tokens)) + "/")
    return "".join(parts).removesuffix("/")


def _translate_token(part: str) -> str:
    if part == "*":
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if len(part) > 1:
        return part.replace("[!", "[^", 1)
    return re.escape(part)
