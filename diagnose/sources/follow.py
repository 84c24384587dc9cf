"""One growing log file, followed by what it is (device and inode), not by what it is called.

Bytes that were not given out yet stay on disk: memory does not grow with a flood, and a position is
nothing but an offset and a proof that the file is still the one it was taken from. The proof are the
first 128 bytes of the file and the 128 bytes before the offset. A truncation is seen by the size, a
truncation that was written full again beyond the offset by the proof. Known limit: a refill that is
at least as long and agrees in both places passes for growth.
"""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

PROOF = 128
"""Bytes kept from the head of a file, and from before the offset, to know it again."""

TURN = 256 * 1024
"""Bytes read from one file before the others have their turn."""

LONGEST = 1024 * 1024
"""A line that is longer is given out in pieces of this size."""

PATIENCE = timedelta(seconds=1)
"""How long the last line may lack its newline, without growing, before it is given out all the same."""

PATIENCE_GROWING = timedelta(seconds=5)
"""The same for a line that grows all the time, as a progress bar does."""

COPY_AGE = timedelta(seconds=60)
"""How long after a truncation a copy of the old content may still appear."""

Key = tuple[int, int]
"""Device and inode."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a file was read, to be kept in the journal and given back after a restart.

    Attributes:
        path: Where it was seen last. A watched pattern itself has an entry too, with inode 0: it
            says that what appears there later was not there before.
        source: Its name as people know it.
        offset: Bytes given out, from the start of the file.
        line: Number of the line that begins (or goes on) at ``offset``, from 1.
        head: The first bytes of the file, at most 128 and none beyond ``offset``.
        tail: The last bytes before ``offset``, at most 128.
        fresh_from: Lines that begin before this byte were there before the first watch.
        skip_to: Bytes before this one are counted, not given out.
        copy_of: The file whose content this one repeats so far.
    """

    path: str
    source: str
    stream: str
    dev: int
    inode: int
    offset: int = 0
    line: int = 1
    head: bytes = b""
    tail: bytes = b""
    fresh_from: int = 0
    skip_to: int = 0
    copy_of: Key | None = None


class Piece(NamedTuple):
    """Bytes of whole lines (the last may lack its newline), ready to be given out."""

    first_line: int
    data: bytes
    fresh: bool


class Before(NamedTuple):
    """What a file held before it was truncated or replaced in place."""

    offset: int
    head: bytes
    tail: bytes
    line: int
    partial: bytes
    at: datetime

    def is_kept_in(self, fd: int) -> bool:
        """Tell whether another file is a copy of that content: `copytruncate` makes one first."""
        start = self.offset - len(self.tail)
        proof = self.tail + self.partial[:PROOF]
        return bool(proof) and _at(fd, start, len(proof)) == proof and _at(fd, 0, len(self.head)) == self.head


def _at(fd: int, start: int, count: int) -> bytes:
    return os.pread(fd, count, start)


def same_beginning(one: int, other: int, length: int) -> bool:
    """Tell whether two open files agree in their first bytes and in the last ones of ``length``."""
    count = min(PROOF, length)
    return all(_at(one, start, count) == _at(other, start, count) for start in (0, length - count))


