"""What breaks inside the daemon is told and tried again, more seldom each time; everything else goes on meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta

import anyio
import msgspec

from diagnose.errors import DiagnoseError
from diagnose.model.observation import Observation, SourceSees, SourceSilent
from diagnose.ports import Clock

_log = logging.getLogger(__name__)
_FIRST, _MOST = timedelta(seconds=1), timedelta(seconds=60)
"""The pause before the first and before later tries of what broke."""

_PROVEN = timedelta(seconds=3)
"""How long a task must have run again before it counts as well."""

_REASON_CHARACTERS = 300


class _Broken(msgspec.Struct, frozen=True, kw_only=True):
    """One part that broke.

    Attributes:
        dark: It is broken still, as far as anyone knows.
        pause: Before the try at ``again_at``; the next one is twice as long.
    """

    dark: bool
    pause: timedelta
    again_at: datetime


class Guard:
    """Stands between the parts of the daemon and its loop: what one of them raises ends that part's turn, no more.

    Args:
        targets: Whom its findings are told of.
    """

    def __init__(self, targets: Iterable[str], clock: Clock) -> None:
        self._targets, self._clock = tuple(targets), clock
        self._broken: dict[str, _Broken] = {}
        self._told: list[Observation] = []

    def ask(self, source: str, now: datetime, ask: Callable[[], Sequence[Observation]]) -> list[Observation]:
        """Ask a sense; one that raised is told of once, and left alone until it may be tried again."""
        broken = self._broken.get(source)
        if broken and broken.dark and now < broken.again_at:
            return []
        try:
            told = ask()
        except Exception as error:  # noqa: BLE001 - a fault of one sense must end neither the others nor the daemon
            return self.broke(source, error, now)
        return [*self._well(source, now), *told] if broken else list(told)

    async def keep(self, source: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep a task at work, until cancelled; `news` tells of its ends."""
        while True:
            try:
                await work()
                error: Exception = RuntimeError("it ended by itself")
            except Exception as raised:  # noqa: BLE001 - the same
                error = raised
            self._told += self.broke(source, error, self._clock.now())
            await anyio.sleep(self._broken[source].pause.total_seconds())

    def news(self, now: datetime) -> list[Observation]:
        """Return what tasks broke since the last call, and which of them run again."""
        told, self._told = self._told, []
        back = [name for name, one in self._broken.items() if one.dark and now >= one.again_at + _PROVEN]
        return [*told, *(seen for name in back for seen in self._well(name, now))]

    def broke(self, source: str, error: Exception, now: datetime) -> list[Observation]:
        """Note that a part broke; return what is to be told of it."""
        before = self._broken.get(source)
        pause = min(before.pause * 2, _MOST) if before else _FIRST
        self._broken[source] = _Broken(dark=True, pause=pause, again_at=now + pause)
        if before and before.dark:
            return []
        reason = reason_of(error)
        _log.warning("%s: %s", source, reason, exc_info=None if isinstance(error, OSError | DiagnoseError) else error)
        return self.silent(source, reason, now, "broken")

    def silent(self, source: str, reason: str, now: datetime, kind: str = "") -> list[Observation]:
        """Spell that something cannot see, for each target."""
        return [SourceSilent(target=one, at=now, source=source, reason=reason, kind=kind) for one in self._targets]

    def sees(self, source: str, now: datetime) -> list[Observation]:
        """Spell that it can see again."""
        return [SourceSees(target=one, at=now, source=source) for one in self._targets]

    def _well(self, source: str, now: datetime) -> list[Observation]:
        """Note that a part works; its next failure within the longest pause counts as one more of the same."""
        broken = self._broken[source]
        if not broken.dark:
            if now - broken.again_at > _MOST:
                del self._broken[source]
            return []
        self._broken[source] = msgspec.structs.replace(broken, dark=False)
        return self.sees(source, now)


def reason_of(error: BaseException) -> str:
    """Say in one line what broke, and what helps."""
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())  # of a group; Python 3.10 has no name for it
    if len(inner) == 1:
        return reason_of(inner[0])
    if isinstance(error, DiagnoseError):
        return str(error)  # it ends in its cure
    if isinstance(error, OSError) and error.strerror:
        cure = "Check ulimit -n, the memory and the disk of this host; it is tried again by itself."
    else:
        cure = "A fault of diagnose: report it; it is tried again by itself."
    what = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_CHARACTERS]
    return f"{what}. {cure}"
