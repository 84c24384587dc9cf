"""All shipped patterns: both engines, whole or in pieces, find what trying each pattern on each line finds."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import cache

import pytest
import re2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diagnose.catalog import load
from diagnose.engine.asked import asked_of, counts_in
from diagnose.engine.lines import bare, pieces, take_apart
from diagnose.engine.match import Carry, Matcher
from diagnose.engine.users import zones
from diagnose.model.observation import LogLines

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
UTC = timezone.utc
KNOWN = load.read_files([load.shipped("rules")])
ASKED = asked_of(KNOWN)
MATCHERS = {engine: Matcher(KNOWN, engine=engine) for engine in ("hyperscan", "re2")}
STREAM = "worker"
"""One in which programs print: there each line stands for itself."""

LINES = sorted(
    {
        line
        for rule in KNOWN.rules.values()
        for test in (*rule.tests.hits, *rule.tests.misses)
        for line in (test if isinstance(test, str) else test.log).split("\n")
        if line
    }
)
NOISE = [
    "INFO     2026-01-01 08:00:12,001 4177  engine.py[line:213] Decode batch, dp_rank: 0, #running-req: 12",
    '[2025-12-05 11:20:31] [5512] [INFO] 10.0.0.7:40218 - "POST /v1/chat/completions HTTP/1.1" 200',
    "Loading Weights:  40%|####      | 2/5 [00:07<00:11, 3.70s/it]",
    "x" * 70_000,
    "\x00\x00",
    "\ufffd 显存 \x1b[31m red \x1b[0m",
    "",
]
logs = st.lists(st.one_of(st.sampled_from(LINES), st.sampled_from(LINES), st.sampled_from(NOISE)), max_size=25)
quick = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def lines_of(data, first_line=1, stream=STREAM):
    return LogLines(target="t", source="a.log", stream=stream, first_line=first_line, data=data, read_at=NOON)


def told(matches):
    """Say which line hit what, but for patterns of which the first match in a start tells all."""
    hits = {(one.line, hit.rule_id, hit.leaf) for one in matches for hit in one.hits}
    return {hit for hit in hits if hit[1:] in REPEATED and hit[1] != "@error"}


REPEATED = {hit for asked in ASKED.values() if not asked.once for hit in asked.hits}


@cache
def by_hand(row):
    """Try each pattern on one line: the message, then the whole text, where no user wrote."""
    found = set()
    for piece in pieces(bare(row.encode())):
        line = take_apart(piece, zone=UTC, reference=NOON)
        theirs = zones(line.text)
        cut = min((start for start, stop in theirs if stop == len(line.text)), default=len(line.text))
        begin = len(line.text) - len(line.message)
        texts = [(line.text[begin:cut], begin)] if begin < cut else []
        texts += [(line.text[:cut], 0)] if line.prefixed or not texts else []
        for pattern, asked in ASKED.items():
            if not counts_in(pattern, asked, STREAM):
                continue
            if pattern.levels and line.level and line.level not in pattern.levels:
                continue
            if pattern.unless and re2.compile(pattern.unless).search(line.text):
                continue
            for text, before in texts:
                ours = [
                    one
                    for one in re2.compile(pattern.pattern).finditer(text)
                    if not any(start <= one.start() + before < stop for start, stop in theirs)
                ]
                if ours:
                    found |= set(asked.hits)
    return frozenset(found)


def reference(rows):
    return {(number, *hit) for number, row in enumerate(rows, start=1) for hit in by_hand(row) if hit in REPEATED}


@pytest.mark.parametrize("engine", MATCHERS)
@quick
@given(rows=logs)
def test_an_engine_finds_what_each_pattern_finds(engine, rows):
    matches, _ = MATCHERS[engine].scan(lines_of("\n".join(rows).encode()), Carry())

    assert told(matches) == reference(rows)


@pytest.mark.parametrize("stream", [STREAM, "engine", "api"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@quick
@given(rows=logs, cuts=st.lists(st.integers(min_value=1, max_value=25)))
def test_where_a_file_is_cut_changes_nothing(end, stream, rows, cuts):
    data = [f"{row}{end}".encode() for row in rows]
    whole, _ = MATCHERS["hyperscan"].scan(lines_of(b"".join(data), stream=stream), Carry())
    carry, parts, at = Carry(), [], 0
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        if cut > at:
            matches, carry = MATCHERS["hyperscan"].scan(lines_of(b"".join(data[at:cut]), at + 1, stream), carry)
            parts += matches
            at = cut

    assert [(one.line, one.text, one.hits, one.attempt) for one in parts] == [
        (one.line, one.text, one.hits, one.attempt) for one in whole
    ]


def test_no_shipped_pattern_is_too_much_for_hyperscan():
    assert MATCHERS["hyperscan"].dump() != b""
