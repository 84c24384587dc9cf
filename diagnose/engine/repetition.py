"""How much of a text says the same again and again: 0 (none) to 1 (nothing else).

Four measures, the worst counts: words that run in a cycle, sentences that run in a cycle, few lines said over
and over in any order, and how far the whole can be compressed beyond what language can. Tables, lists, code and
verses with a refrain have likeness without a cycle and stay low.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

MOST_CHARACTERS = 20_000
"""What is beyond is not looked at: a cycle shows long before."""

_TOKEN = re.compile(r"[㐀-鿿豈-﫿぀-ヿ가-힯]|[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_")
_RULE_LINE = re.compile(r"[\s|:+\-=*_~#.—─━═│┼]+")
_NUMBERING = re.compile(
    r"(?m)(?<![\w.])\d{1,4}[.)、:：]\s+|^\s*[-*•]\s+|第[\d一二三四五六七八九十百]+[步条点章项][、:：]?"
)
_SENTENCE = re.compile(r"[^.!?。！？；;\n]+[.!?。！？；;]*")
_LETTER = re.compile(r"[^\W\d_]")
_LEAST_LETTERS = 4
_LEAST_LINES = 12
_LONGEST_CYCLE = 120
_LEAST_TOKENS = 8
_DENSE, _LANGUAGE = 0.06, 0.17
_LEAST_BYTES = 1500


def score(text: str) -> float:
    """Return the share of the text that repeats what stands before it in a cycle.

    Above 0.5 the model is caught in a loop; ordinary text, also with tables or verses, stays below 0.3.

    >>> score("The sky is blue because air scatters blue light more than red light.")
    0.0
    >>> score("好的好的好的好的好的好的好的好的")
    1.0
    """
    plain = _without_rules(text[:MOST_CHARACTERS])
    words = _TOKEN.findall(plain)
    sentences = [part.strip().lower() for part in _SENTENCE.findall(_NUMBERING.sub("", plain)) if part.strip()]
    worst = max(
        _cycles(words, least=_LEAST_TOKENS), _sentence_cycles(sentences), _same_lines(plain), _compressed(plain)
    )
    return round(min(worst, 1.0), 3)


def _without_rules(text: str) -> str:
    """Leave out the lines of tables and headings that only draw, if something else is said."""
    lines = text.split("\n")
    kept = [line for line in lines if not (line.strip() and _RULE_LINE.fullmatch(line))]
    said = sum(len(line.strip()) for line in kept)
    return "\n".join(kept) if said * 2 > len(text) else text


def _cycles(units: Sequence[str], *, least: int) -> float:
    """Return the share of characters in units that stand in a cycle.

    A cycle of one unit is said five times or more, a pair four times, a longer one three times, and it
    has ``least`` units at least.
    """
    total = sum(map(len, units))
    covered = bytearray(len(units))
    for period in range(1, min(_LONGEST_CYCLE, len(units) // 3) + 1):
        needed = max({1: 5, 2: 8}.get(period, 3 * period), least)
        start = 0
        for at in range(period, len(units) + 1):
            if at == len(units) or units[at] != units[at - period]:
                if at - start >= needed:
                    covered[start:at] = b"\1" * (at - start)
                start = at - period + 1
    return sum(len(unit) for unit, mark in zip(units, covered, strict=True) if mark) / total if total else 0.0


def _sentence_cycles(sentences: Sequence[str]) -> float:
    """Sentences of one word (``end``, a brace, a cell) are no cycle."""
    told = [one if len(_TOKEN.findall(one)) >= 4 else f"{one}#{at}" for at, one in enumerate(sentences)]
    return _cycles(told, least=3)


def _same_lines(text: str) -> float:
    """Return the share of lines said before, where there are many and at most a third of them is new.

    Spaces, signs and case do not count: a loop that wavers is a loop. Lines of a cell or a number are none.
    """
    lines = ["".join(_LETTER.findall(line)).lower() for line in text.split("\n")]
    lines = [line for line in lines if len(line) >= _LEAST_LETTERS]
    new = len(set(lines))
    return 1 - new / len(lines) if len(lines) >= _LEAST_LINES and 3 * new <= len(lines) else 0.0


def _compressed(text: str) -> float:
    """Return 0 for what language can reach, 1 for what only repetition can; short texts cannot be told."""
    data = text.encode("utf-8", "replace")
    if len(data) < _LEAST_BYTES:
        return 0.0
    ratio = len(zlib.compress(data, 6)) / len(data)
    return min(max((_LANGUAGE - ratio) / (_LANGUAGE - _DENSE), 0.0), 1.0)
