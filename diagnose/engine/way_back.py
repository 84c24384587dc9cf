"""Back to the operator's own settings: on a person's order, or offered once what made the change needed is gone."""

from __future__ import annotations

from datetime import datetime

import msgspec

from diagnose.engine import brakes, incidents, plan
from diagnose.engine.policy import Policy
from diagnose.engine.targets import Target, Trial
from diagnose.launch.spec import diff
from diagnose.model.incident import Incident, Intent, Plan
from diagnose.model.launch import Overlay
from diagnose.model.remedy import EvidenceKeep, Remedy, Risk, Rung, ServerRestart
from diagnose.model.text import Text


class Considered(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a look at settings that might be put back."""

    target: Target
    incident: Incident
    intent: Intent | None = None


def consider(target: Target, incident: Incident, policy: Policy, now: datetime) -> Considered:
    """Tell once that the operator's own settings would fit again; go back to them where that is allowed.

    Args:
        target: Ready, without open troubles, with changes laid.
        incident: The one for which the last change was laid.
    """
    bill = plan.fits_again(incident, target)
    if bill is None or not bill.fits:
        return Considered(target=msgspec.structs.replace(target, offered=None), incident=incident)
    if target.offered is None:
        return Considered(
            target=msgspec.structs.replace(target, offered=now), incident=incidents.note(incident, "way-back", at=now)
        )
    rules = policy.way_back
    due = now - target.offered >= rules.after and rules.allows(now)
    if not due or not brakes.unasked(WAY_BACK, target, policy, now):
        return Considered(target=target, incident=incident)
    target = msgspec.structs.replace(target, acts=(*target.acts, (now, True)))
    intent, target = put_back(target, (), incident_id=incident.id, name=str(target.generation), now=now)
    changes = "; ".join(diff(intent.plan.before, intent.plan.after))
    noted = incidents.note(incident, "rollback", at=now, by="diagnose", change=changes)
    return Considered(target=target, incident=noted, intent=intent)


def put_back(
    target: Target, left: tuple[Overlay, ...], *, incident_id: str, name: str, now: datetime
) -> tuple[Intent, Target]:
    """Make the intent that leaves these overlays and no others, and note that the target is on trial with them."""
    intent = Intent(
        id=f"{incident_id}-back-{name}",
        incident_id=incident_id,
        target=target.name,
        generation=target.generation,
        at=now,
        plan=plan_of(target, left),
        undo=True,
    )
    trial = Trial(intent_id=intent.id, at=now, back=target.overlays, incident_id=incident_id)
    return intent, msgspec.structs.replace(target, trial=trial, offered=None)


WAY_BACK = Remedy(
    id="rollback",
    title=Text("Back to earlier settings", "恢复先前的参数"),
    why=Text("A person asked for it.", "由人工发起。"),
    cures=(),
    ladder=(Rung(rung=Text("Restart with them", "以该参数重启"), steps=(EvidenceKeep(), ServerRestart())),),
    risk=Risk.DISRUPTIVE,
    expects=("upstream_unreachable", "overload_503", "queue_timeout"),
)
"""What a rollback does, and by which terms it is proven."""


def plan_of(target: Target, left: tuple[Overlay, ...]) -> Plan:
    """Make the plan that lays these overlays and no others."""
    return Plan(
        remedy_id=WAY_BACK.id,
        rung=0,
        title=WAY_BACK.title,
        steps=WAY_BACK.ladder[0].steps,
        before=plan.effective(target),
        after=plan.effective(target, left),
        overlays=left,
    )
