"""From raw log bytes to matched lines: one rough pass over all, then the few hit lines read with care.

Hostile text: prompts and answers reach logs. A hit counts only outside of a request's or response's own
text, and a line without a logger's prefix, in a file where a logger writes all lines, counts only as part of
a warning or error record: it may be the second line of somebody's prompt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone, tzinfo
from functools import cached_property

import msgspec
import re2

from diagnose.engine.asked import asked_of, counts_in, texts
from diagnose.engine.blocks import block_of
from diagnose.engine.lines import Line, bare, pieces, take_apart
from diagnose.engine.scan import CHUNK_BYTES, Engine, scanner
from diagnose.engine.users import body_of, zones
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import Hit, LogLines, LogMatch

_HEAD_BYTES = 64 * 1024
_MOST_LINE = 1 << 20
_MOST_BACK = 200
_BLOCK_BYTES = 64 * 1024
_MOST_PIECES = 64
_TEXT_CHARS = 4096
_WINDOW_BYTES = 1 << 20
_MOST_HITS = 100
"""Of one pattern in one window: in a storm the rest tells nothing new.

Only what counts is counted: users cannot hide with theirs what the server says.
"""

_LOGGED = frozenset({"api", "engine", "access", "error", "cache", "data"})
"""Streams in which a logger writes every record: bare lines continue one."""

_ERRORS = {"ERROR", "CRITICAL"}
_GRAVE = _ERRORS | {"WARNING"}

_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Failure|Timeout|Warning)(?::|$)")
_NO_ERROR = re.compile(r"\w*Warning:|(?:KeyboardInterrupt|SystemExit)\b")
_FATAL = re.compile(r"terminate called|FatalError:|Fatal Python error|.{0,200}panicked at ")


class Carry(msgspec.Struct, frozen=True, kw_only=True):
    """What the next piece of the same file must know of those before.

    Attributes:
        pieces: The last lines as they came: joined only where somebody looks back.
        at: The last date seen.
        starts: Start marks so far.
        attempt: The start that `told` belongs to.
        told: Patterns that tell nothing new when they match again in the same start.
    """

    pieces: tuple[bytes, ...] = ()
    at: datetime | None = None
    starts: int = 0
    attempt: int = 0
    told: frozenset[int] = frozenset()

    @property
    def tail(self) -> bytes:
        """The last lines, at most 64 KiB: blocks and dates reach back into them."""
        return b"".join(self.pieces)[-_BLOCK_BYTES:]


class _Above(msgspec.Struct, frozen=True):
    """What stands above a line: the record that it continues, the nearest date, the block that it ends.

    Attributes:
        lost: The record lies further up than anyone looks.
    """

    record: Line | None
    at: datetime | None
    block: tuple[str, ...]
    lost: bool = False


class Matcher:
    """All patterns of a state of knowledge, ready to scan; holds no state of any file."""

    def __init__(
        self,
        knowledge: Knowledge,
        *,
        zone: tzinfo = timezone.utc,
        engine: Engine = "auto",
        database: bytes | None = None,
    ) -> None:
        """Prepare the patterns.

        Args:
            zone: Of times in logs that name none.
            database: What `dump` gave for the same knowledge.
        """
        self._zone = zone
        asked = asked_of(knowledge)
        self._patterns = list(asked)
        self._asked = list(asked.values())
        self.starts = frozenset(n for n, one in enumerate(self._asked) if any(name == "@start" for name, _ in one.hits))
        self._confirm: dict[str, re2.Pattern] = {}
        self._barred: dict[str, frozenset[int]] = {}
        patterns = texts(self._patterns)
        self.error_number = len(patterns) - 1
        self._scanner = scanner(patterns, engine=engine, database=database)

    def dump(self) -> bytes:
        """Return what makes the next start with the same knowledge faster."""
        return self._scanner.dump()

    def scan(self, lines: LogLines, carry: Carry) -> tuple[list[LogMatch], Carry]:
        """Find the lines that patterns match, in order.

        Args:
            lines: The next piece of a file.
            carry: From the piece before; `Carry` for the first.
        """
        data = bare(lines.data)
        if data is not lines.data:
            lines = msgspec.structs.replace(lines, data=data)
        reader = _Reader(self, lines, carry)
        matches = list(reader.read())
        carry = Carry(
            pieces=_kept(carry.pieces, data),
            at=reader.at,
            starts=reader.starts,
            attempt=reader.attempt,
            told=frozenset(reader.told),
        )
        return matches, carry

    def hits(self, line: Line, numbers: frozenset[int]) -> Iterator[tuple[int, Mapping[str, str], int]]:
        """Confirm rough hits: yield the real ones with their labels and where in the line's text they begin."""
        theirs = zones(line.text)
        ours = _before(line, theirs)
        if ours is not line:  # most of what hit stands in the body of a request: ask once more without
            again = self._scanner.lines(ours.text.encode(errors="replace"))
            numbers &= frozenset[int]().union(*(rough for _, _, rough in again))
        for number in sorted(numbers - {self.error_number}):
            pattern = self._patterns[number]
            if pattern.levels and line.level and line.level not in pattern.levels:
                continue
            found = self._search(pattern.pattern, ours, theirs)
            if found and not (pattern.unless and self._search(pattern.unless, line)):
                yield number, found[0], found[1]

    def asked(self, number: int) -> Sequence[tuple[str, int]]:
        """Return who asked for a pattern: rule or mark, and its leaf."""
        return self._asked[number].hits

    def barred(self, stream: str) -> frozenset[int]:
        """Return the patterns that do not count in a kind of log."""
        if stream not in self._barred:
            pairs = enumerate(zip(self._patterns, self._asked, strict=True))
            self._barred[stream] = frozenset(n for n, (one, asked) in pairs if not counts_in(one, asked, stream))
        return self._barred[stream]

    def once(self, number: int) -> bool:
        """Say whether one match of a pattern in a start tells all."""
        return self._asked[number].once

    def _search(
        self, pattern: str, line: Line, theirs: Sequence[tuple[int, int]] = ()
    ) -> tuple[Mapping[str, str], int] | None:
        """Search the message, then the whole text, outside of ``theirs``; return the named groups and the begin."""
        if pattern not in self._confirm:
            self._confirm[pattern] = re2.compile(pattern)
        confirm = self._confirm[pattern]
        for text in (line.message, line.text) if line.prefixed else (line.text,):
            before = len(line.text) - len(text)
            if found := _outside(confirm, text, [(start - before, end - before) for start, end in theirs]):
                labels = {name: value for name, value in found.groupdict().items() if value is not None}
                return labels, found.start() + before
        return None

    def take_apart(self, raw: bytes, reference: datetime) -> Line:
        """Take a raw line apart in this matcher's time zone; of a very long request only the head."""
        head = take_apart(raw[:_HEAD_BYTES], zone=self._zone, reference=reference)
        if len(raw) <= _HEAD_BYTES or body_of(head.text) is not None:
            return head
        return take_apart(raw, zone=self._zone, reference=reference)

    def rough(self, data: bytes, idle: frozenset[int]) -> Iterator[tuple[int, int, frozenset[int]]]:
        """Find lines that may match, in one chunk; ``idle`` says what nobody asks for."""
        return self._scanner.lines(data, idle)

    def may_be_error(self, numbers: frozenset[int]) -> bool:
        """Say whether the rough pattern of unknown errors hit."""
        return self.error_number in numbers


