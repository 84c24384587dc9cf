"""Troubles that no line tells, offline: a start that was given up, requests without answers, answers in circles.

A server that hangs writes nothing, and health checks go on. What is missing is told by time: how long after
the last sign of progress somebody stopped the start, or requests came in of which none was answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone

import msgspec

from diagnose.engine import repetition, signals
from diagnose.engine.attempts import is_mark
from diagnose.engine.lines import take_apart
from diagnose.engine.signals import Signal
from diagnose.model.finding import Evidence
from diagnose.model.observation import LogLines, LogMatch
from diagnose.profiles import fastdeploy

_GIVEN_UP = timedelta(minutes=10)
"""A start that shows no progress for so long, and is stopped then, hung; loading shows progress more often."""

_UNANSWERED, _UNANSWERED_BLIND = timedelta(minutes=10), timedelta(minutes=30)
"""So long no token, or, where only whole answers are logged, no answer."""

_LEAST_ASKED = 3
_LEAST_CIRCLES = 2
"""One answer in circles may be what its prompt asked for."""

_STAGES = ("@start", "@launching", "@loading", "@profiling", "@kv-cache", "@capturing")
_PROOF_CHARS = 300

ANSWER_BYTES = 600
"""Shorter answers prove no circle."""

_CONTENT = re.compile(r"""["']content["']\s*:\s*("(?:[^"\\]|\\.)*")""")
_CUT = re.compile(r"""["']finish_reason["']\s*:\s*["']length["']""")


def given_up(matches: Sequence[LogMatch]) -> Signal | None:
    """Tell a start that somebody stopped long after its last sign of progress, before it was ready.

    Args:
        matches: Of one start, in time.
    """
    if any(is_mark(match, "@ready") or is_mark(match, "@engine-ready") for match in matches):
        return None
    stages = [match for match in matches if match.dated and any(is_mark(match, name) for name in _STAGES)]
    stops = [match for match in matches if match.dated and is_mark(match, "@stopping")]
    if not stages or not stops:
        return None
    last, stop = max(stages, key=lambda match: match.at), min(stops, key=lambda match: match.at)
    if stop.at - last.at < _GIVEN_UP:
        return None
    return _signal(last, "process.stall", {"phase": "starting"}, last.attempt, stop.at)


class _Line(msgspec.Struct, frozen=True):
    """A line of a file's end, with what an evidence needs."""

    target: str
    source: str
    line: int
    at: datetime
    text: str


def unanswered(tails: Iterable[LogLines], attempt: int) -> Signal | None:
    """Tell that requests came in and none was answered for long, until the logs end.

    Args:
        tails: The ends of the files that tell of requests.
        attempt: The newest start.
    """
    lines = [line for tail in tails for line in _dated(tail)]
    made = [line.at for line in lines if fastdeploy.MADE.search(line.text)]
    if not made:
        return None  # such logs do not tell of answers
    asked = sorted((line for line in lines if fastdeploy.ASKED.search(line.text)), key=lambda line: line.at)
    waiting = [line for line in asked if line.at > max(made)]
    steps = any(fastdeploy.STEP.search(line.text) for line in lines)
    longest = _UNANSWERED if steps else _UNANSWERED_BLIND
    end = max(line.at for line in lines)
    if len(waiting) < _LEAST_ASKED or end - waiting[0].at < longest:
        return None
    return _signal(waiting[0], "process.stall", {"phase": "ready"}, attempt, end)


def in_circles(answers: Iterable[LogLines], attempt: int) -> list[Signal]:
    """Score answers that a log keeps; tell those that go in circles until they were cut off, if several do.

    Args:
        answers: Lines that hold an answer each, as `fastdeploy.ANSWER` marks them.
    """
    found = [line for answer in answers for line in _dated(answer) if _circles(line.text)]
    if len(found) < _LEAST_CIRCLES:
        return []
    return [_signal(line, "text.answer", {"repetitive": "true"}, attempt, line.at) for line in found]


def _circles(text: str) -> bool:
    if not _CUT.search(text):
        return False
    for quoted in _CONTENT.findall(text):
        try:
            words = msgspec.json.decode(quoted.encode("utf-8", "replace"), type=str)
        except msgspec.DecodeError:
            continue
        if repetition.score(words) >= signals.REPETITIVE:
            return True
    return False


def _dated(piece: LogLines) -> Iterator[_Line]:
    for number, raw in enumerate(piece.data.splitlines(), start=piece.first_line):
        line = take_apart(raw, zone=timezone.utc, reference=piece.read_at)
        if line.at:
            yield _Line(piece.target, piece.source, number, line.at, line.text)


def _signal(proof: _Line | LogMatch, name: str, labels: dict[str, str], attempt: int, at: datetime) -> Signal:
    text = proof.text[:_PROOF_CHARS]
    signal = signals.of_event(target=proof.target, attempt=attempt, at=at, name=name, labels=labels, text=text)
    evidence = Evidence(source=proof.source, line=proof.line, at=proof.at, text=text)
    return msgspec.structs.replace(signal, evidence=evidence)
