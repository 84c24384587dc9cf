"""What the operator allows and how patient the engine is: the part of the configuration that it reads."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from diagnose.model.remedy import Budget, Mode
from diagnose.model.text import Duration


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of autonomy, and lengths of time.

    Attributes:
        mode: The site's limit.
        modes: Limits of single remedies (by id) and targets (``target:NAME``).
        paused: Watch, touch nothing.
        settle: So long no new cause must have come up before one is acted upon: the root cause may
            be written later than its echoes.
        settle_most: But no longer than this after the first.
        stall_after: A start without any progress for so long hangs.
        busy_factor: How many times longer a start may take that uses the processor but tells nothing.
        workers_gone: A start whose workers are dead for so long hangs, too.
        restarts: Automatic restarts of a target.
        remedies: Remedies of a target.
        holds_for, within: Replace the remedies' own terms of proof.
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
    restarts: Budget = Budget(limit=3, per=Duration(minutes=15))
    remedies: Budget = Budget(limit=5, per=Duration(days=7))
    holds_for: Duration | None = None
    within: Duration | None = None
    stable_after: Duration = Duration(minutes=10)
