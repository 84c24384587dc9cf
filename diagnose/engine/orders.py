"""What a person asks for: each order is obeyed or refused at once, and the refusal says what would help."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec

from diagnose.engine import brakes, incidents, planner
from diagnose.engine import way_back as back
from diagnose.engine.policy import Policy
from diagnose.engine.targets import Pause, Target
from diagnose.launch.overlays import drop
from diagnose.launch.spec import diff
from diagnose.model.effect import Answered
from diagnose.model.incident import Consent, Incident, Intent, Plan, State
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import Order
from diagnose.model.remedy import Mode


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """An order's answer, and what is otherwise for it."""

    answer: Answered
    target: Target
    incident: Incident | None = None
    intent: Intent | None = None


def obey(
    order: Order,
    incident: Incident | None,
    target: Target,
    knowledge: Knowledge,
    policy: Policy,
    *,
    busy: bool,
    now: datetime,
) -> Done:
    """Take one order.

    Args:
        incident: The one that the order names, if there is one.
        busy: A remedy of the target is under way.
    """
    if order.kind in {"pause", "resume"}:
        return _pause(order, target, now)
    if order.kind == "rollback":
        return _rollback(order, incident, target, busy=busy, now=now)
    if order.kind == "restart":
        return _restart(order, incident, target, policy, busy=busy, now=now)
    if incident is None or incident.id != order.incident or incident.target != target.name:
        return _refused(order, target, now, "no-incident", incident=order.incident)
    if incident.state is not State.OPEN:
        return _refused(order, target, now, "not-waiting", incident=incident.id, state=incident.state.value)
    if incident.plan is None:
        return _refused(order, target, now, "no-plan", incident=incident.id)
    if order.kind == "reject":
        return _reject(order, incident, incident.plan, target, now)
    return _consent(order, incident, incident.plan, target, knowledge, policy, busy=busy, now=now)


def _consent(
    order: Order,
    incident: Incident,
    made: Plan,
    target: Target,
    knowledge: Knowledge,
    policy: Policy,
    *,
    busy: bool,
    now: datetime,
) -> Done:
    """Note a yes. Approved, the plan goes on to the brakes that are left; ordered, it must start now."""
    remedy = knowledge.remedies.get(made.remedy_id)
    if remedy is None:
        return _refused(order, target, now, "no-plan", incident=incident.id)
    remedy_id, rung, changes = planner.said(made)
    forced = order.kind == "apply"
    consent = Consent(
        by=order.by,
        remedy_id=remedy_id,
        rung=rung,
        changes=changes,
        until=order.until or now + policy.approval_for,
        forced=forced,
    )
    mode = brakes.autonomy(policy, remedy, target, incident.rule_id)
    if not forced and mode is not Mode.APPROVE:
        return _refused(order, target, now, f"not-asked-{mode.value}", incident=incident.id)
    holds = brakes.holds(incident, remedy, target, knowledge, policy, busy=busy, now=now, consent=consent)
    if forced and holds:
        return _refused(order, target, now, f"held-{holds[0].reason}", detail=holds[0].detail)
    until = consent.until.isoformat()
    incident = incidents.note(incident, order.kind, at=now, by=order.by, remedy=remedy_id, until=until)
    return _obeyed(
        order,
        target,
        now,
        f"{order.kind}-waits" if holds else order.kind,
        incident=msgspec.structs.replace(incident, consent=consent),
        params={
            "remedy": remedy_id,
            "change": "; ".join(changes),
            "held": holds[0].reason if holds else "",
            "until": until,
        },
    )


def _reject(order: Order, incident: Incident, made: Plan, target: Target, now: datetime) -> Done:
    rejected = tuple(dict.fromkeys((*incident.rejected, made.remedy_id)))
    incident = incidents.note(incident, "rejected", at=now, by=order.by, remedy=made.remedy_id)
    incident = msgspec.structs.replace(incident, rejected=rejected, consent=None)
    return _obeyed(order, target, now, "reject", incident=incident, params={"remedy": made.remedy_id})


def _pause(order: Order, target: Target, now: datetime) -> Done:
    if order.kind == "pause":
        pause = Pause(by=order.by, at=now, why=order.why, until=order.until)
        until = order.until.isoformat() if order.until else ""
        return _obeyed(order, msgspec.structs.replace(target, pause=pause), now, "pause", params={"until": until})
    if target.pause is None:
        return _refused(order, target, now, "not-paused")
    return _obeyed(order, msgspec.structs.replace(target, pause=None), now, "resume")


def _rollback(order: Order, incident: Incident | None, target: Target, *, busy: bool, now: datetime) -> Done:
    """Put back what remedies changed, and prove it: what does not work is laid again."""
    if busy:
        return _refused(order, target, now, "held-busy")
    left = drop(target.overlays, order.incident or None)
    if left == target.overlays or target.desired is None:
        return _refused(order, target, now, "nothing-to-undo")
    owner = incident.id if incident else order.incident
    intent, target = back.put_back(target, left, incident_id=owner, name=order.id, now=now)
    changes = "; ".join(diff(intent.plan.before, intent.plan.after))
    if incident:
        incident = incidents.note(incident, "rollback", at=now, by=order.by, change=changes)
    return _obeyed(order, target, now, "rollback", incident=incident, intent=intent, params={"change": changes})


def _restart(
    order: Order, incident: Incident | None, target: Target, policy: Policy, *, busy: bool, now: datetime
) -> Done:
    """End the server, if it runs, and start it with the settings that it has: what ailed it may have been mended."""
    if hold := brakes.paused(policy, target, now):
        return _refused(order, target, now, "held-paused", detail=hold.detail)
    if busy:
        return _refused(order, target, now, "held-busy")
    if target.desired is None:
        return _refused(order, target, now, "no-command")
    owner, made = incident.id if incident else "", back.start_again(target)
    intent = back.intent(target, made, incident_id=owner, name=f"{owner or target.name}-restart-{order.id}", now=now)
    if incident:
        incident = incidents.note(incident, "restart", at=now, by=order.by)
    return _obeyed(order, target, now, "restart", incident=incident, intent=intent)


def _obeyed(
    order: Order,
    target: Target,
    now: datetime,
    reason: str,
    *,
    incident: Incident | None = None,
    intent: Intent | None = None,
    params: Mapping[str, str] = MappingProxyType({}),
) -> Done:
    answer = Answered(target=target.name, at=now, order_id=order.id, ok=True, reason=reason, params=dict(params))
    return Done(answer=answer, target=target, incident=incident, intent=intent)


def _refused(order: Order, target: Target, now: datetime, reason: str, **params: str) -> Done:
    answer = Answered(target=target.name, at=now, order_id=order.id, ok=False, reason=reason, params=params)
    return Done(answer=answer, target=target)
