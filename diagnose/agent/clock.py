"""The daemon's clock: it agrees with the host's, and never jumps.

How long something lasted decides what is done about it. A host whose clock is put on by an hour must not look like one
whose server has said nothing for an hour, and one put back must not hold every cool-down for as long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

_SLEW = 0.1
"""By how much faster or slower it runs while it catches up with the host's clock."""


class SteadyClock:
    """Runs by the kernel's steady clock, and is drawn to the host's, by a tenth of the time that passes at most.

    Args:
        not_before: The last moment that is known to have been, over restarts of the daemon.
        wall: Seconds since the epoch, as the host tells them.
        steady: Seconds that nobody sets.
    """

    def __init__(
        self,
        not_before: datetime | None = None,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._steady = wall, steady
        self._lock = threading.Lock()
        self._asked_at = steady()
        self._told = max(wall(), not_before.timestamp() if not_before else 0.0)

    def now(self) -> datetime:
        """Return the present (aware, UTC); never earlier than before. Any thread may ask."""
        with self._lock:
            asked_at = self._steady()
            passed, self._asked_at = asked_at - self._asked_at, asked_at
            ahead = self._told + passed - self._wall()
            most = passed * _SLEW
            self._told += passed - max(-most, min(most, ahead))
            return datetime.fromtimestamp(self._told, timezone.utc)
