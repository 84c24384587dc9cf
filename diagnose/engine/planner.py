"""What to do next about an open incident: act, suggest, or wait; always with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from diagnose.engine import brakes, plan
from diagnose.engine.brakes import Hold
from diagnose.engine.policy import Policy
from diagnose.engine.targets import Target
from diagnose.launch.spec import change
from diagnose.model.incident import Consent, Incident, Plan
from diagnose.model.knowledge import Knowledge
from diagnose.model.remedy import Advice, Remedy


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Carry out the plan."""

    plan: Plan


class Suggest(msgspec.Struct, frozen=True, kw_only=True):
    """Show the plan; a brake keeps it from being carried out."""

    plan: Plan
    hold: Hold


class Advise(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing that the daemon can do helps: what a person can do stands in the report."""


class Exhausted(msgspec.Struct, frozen=True, kw_only=True):
    """All that could be tried was tried: a person is called."""


Decision = Act | Suggest | Advise | Exhausted


def decide(
    incident: Incident, target: Target, knowledge: Knowledge, policy: Policy, *, busy: bool, now: datetime
) -> Decision:
    """Choose the gentlest rung that was not tried and would change something."""
    spent: Suggest | None = None
    for remedy, _, made in possible(incident, target, knowledge, now):
        consent = consent_to(made, incident, now)
        holds = brakes.holds(incident, remedy, target, knowledge, policy, busy=busy, now=now, consent=consent)
        if not holds:
            return Act(plan=made)
        waits = Suggest(plan=made, hold=holds[0])
        if holds[0].reason != "budget-remedy":
            return waits
        spent = spent or waits
    if incident.tries or any(one.id in target.climbed for one in remedies_for(incident, knowledge)):
        return Exhausted()
    return spent or Advise()


def possible(
    incident: Incident, target: Target, knowledge: Knowledge, now: datetime
) -> Iterator[tuple[Remedy, int, Plan]]:
    """Yield what is left to try, gentlest first: remedy, rung (from 0) and plan.

    A rung whose try was interrupted is not tried yet; the budgets count it all the same.
    """
    done = [one for one in incident.tries if one.result != "interrupted"]
    for remedy in remedies_for(incident, knowledge):
        if remedy.id in incident.rejected:
            continue
        tried = [one.rung for one in done if one.remedy_id == remedy.id]
        for rung in range(max([*tried, target.climbed.get(remedy.id, -1)], default=-1) + 1, len(remedy.ladder)):
            if all(isinstance(step, Advice) for step in remedy.ladder[rung].steps):
                continue
            made = plan.build(remedy, rung, incident, target, now=now)
            if made is not None:
                yield remedy, rung, made


def consent_to(made: Plan, incident: Incident, now: datetime) -> Consent | None:
    """Return a person's yes to exactly this plan, while it holds."""
    consent = incident.consent
    same = consent is not None and (consent.remedy_id, consent.rung, consent.changes) == said(made)
    return consent if consent and same and now < consent.until else None


def said(made: Plan) -> tuple[str, int, tuple[str, ...]]:
    """Tell what a plan would do, as people read and approve it: remedy, rung (from 0), changes."""
    return made.remedy_id, made.rung, tuple(change(one.flag, one.before, one.after) for one in made.changes)


def remedies_for(incident: Incident, knowledge: Knowledge) -> list[Remedy]:
    """Name the remedies of the cause: first those that its rule prefers, then by their risk."""
    rule = knowledge.rules.get(incident.rule_id)
    preferred = [knowledge.remedies[one] for one in (rule.remedies if rule else ()) if one in knowledge.remedies]
    general = [one for one in knowledge.remedies.values() if incident.cause in one.cures]
    general.sort(key=lambda remedy: (remedy.risk.rank, remedy.id))
    every = {one.id: one for one in (*preferred, *general) if one.status != "deprecated"}
    return list(every.values())
