"""Finds, in raw bytes, where any of many patterns may match: fast and roughly; who asks confirms.

Hyperscan reports every pattern in one pass over a chunk of whole lines, whatever their number. Where it
cannot be loaded, one RE2 alternation finds the same lines, and a set of all patterns is asked about those alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import re2

CHUNK_BYTES = 64 * 1024
MOST_HITS = 1000
"""Rough hits of one pattern in one chunk; in a storm the rest tells nothing new."""

SHAPE = "3"
"""Changes with `loosened`: a database made of other expressions does not fit."""

Engine = Literal["auto", "hyperscan", "re2"]


class Scanner(Protocol):
    """Finds lines that patterns may match."""

    def lines(self, data: bytes, idle: frozenset[int] = frozenset()) -> Iterator[tuple[int, int, frozenset[int]]]:
        """Yield start and end of each line with the numbers of the patterns that may match it, in order.

        Args:
            data: Whole lines, at most about `CHUNK_BYTES`.
            idle: Patterns that need not be told.
        """
        ...

    def dump(self) -> bytes:
        """Return what makes the next start faster; empty where nothing does."""
        ...


def scanner(patterns: Sequence[str], *, engine: Engine = "auto", database: bytes | None = None) -> Scanner:
    """Make a scanner for patterns, by their place in the sequence.

    Args:
        database: What `Scanner.dump` returned for the same patterns; one that does not fit is ignored.
    """
    if engine != "re2":
        try:
            return _Hyperscan(patterns, database)
        except (ImportError, UnusableError):
            if engine == "hyperscan":
                raise
    return _Re2(patterns)


def refused(patterns: Sequence[str]) -> list[str]:
    r"""Return the patterns that Hyperscan cannot take, and RE2 looks for instead: slower, and nothing is kept.

    Empty where there is no Hyperscan to ask.

    >>> refused([r"out of memory", r"\w*"])
    ['\\w*']
    """
    try:
        made = _Hyperscan([*patterns, "one that is taken"], None)
    except (ImportError, UnusableError):
        return []
    return [patterns[number] for number in made.refused]


class UnusableError(Exception):
    """Hyperscan does not run on this machine, or not with these patterns."""


_TOKEN = re.compile(
    r"\\x\{(?P<wide>[0-9A-Fa-f]+)\}|\\Q(?P<quoted>.*?)(?:\\E|\Z)"
    r"|(?P<any>\\[pP](?:\{\^?\w+\}|\w)|\\[SDWC])|\\.|(?P<named>\(\?P?<\w+>)"
    r"|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|.",
    re.DOTALL,
)
_REPEAT = re.compile(r"\{(\d+)(,?)(\d*)\}|[*+?]")
_ANCHORS = frozenset({"^", "$", "\\A", "\\Z", "\\z"})
_BYTES = frozenset({".", "\\S", "\\D", "\\W"})
_MOST_REPEATS = 1000
"""RE2 counts no further."""


def loosened(pattern: str) -> str:
    r"""Take anchors, names and an open tail out of a pattern: it then finds the same lines and more.

    The scan sees bytes, the pattern means characters: what may be any character may be four bytes.

    >>> loosened(r"^(?P<a>x)\s+[^$]*y.*")
    '(?:x)\\s+[^$]*y'
    >>> loosened(r"don.t \S{0,3}")
    'don.{1,4}t \\S{0,12}'
    """
    out: list[str] = []
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:  # a class that does not end; RE2 says so when it is asked to confirm
            return pattern
        at = token.end()
        repeat = _REPEAT.match(pattern, at)
        word = token[0]
        if word in _ANCHORS:
            out.append("(?:)" if repeat else "")
        elif token["named"]:
            out.append("(?:")
        elif token["quoted"] is not None:
            out.append("".join(f"(?:{re.escape(one)})" for one in token["quoted"]))
        elif word in _BYTES:
            out.append(word + _in_bytes(repeat))
            at = repeat.end() if repeat else at
        elif token["any"] or _reaches_beyond_ascii(word):
            out.append("[^\\n]" + _in_bytes(repeat))
            at = repeat.end() if repeat else at
        elif token["wide"] or not word.isascii():
            out.append(f"(?:{chr(int(token['wide'], 16)) if token['wide'] else word})")
        elif word.startswith("[^"):
            out.append(word + _in_bytes(repeat))
            at = repeat.end() if repeat else at
        else:
            out.append(word)
    return re.sub(r"(?<!\\)\.[*+]$", "", "".join(out))


def _reaches_beyond_ascii(word: str) -> bool:
    """Say whether a class holds characters of more than a byte (one that excludes some is taken as it is)."""
    if not word.startswith("[") or (word.startswith("[^") and word.isascii() and "\\x{" not in word):
        return False
    return not word.isascii() or re.search(r"\\x\{|\\[SDWpP]|\[:\^", word) is not None


def _in_bytes(repeat: re.Match[str] | None) -> str:
    """Turn a number of characters into one of bytes."""
    if repeat is None:
        return "{1,4}"
    if repeat[0] in {"*", "+"}:
        return repeat[0]
    if repeat[0] == "?":
        return "{0,4}"
    least, most = int(repeat[1]), repeat[3] if repeat[2] else repeat[1]
    if not most or int(most) * 4 > _MOST_REPEATS:
        return f"{{{least},}}"
    return f"{{{least},{int(most) * 4}}}"


def _line_of(data: bytes, end: int) -> tuple[int, int]:
    start = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    stop = data.find(b"\n", max(end - 1, 0))
    return start, stop if stop >= 0 else len(data)


class _Hyperscan:
    """One database, block mode, over chunks."""

    def __init__(self, patterns: Sequence[str], database: bytes | None) -> None:
        import hyperscan  # noqa: PLC0415 (the fallback is for machines without it)

        self._module = hyperscan
        self.refused: list[int] = []
        self._db = self._loaded(database) or self._compiled(patterns)
        self._rest = _Re2([patterns[number] for number in self.refused]) if self.refused else None

    def _loaded(self, database: bytes | None):  # type: ignore[no-untyped-def] # noqa: ANN202
        if not database:
            return None
        try:
            db = self._module.loadb(database, self._module.HS_MODE_BLOCK)
            db.scratch = self._module.Scratch(db)
        except (self._module.error, TypeError, ValueError):
            return None
        return db

    def _compiled(self, patterns: Sequence[str]):  # type: ignore[no-untyped-def] # noqa: ANN202
        loose = {number: loosened(pattern).encode() for number, pattern in enumerate(patterns)}
        try:
            return self._database(loose)
        except self._module.error:
            # Few patterns are too much for it (huge repeats, what may be empty): RE2 looks for these.
            self.refused = self._refused_of(loose)
        try:
            return self._database({number: one for number, one in loose.items() if number not in self.refused})
        except self._module.error as problem:
            raise UnusableError(f"Hyperscan takes no {len(loose)} patterns here: {problem}") from problem

    def _database(self, loose: Mapping[int, bytes]):  # type: ignore[no-untyped-def] # noqa: ANN202
        db = self._module.Database(mode=self._module.HS_MODE_BLOCK)
        db.compile(expressions=list(loose.values()), ids=list(loose), elements=len(loose), flags=0)
        return db

    def _refused_of(self, loose: Mapping[int, bytes]) -> list[int]:
        """Halve until what cannot be taken stands alone: few are refused, if any."""
        try:
            self._database(loose)
        except self._module.error:
            if len(loose) == 1:
                return list(loose)
            items = list(loose.items())
            middle = len(items) // 2
            return self._refused_of(dict(items[:middle])) + self._refused_of(dict(items[middle:]))
        return []

    def lines(self, data: bytes, idle: frozenset[int] = frozenset()) -> Iterator[tuple[int, int, frozenset[int]]]:
        hits: list[tuple[int, int]] = []
        counts: dict[int, int] = {}
        ends: dict[int, int] = {}

        def take(number: int, _start: int, end: int, _flags: int, _context: object) -> None:
            if number in idle or end < ends.get(number, -1):  # the same line again: an open tail reports each byte
                return
            count = counts.get(number, 0)
            if count < MOST_HITS:
                counts[number] = count + 1
                stop = data.find(b"\n", max(end - 1, 0))
                ends[number] = stop if stop >= 0 else len(data)
                hits.append((end, number))

        self._db.scan(data, match_event_handler=take)
        found: dict[tuple[int, int], set[int]] = {}
        for end, number in hits:
            found.setdefault(_line_of(data, end), set()).add(number)
        if self._rest:
            for start, stop, rest in self._rest.lines(data):
                told = {self.refused[number] for number in rest} - idle
                found.setdefault((start, stop), set()).update(told)
        for (start, stop), numbers in sorted(found.items()):
            yield start, stop, frozenset(numbers)

    def dump(self) -> bytes:
        return b"" if self._rest else bytes(self._module.dumpb(self._db))


class _Re2:
    """One alternation finds lines; a set of all then tells which patterns those may match."""

    def __init__(self, patterns: Sequence[str]) -> None:
        options = re2.Options()
        options.never_nl = True  # a match that begins in one line and ends in the next would hide the first
        options.log_errors = False
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = 256 << 20
        loose = [loosened(pattern).encode() for pattern in patterns]
        self._any = re2.compile(b"|".join(b"(?:" + one + b")" for one in loose), options=options)
        self._which = re2.Set.SearchSet(options)
        for one in loose:
            self._which.Add(one)
        self._which.Compile()

    def lines(self, data: bytes, idle: frozenset[int] = frozenset()) -> Iterator[tuple[int, int, frozenset[int]]]:
        at = 0
        counts: dict[int, int] = {}
        while at < len(data) and (found := self._any.search(data, at)):
            start, stop = _line_of(data, max(found.end(), found.start() + 1))
            line = data[start:stop]
            numbers = [number for number in self._which.Match(line) if number not in idle]
            for number in numbers:
                counts[number] = counts.get(number, 0) + 1
            kept = frozenset(number for number in numbers if counts[number] <= MOST_HITS)
            if kept:
                yield start, stop, kept
            at = stop + 1

    def dump(self) -> bytes:
        return b""
