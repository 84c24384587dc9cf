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
    made, target = put_back(target, (), incident_id=incident.id, name=str(target.generation), now=now)
    changes = "; ".join(diff(made.plan.before, made.plan.after))
    noted = incidents.note(incident, "rollback", at=now, by="diagnose", change=changes)
    return Considered(target=target, incident=noted, intent=made)


def put_back(
    target: Target, left: tuple[Overlay, ...], *, incident_id: str, name: str, now: datetime
) -> tuple[Intent, Target]:
    """Make the intent that leaves these overlays and no others, and note that the target is on trial with them."""
    made = intent(target, plan_of(target, left), incident_id=incident_id, name=f"{incident_id}-back-{name}", now=now)
    trial = Trial(intent_id=made.id, at=now, back=target.overlays, incident_id=incident_id)
    return made, msgspec.structs.replace(target, trial=trial, offered=None)


def undone(target: Target, trial: Trial, *, now: datetime) -> Intent:
    """Make the intent that lays again what a trial had put back."""
    made, name = plan_of(target, trial.back), f"{trial.intent_id}-undo"
    return intent(target, made, incident_id=trial.incident_id, name=name, now=now)


def intent(target: Target, made: Plan, *, incident_id: str, name: str, now: datetime) -> Intent:
    """Make an intent that is no try at a cure: brakes do not count it.

    Args:
        name: Its id.
    """
    return Intent(
        id=name,
        incident_id=incident_id,
        target=target.name,
        generation=target.generation,
        at=now,
        plan=made,
        undo=True,
    )


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


def start_again(target: Target, *, restart: bool = True) -> Plan:
    """Make the plan that starts the server with the overlays that it has."""
    made = plan_of(target, target.overlays, restart=restart)
    return msgspec.structs.replace(made, remedy_id="recovery", title=Text("Start it again", "重新启动"))


def plan_of(target: Target, left: tuple[Overlay, ...], *, restart: bool = True) -> Plan:
    """Make the plan that lays these overlays and no others; without a restart they count from the next start on."""
    return Plan(
        remedy_id=WAY_BACK.id,
        rung=0,
        title=WAY_BACK.title,
        steps=WAY_BACK.ladder[0].steps if restart else (),
        before=plan.effective(target),
        after=plan.effective(target, left),
        overlays=left,
    )
