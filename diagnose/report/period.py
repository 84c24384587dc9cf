"""A stretch of time in numbers: causes, how soon they were found and over, what remedies did, which rules are noisy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from types import MappingProxyType

import msgspec

from diagnose.model.incident import Incident, State
from diagnose.model.mark import Mark
from diagnose.model.rule import Severity

_NOISY = 3
"""Troubles of one rule that ended by themselves, from which the rule, or what it watches, deserves a look."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Of some lengths of time, in seconds: how many, the middle one, the longest."""

    count: int
    median: float
    most: float


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """How often a remedy was carried out, and how that ended."""

    remedy: str
    count: int
    kept: int


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time in numbers; notes (severity ``info``) do not count.

    Attributes:
        causes: Cause to incidents, the most frequent first.
        open: How many are not over.
        detected: From the first line or sample that proves it to the incident.
        repaired: From there to the end, of those that are over.
        remedies: By how often they were carried out.
        noisy: Rule to incidents that ended with nothing done, at least three.
        right, wrong: Diagnoses that people marked so.
        mistaken: Rule to its diagnoses that people marked wrong.
    """

    since: datetime
    until: datetime
    incidents: int
    open: int
    causes: tuple[tuple[str, int], ...]
    detected: Times | None
    repaired: Times | None
    remedies: tuple[Tried, ...]
    noisy: tuple[tuple[str, int], ...]
    right: int = 0
    wrong: int = 0
    mistaken: tuple[tuple[str, int], ...] = ()


def summarize(
    found: Iterable[Incident],
    *,
    since: datetime | None,
    until: datetime,
    marks: Mapping[str, Mark] = MappingProxyType({}),
) -> Period | None:
    """Sum up incidents; ``None`` where there is none.

    Args:
        marks: What people said of them, by incident.
    """
    real = [one for one in found if one.severity is not Severity.INFO]
    if not real:
        return None
    verdicts = {one.id: marks[one.id].verdict for one in real if one.id in marks}
    wrong = [one.rule_id for one in real if verdicts.get(one.id) == "wrong"]
    over = [one for one in real if one.state is State.RESOLVED]
    return Period(
        since=since or min(one.first_seen for one in real),
        until=until,
        incidents=len(real),
        open=sum(one.state not in {State.RESOLVED, State.HISTORY} for one in real),
        causes=tuple(Counter(one.cause for one in real).most_common()),
        detected=_times([seconds for one in real if (seconds := _detected(one)) is not None]),
        repaired=_times([(one.timeline[-1].at - one.timeline[0].at).total_seconds() for one in over if one.timeline]),
        remedies=_remedies(real),
        noisy=tuple((rule, count) for rule, count in _alone(over).most_common() if count >= _NOISY),
        right=len(verdicts) - len(wrong),
        wrong=len(wrong),
        mistaken=tuple(Counter(wrong).most_common()),
    )


def _detected(one: Incident) -> float | None:
    """Return how long after its first proof the incident was there; negative differences are other clocks."""
    if not one.timeline:
        return None
    seconds = (one.timeline[0].at - one.first_seen).total_seconds()
    return seconds if seconds >= 0 else None


def _times(seconds: Sequence[float]) -> Times | None:
    if not seconds:
        return None
    return Times(count=len(seconds), median=round(median(seconds), 1), most=round(max(seconds), 1))


def _remedies(real: Sequence[Incident]) -> tuple[Tried, ...]:
    tries = [one for incident in real for one in incident.tries]
    counts, kept = (
        Counter(one.remedy_id for one in tries),
        Counter(one.remedy_id for one in tries if one.result == "kept"),
    )
    return tuple(Tried(remedy=name, count=count, kept=kept[name]) for name, count in counts.most_common())


def _alone(over: Sequence[Incident]) -> Counter[str]:
    return Counter(one.rule_id for one in over if not one.tries)
