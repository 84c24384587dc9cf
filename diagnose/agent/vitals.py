"""What the daemon counts of itself since it began: how its loop turns, what it found, how its remedies ended."""

from __future__ import annotations

import bisect
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from diagnose.engine.state import State
from diagnose.model.effect import Effect, SaveIncident
from diagnose.model.incident import Incident
from diagnose.web.house import Turns

_LIMITS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, float("inf"))
"""A turn of an idle daemon takes less than the first, one that reads 4 MiB of logs some of the middle."""


HELD_UP = 1.0
"""Seconds between two turns from which on the daemon itself was held up: by a slow disk, or stopped with its host."""


class Pulse:
    """How the loop turns. Times are those of `time.monotonic`, as those of the event loop are."""

    def __init__(self) -> None:
        self._began, self._held_up_at = time.monotonic(), float("-inf")
        self._last: float | None = None
        self._counts = [0] * len(_LIMITS)
        self._seconds = 0.0

    @contextlib.contextmanager
    def beat(self) -> Iterator[None]:
        """Measure one turn."""
        began = time.monotonic()
        if began - self._began > HELD_UP:
            self._held_up_at = began
        self._began = began
        yield
        self._last = time.monotonic()
        took = self._last - began
        self._counts[bisect.bisect_left(_LIMITS, took)] += 1
        self._seconds += took

    def held_up(self, since: float) -> bool:
        """Say whether the daemon did not come to its turns at some time since then."""
        return self._held_up_at >= since or time.monotonic() - self._began > HELD_UP

    def turns(self) -> Turns:
        """Say how it went until now."""
        told, total = [], 0
        for limit, count in zip(_LIMITS, self._counts, strict=True):
            total += count
            told.append((limit, total))
        ago = None if self._last is None else time.monotonic() - self._last
        return Turns(ago=ago, counts=tuple(told), seconds=self._seconds)


class Tally:
    """What was found and done.

    Attributes:
        opened: Incidents by target, cause and severity, as they were when they came up.
        remedies: Those that came to an end, by target, remedy and outcome.
    """

    def __init__(self, began: State) -> None:
        self.opened: Counter[tuple[str, str, str]] = Counter()
        self.remedies: Counter[tuple[str, str, str]] = Counter()
        self._known = dict(began.incidents)

    def note(self, state: State, effects: Sequence[Effect]) -> None:
        """Count what a turn changed."""
        for effect in effects:
            if isinstance(effect, SaveIncident):
                self._count(self._known.get(effect.incident.id), effect.incident)
        self._known = dict(state.incidents)

    def _count(self, before: Incident | None, now: Incident) -> None:
        if before is None:
            self.opened[now.target, now.cause, now.severity.value] += 1
        ended = {one.intent_id for one in before.tries if one.result != "running"} if before else set()
        for one in now.tries:
            if one.result != "running" and one.intent_id not in ended:
                self.remedies[now.target, one.remedy_id, one.result] += 1
