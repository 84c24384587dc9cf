"""The way back: a failed change does not stay in force, and what is down is started again once that can help.

Brakes stop harm. To undo, and to start what is down anyway, is none; but a pause is a pause, and what fails is
tried again ever more seldom.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec

from diagnose.engine import brakes, incidents, plan, way_back
from diagnose.engine.policy import Policy
from diagnose.engine.targets import Target
from diagnose.model.incident import Incident, Intent, Plan, State
from diagnose.model.launch import Overlay
from diagnose.model.remedy import Mode, Verify
from diagnose.model.rule import Severity
from diagnose.model.text import Text

SOON = timedelta(minutes=1)
"""A brake that ends sooner is waited for: two restarts in a row help nobody."""

_PAUSES = (timedelta(0), timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1))
"""Between two ways back that did not help; the last one for ever."""

_DOWN = frozenset({"failed", "stopped"})


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done now, in whose history it is told, and why: a kind of its entries, or nothing."""

    plan: Plan
    incident: Incident
    why: str = ""

    def intent(self, target: Target, *, now: datetime) -> Intent:
        """Make the intent; there is at most one in a turn, so its time makes it one of its own."""
        name = f"{self.incident.id}-undo-{now:%Y%m%dT%H%M%S.%f}"
        return way_back.intent(target, self.plan, incident_id=self.incident.id, name=name, now=now)


def due(target: Target, own: Collection[Incident], policy: Policy, *, now: datetime) -> Due | None:
    """Say what must be put back now, or started again.

    To be asked when nothing else is under way, or soon to be.

    Args:
        own: The target's incidents.
    """
    mode = min((policy.mode, policy.modes.get(f"target:{target.name}", policy.mode)), key=lambda one: one.rank)
    live = [one for one in own if incidents.is_open(one)]
    if target.desired is None or mode is Mode.OBSERVE or brakes.paused(policy, target, now):
        return None
    if any(one.state is State.PENDING for one in live):
        return None
    failed = tuple(one for one in target.overlays if one not in target.proven)
    if failed:
        return _undone(target, own, failed, now)
    return _started_again(target, live, policy, now) if mode is Mode.AUTO else None


def _undone(target: Target, own: Collection[Incident], failed: tuple[Overlay, ...], now: datetime) -> Due | None:
    """Undo what was tried and did not help; what serves although its trouble is over has a chance to prove itself."""
    known = {one.id: one for one in own}
    owner = known.get(failed[-1].incident_id)
    while owner and (into := known.get(owner.timeline[-1].params.get("into", ""))):
        owner = into  # it was part of another trouble
    down = target.phase in _DOWN
    if owner is None or (owner.state not in incidents.LIVE and not down):
        return None
    again = bool(target.recoveries and owner.tries and target.recoveries[-1] >= owner.tries[-1].at)
    if again and not _rested(target, now):
        return None
    return Due(plan=_back(target, restart=not down or _served(target)), incident=owner)


def _started_again(target: Target, live: Collection[Incident], policy: Policy, now: datetime) -> Due | None:
    """Start what is down when no remedy does: it served before, or what it failed for is over."""
    if not live or not _rested(target, now) or brakes.restarts_spent(target, policy, now):
        return None
    down = target.phase == "failed" or (target.phase == "stopped" and target.slipped)
    if _served(target):
        newest = max(live, key=lambda one: (one.attempt, one.last_seen, one.id))
        owner, why = newest if down or _hangs(target, live, policy, now) else None, ""
    else:
        owner, why = next((one for one in live if down and _has_room(one, target)), None), "room"
    return Due(plan=_back(target, restart=True), incident=owner, why=why) if owner else None


def _has_room(incident: Incident, target: Target) -> bool:
    """Say whether neighbours have given back the memory that a start lacked."""
    bill = plan.fits_again(incident, target)
    return bill is not None and bill.fits


def _hangs(target: Target, live: Collection[Incident], policy: Policy, now: datetime) -> bool:
    """Say whether a start has a trouble that nothing cured, and has not become ready for far too long."""
    within = policy.within or Verify().within
    late = target.phase == "starting" and target.started_at and now - target.started_at >= within
    return bool(late) and any(
        one.attempt == target.generation and one.severity is Severity.CRITICAL and one.findings[0].fresh for one in live
    )


def _served(target: Target) -> bool:
    """Say whether the settings to go back to are known to work."""
    if target.good is not None:
        return True
    spec = plan.effective(target, target.proven)
    return any(one.stage == "ready" and one.spec.argv == spec.argv for one in target.starts)


def _rested(target: Target, now: datetime) -> bool:
    tried = target.recoveries
    return not tried or now - tried[-1] >= _PAUSES[min(len(tried), len(_PAUSES) - 1)]


def _back(target: Target, *, restart: bool) -> Plan:
    if target.overlays == target.proven:
        return way_back.start_again(target, restart=restart)
    back = way_back.plan_of(target, target.proven, restart=restart)
    title = Text("Back to the last settings known to be good", "恢复到最近一次正常的设置")
    return msgspec.structs.replace(back, title=title)
