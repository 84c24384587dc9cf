"""What to do next about an open incident: act, suggest, or wait; always with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from diagnose.engine import brakes, plan
from diagnose.engine.brakes import Hold
from diagnose.engine.policy import Policy
from diagnose.engine.targets import Target
from diagnose.model.incident import Incident, Plan
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
    for remedy, rung, made in possible(incident, target, knowledge, now):
        hold = brakes.first_hold(incident, remedy, target, knowledge, policy, busy=busy, now=now)
        if hold and hold.reason == "budget-remedy":
            continue
        del rung
        return Suggest(plan=made, hold=hold) if hold else Act(plan=made)
    return Exhausted() if incident.tries else Advise()


def possible(
    incident: Incident, target: Target, knowledge: Knowledge, now: datetime
) -> Iterator[tuple[Remedy, int, Plan]]:
    """Yield what is left to try, gentlest first: remedy, rung (from 0) and plan.

    A rung whose try was interrupted is not tried yet; the budgets count it all the same.
    """
    done = [one for one in incident.tries if one.result != "interrupted"]
    for remedy in remedies_for(incident, knowledge):
        tried = [one.rung for one in done if one.remedy_id == remedy.id]
        for rung in range(max(tried) + 1 if tried else 0, len(remedy.ladder)):
            if all(isinstance(step, Advice) for step in remedy.ladder[rung].steps):
                continue
            made = plan.build(remedy, rung, incident, target, now=now)
            if made is not None:
                yield remedy, rung, made


def remedies_for(incident: Incident, knowledge: Knowledge) -> list[Remedy]:
    """Name the remedies of the cause: first those that its rule prefers, then by their risk."""
    rule = knowledge.rules.get(incident.rule_id)
    preferred = [knowledge.remedies[one] for one in (rule.remedies if rule else ()) if one in knowledge.remedies]
    general = [one for one in knowledge.remedies.values() if incident.cause in one.cures]
    general.sort(key=lambda remedy: (remedy.risk.rank, remedy.id))
    every = {one.id: one for one in (*preferred, *general) if one.status != "deprecated"}
    return list(every.values())
