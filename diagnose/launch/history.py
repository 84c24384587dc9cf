"""The starts of a server, and the last command that is known to work."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from diagnose.model.launch import LaunchSpec, Overlay

KEPT = 50


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One start.

    Attributes:
        number: From 1, never used twice for a target.
        spec: The effective command.
        started: When it was spawned (aware, UTC).
        ready_at: When a completion was answered first, if ever.
        healthy_until: When it was last known to be well, without a break since ``ready_at``.
    """

    number: int
    spec: LaunchSpec
    overlays: tuple[Overlay, ...]
    started: datetime
    ready_at: datetime | None = None
    healthy_until: datetime | None = None

    def stable(self, stable_after: timedelta) -> bool:
        """Say whether it stayed well for so long."""
        if self.ready_at is None or self.healthy_until is None:
            return False
        return self.healthy_until - self.ready_at >= stable_after


History = tuple[Generation, ...]
"""Oldest first."""


def begin(history: History, spec: LaunchSpec, overlays: tuple[Overlay, ...], *, now: datetime) -> History:
    """Add the next start. At most `KEPT` are kept; those that never became ready go first."""
    number = history[-1].number + 1 if history else 1
    new = Generation(number=number, spec=spec, overlays=overlays, started=now)
    if len(history) >= KEPT:
        failed = next((one for one in history if one.ready_at is None), history[0])
        history = tuple(one for one in history if one is not failed)
    return (*history, new)


def seen_well(history: History, number: int, *, now: datetime) -> History:
    """Note that a generation is ready and well now; the first time makes it ready."""
    return tuple(
        msgspec.structs.replace(one, ready_at=one.ready_at or now, healthy_until=now) if one.number == number else one
        for one in history
    )


def last_known_good(history: History, stable_after: timedelta) -> Generation | None:
    """Return the newest generation that stayed well for ``stable_after``, or ``None``."""
    return next((one for one in reversed(history) if one.stable(stable_after)), None)
