"""One endless log out of files that are rotated, truncated, replaced, and appear late.

The owner calls `LogTail.poll` every few milliseconds while it is `busy`, every 100 to 250 ms while not. A poll
asks each file for its size (no thread, no inotify: one callback per write costs more than all of
this), gives out what is new, at most 4 MiB, and leaves the rest on disk for the next poll. Where names
and files belong together is looked up every 0.2 s: in between, only what is open already is read on.

**What is promised.** Every byte that was on disk at such a look is given out once, in the order of its
file, with the line number of its file, through renames (the writer may go on in the old file),
`copytruncate` (with or without the copy inside the watched folder), replacement, switched symbolic
links, and restarts of the daemon. For the last, write down the lines of a poll and `positions`
*in one transaction*. Where the positions are saved later than the lines, lines come a second time
after a crash, but none is lost: at least once, by design.

**What is not.** What is truncated or deleted between two polls is gone, for everybody; a refill
that agrees with the old content (see `diagnose.sources.follow`) passes for growth; a copy made by
`copytruncate` is known by its content, by a name like ``api.log.1`` or ``api-20250902.log``, and by an
original that was read before: any other is a new file.
"""

# ruff: noqa: PTH112, PTH116, PTH119, PTH120
# a poll asks for dozens of files a hundred times a second: plain strings, no Path objects

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from types import TracebackType

from diagnose.model.observation import LogLines, SourceSilent, Stream
from diagnose.sources.folders import Name, Watch, looks_like_log_name, may_be_copy_of, watches
from diagnose.sources.follow import TURN, Follow, Key, Piece, Position

__all__ = ["LogTail", "Position"]

MOST, LEAST = 4 * 1024 * 1024, 64 * 1024
"""Bytes given out in one poll: never more, and no owner should ask for less."""

_MOST_SKIPPED = 32 * 1024 * 1024
"""Bytes in one poll that are only counted."""

_LINGER = timedelta(seconds=60)
"""How long a file without name is kept open after the last write to it."""

_MISSING = timedelta(seconds=60)
"""How long a folder may be missing that was never there: servers create it when they start."""

_SETTLED = 2.0
"""Seconds after which a change of a file must have changed its time, however coarse that is."""

_LOOK_EVERY = timedelta(milliseconds=190)
"""Between two looks at names, while files only grow."""

_OPEN_MOST = 256
_REMEMBERED_MOST = 256

_Found = dict[Key, tuple[os.stat_result, list[Name]]]


