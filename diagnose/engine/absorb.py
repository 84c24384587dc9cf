"""New findings find their incident: join one, begin one, or replace an older start's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from diagnose.engine import correlate, incidents
from diagnose.engine.targets import Target
from diagnose.model.finding import Finding
from diagnose.model.incident import Incident, State
from diagnose.model.knowledge import Knowledge
from diagnose.model.rule import Severity

_TREATED = frozenset({State.ACTING, State.VERIFYING})
_UNTREATED = frozenset({State.PENDING, State.OPEN, State.EXHAUSTED})


def absorb(
    known: Mapping[str, Incident],
    findings: Sequence[Finding],
    target: Target,
    knowledge: Knowledge,
    *,
    now: datetime,
) -> dict[str, Incident]:
    """Return the incidents of one target that these findings begin or change."""
    live = [one for one in known.values() if one.target == target.name and one.state in incidents.LIVE]
    treated = next((one for one in live if one.state in _TREATED), None)
    changed: dict[str, Incident] = {}
    apart: list[Finding] = []
    for finding in findings:
        if treated is None or finding.severity is Severity.INFO:
            apart.append(finding)
        elif finding.attempt > treated.attempt:
            # The remedy's own start shows a symptom: it belongs to the trouble that is being cured.
            treated = _joined(treated, finding, knowledge)
            changed[treated.id] = treated
        # What else comes while a remedy runs is what the remedy provokes: no news.
    untreated = [one for one in live if one.state in _UNTREATED]
    for attempt in sorted({finding.attempt for finding in apart}):
        new = [finding for finding in apart if finding.attempt == attempt]
        changed |= _regroup(untreated, new, attempt, knowledge, now)
    if any(one.severity is not Severity.INFO for one in changed.values()):
        changed |= _superseded(untreated, changed, target.generation, now)
    return changed


def _joined(incident: Incident, finding: Finding, knowledge: Knowledge) -> Incident:
    same = [one for one in incident.findings if one.attempt == finding.attempt]
    older = tuple(one for one in incident.findings if one.attempt != finding.attempt)
    return msgspec.structs.replace(
        incident,
        findings=(*older, *correlate.merge([*same, finding], knowledge)),
        last_seen=max(incident.last_seen, finding.last_at),
    )


def _regroup(
    untreated: Iterable[Incident],
    findings: Sequence[Finding],
    attempt: int,
    knowledge: Knowledge,
    now: datetime,
) -> dict[str, Incident]:
    """Tell anew which troubles there are in this start, and keep the record of those known before."""
    mine = [one for one in untreated if one.attempt == attempt]
    owner = {
        correlate.identity(finding, knowledge): one
        for one in reversed(mine)
        for finding in one.findings
        if finding.attempt == attempt
    }
    all_findings = [finding for one in mine for finding in one.findings if finding.attempt == attempt]
    changed: dict[str, Incident] = {}
    for group in correlate.group([*all_findings, *findings], knowledge):
        ids = [correlate.identity(finding, knowledge) for finding in group.findings]
        owners = list({owner[name].id: owner[name] for name in ids if name in owner}.values())
        owners = [one for one in owners if one.id not in changed]
        if not owners:
            fresh = incidents.begin(group, at=now)
            changed[fresh.id] = fresh
            continue
        first, *merged = sorted(owners, key=lambda one: (one.first_seen, one.id))
        older = [finding for finding in first.findings if finding.attempt != attempt]
        changed[first.id] = incidents.update(first, (*group.findings, *older), at=now)
        for other in merged:
            changed[other.id] = incidents.move(
                other, State.HISTORY, at=now, kind="merged", into=first.id, cause=group.lead.cause
            )
    return changed


def _superseded(
    untreated: Iterable[Incident], changed: Mapping[str, Incident], generation: int, now: datetime
) -> dict[str, Incident]:
    """Close what an older start left open, once the newer one has a trouble of its own."""
    return {
        one.id: incidents.move(one, State.HISTORY, at=now, kind="superseded", attempt=str(generation))
        for one in untreated
        if one.attempt < generation and one.id not in changed
    }
