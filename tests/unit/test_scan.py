"""The rough pass finds at least the lines that the patterns match, with either engine."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from diagnose.engine.scan import CHUNK_BYTES, MOST_HITS, loosened, refused, scanner

BOTH = ["hyperscan", "re2"]
PATTERNS = [
    r"^a\$b$",
    r"[^$^]x",
    r"\Aab\z",
    r"(?P<n>a|b$)c",
    r"(?<m>ab)+c",
    r"a\.*b",
    r"甲+乙",
    r"a[甲乙]b",
    r"a[^甲]b",
    r"a\p{Han}b",
    r"a\pL{2}b",
    r"a[\s\S]b",
    r"a[\D]{2}b",
    r"a[[:^alpha:]]b",
    r"a\x{7532}b",
    r"a[\x{7532}x]b",
    r"\Qa$b\E+c",
    r"(?i)ABC",
    r"(?s)a.c",
    r"a.{2,3}?b",
    r"a.?b",
    r"x[[:alpha:]^]+",
    r"\bab\b",
    r"a\Sb.+",
    r"c{0,2}ab",
]
PIECES = ["a", "b", "c", "x", "$", "^", ".", "甲", "乙", "é", "𝄞", " ", "1", "ab", "a甲b", "a𝄞b", "A"]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), max_size=6))
def test_no_line_that_a_pattern_matches_is_missed(lines):
    data = "\n".join(lines).encode()
    expected = {
        (row, number)
        for row, line in enumerate(lines)
        for number, pattern in enumerate(PATTERNS)
        if re2.compile(pattern).search(line)
    }
    for finder in FINDERS.values():
        told = {(data.count(b"\n", 0, start), number) for start, _, numbers in finder.lines(data) for number in numbers}
        assert expected <= told


FINDERS = {engine: scanner(PATTERNS, engine=engine) for engine in BOTH}


@pytest.mark.parametrize("engine", BOTH)
def test_lines_come_in_order_each_once_with_their_places(engine):
    finder = scanner(["tick", "tock"], engine=engine)
    data = b"tock\nno\n\ntick tock tick\ntick"

    assert list(finder.lines(data)) == [(0, 4, {1}), (9, 23, {0, 1}), (24, 28, {0})]


@pytest.mark.parametrize("engine", BOTH)
def test_what_nobody_asks_for_any_more_is_not_told(engine):
    finder = scanner(["tick", "tock"], engine=engine)

    assert list(finder.lines(b"tick\ntock tick\n", frozenset({0}))) == [(5, 14, {1})]


@pytest.mark.parametrize("engine", BOTH)
def test_a_storm_is_cut_short_for_the_pattern_that_storms_alone(engine):
    finder = scanner(["tick", "tock"], engine=engine)
    data = b"tick\n" * (MOST_HITS + 500) + b"tock\n"

    told = list(finder.lines(data))

    assert len(told) == MOST_HITS + 1
    assert told[-1][2] == {1}


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("data", [b"", b"\n\n\n", b"x" * CHUNK_BYTES * 4, b"\x00\xff\n\r"])
def test_data_without_a_hit_gives_nothing(engine, data):
    assert list(scanner(["tick"], engine=engine).lines(data)) == []


def test_patterns_that_hyperscan_refuses_are_named():
    assert refused(["tick", r"^$|tock", "tack", r"(?:)"]) == [r"^$|tock", r"(?:)"]
    assert refused([r"(?U)tock"]) == [r"(?U)tock"]
    assert refused([]) == []


def test_where_all_are_refused_re2_finds_them():
    finder = scanner([r"^$|tock"])

    assert [(start, stop) for start, stop, _ in finder.lines(b"a tock")] == [(0, 6)]


@pytest.mark.parametrize("pattern", ["[", "a[b", "\\", "(?P<"])
def test_a_broken_pattern_can_be_loosened_too(pattern):
    assert isinstance(loosened(pattern), str)