class LogTail:
    """Follows all logs of one target.

    Args:
        patterns: Folders (their logs, four levels deep), files, or patterns with ``*`` and ``**``.
        stream_of: Tells the kind of a log from its name (`LogLines.source`).
        target: The server that the logs belong to.
        positions: What `positions` returned before the restart; ``None`` for a new tail.
        from_start: What a new tail does with files that are already there: give out what they
            hold, as not fresh, or begin at their end. Files that appear later are always read
            from their start.
        is_log: Which names in a folder count (patterns speak for themselves).

    Attributes:
        generation: The launch that lines belong to from now on; the owner sets it.
        most_bytes: Given out in one poll; the owner may ask for less.
        busy: Whether the last poll found something, or left something for the next.
        caught_up: Whether all that was on disk when the last poll began has been given out.
        read_bytes: Bytes given out since this tail was made: growth is progress.
    """

    def __init__(
        self,
        patterns: Iterable[str | os.PathLike[str]],
        *,
        stream_of: Callable[[str], Stream],
        target: str,
        positions: Iterable[Position] | None = None,
        from_start: bool = False,
        is_log: Callable[[str], bool] = looks_like_log_name,
    ) -> None:
        self.generation = 0
        self.most_bytes = MOST
        self.busy = self.caught_up = False
        self.read_bytes = 0
        self._watches = watches([os.fspath(pattern) for pattern in patterns], is_log)
        self._stream_of, self._target, self._from_start = stream_of, target, from_start
        saved = tuple(positions or ())
        self._known = {one.path for one in saved if not one.inode}
        self._memory: dict[Key, Position] = {(one.dev, one.inode): one for one in saved if one.inode}
        self._paths: dict[str, Key] = {one.path: key for key, one in self._memory.items()}
        self._files: dict[Key, Follow] = {}
        self._at_first: dict[Key, int] = {}
        self._told: set[str] = set()
        self._failing: set[str] = set()
        self._began: datetime | None = None
        self._missing: set[Key] = set()
        self._looked: datetime | None = None
        self._turn = 0
        self._out: list[LogLines | SourceSilent] = []

    def __enter__(self) -> LogTail:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give all descriptors back; `positions` still answers. A second call does nothing."""
        for file in self._files.values():
            file.close()

    @property
    def lag_bytes(self) -> int:
        """Bytes that were seen on disk and not yet read."""
        return sum(file.behind for file in self._files.values())

    def positions(self) -> tuple[Position, ...]:
        """Return where each file stands after the last poll: keep it with the lines of that poll."""
        marks = (Position(path=path, source="", stream="", dev=0, inode=0) for path in sorted(self._known))
        files = (file.position() for file in self._files.values() if not file.is_deleted)
        return (*marks, *self._memory.values(), *files)

    @property
    def silent(self) -> frozenset[str]:
        """The files and folders that cannot be seen now."""
        return frozenset(self._told)

    def poll(self, now: datetime, *, to_end: bool = False) -> list[LogLines | SourceSilent]:
        """Look once at everything and return what is new. Never waits and never raises `OSError`.

        What cannot be seen comes as one `SourceSilent`; that it can be seen again is told by its lines.

        Args:
            now: The present (aware, UTC).
            to_end: Who wrote the logs has ended: look for new names, too, and once all is read give out last lines
                that nobody finished.
        """
        self._out, self._failing = [], set()
        recently = self._looked and timedelta(0) <= now - self._looked < _LOOK_EVERY
        if whole := to_end or not recently or not self._only_grew():
            self._look_and_read(now)
        else:
            self._read(now)
        behind = self.lag_bytes
        self.caught_up = whole and not behind
        if to_end and self.caught_up:
            for file in self._files.values():
                self._give(file, file.give_rest(), now)
        self.busy = bool(self._out) or behind > 0
        return self._out

    def _only_grew(self) -> bool:
        """Take over the sizes of the open files, if nothing else can have happened to them; cheap."""
        opened = [file for file in self._files.values() if file.fd >= 0]
        if any(file.undecided or file.copy_of or file.copy_key or file.after for file in opened):
            return False
        for file in opened:
            file.look(os.fstat(file.fd))
            try:
                if file.stirred and (file.size <= file.read_to or not file.is_intact()):
                    return False
            except OSError:
                return False  # the whole look tells of it
        return True

    def _look_and_read(self, now: datetime) -> None:
        self._looked = now
        found = self._look(now)
        self._meet(found, now)
        if self._began is None:
            self._began = now
            self._missing = self._memory.keys() - found.keys()
        elif self._missing:
            self._forget_deleted(found)
        self._read(now)
        self._rename(found)
        self._let_go(now)
        self._told &= self._failing

    # What is there

    def _look(self, now: datetime) -> _Found:
        """Find all files by identity, with all the names that lead to them."""
        found: _Found = {}
        for watch in self._watches:
            for name in watch.names(now):
                try:
                    status = os.stat(name.path)
                except OSError as error:
                    if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                        self._tell(now, name.path, error)
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.setdefault((status.st_dev, status.st_ino), (status, []))[1].append(name)
            for path, problem in watch.problems.items():
                self._tell_missing(now, watch, path, problem)
        return found

    def _tell_missing(self, now: datetime, watch: Watch, path: str, problem: OSError) -> None:
        never = isinstance(problem, FileNotFoundError) and not watch.was_there
        if not never or now - (self._began or now) >= _MISSING:
            self._tell(now, path, problem)

    def _meet(self, found: _Found, now: datetime) -> None:
        """Know again what was followed, take up what is new, notice what has gone."""
        self._first_sight(found)
        for key, file in self._files.items():
            self._see_again(file, found.get(key), now)
        new = [key for key in found if key not in self._files]
        for key in sorted(new, key=lambda key: found[key][0].st_mtime_ns):
            self._take_up(key, found[key][1], now)
        for file in self._files.values():
            if file.copy_key is not None and file.copy_of is None:
                file.copy_of, file.copy_key = self._files.get(file.copy_key), None
        truncated = [file for file in self._files.values() if not self._is_intact(file, now)]
        for file in self._files.values():
            if file.copy_of is not None or (file.undecided and file.size):
                self._decide_copy(file, truncated, now)
        for file in truncated:
            self._give(file, file.forgotten(), now)

    def _forget_deleted(self, found: _Found) -> None:
        """Drop what has gone while nobody watched: its inode number will be given out again.

        What the first look misses may have been renamed while it went on: only what the second misses too has gone.
        Where the folder itself is missing (not mounted yet?) nothing is known, and all is kept.
        """
        for key in self._missing & self._memory.keys() - found.keys():
            if os.path.isdir(os.path.dirname(self._memory[key].path)):
                del self._memory[key]
        self._missing = set()

    def _first_sight(self, found: _Found) -> None:
        """Note how much was there before the first watch of each pattern."""
        unknown = [watch for watch in self._watches if watch.pattern not in self._known]
        if not unknown:
            return
        paths = {name.path for watch in unknown for name in watch.current}
        for key, (status, names) in found.items():
            if key not in self._memory and any(name.path in paths for name in names):
                self._at_first[key] = status.st_size
        self._known.update(watch.pattern for watch in unknown)

    def _see_again(self, file: Follow, seen: tuple[os.stat_result, list[Name]] | None, now: datetime) -> None:
        """Take over size and path; a file without a name is asked itself."""
        status = seen[0] if seen else _status(file.fd)
        if seen:
            file.was_at, file.path = file.path, _best(seen[1], file.path).path
            file.left_at = None
        elif file.left_at is None or now < file.left_at or (status and status.st_size != file.size):
            file.left_at = now
        if status:
            file.look(status)

    def _take_up(self, key: Key, names: list[Name], now: datetime) -> None:
        """Begin to follow a file, or go on with one that was left behind."""
        name = _best(names)
        saved = self._memory.get(key)
        fresh = Position(path=name.path, source=name.source, stream=self._stream_of(name.source),
                         dev=key[0], inode=key[1])  # fmt: skip
        file = Follow(saved or fresh)
        file.path, file.source = name.path, name.source
        try:
            if not file.open():
                return
            if key in self._at_first:
                file.begin_at_first(self._at_first.pop(key), give=self._from_start)
            elif saved is None or not saved.offset or not file.is_intact():
                file.undecided = True
                self._set_after(file, names)
        except OSError as error:
            self._tell(now, file.path, error)
            file.close()
            return
        self._memory.pop(key, None)
        self._files[key] = file

    def _set_after(self, file: Follow, names: list[Name]) -> None:
        """A name that led to another file: that one is read first, as far as it goes now."""
        for name in names:
            former = self._files.get(self._paths.get(name.path, file.key))
            if former is not None:
                file.after = (former, former.size)

    def _is_intact(self, file: Follow, now: datetime) -> bool:
        """Let a file that was truncated or replaced in place begin anew."""
        if not file.stirred and (file.fd < 0 or now.timestamp() - file.mtime_ns / 1e9 > _SETTLED):
            return True
        try:
            if not file.open() or file.is_intact():
                return True
        except OSError as error:
            self._tell(now, file.path, error)
            return True
        file.restart(now)
        return False

    def _decide_copy(self, file: Follow, truncated: list[Follow], now: datetime) -> None:
        """Recognise the copy that `copytruncate` makes: go on in it behind what was read already."""
        try:
            if file.copy_of is not None:
                file.watch_copy(was_truncated=file.copy_of in truncated)
                return
            file.undecided = False
            originals = [
                other
                for other in self._files.values()
                if other is not file and other.fd >= 0 and other.was_read and _named_like_copy(file, other)
            ]
            agreeing = [
                (length, former, other)
                for other in originals
                for former in (True, False)
                if (length := file.shared_with_former(other, now) if former else file.shared(other))
            ]
            if agreeing:
                _, former, other = max(agreeing, key=lambda one: (*one[:2], one[2].left_at is None))
                if former:
                    file.go_on_behind_former(other)
                else:
                    file.copy_of = other
        except OSError as error:
            self._tell(now, file.path, error)

    # Reading

    def _read(self, now: datetime) -> None:
        """Give each file a turn, again and again, until all is read or the poll has enough."""
        files = [file for file in self._files.values() if file.behind or file.partial]
        left, skippable = self.most_bytes, _MOST_SKIPPED
        start, progress = self._turn % max(1, len(files)), True
        while progress and left > 0 and skippable > 0:
            progress = False
            for place in (*range(start, len(files)), *range(start)):
                file = files[place]
                if not file.behind:
                    continue
                given, skipped = self._take_turn(file, now, min(TURN, max(left, LEAST)))
                left, skippable = left - given, skippable - skipped
                progress = progress or given + skipped > 0
                if left <= 0 or skippable <= 0:
                    self._turn = place + 1
                    break
        for file in files:
            if file.partial:
                self._give(file, file.give_unfinished(now), now)

    def _take_turn(self, file: Follow, now: datetime, most: int) -> tuple[int, int]:
        """Read one turn of one file; return the bytes given out and those only counted."""
        try:
            if not file.open():
                return 0, 0
            if file.offset < file.skip_up_to:
                return 0, file.skip()
            passed, pieces = file.read(now, most)
        except OSError as error:
            self._tell(now, file.path, error)
            file.size = file.read_to  # until the next look
            return 0, 0
        self._give(file, pieces, now)
        return passed, 0

    def _give(self, file: Follow, pieces: list[Piece], now: datetime) -> None:
        for piece in pieces:
            self.read_bytes += len(piece.data)
            self._out.append(
                LogLines(
                    target=self._target,
                    source=file.source,
                    stream=file.stream,
                    first_line=piece.first_line,
                    data=piece.data,
                    read_at=now,
                    generation=self.generation,
                    fresh=piece.fresh,
                )
            )

    # Afterwards

    def _rename(self, found: _Found) -> None:
        """Take over new names, now that what was written under the old ones is given out."""
        self._paths = {name.path: key for key, (_, names) in found.items() for name in names}
        for key, (_, names) in found.items():
            file = self._files.get(key)
            if file is None:
                continue
            source = _best(names, file.path).source
            if source != file.source:
                file.source = source
                file.stream = self._stream_of(source) if file.stream == "unknown" else file.stream

    def _let_go(self, now: datetime) -> None:
        """Close what has no name and is not written any more, and the idlest of too many."""
        for key, file in tuple(self._files.items()):
            if file.left_at is None or (file.fd >= 0 and now - file.left_at < _LINGER):
                continue
            if not file.behind:
                self._give(file, file.give_rest(), now)
                file.close()
                del self._files[key]
                if not file.is_deleted:
                    self._memory[key] = file.position()
        while len(self._memory) > _REMEMBERED_MOST:
            del self._memory[next(iter(self._memory))]
        if len(self._files) > _OPEN_MOST:
            opened = [file for file in self._files.values() if file.fd >= 0]
            for file in sorted(opened, key=lambda file: file.mtime_ns)[:-_OPEN_MOST]:
                if not file.behind and not file.partial and file.left_at is None:
                    file.close()

    def _tell(self, now: datetime, path: str, error: OSError) -> None:
        self._failing.add(path)
        if path not in self._told:
            self._told.add(path)
            silent = SourceSilent(target=self._target, at=now, source=path, reason=_reason(error))
            self._out.append(silent)


def _best(names: list[Name], current: str = "") -> Name:
    """Choose the name that people know: a stable link before what it leads to, then no change."""
    if len(names) == 1:
        return names[0]
    return min(names, key=lambda name: (not name.link, name.path != current, len(name.path), name.path))


def _status(fd: int) -> os.stat_result | None:
    try:
        return os.fstat(fd) if fd >= 0 else None
    except OSError:  # a network file system may have forgotten it
        return None


def _named_like_copy(file: Follow, other: Follow) -> bool:
    name = os.path.basename(file.path)
    return any(may_be_copy_of(name, os.path.basename(path)) for path in {other.path, other.was_at})


def _reason(error: OSError) -> str:
    """Say what is wrong and what helps."""
    what = os.strerror(error.errno or 0)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"cannot be read: {what}. Let the user of this program read it, e.g. by its group."
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return f"is not there: {what}. Check the log folder of the server (FD_LOG_DIR) and the configuration."
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return f"cannot be opened: {what}. Raise the limit of open files (ulimit -n, LimitNOFILE=)."
    return f"cannot be read: {what}. Check the disk and the mount."
