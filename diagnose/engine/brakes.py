"""May it be done? Each brake in its order, each with its reason when it says no."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from diagnose.engine.policy import Policy
from diagnose.engine.targets import Target
from diagnose.model.incident import Consent, Incident
from diagnose.model.knowledge import Knowledge
from diagnose.model.remedy import Budget, Mode, Remedy, Risk
from diagnose.model.rule import Rule

_PROOF_AGE = timedelta(minutes=10)
_PROOF = ("exit", "probe", "stall")
"""What shows, beside a log line, that the server is not well."""

_CAUTION = frozenset({"suggest", "approve", "experimental", "untrusted", "uncorroborated", "cooldown"})
_BUDGETS = frozenset({"budget-remedy", "budget-restarts", "budget-remedies"})
_OVERRULED = {False: frozenset({"approve", "uncorroborated"}), True: _CAUTION | _BUDGETS}
"""What an approval sets aside (a person has seen the evidence), and what an order does.

Never a pause, observe mode, old news, or another act under way.
"""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing is done now: a key of the report's texts, and until when it holds at least."""

    reason: str
    detail: str = ""
    until: datetime | None = None


def holds(
    incident: Incident,
    remedy: Remedy,
    target: Target,
    knowledge: Knowledge,
    policy: Policy,
    *,
    busy: bool,
    now: datetime,
    consent: Consent | None = None,
) -> list[Hold]:
    """Return every brake that says no, in the order in which they count; but those that a person overruled.

    Args:
        busy: Another remedy of this target is under way.
        consent: A person's yes to exactly this.
    """
    rule = knowledge.rules.get(incident.rule_id)
    overruled: frozenset[str] = _OVERRULED[consent.forced] if consent else frozenset()
    said = (
        paused(policy, target, now),
        _limited(policy, remedy, target, incident),
        _unsure(rule, remedy),
        Hold(reason="untrusted") if rule and rule.untrusted else None,
        _stale(incident, target),
        _uncorroborated(rule, remedy, target, incident),
        _cooling(remedy, target, incident, now),
        _spent(policy, remedy, target, incident, now),
        Hold(reason="busy") if busy else None,
    )
    return [hold for hold in said if hold and hold.reason not in overruled]


def paused(policy: Policy, target: Target, now: datetime) -> Hold | None:
    """Say whether a person keeps all remedies from being carried out, and until when."""
    if policy.paused:
        return Hold(reason="paused", detail="configuration")
    pause = target.pause
    if pause and (pause.until is None or now < pause.until):
        return Hold(reason="paused", detail=f"{pause.by}: {pause.why}" if pause.why else pause.by, until=pause.until)
    return None


def autonomy(policy: Policy, remedy: Remedy, target: Target, rule_id: str) -> Mode:
    """Return the lowest of all that have a say: site, target, remedy, rule."""
    names = (remedy.id, f"target:{target.name}", rule_id)
    named = [policy.modes[name] for name in names if name in policy.modes]
    ceiling = Mode.SUGGEST if remedy.risk is Risk.DESTRUCTIVE else remedy.mode
    return min((policy.mode, ceiling, *named), key=lambda mode: mode.rank)


def _limited(policy: Policy, remedy: Remedy, target: Target, incident: Incident) -> Hold | None:
    mode = autonomy(policy, remedy, target, incident.rule_id)
    return None if mode is Mode.AUTO else Hold(reason=mode.value)


def _unsure(rule: Rule | None, remedy: Remedy) -> Hold | None:
    stable = rule is not None and rule.status == remedy.status == "stable"
    return None if stable else Hold(reason="experimental")


def _stale(incident: Incident, target: Target) -> Hold | None:
    now = incident.findings[0].fresh and incident.attempt == target.generation
    return None if now else Hold(reason="stale")


def _uncorroborated(rule: Rule | None, remedy: Remedy, target: Target, incident: Incident) -> Hold | None:
    """A line in a log alone never restarts a healthy server, and proof of long ago proves nothing now."""
    if remedy.risk is Risk.HARMLESS or _asked_itself(target, incident):
        return None
    kinds = (rule.corroborate if rule else ()) or _PROOF
    since = incident.first_seen - _PROOF_AGE
    if any(kind in target.seen and target.seen[kind] >= since for kind in kinds):
        return None
    return Hold(reason="uncorroborated", detail=", ".join(kinds))


def _cooling(remedy: Remedy, target: Target, incident: Incident, now: datetime) -> Hold | None:
    last = max([*target.tried.get(remedy.id, ()), *(one.at for one in incident.tries[-1:])], default=None)
    free = last + remedy.cooldown if last else now
    return Hold(reason="cooldown", until=free) if free > now else None


def _asked_itself(target: Target, incident: Incident) -> bool:
    """Say whether the trouble is one that our own questions showed, of a server that is not well by them either.

    One that never got ready has no good answer to lose, so nothing else would ever speak against it.
    """
    asked = any(one.line is None and one.source.startswith("probe.") for one in incident.findings[0].evidence)
    return asked and target.phase != "ready"


def _spent(policy: Policy, remedy: Remedy, target: Target, incident: Incident, now: datetime) -> Hold | None:
    own = {*target.tried.get(remedy.id, ()), *(one.at for one in incident.tries if one.remedy_id == remedy.id)}
    budgets = (
        ("budget-remedy", own, remedy.budget),
        ("budget-restarts", _restarts_of(target), policy.restarts),
        ("budget-remedies", [at for at, _ in target.acts], policy.remedies),
    )
    return next((hold for reason, times, budget in budgets if (hold := _over(reason, times, budget, now))), None)


def unasked(remedy: Remedy, target: Target, policy: Policy, now: datetime) -> bool:
    """Say whether the daemon may do by itself what no open incident asks for."""
    alone = autonomy(policy, remedy, target, "") is Mode.AUTO
    return alone and not paused(policy, target, now) and not restarts_spent(target, policy, now)


def restarts_spent(target: Target, policy: Policy, now: datetime) -> Hold | None:
    """Say whether the server was restarted as often as allowed."""
    return _over("budget-restarts", _restarts_of(target), policy.restarts, now)


def restarts_left(target: Target, policy: Policy, now: datetime) -> int:
    """Say how many automatic restarts the budget still allows."""
    recent = [at for at in _restarts_of(target) if now - at < policy.restarts.per]
    return max(policy.restarts.limit - len(recent), 0)


def _restarts_of(target: Target) -> list[datetime]:
    return [*(at for at, restarted in target.acts if restarted), *target.recoveries]


def _over(reason: str, times: Iterable[datetime], budget: Budget, now: datetime) -> Hold | None:
    """Say whether a budget is spent, and until when; a budget of none is spent for ever."""
    recent = sorted(at for at in times if now - at < budget.per)
    if len(recent) < budget.limit:
        return None
    until = recent[-budget.limit] + budget.per if budget.limit > 0 else None
    return Hold(reason=reason, detail=f"{budget.limit}/{budget.per}", until=until)
