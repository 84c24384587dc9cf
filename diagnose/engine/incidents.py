"""An incident's life: the table of its states, and the changes that keep its record."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count

import msgspec

from diagnose.engine.correlate import Group
from diagnose.model.finding import Finding
from diagnose.model.incident import Entry, Incident, State, Try
from diagnose.model.rule import Severity

ARROWS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.OPEN, State.RESOLVED, State.HISTORY}),
    State.OPEN: frozenset({State.ACTING, State.RESOLVED, State.EXHAUSTED, State.HISTORY}),
    State.ACTING: frozenset({State.VERIFYING, State.OPEN, State.EXHAUSTED}),
    State.VERIFYING: frozenset({State.RESOLVED, State.OPEN, State.EXHAUSTED}),
    State.EXHAUSTED: frozenset({State.RESOLVED, State.HISTORY}),
    State.RESOLVED: frozenset(),
    State.HISTORY: frozenset(),
}
"""From where to where. Every step along an arrow leaves its reason in the timeline."""

LIVE = frozenset({State.PENDING, State.OPEN, State.ACTING, State.VERIFYING, State.EXHAUSTED})
"""States of an incident that is not over."""

_MOST_ENTRIES = 200
_MOST_FINDINGS = 40


def is_open(incident: Incident) -> bool:
    """Say whether it is a trouble that is not over; notes are none."""
    return incident.state in LIVE and incident.severity is not Severity.INFO


def begin(
    group: Group, *, at: datetime, state: State = State.PENDING, taken: Collection[str] = frozenset()
) -> Incident:
    """Open the record of a trouble.

    Args:
        taken: Ids that other troubles have: one that comes back with the same first sign is another.
    """
    lead = group.lead
    first = min(finding.at for finding in group.findings)
    whole = f"{lead.target}/{lead.attempt}/{lead.cause}/{first.isoformat()}"
    ids = (hashlib.sha256((whole + again).encode()).hexdigest()[:8] for again in _agains())
    incident = Incident(
        id=next(name for name in ids if name not in taken),
        target=lead.target,
        cause=lead.cause,
        rule_id=lead.rule_id,
        severity=lead.severity,
        confidence=lead.confidence,
        state=state,
        attempt=lead.attempt,
        first_seen=first,
        last_seen=max(finding.last_at for finding in group.findings),
        findings=group.findings[:_MOST_FINDINGS],
    )
    incident = note(incident, "opened", at=at, cause=lead.cause, rule=lead.rule_id)
    echoes = {finding.cause: finding.at for finding in reversed(group.findings) if finding.cause != lead.cause}
    for cause, seen in sorted(echoes.items(), key=lambda echo: echo[1]):
        # Live, the mind's own clock counts: those of logs may be in another zone.
        incident = note(incident, "consequence", at=at if state is State.PENDING else seen, cause=cause)
    return incident


def _agains() -> Iterator[str]:
    yield ""
    yield from (f"/{number}" for number in count(2))


def joined(incident: Incident, finding: Finding, newest: Sequence[Finding]) -> Incident:
    """Add to a trouble that is being cured what the newest start shows; the root cause stays on top.

    Args:
        newest: All findings of that start, this one among them.
    """
    older = [one for one in incident.findings if one.attempt != finding.attempt]
    return msgspec.structs.replace(
        incident,
        findings=(*older[: _MOST_FINDINGS // 2], *newest[: _MOST_FINDINGS // 2]),
        last_seen=max(incident.last_seen, finding.last_at),
    )


def move(incident: Incident, state: State, *, at: datetime, kind: str, **params: str) -> Incident:
    """Go along one arrow of the table, and say why.

    Raises:
        ValueError: There is no such arrow; the engine is wrong.
    """
    if state not in ARROWS[incident.state]:
        raise ValueError(f"incident {incident.id}: no way from {incident.state.value} to {state.value}")
    return note(msgspec.structs.replace(incident, state=state, held=""), kind, at=at, **params)


def note(incident: Incident, kind: str, *, at: datetime, **params: str) -> Incident:
    """Add to the timeline; the first entries and the newest stay when it grows long."""
    timeline = (*incident.timeline, Entry(at=at, kind=kind, params=params))
    if len(timeline) > _MOST_ENTRIES:
        timeline = (*timeline[:20], *timeline[-(_MOST_ENTRIES - 20) :])
    return msgspec.structs.replace(incident, timeline=timeline)


def update(incident: Incident, findings: Sequence[Finding], *, at: datetime) -> Incident:
    """Take the findings, root cause first, as what is known now."""
    lead = findings[0]
    if lead.cause != incident.cause:
        incident = note(incident, "cause", at=at, cause=lead.cause, rule=lead.rule_id, before=incident.cause)
    known = {finding.cause for finding in incident.findings}
    for finding in findings[1:]:
        if finding.cause not in known | {lead.cause}:
            known.add(finding.cause)
            incident = note(incident, "consequence", at=at, cause=finding.cause)
    return msgspec.structs.replace(
        incident,
        cause=lead.cause,
        rule_id=lead.rule_id,
        severity=lead.severity,
        confidence=lead.confidence,
        attempt=lead.attempt,
        findings=tuple(findings)[:_MOST_FINDINGS],
        last_seen=max(incident.last_seen, *(finding.last_at for finding in findings)),
    )


def with_try(incident: Incident, intent_id: str, result: str) -> Incident:
    """Write down how a try ended."""
    tries = tuple(
        msgspec.structs.replace(one, result=result) if one.intent_id == intent_id else one for one in incident.tries
    )
    return msgspec.structs.replace(incident, tries=tries)


def running(incident: Incident) -> Try | None:
    """Return the try that is under way."""
    return next((one for one in incident.tries if one.result == "running"), None)