def _kept(above: tuple[bytes, ...], data: bytes) -> tuple[bytes, ...]:
    """Add a piece to those that are kept; joined now and then, so that neither their number nor their bytes grow."""
    above = (*above, data)
    if len(above) > _MOST_PIECES or sum(map(len, above)) > _BLOCK_BYTES * 5 // 4:
        return (b"".join(above)[-_BLOCK_BYTES:],)
    return above


class _Reader:
    """One piece of one file, read with care where it hit."""

    def __init__(self, matcher: Matcher, lines: LogLines, carry: Carry) -> None:
        self.matcher, self.lines = matcher, lines
        self._carry = carry
        self.at, self.starts = carry.at, carry.starts
        self.attempt = lines.generation or carry.starts + 1
        self.barred = matcher.barred(lines.stream)
        self.told = set(carry.told) if carry.attempt == self.attempt else set()
        self.counts: Counter[int] = Counter()
        self.full: set[int] = set()
        self.window = 0
        self.number, self.counted = lines.first_line, 0
        self._above: dict[int, _Above] = {}

    @cached_property
    def data(self) -> bytes:
        """What is above, and the lines."""
        return self._carry.tail + self.lines.data

    @property
    def offset(self) -> int:
        """Where in `data` the lines begin."""
        return len(self.data) - len(self.lines.data)

    def read(self) -> Iterator[LogMatch]:
        """Read chunk by chunk."""
        data = self.lines.data
        at = 0
        while at < len(data):
            end = at + CHUNK_BYTES
            if end < len(data):
                end = data.rfind(b"\n", at, end) + 1 or data.find(b"\n", end) + 1 or len(data)
            if at // _WINDOW_BYTES != self.window:
                self.window = at // _WINDOW_BYTES
                self.counts.clear()
                self.full.clear()
            at = yield from self._chunk(at, end)

    def _chunk(self, at: int, end: int) -> Generator[LogMatch, None, int]:
        """Read one chunk; return where to go on."""
        data = self.lines.data
        for begin, close, rough in self.matcher.rough(data[at:end], self._idle()):
            start, stop = at + begin, at + close
            if self.told and self._begins_anew(start, stop, rough & self.matcher.starts):
                self.told = set()  # and what is not asked for changes with it
                return start
            numbers = rough - self._idle()
            if numbers:
                self.number += data.count(b"\n", self.counted, start)
                self.counted = start
                yield from self._matches(start + self.offset, stop + self.offset, self.number, numbers)
        return end

    def _begins_anew(self, start: int, stop: int, numbers: frozenset[int]) -> bool:
        if not numbers:
            return False
        parts = pieces(self.lines.data[start : min(stop, start + _MOST_LINE)])
        lines = (self.matcher.take_apart(part, self.lines.read_at) for part in parts)
        return any(True for line in lines for _ in self.matcher.hits(line, numbers))

    def _matches(self, start: int, stop: int, number: int, numbers: frozenset[int]) -> Iterator[LogMatch]:
        """Read one raw line; a bar that writes over itself, and syslog, put many pieces into one."""
        parts = pieces(self.data[start : min(stop, start + _MOST_LINE)])
        first = self.matcher.take_apart(parts[0], self.lines.read_at)
        for place, part in enumerate(parts):
            line = first if place == 0 else self.matcher.take_apart(part, self.lines.read_at)
            found = list(self.matcher.hits(line, numbers))
            if not found and not self.matcher.may_be_error(numbers):
                continue
            above = self._look_above(start, stop) if not line.prefixed or line.at is None else None
            if above and place:
                above = _Above(first if first.prefixed else above.record, first.at or above.at, above.block)
            if above and not line.prefixed and self._is_payload(above):
                continue
            if place and body_of(first.text) is not None:
                break
            match = self._match(line, found, above, number, stop, error=self.matcher.may_be_error(numbers))
            if match:
                yield match
                told = frozenset(one for one, _, _ in found)
                self._count(told or {self.matcher.error_number})
                numbers -= told

    def _idle(self) -> frozenset[int]:
        """Return the patterns that do not count here, or would tell nothing new."""
        return self.barred.union(self.told, self.full)

    def _count(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.counts[number] += 1
            if self.counts[number] >= _MOST_HITS:
                self.full.add(number)

    def _match(
        self,
        line: Line,
        found: Sequence[tuple[int, Mapping[str, str], int]],
        above: _Above | None,
        number: int,
        stop: int,
        *,
        error: bool,
    ) -> LogMatch | None:
        hits = [Hit(rule_id, leaf, labels) for one, labels, _ in found for rule_id, leaf in self.matcher.asked(one)]
        hits += _error_hits(line, above) if error else []
        if not hits:
            return None
        begins = any(hit.rule_id == "@start" for hit in hits)
        at, dated = self._date(line, above, stop, begins=begins)
        if begins:
            self.starts += 1
            self.attempt = self.lines.generation or self.starts + 1
            self.told = set()
        self.told |= {one for one, _, _ in found if self.matcher.once(one)}
        place = min((place for _, _, place in found), default=0)
        return LogMatch(
            target=self.lines.target,
            source=self.lines.source,
            stream=self.lines.stream,
            line=number,
            at=at,
            dated=dated,
            attempt=self.attempt,
            text=_around(line.text, place),
            level=line.level,
            hits=tuple(hits),
            block=above.block if above else (),
            fresh=self.lines.fresh,
        )

    def _is_payload(self, above: _Above) -> bool:
        """A bare line in a logger's file continues a record; of a harmless record it is somebody's text."""
        if self.lines.stream not in _LOGGED:
            return False
        if above.record is None:
            return above.lost or self.lines.stream in {"data", "api", "access"}
        if above.record.level in _GRAVE:
            return any(stop == len(above.record.text) for _, stop in zones(above.record.text))
        return not above.block or body_of(above.record.text) is not None

    def _date(self, line: Line, above: _Above | None, stop: int, *, begins: bool) -> tuple[datetime, bool]:
        """Date a line; what begins a start without a date of its own belongs to what follows, not to the old start."""
        below = self._look_below(stop) if begins and line.at is None else None
        at = line.at or below or (above.at if above else None) or self.at or self._look_below(stop)
        if at:
            self.at = at
        return at or self.lines.read_at, at is not None

    def _look_above(self, start: int, stop: int) -> _Above:
        """Walk up to the record that a bare line continues, and on to a date; note the block. Bounded."""
        if start in self._above:
            return self._above[start]
        passed: list[str] = []
        record: Line | None = None
        date: datetime | None = None
        at, walked, lost = start, 0, False
        while at > 0 and walked < _MOST_BACK and start - at < _BLOCK_BYTES:
            begin = self.data.rfind(b"\n", 0, at - 1) + 1
            line = self._line(begin, at)
            walked += 1
            date = date or line.at
            if record is None:
                passed.append(line.text[:_TEXT_CHARS])
                record = line if line.prefixed else None
            if record and date:
                break
            if known := self._above.get(begin):  # somebody looked up from there already
                passed += reversed(known.block[:-1] if record is None else ())
                record, date, lost = record or known.record, date or known.at, known.lost
                break
            at = begin
        lost = record is None and (lost or walked >= _MOST_BACK)
        passed = [*reversed(passed), self._line(start, stop).text[:_TEXT_CHARS]]
        told = _Above(record, date, block_of(passed)[-_MOST_BACK:], lost=lost)
        self._above = {start: told}  # the next hit often stands right below
        return told

    def _line(self, start: int, stop: int) -> Line:
        return self.matcher.take_apart(pieces(self.data[start:stop])[-1], self.lines.read_at)

    def _look_below(self, stop: int) -> datetime | None:
        at = stop + 1
        for _ in range(_MOST_BACK):
            if at >= len(self.data):
                return None
            end = self.data.find(b"\n", at)
            end = end if end >= 0 else len(self.data)
            line = self._line(at, end)
            if line.at:
                return line.at
            at = end + 1
        return None


def _before(line: Line, theirs: Sequence[tuple[int, int]]) -> Line:
    """Take only what stands before a user's text that goes on to the end of the line."""
    end = min((start for start, stop in theirs if stop == len(line.text)), default=len(line.text))
    if end == len(line.text):
        return line
    begin = len(line.text) - len(line.message)
    return msgspec.structs.replace(line, text=line.text[:end], message=line.text[begin:end])


def _outside(confirm: re2.Pattern, text: str, theirs: Sequence[tuple[int, int]]) -> re2.Match | None:
    """Search where no user wrote; what ends in a user's text must hold without it, a name may be spanned."""
    at = 0
    while found := confirm.search(text, at):
        begin, end = found.span()
        inside = max((stop for start, stop in theirs if start <= begin < stop), default=None)
        if inside is None:
            rest = min((start for start, stop in theirs if begin < start < end <= stop), default=None)
            return found if rest is None else confirm.search(text[:rest], at)
        at = inside
        if at >= len(text):
            break
    return None


def _around(text: str, place: int) -> str:
    if len(text) <= _TEXT_CHARS:
        return text
    start = max(0, min(place - _TEXT_CHARS // 4, len(text) - _TEXT_CHARS))
    return text[start : start + _TEXT_CHARS]


def _error_hits(line: Line, above: _Above | None) -> list[Hit]:
    """Mark what shows an error, known or not: what no rule knows is shown as unexplained."""
    if _NO_ERROR.match(line.message):
        return []
    if line.prefixed:
        return [Hit("@error", 0)] if line.level in _ERRORS else []
    if _FATAL.match(line.text):
        return [Hit("@error", 0), Hit("@fatal", 0)]
    if above and above.block and _EXCEPTION.match(line.text):
        return [Hit("@error", 0), Hit("@traceback", 0)]
    return []