class Follow:
    """One file. The owner tells its size and calls `read` while `behind` says so.

    Attributes:
        was_at: The path one look ago.
        fd: Open descriptor, or -1.
        size: As the owner saw it last, in bytes.
        partial: The bytes behind ``offset`` that still lack their newline.
        left_at: Since when no name leads here any more and nothing was written.
        after: A file to be read first, and up to which byte.
        stirred: Size or time of change differ from the last look.
        is_deleted: No name leads here in any folder: once closed it is gone, its number may be used again.
        copy_of: A file whose content this one repeats, as far as it was read there.
        undecided: Newly appeared and still empty: it may become a copy.
    """

    def __init__(self, at: Position) -> None:
        self.key: Key = (at.dev, at.inode)
        self.path, self.source, self.stream = at.path, at.source, at.stream
        self.was_at = at.path
        self.offset, self.line = at.offset, at.line
        self.head, self.tail = at.head, at.tail
        self.fresh_from, self.skip_to = at.fresh_from, at.skip_to
        self.fd = -1
        self.size = at.offset
        self.mtime_ns = 0
        self.stirred = False
        self.is_deleted = False
        self.partial = b""
        self._partial_since: datetime | None = None
        self._partial_grew: datetime | None = None
        self.left_at: datetime | None = None
        self.after: tuple[Follow, int] | None = None
        self.copy_of: Follow | None = None
        self.copy_key = at.copy_of
        self._doubts = 0
        self.undecided = False
        self.before: Before | None = None

    def position(self) -> Position:
        """Return what is to be kept over a restart."""
        return Position(
            path=self.path, source=self.source, stream=self.stream, dev=self.key[0], inode=self.key[1],
            offset=self.offset, line=self.line, head=self.head, tail=self.tail,
            fresh_from=self.fresh_from, skip_to=self.skip_to,
            copy_of=self.copy_of.key if self.copy_of else None,
        )  # fmt: skip

    def open(self) -> bool:
        """Open ``path``, if it still leads to this file: a rotation may just have moved it. A second call does nothing.

        Raises:
            OSError: It cannot be opened.
        """
        if self.fd >= 0:
            return True
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            return False
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != self.key:
            os.close(fd)
            return False
        self.fd = fd
        self.look(status)
        return True

    def look(self, status: os.stat_result) -> None:
        """Take over what the file system says."""
        self.stirred = (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns)
        self.size, self.mtime_ns = status.st_size, status.st_mtime_ns
        self.is_deleted = status.st_nlink == 0

    def close(self) -> None:
        """Give the descriptor back. A second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def limit(self) -> int:
        """Up to which byte it may be read now: a copy follows its original, a successor waits."""
        if self.undecided:
            return self.offset
        if self.copy_of is not None:
            return min(self.size, self.copy_of.offset)
        if self.after is not None:
            first, up_to = self.after
            if first.fd >= 0 and first.read_to < up_to and first.behind:
                return self.offset
            self.after = None
        return self.size

    @property
    def was_read(self) -> bool:
        """Whether anything of it was read, now or before a truncation."""
        return self.read_to > 0 or self.before is not None

    @property
    def read_to(self) -> int:
        """Up to which byte it was looked at."""
        return self.offset + len(self.partial)

    @property
    def behind(self) -> int:
        """Bytes that wait on disk."""
        return max(0, self.size - self.read_to) if self.copy_of is None else max(0, self.limit - self.offset)

    def is_intact(self) -> bool:
        """Tell whether what was read is still there, at the same place.

        Raises:
            OSError: It cannot be read.
        """
        if self.size < self.offset:
            return False
        proof = self.tail + self.partial[:PROOF]
        found = _at(self.fd, self.offset - len(self.tail), len(proof))
        if found != proof and (self.offset == 0 or not found.startswith(self.tail)):
            return False
        if found != proof:  # only the unfinished last line was written anew
            self._set_partial(b"", None)
        return self.offset <= PROOF or _at(self.fd, 0, len(self.head)) == self.head

    def restart(self, now: datetime) -> None:
        """Begin at the first byte again; ``before`` keeps what was there."""
        self.before = Before(self.offset, self.head, self.tail, self.line, self.partial, now)
        self.rewind()

    def rewind(self) -> None:
        """Begin at the first byte again, as if it had never been read."""
        self.offset, self.line, self.head, self.tail = 0, 1, b"", b""
        self.fresh_from = self.skip_to = 0
        self.copy_of = None
        self._set_partial(b"", None)

    def forgotten(self) -> list[Piece]:
        """Give out the unfinished last line of what was there before `restart`."""
        if self.before is None or not self.before.partial:
            return []
        piece = Piece(self.before.line, self.before.partial.replace(b"\0", b""), fresh=True)
        self.before = self.before._replace(partial=b"")
        return [piece] if piece.data else []

    def begin_at_first(self, size: int, *, give: bool) -> None:
        """Begin with a file that held ``size`` bytes before the first watch.

        Where these are not to be given out, an unfinished last line is, once it is finished.

        Raises:
            OSError: It cannot be read.
        """
        self.fresh_from = size
        if not give:
            start = max(0, size - TURN)
            end = _at(self.fd, start, size - start).rfind(b"\n") + 1
            self.skip_to = start + end if end or not start else size

    def shared_with_former(self, other: Follow, now: datetime) -> int:
        """Count the bytes that ``other`` held before its truncation and that are here too, or 0.

        Raises:
            OSError: It cannot be read.
        """
        before = other.before
        if before is None or now - before.at >= COPY_AGE or not before.is_kept_in(self.fd):
            return 0
        return before.offset + len(before.partial)

    def go_on_behind_former(self, other: Follow) -> None:
        """Take what ``other`` gave out before its truncation for read."""
        if other.before is not None:
            self.copy_of, self.skip_to = None, other.before.offset
            other.before = other.before._replace(partial=b"")

    def shared(self, other: Follow) -> int:
        """Count the bytes in which both agree: all of the shorter one, or 0.

        Raises:
            OSError: It cannot be read.
        """
        common = min(self.size, other.size)
        return common if common and same_beginning(self.fd, other.fd, common) else 0

    def watch_copy(self, *, was_truncated: bool) -> None:
        """Decide whether this copy is still one, and where it goes on alone.

        Raises:
            OSError: It cannot be read.
        """
        other = self.copy_of
        if other is None:
            return
        before = other.before
        if was_truncated and before is not None:
            if before.is_kept_in(self.fd):
                self.go_on_behind_former(other)
            elif self.size <= before.offset and not self._doubts:
                self.copy_of, self.skip_to = None, self.size
            else:
                self.rewind()
        elif other.fd < 0:
            self.copy_of, self.skip_to = None, min(self.size, other.offset)
        elif self.size <= other.size and same_beginning(self.fd, other.fd, self.size):
            self._doubts = 0
        else:
            self._doubts += 1
            if self._doubts > 1:  # a truncation of the original, this very moment, looks the same
                self.rewind()

    @property
    def skip_up_to(self) -> int:
        """Up to which byte lines are only counted."""
        return self.skip_to if self.copy_of is None else self.limit

    def skip(self) -> int:
        """Count lines without giving them out; return the bytes passed.

        Raises:
            OSError: It cannot be read.
        """
        data = _at(self.fd, self.offset, min(LONGEST, self.skip_up_to - self.offset))
        self._advance(data)
        if not data:  # it has become shorter; `is_intact` will see that
            self.skip_to = self.offset
        return len(data)

    def read(self, now: datetime, most: int = TURN) -> tuple[int, list[Piece]]:
        """Read one turn.

        Args:
            most: Bytes of whole lines; a line that is longer is read all the same.

        Returns:
            Bytes passed (0 where only an unfinished line is there, or where the file was replaced
            this very moment), and what is to be given out.

        Raises:
            OSError: It cannot be read.
        """
        data = self._next(most)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == most:
            data = self._next(LONGEST)
            end = data.rfind(b"\n") + 1
            if not end and len(data) == LONGEST:
                end = self._end_of_piece(data)
        offset = self.offset
        pieces = self._give(data[:end])
        self._set_partial(data[end:], now)
        return self.offset - offset, pieces

    def _next(self, most: int) -> bytes:
        """Read on, together with the proof, so that nothing can come between the two."""
        proof = len(self.tail)
        data = _at(self.fd, self.offset - proof, proof + min(most, self.limit - self.offset))
        return data[proof:] if data.startswith(self.tail) else b""

    def _end_of_piece(self, data: bytes) -> int:
        """Where to cut a line that is too long; a hole in the file is jumped over."""
        if not data.strip(b"\0"):
            with contextlib.suppress(OSError):  # nothing behind the hole, or no holes in this file system
                after = os.lseek(self.fd, self.offset, os.SEEK_DATA)
                if after > self.offset + len(data):
                    self._advance(data)
                    self.offset, self.tail = after, _at(self.fd, after - PROOF, PROOF)
                    return 0
        return len(data) - _open_character(data)

    def give_unfinished(self, now: datetime) -> list[Piece]:
        """Give out the last line without its newline, if it has waited long enough.

        What comes later is a new piece with the same line number. Zero bytes alone are no text:
        they wait for what follows them.
        """
        since, grew = self._partial_since, self._partial_grew
        if since is None or grew is None or not self.partial.strip(b"\0"):
            return []
        if now < since:  # the clock was set back
            self._partial_since = self._partial_grew = now
            return []
        if now - grew < PATIENCE and now - since < PATIENCE_GROWING:
            return []
        whole = self.partial
        cut = len(whole) - _open_character(whole) or len(whole)
        pieces = self._give(whole[:cut])
        self._set_partial(whole[cut:], now)
        return pieces

    def give_rest(self) -> list[Piece]:
        """Give out the unfinished last line now: the file is about to be let go."""
        pieces = self._give(self.partial)
        self._set_partial(b"", None)
        return pieces

    def _give(self, data: bytes) -> list[Piece]:
        """Pass over ``data``; what began before the first watch is a piece of its own."""
        cut = 0
        if self.offset < self.fresh_from:
            cut = data.find(b"\n", self.fresh_from - 1 - self.offset) + 1 or len(data)
        pieces = []
        for part, fresh in ((data[:cut], False), (data[cut:], True)) if cut else ((data, True),):
            text = part.replace(b"\0", b"") if b"\0" in part else part
            if text:
                pieces.append(Piece(self.line, text, fresh))
            self._advance(part)
        return pieces

    def _advance(self, data: bytes) -> None:
        if len(self.head) < PROOF:
            self.head += data[: PROOF - len(self.head)]
        self.tail = data[-PROOF:] if len(data) >= PROOF else (self.tail + data)[-PROOF:]
        self.line += data.count(b"\n")
        self.offset += len(data)

    def _set_partial(self, data: bytes, now: datetime | None) -> None:
        if not data:
            self._partial_since = self._partial_grew = None
        elif data != self.partial:
            if self._partial_since is None or not data.startswith(self.partial):
                self._partial_since = now
            self._partial_grew = now
        self.partial = data


def _open_character(data: bytes) -> int:
    r"""Count the bytes at the end that begin a UTF-8 character and do not finish it.

    >>> _open_character("显存".encode()[:-1]), _open_character("显存".encode()), _open_character(b"\xff")
    (2, 0, 0)
    """
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return back if length > back else 0
    return 0
