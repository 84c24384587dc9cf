"""From findings to one root cause: who explains whom, within one attempt and one episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from diagnose.model.finding import Finding, fingerprint
from diagnose.model.knowledge import Knowledge
from diagnose.model.rule import Severity

EPISODE_GAP = timedelta(minutes=10)
"""Quiet of this length ends an episode: what comes later is another trouble."""

_BURST_GAP = timedelta(minutes=3)
_BURSTS = frozenset({"gpu_xid", "gpu_ecc", "gpu_lost", "nvlink_fault"})
"""What a driver reports comes in bursts, and is over sooner."""

_SLACK = timedelta(minutes=2)
"""Clocks of different files differ, and files are flushed late: an echo may seem to come first."""

_SURE, _HINT = 0.8, 0.6
"""A hint below the one beside a cause above the other is no trouble of its own."""

_MOST_EVIDENCE = 20


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One trouble: its findings, root cause first, echoes behind in order of time."""

    findings: tuple[Finding, ...]

    @property
    def lead(self) -> Finding:
        """The root cause."""
        return self.findings[0]


def identity(finding: Finding, knowledge: Knowledge) -> str:
    """Name the trouble that a finding is one sighting of."""
    rule = knowledge.rules.get(finding.rule_id)
    key = {name: finding.labels.get(name, "") for name in rule.key} if rule else {}
    return fingerprint(finding.target, finding.attempt, finding.rule_id, key)


def merge(findings: Iterable[Finding], knowledge: Knowledge) -> list[Finding]:
    """Make one finding of each fingerprint and episode; repeats count, the first evidence stays."""
    merged: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=_by_time):
        same = merged.setdefault(identity(finding, knowledge), [])
        if same and finding.at - same[-1].last_at <= _gap(finding):
            same[-1] = joined(same[-1], finding)
        else:
            same.append(finding)
    return sorted((one for same in merged.values() for one in same), key=_by_time)


def group(findings: Sequence[Finding], knowledge: Knowledge) -> list[Group]:
    """Tell the troubles behind findings of one target and attempt, the gravest first.

    A finding is an echo where another one's rule explains its cause and came before it (give or
    take `_SLACK`). What nobody explains is a root; several sightings of one class are one root.
    """
    groups: list[Group] = []
    for episode in _episodes(_without_shadows(merge(findings, knowledge))):
        groups += _group_episode(episode, knowledge)
    return sorted(groups, key=lambda one: gravity(one.lead))


def gravity(finding: Finding) -> tuple[bool, bool, float, datetime, str]:
    """Order roots: notes last, warnings behind errors, then the surer, then the earlier."""
    return (
        finding.severity is Severity.INFO,
        finding.severity is Severity.WARNING,
        -finding.confidence,
        finding.at,
        finding.rule_id,
    )


def explains(cause: Finding, echo: Finding, knowledge: Knowledge) -> bool:
    """Say whether ``echo`` is what ``cause`` leads to."""
    rule = knowledge.rules.get(cause.rule_id)
    if rule is None or echo.cause == cause.cause or echo.cause not in rule.explains:
        return False
    return echo.last_at >= cause.at - _SLACK


def _gap(finding: Finding) -> timedelta:
    return _BURST_GAP if finding.cause in _BURSTS else EPISODE_GAP


def _by_time(finding: Finding) -> tuple[datetime, str]:
    return finding.at, finding.rule_id


def joined(first: Finding, again: Finding) -> Finding:
    """Make one finding of two sightings of the same; the first evidence stays."""
    evidence = first.evidence
    if len(evidence) < _MOST_EVIDENCE:
        evidence += tuple(one for one in again.evidence if one not in evidence)
    return msgspec.structs.replace(
        first,
        last_at=max(first.last_at, again.last_at),
        count=first.count + again.count,
        evidence=evidence[:_MOST_EVIDENCE],
        labels={**again.labels, **first.labels},
        fresh=first.fresh or again.fresh,
    )


def _without_shadows(findings: Sequence[Finding]) -> list[Finding]:
    """Leave out hints that say of a line what a surer rule says better."""
    lines = [{(one.source, one.line, one.at, one.text) for one in finding.evidence} for finding in findings]

    def shadowed(place: int) -> bool:
        finding = findings[place]
        return finding.confidence < _HINT and any(
            other.confidence > finding.confidence and lines[place] <= lines[index]
            for index, other in enumerate(findings)
            if other.rule_id != finding.rule_id
        )

    return [finding for place, finding in enumerate(findings) if not shadowed(place)]


def _episodes(findings: Sequence[Finding]) -> list[list[Finding]]:
    episodes: list[list[Finding]] = []
    until: datetime | None = None
    for finding in findings:
        if until is None or finding.at - until > _gap(finding):
            episodes.append([])
            until = finding.last_at
        episodes[-1].append(finding)
        until = max(until, finding.last_at)
    return episodes


def _group_episode(findings: Sequence[Finding], knowledge: Knowledge) -> list[Group]:
    classes: dict[str, list[Finding]] = {}
    for finding in findings:
        classes.setdefault(finding.cause, []).append(finding)
    for same in classes.values():
        same.sort(key=gravity)
    parents = {
        cause: [
            other
            for other, others in classes.items()
            if any(explains(one, echo, knowledge) for one in others for echo in same)
        ]
        for cause, same in classes.items()
    }
    roots = [cause for cause in classes if not parents[cause]] or list(classes)
    roots.sort(key=lambda cause: gravity(classes[cause][0]))
    if roots and classes[roots[0]][0].confidence >= _SURE:
        hints = [cause for cause in roots[1:] if _is_hint(classes[cause][0])]
        for hint in hints:
            parents[hint] = [roots[0]]
        roots = [cause for cause in roots if cause not in hints]
    members: dict[str, list[str]] = {root: [root] for root in roots}
    for cause in classes:
        if cause not in members:
            members[_root_of(cause, parents, roots)].append(cause)
    return [Group(findings=_in_order(names, classes)) for names in members.values()]


def _is_hint(finding: Finding) -> bool:
    return finding.confidence < _HINT and finding.severity is not Severity.INFO


def _root_of(cause: str, parents: Mapping[str, list[str]], roots: Sequence[str]) -> str:
    """Climb to the gravest root above; the graph has no circles (lint), and each step is checked."""
    above, reached, seen = [cause], set[str](), set[str]()
    while above:
        here = above.pop()
        if here in seen:
            continue
        seen.add(here)
        if here in roots:
            reached.add(here)
        above += parents[here]
    return min(reached, key=roots.index) if reached else roots[0]


def _in_order(causes: Sequence[str], classes: Mapping[str, list[Finding]]) -> tuple[Finding, ...]:
    root, *echoes = causes
    behind = sorted((one for cause in echoes for one in classes[cause]), key=_by_time)
    return (*classes[root], *behind)
