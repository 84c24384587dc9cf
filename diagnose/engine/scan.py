"""Finds, in raw bytes, where any of many patterns may match: fast and roughly; who asks confirms.

Hyperscan reports every pattern in one pass over a chunk of whole lines, whatever their number. Where it
cannot be loaded, one RE2 alternation finds the same lines, and each pattern is tried on those alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import re2

CHUNK_BYTES = 256 * 1024
MOST_HITS = 100
"""Hits of one pattern in one chunk; in a storm the rest tells nothing new."""

Engine = Literal["auto", "hyperscan", "re2"]


class Scanner(Protocol):
    """Finds lines that patterns may match."""

    def lines(self, data: bytes) -> Iterator[tuple[int, int, frozenset[int]]]:
        """Yield start and end of each line with the numbers of the patterns that may match it, in order.

        Args:
            data: Whole lines, at most about `CHUNK_BYTES`.
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
        except ImportError:
            if engine == "hyperscan":
                raise
    return _Re2(patterns)


def loosened(pattern: str) -> str:
    r"""Take anchors and open tails out of a pattern: it then finds the same lines and more.

    >>> loosened(r"^(?P<a>x)\s+[^$]y.*")
    '(?:x)\\s+[^$]y'
    """
    out: list[str] = []
    at, in_class = 0, False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            wide = re.match(r"\\x\{([0-9A-Fa-f]+)\}", pattern[at:])  # bytes know no wide character
            word = wide[0] if wide else pattern[at : at + 2]
            plain = f"(?:{chr(int(wide[1], 16))})" if wide else word
            out.append("" if word in {"\\A", "\\Z", "\\z"} else plain)
            at += len(word)
            continue
        if in_class:
            in_class = not (char == "]" and out[-1] not in {"[", "[^"})
            out.append(char)
        elif char == "[":
            in_class = True
            out.append("[^" if pattern.startswith("[^", at) else "[")
            at += len(out[-1]) - 1
        elif named := re.match(r"\(\?P<\w+>", pattern[at:]):
            out.append("(?:")
            at += named.end() - 1
        elif char not in "^$":
            out.append(char)
        at += 1
    return re.sub(r"(?<!\\)\.[*+]$", "", "".join(out))


def _line_of(data: bytes, end: int) -> tuple[int, int]:
    start = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    stop = data.find(b"\n", max(end - 1, 0))
    return start, stop if stop >= 0 else len(data)


class _Hyperscan:
    """One database, block mode, over chunks."""

    def __init__(self, patterns: Sequence[str], database: bytes | None) -> None:
        import hyperscan  # noqa: PLC0415 (the fallback is for machines without it)

        self._module = hyperscan
        self._db = self._loaded(database) or self._compiled(patterns)

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
        db = self._module.Database(mode=self._module.HS_MODE_BLOCK)
        expressions = [loosened(pattern).encode() for pattern in patterns]
        db.compile(expressions=expressions, ids=list(range(len(patterns))), elements=len(patterns), flags=0)
        return db

    def lines(self, data: bytes) -> Iterator[tuple[int, int, frozenset[int]]]:
        hits: list[tuple[int, int]] = []
        counts: dict[int, int] = {}
        ends: dict[int, int] = {}

        def take(number: int, _start: int, end: int, _flags: int, _context: object) -> None:
            if end < ends.get(number, -1):  # the same line again: an open tail reports each byte
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
        for (start, stop), numbers in sorted(found.items()):
            yield start, stop, frozenset(numbers)

    def dump(self) -> bytes:
        return bytes(self._module.dumpb(self._db))


class _Re2:
    """One alternation finds lines; each pattern is then tried on them."""

    def __init__(self, patterns: Sequence[str]) -> None:
        options = re2.Options()
        options.never_nl = False
        options.log_errors = False
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = 256 << 20
        loose = [loosened(pattern).encode() for pattern in patterns]
        self._any = re2.compile(b"|".join(b"(?:" + one + b")" for one in loose), options=options)
        self._each = [re2.compile(one, options=options) for one in loose]

    def lines(self, data: bytes) -> Iterator[tuple[int, int, frozenset[int]]]:
        at = 0
        counts: dict[int, int] = {}
        while at < len(data) and (found := self._any.search(data, at)):
            start, stop = _line_of(data, max(found.end(), found.start() + 1))
            line = data[start:stop]
            numbers = {number for number, one in enumerate(self._each) if one.search(line)}
            for number in numbers:
                counts[number] = counts.get(number, 0) + 1
            kept = frozenset(number for number in numbers if counts[number] <= MOST_HITS)
            if kept:
                yield start, stop, kept
            at = stop + 1

    def dump(self) -> bytes:
        return b""
