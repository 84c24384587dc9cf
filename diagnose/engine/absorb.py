"""New findings find their incident: join one, begin one, or replace an older start's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from diagnose.engine import correlate, incidents
from diagnose.engine.correlate import Group
from diagnose.engine.targets import Target
from diagnose.model.finding import Finding
from diagnose.model.incident import Incident, Intent, State
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
    undoing: Intent | None = None,
) -> dict[str, Incident]:
    """Return the incidents of one target that these findings begin or change.

    Args:
        undoing: The way back that is being carried out: what comes of the start that it ends is no news.
    """
    live = [one for one in known.values() if one.target == target.name and one.state in incidents.LIVE]
    treated = next((one for one in live if one.state in _TREATED), None)
    changed: dict[str, Incident] = {}
    apart: list[Finding] = []
    for finding in findings:
        if finding.severity is Severity.INFO:
            apart.append(finding)
        elif treated is not None and finding.attempt > treated.attempt:
            # The remedy's own start shows a symptom: it belongs to the trouble that is being cured.
            same = [one for one in treated.findings if one.attempt == finding.attempt]
            treated = incidents.joined(treated, finding, correlate.merge([*same, finding], knowledge))
            changed[treated.id] = treated
        elif treated is None and (undoing is None or finding.attempt > undoing.generation):
            apart.append(finding)
        # What else comes while a remedy runs is what the remedy provokes: no news.
    untreated = [one for one in live if one.state in _UNTREATED]
    for attempt in sorted({finding.attempt for finding in apart}):
        new = [finding for finding in apart if finding.attempt == attempt]
        changed |= _regroup(known, untreated, new, attempt, knowledge, now)
    if any(one.severity is not Severity.INFO and one.attempt == target.generation for one in changed.values()):
        changed |= _superseded(untreated, changed, target.generation, now)
    return changed


def _regroup(
    known: Mapping[str, Incident],
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
    old = [finding for one in mine for finding in one.findings if finding.attempt == attempt]
    changed: dict[str, Incident] = {}
    for group in _groups(_continued(old, findings, knowledge), knowledge):
        ids = [correlate.identity(finding, knowledge) for finding in group.findings]
        owners = list({owner[name].id: owner[name] for name in ids if name in owner}.values())
        owners = [one for one in owners if one.id not in changed]
        going_on = [one for one in owners if one.state is not State.EXHAUSTED or one.cause == group.lead.cause]
        if going_on:
            first = min(going_on, key=lambda one: (one.first_seen, one.id))
            older = [finding for finding in first.findings if finding.attempt != attempt]
            changed[first.id] = incidents.update(first, (*group.findings, *older), at=now)
        else:  # nothing was tried against this cause yet, whatever was against its echoes
            first = incidents.begin(group, at=now, taken={*known, *changed})
            changed[first.id] = first
        for other in owners:
            if other.id == first.id:
                continue
            changed[other.id] = incidents.move(
                other, State.HISTORY, at=now, kind="merged", into=first.id, cause=group.lead.cause
            )
    return changed


def _continued(old: Sequence[Finding], new: Sequence[Finding], knowledge: Knowledge) -> list[Finding]:
    """Join what is seen again to what is known of a trouble that is not over, however long it was quiet between."""
    found: dict[str, Finding] = {}
    for finding in (*old, *new):
        name = correlate.identity(finding, knowledge)
        found[name] = correlate.joined(found[name], finding) if name in found else finding
    return list(found.values())


def _groups(findings: Sequence[Finding], knowledge: Knowledge) -> list[Group]:
    """Tell the troubles of now apart from old news, which must neither lead nor hide them."""
    fresh = [finding for finding in findings if finding.fresh]
    stale = [finding for finding in findings if not finding.fresh]
    return [*correlate.group(fresh, knowledge), *correlate.group(stale, knowledge)]


def _superseded(
    untreated: Iterable[Incident], changed: Mapping[str, Incident], generation: int, now: datetime
) -> dict[str, Incident]:
    """Close what an older start left open, once the newer one has a trouble of its own."""
    return {
        one.id: incidents.move(one, State.HISTORY, at=now, kind="superseded", attempt=str(generation))
        for one in untreated
        if one.attempt < generation and one.id not in changed
    }
