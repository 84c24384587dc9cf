"""May it be done? Each brake in its order, each with its reason when it says no."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from diagnose.engine.policy import Policy
from diagnose.engine.targets import Target
from diagnose.model.incident import Incident
from diagnose.model.knowledge import Knowledge
from diagnose.model.remedy import Budget, Mode, Remedy, Risk, ServerRestart
from diagnose.model.rule import Rule

_PROOF_AGE = timedelta(minutes=10)
_PROOF = ("exit", "probe", "stall")
"""What shows, beside a log line, that the server is not well."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing is done now: a key of the report's texts, and until when it holds at least."""

    reason: str
    detail: str = ""
    until: datetime | None = None


def first_hold(
    incident: Incident,
    remedy: Remedy,
    target: Target,
    knowledge: Knowledge,
    policy: Policy,
    *,
    busy: bool,
    now: datetime,
) -> Hold | None:
    """Return the first brake that says no.

    Args:
        busy: Another remedy of this target is under way.
    """
    return next(holds(incident, remedy, target, knowledge, policy, busy=busy, now=now), None)


def holds(
    incident: Incident,
    remedy: Remedy,
    target: Target,
    knowledge: Knowledge,
    policy: Policy,
    *,
    busy: bool,
    now: datetime,
) -> Iterator[Hold]:
    """Yield every brake that says no, in the order in which they count."""
    rule = knowledge.rules.get(incident.rule_id)
    if policy.paused:
        yield Hold(reason="paused")
    if limit := _limit(policy, remedy, target):
        yield Hold(reason=limit.value)
    if rule is None or rule.status != "stable" or remedy.status != "stable":
        yield Hold(reason="experimental")
    if rule and rule.untrusted:
        yield Hold(reason="untrusted")
    if not incident.findings[0].fresh or incident.attempt != target.generation:
        yield Hold(reason="stale")
    if not _corroborated(rule, remedy, target, incident):
        yield Hold(reason="uncorroborated", detail=", ".join((rule and rule.corroborate) or _PROOF))
    if incident.tries and (free := incident.tries[-1].at + remedy.cooldown) > now:
        yield Hold(reason="cooldown", until=free)
    if spent := _spent(policy, remedy, target, incident, now):
        yield spent
    if busy:
        yield Hold(reason="busy")


def autonomy(policy: Policy, remedy: Remedy, target: Target) -> Mode:
    """Return the lowest of all that have a say: site, target, remedy."""
    named = [policy.modes[name] for name in (remedy.id, f"target:{target.name}") if name in policy.modes]
    ceiling = Mode.SUGGEST if remedy.risk is Risk.DESTRUCTIVE else remedy.mode
    return min((policy.mode, ceiling, *named), key=lambda mode: mode.rank)


def restarts(remedy: Remedy, rung: int) -> bool:
    """Say whether this rung (from 0) interrupts the service."""
    return any(isinstance(step, ServerRestart) for step in remedy.ladder[rung].steps)


def _limit(policy: Policy, remedy: Remedy, target: Target) -> Mode | None:
    mode = autonomy(policy, remedy, target)
    return None if mode is Mode.AUTO else mode


def _corroborated(rule: Rule | None, remedy: Remedy, target: Target, incident: Incident) -> bool:
    """A line in a log alone never restarts a healthy server, and proof of long ago proves nothing now."""
    if remedy.risk is Risk.HARMLESS:
        return True
    kinds = (rule.corroborate if rule and rule.corroborate else ()) or _PROOF
    since = incident.first_seen - _PROOF_AGE
    return any(kind in target.seen and target.seen[kind] >= since for kind in kinds)


def _spent(policy: Policy, remedy: Remedy, target: Target, incident: Incident, now: datetime) -> Hold | None:
    own = [one.at for one in incident.tries if one.remedy_id == remedy.id]
    budgets = (
        ("budget-remedy", own, remedy.budget),
        ("budget-restarts", [at for at, restarted in target.acts if restarted], policy.restarts),
        ("budget-remedies", [at for at, _ in target.acts], policy.remedies),
    )
    for reason, times, budget in budgets:
        if until := _free_at(times, budget, now):
            return Hold(reason=reason, detail=f"{budget.limit}/{budget.per}", until=until)
    return None


def _free_at(times: list[datetime], budget: Budget, now: datetime) -> datetime | None:
    recent = sorted(at for at in times if now - at < budget.per)
    return recent[-budget.limit] + budget.per if len(recent) >= budget.limit else None
