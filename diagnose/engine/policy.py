"""What the operator allows and how patient the engine is: the part of the configuration that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, tzinfo

import msgspec

from diagnose.model.hours import Hours
from diagnose.model.remedy import Budget, Mode
from diagnose.model.text import Duration


def _zone(offset: str) -> tzinfo | None:
    if not offset.startswith(("+", "-")):
        raise ValueError("no sign")
    return datetime.fromisoformat(f"2000-01-01T00:00{offset}").tzinfo


class WayBack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens once the operator's own settings would fit again: it costs a restart.

    Attributes:
        mode: ``auto`` goes back by itself, within the hours; any other tells of it.
        after: How long they must have fitted.
        utc_offset: The zone of the hours, ``+08:00``.
    """

    mode: Mode = Mode.SUGGEST
    after: Duration = Duration(minutes=30)
    hours: Hours = Hours(from_="22:00", to="06:00")
    utc_offset: str = "+00:00"

    def __post_init__(self) -> None:
        try:
            _zone(self.utc_offset)
        except ValueError as error:
            raise ValueError(f"utc_offset {self.utc_offset!r} is none; write it like +08:00") from error

    def allows(self, now: datetime) -> bool:
        """Say whether it may go back by itself at this time of day."""
        return self.mode is Mode.AUTO and self.hours.hold(now.astimezone(_zone(self.utc_offset)))


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of autonomy, and lengths of time.

    Attributes:
        mode: The site's limit.
        modes: Limits of single remedies and rules (by id) and of targets (``target:NAME``).
        paused: Watch, touch nothing.
        settle: So long no new cause must have come up before one is acted upon: the root cause may
            be written later than its echoes.
        settle_most: But no longer than this after the first.
        stall_after: A start without any progress for so long hangs.
        busy_factor: How many times longer a start may take that uses the processor but tells nothing.
        workers_gone: A start whose workers are dead for so long hangs, too.
        approval_for: How long an approval holds if it does not say.
        restarts: Automatic restarts of a target.
        remedies: Remedies of a target.
        holds_for, within: Replace the remedies' own terms of proof.
        way_back: To the operator's own settings, once they would fit again.
        stable_after: A start that was ready for so long is known to be good.
    """

    mode: Mode = Mode.SUGGEST
    modes: Mapping[str, Mode] = {}
    paused: bool = False
    settle: Duration = Duration(seconds=3)
    settle_most: Duration = Duration(seconds=15)
    stall_after: Duration = Duration(minutes=3)
    busy_factor: float = 5.0
    workers_gone: Duration = Duration(seconds=10)
    approval_for: Duration = Duration(hours=1)
    restarts: Budget = Budget(limit=3, per=Duration(minutes=15))
    remedies: Budget = Budget(limit=5, per=Duration(days=7))
    holds_for: Duration | None = None
    within: Duration | None = None
    way_back: WayBack = WayBack()
    stable_after: Duration = Duration(minutes=10)
