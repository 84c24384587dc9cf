"""Is the server well again, and has it stayed well? Bad at once, good only when it has held."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum

import msgspec

from diagnose.engine import pace
from diagnose.engine.policy import Policy
from diagnose.engine.targets import Target
from diagnose.model.finding import Finding
from diagnose.model.incident import Incident
from diagnose.model.remedy import Remedy
from diagnose.model.rule import Severity


class Verdict(str, Enum):
    """What the world says to a remedy."""

    WAIT = "wait"
    WELL = "well"
    FAILED = "failed"


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict and its reason: a key of the report's texts."""

    verdict: Verdict
    reason: str
    until: datetime | None = None


def judge(
    findings: Iterable[Finding],
    remedy: Remedy,
    target: Target,
    policy: Policy,
    *,
    since: datetime,
    now: datetime,
    cured: Incident | None = None,
) -> Judgement:
    """Judge a remedy that was carried out at ``since`` by what was found.

    A symptom of the new start fails it once the root cause had time to show (``policy.settle``).

    Args:
        cured: The trouble that it is to cure, where there is one.
    """
    symptoms = [one for one in findings if counts_against(one, remedy, since, target, cured)]
    if symptoms:
        newest = max(one.at for one in symptoms)
        oldest = min(one.at for one in symptoms)
        settled = now - newest >= policy.settle or now - oldest >= policy.settle_most
        return Judgement(
            verdict=Verdict.FAILED if settled else Verdict.WAIT,
            reason="symptom",
            until=newest + policy.settle,
        )
    if target.phase in {"failed", "stopped"} and target.since and target.since >= since:
        settled = now - target.since >= policy.settle_most
        return Judgement(verdict=Verdict.FAILED if settled else Verdict.WAIT, reason="ended")
    within = _within(target, policy.within or remedy.verify.within)
    holds_for = policy.holds_for or remedy.verify.holds_for
    probe = target.probes.get("completion")
    answered = probe is not None and probe.at >= since and not target.bad_answers
    if target.phase == "ready" and target.since:
        until = max(target.since, since) + holds_for
        if now < until:
            return Judgement(verdict=Verdict.WAIT, reason="holding", until=until)
        if answered:
            return Judgement(verdict=Verdict.WELL, reason="held")
    if now - since >= within:
        return Judgement(verdict=Verdict.FAILED, reason="late")
    return Judgement(verdict=Verdict.WAIT, reason="not-ready", until=since + within)


def _within(target: Target, floor: timedelta) -> timedelta:
    """Return how long the start on trial may take: longer where such starts have always been slow."""
    if not target.starts:
        return floor
    *older, start = target.starts
    return pace.within(start.spec, older, floor)


def counts_against(
    finding: Finding, remedy: Remedy, since: datetime, target: Target, cured: Incident | None = None
) -> bool:
    """Say whether a finding speaks against the remedy: new, not what it provokes itself, and grave.

    What is to be cured need not be grave: a warning that comes again was not cured.
    """
    least = Severity.ERROR
    if cured is not None and finding.cause == cured.cause:
        least = min(least, cured.severity, key=lambda one: one.rank)
    return (
        finding.attempt == target.generation
        and (_began_after(target, since) or finding.last_at >= since - timedelta(seconds=1))
        and finding.severity.rank >= least.rank
        and finding.cause not in remedy.expects
    )


def _began_after(target: Target, since: datetime) -> bool:
    """Say whether this start is of the act, so that all of it counts, whatever the clocks of its logs say."""
    return target.started_at is not None and target.started_at >= since
