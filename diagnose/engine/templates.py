"""Unknown error lines, gathered into templates: what varies is masked, what stays is the message.

The method is Drain's (He et al., "Drain: An Online Log Parsing Approach with Fixed Depth Tree", ICWS
2017): lines meet only others with as many words and the same first words; there they join the most
similar template, whose differing words become wildcards. A tree of fixed depth is a mapping from a
tuple of its steps, and is kept as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from diagnose.model.observation import LogMatch

WILDCARD = "<*>"

_MOST_TEMPLATES = 200
_FIRST_WORDS = 2
_SIMILAR = 0.5
"""Share of words in which a line must agree with a template, wildcards not counted."""

_MOST_CHARS, _MOST_WORDS = 1024, 64
"""Of one line; what stands behind rarely tells two messages apart."""

# Level, time and process id before the message: they would make unlike messages alike.
_HEAD = re.compile(
    r"^(?:LAUNCH\s+)?(?:[A-Z]{4,8}\s+)?\[?\d{4}-\d\d-\d\d[ T][\d:.,]+\]?\s+(?:\[\s*[A-Z]+\s*\]\s*|\d+\s+)?"
)

# One pass, the first alternative that fits wins. Each is anchored by its first characters and repeats
# only single classes between fixed marks, so that the time is linear in the line.
_VARIABLE = re.compile(
    r"""(?P<str>"[^"]*"|(?<!\w)'[^']*'(?!\w)|(?<!\w)`[^`]*`)"""
    r"|(?P<time>\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?)?|\b\d\d:\d\d:\d\d(?:[.,]\d+)?)"
    r"|(?P<uuid>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)"
    r"|(?P<ip>\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b)"
    r"|(?P<url>\b[a-z]{2,8}://[^\s,;)\]]+)"
    r"|(?P<path>(?<![\w.<])~?(?:/[\w.@+-]+)+/?)"
    r"|(?P<hex>\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{12,64}\b)"
    r"|(?P<num>(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?:[KMGTkmgt]i?B|[GMK]|[nmu]?s)?(?!\w))"
)

_FRAME = re.compile(
    r"^\s*(?:Traceback \(most recent call last\)|File \".*\", line \d+|\^+\s*$|~*\^+~*\s*$"
    r"|During handling of the above exception|The above exception was the direct cause)"
)


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of line that no rule knows.

    Attributes:
        template: The message with masks (``<num>``, ``<path>`` ...) and wildcards (``<*>``).
        count: Lines of this kind.
        sample: The first of them, word for word, from ``line`` of ``source``.
    """

    template: str
    count: int
    sample: str
    source: str
    line: int


class _Cluster(msgspec.Struct):
    """A template that still learns."""

    key: tuple[str, ...]
    words: list[str]
    first: LogMatch
    count: int = 1
    ended_block: bool = False


class Miner:
    """Gathers lines into at most ``most`` templates; the least recently used goes.

    Attributes:
        forgotten: Lines whose template went. The counts of all templates and this are the lines fed.
    """

    def __init__(self, most: int = _MOST_TEMPLATES) -> None:
        self._most = max(1, most)
        self._clusters: dict[int, _Cluster] = {}  # least recently used first
        self._leaves: dict[tuple[str, ...], list[int]] = {}
        self._next = 0
        self.forgotten = 0

    def feed(self, match: LogMatch) -> bool:
        """Take one line; False for a frame of a traceback, which is no message and does not count."""
        if is_frame(match.text):
            return False
        words = mask(match.text).split()[:_MOST_WORDS] or [WILDCARD]
        key = (str(len(words)), *(_step(word) for word in words[:_FIRST_WORDS]))
        number = self._most_similar(key, words)
        if number is None:
            self._add(_Cluster(key=key, words=words, first=match, ended_block=bool(match.block)))
            return True
        cluster = self._clusters.pop(number)
        pairs = zip(cluster.words, words, strict=True)
        cluster.words = [one if one == other else WILDCARD for one, other in pairs]
        cluster.count += 1
        cluster.ended_block |= bool(match.block)
        self._clusters[number] = cluster
        return True

    def templates(self) -> tuple[Template, ...]:
        """List what was seen: first the ends of tracebacks, then by count, then by age."""
        ordered = sorted(self._clusters.items(), key=lambda item: _weight(item[0], item[1]))
        return tuple(
            Template(
                template=" ".join(cluster.words),
                count=cluster.count,
                sample=cluster.first.text,
                source=cluster.first.source,
                line=cluster.first.line,
            )
            for _, cluster in ordered
        )

    def _most_similar(self, key: tuple[str, ...], words: Sequence[str]) -> int | None:
        near = [(_similarity(self._clusters[number].words, words), number) for number in self._leaves.get(key, ())]
        best, number = max(near, default=(0.0, -1), key=lambda one: (one[0], -one[1]))
        return number if best >= _SIMILAR else None

    def _add(self, cluster: _Cluster) -> None:
        if len(self._clusters) >= self._most:
            self._forget(next(iter(self._clusters)))
        self._clusters[self._next] = cluster
        self._leaves.setdefault(cluster.key, []).append(self._next)
        self._next += 1

    def _forget(self, number: int) -> None:
        cluster = self._clusters.pop(number)
        self.forgotten += cluster.count
        self._leaves[cluster.key].remove(number)
        if not self._leaves[cluster.key]:
            del self._leaves[cluster.key]


def mine(matches: Iterable[LogMatch], *, most: int = _MOST_TEMPLATES) -> tuple[Template, ...]:
    """Gather lines that show an error which no rule knows into templates."""
    miner = Miner(most)
    for match in matches:
        miner.feed(match)
    return miner.templates()


def mask(text: str) -> str:
    """Put names in the place of what varies: strings, times, addresses, paths, numbers.

    >>> mask("ERROR    2025-09-02 10:15:03,118 41772 engine.py[line:211] No 'w8' in /opt/m after 3.5s")
    'engine.py[line:<num>] No <str> in <path> after <num>'
    """
    head = _HEAD.match(text)
    return _VARIABLE.sub(_name, text[head.end() if head else 0 :][:_MOST_CHARS])


def variables(text: str) -> list[tuple[str, int, int]]:
    """Return what varies in a text: kind (as masks name it), start and end.

    >>> variables("rank 3 of 'w8'")
    [('num', 5, 6), ('str', 10, 14)]
    """
    return [(found.lastgroup or "", *found.span()) for found in _VARIABLE.finditer(text)]


def is_frame(text: str) -> bool:
    """Tell whether a line belongs to a traceback without being its exception.

    >>> is_frame('  File "worker.py", line 3, in main')
    True
    """
    return _FRAME.match(text) is not None


def _name(found: re.Match[str]) -> str:
    return f"<{found.lastgroup}>"


def _step(word: str) -> str:
    """Take a step in the tree: words with digits vary too much to part ways by."""
    return WILDCARD if any(char.isdigit() for char in word) else word


def _similarity(template: Sequence[str], words: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(template, words, strict=True)) / len(words)


def _weight(number: int, cluster: _Cluster) -> tuple[bool, int, int]:
    return (not cluster.ended_block, -cluster.count, number)
