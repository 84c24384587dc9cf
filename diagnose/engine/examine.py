"""Logs of the past: the whole is there, so the clock is the logs' own and nothing is acted upon."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

import msgspec

from diagnose.engine import attempts, correlate, incidents, repetition, signals, unsaid, window
from diagnose.engine.correlate import Group
from diagnose.engine.lines import take_apart
from diagnose.engine.signals import Signal
from diagnose.model.finding import Evidence, Finding
from diagnose.model.incident import Incident, State
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import LogLines, LogMatch
from diagnose.model.rule import Severity

UNKNOWN = "unknown"

_MOST_LINES = 400
_PROOF_CHARS = 300


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What logs tell.

    Attributes:
        incidents: Of the newest start first; within it root causes by gravity; then older starts.
        unexplained: Lines that show an error which no rule knows.
    """

    incidents: tuple[Incident, ...]
    unexplained: tuple[LogMatch, ...]


def examine(
    matches: Sequence[LogMatch],
    knowledge: Knowledge,
    texts: Sequence[LogLines] = (),
    *,
    tails: Sequence[LogLines] = (),
    answers: Sequence[LogLines] = (),
) -> Examined:
    """Diagnose matched lines of any number of files of one target.

    Args:
        matches: In the order of their files and lines.
        texts: The beginnings of files whose names say nothing: one may be a model's answer, not a log.
        tails: The ends of files that tell of requests.
        answers: Lines that keep an answer each, some of all.
    """
    numbered = attempts.settle(attempts.number(matches))
    in_time = sorted(numbered, key=lambda match: (match.attempt, match.at))
    told = {match.source for match in matches}
    prose = [_answer(text) for text in texts if text.source not in told and _is_prose(text)]
    known = _explained_blocks(in_time, knowledge)
    unexplained = tuple(
        match for match in in_time if _unexplained(match, knowledge) and (match.source, match.line) not in known
    )
    newest = max((match.attempt for match in in_time), default=1)
    unsaid_ = [*_stalls(in_time, tails, newest), *unsaid.in_circles(answers, newest)]
    _, findings = window.feed(window.Windows(), knowledge, [*in_time, *prose, *unsaid_])
    found: list[Incident] = []
    for attempt in range(newest, 0, -1):
        lines = [match for match in in_time if match.attempt == attempt]
        own = [finding for finding in findings if finding.attempt == attempt]
        state = State.OPEN if attempt == newest else State.HISTORY
        found += _of_attempt(lines, own, knowledge, state)
    return Examined(incidents=tuple(found), unexplained=unexplained)


def _stalls(matches: Sequence[LogMatch], tails: Sequence[LogLines], newest: int) -> list[signals.Signal]:
    """Collect what only time tells: starts given up, and requests that the newest start does not answer."""
    starts = [[match for match in matches if match.attempt == attempt] for attempt in range(1, newest + 1)]
    found = [unsaid.given_up(start) for start in starts]
    if any(attempts.is_mark(match, "@ready") for match in starts[-1]):
        found.append(unsaid.unanswered(tails, newest))
    return [signal for signal in found if signal]


def _is_prose(text: LogLines) -> bool:
    """Say whether no logger wrote any of these lines."""
    lines = text.data.splitlines()[:_MOST_LINES]
    return bool(lines) and not any(take_apart(one, zone=timezone.utc, reference=text.read_at).prefixed for one in lines)


def _answer(text: LogLines) -> Signal:
    """Score a text that is no log, as a probe's completion is scored."""
    words = text.data.decode("utf-8", errors="replace")
    proof = next((line for line in words.splitlines() if line.strip()), "")[:_PROOF_CHARS]
    signal = signals.of_event(
        target=text.target,
        attempt=1,
        at=text.read_at,
        name="text.answer",
        labels={"repetitive": str(repetition.score(words) >= signals.REPETITIVE).lower()},
        text=proof,
    )
    evidence = Evidence(source=text.source, line=text.first_line, at=text.read_at, text=proof, dated=False)
    return msgspec.structs.replace(signal, evidence=evidence)


def _of_attempt(
    lines: Sequence[LogMatch], findings: Sequence[Finding], knowledge: Knowledge, state: State
) -> list[Incident]:
    ready = [match.at for match in lines if attempts.is_mark(match, "@ready")]
    groups = [
        group
        for group in correlate.group(findings, knowledge)
        if not (ready and max(ready) > _last_seen(group) and _ends_when_ready(group, knowledge))
    ]
    told = [incidents.begin(group, at=group.lead.at, state=state) for group in groups]
    failed = [match for match in lines if _shows_failure(match, knowledge)]
    if failed and not ready and all(one.severity is Severity.INFO for one in told):
        told.insert(0, _unknown(failed[-1], state))
    return told


def _last_seen(group: Group) -> datetime:
    """When the trouble was seen last, itself or an echo: a crash without a date looks as old as the line above it."""
    return max(finding.last_at for finding in group.findings)


def _ends_when_ready(group: Group, knowledge: Knowledge) -> bool:
    """Tell whether a server that became ready in the same start has overcome this trouble."""
    return knowledge.rules[group.lead.rule_id].clears.ready


def _explained_blocks(matches: Sequence[LogMatch], knowledge: Knowledge) -> set[tuple[str, int]]:
    """Name the lines, source and number, of tracebacks and error blocks of which a rule knows the deciding line."""
    return {
        (match.source, match.line - above)
        for match in matches
        if match.block and any(hit.rule_id in knowledge.rules for hit in match.hits)
        for above in range(len(match.block))
    }


def _unexplained(match: LogMatch, knowledge: Knowledge) -> bool:
    known = any(hit.rule_id in knowledge.rules for hit in match.hits)
    return not known and attempts.is_mark(match, "@error")


def _shows_failure(match: LogMatch, knowledge: Knowledge) -> bool:
    """An exception that ended a traceback, or a fatal signal: a program died, not a request."""
    return _unexplained(match, knowledge) and (bool(match.block) or attempts.is_mark(match, "@fatal"))


def _unknown(match: LogMatch, state: State) -> Incident:
    proof = Evidence(source=match.source, line=match.line, at=match.at, text=match.text, dated=match.dated)
    finding = Finding(
        rule_id=UNKNOWN,
        cause=UNKNOWN,
        target=match.target,
        attempt=match.attempt,
        at=match.at,
        last_at=match.at,
        severity=Severity.ERROR,
        confidence=0.5,
        labels={},
        evidence=(proof,),
        fresh=match.fresh,
    )
    return incidents.begin(Group(findings=(finding,)), at=match.at, state=state)
