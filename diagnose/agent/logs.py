"""The logs of one target: read as they grow, matched, and each line told as its own server's.

Where one server gives way to the next, what the first wrote last is read before the second begins.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from diagnose.engine.match import Carry, Matcher
from diagnose.model.observation import LogLines, LogMatch, Numbers, Observation, SourceSees, SourceSilent
from diagnose.profiles import fastdeploy
from diagnose.sources.logtail import LEAST, MOST, LogTail, Position

_CONSOLE = re.compile(r"generation-(\d+)/console\.log(?:\.1)?$")
_NOTHING = timedelta(0)
_LAG_EVERY = timedelta(seconds=1)

_LONG_TURN = 0.2
"""Seconds that the lines of one turn may take; those that many rules ask for take far longer than others."""

_READ_WITHIN = 2.0
"""Seconds that a restart waits for the last words of the server that has ended."""


class Logs:
    """Reads and matches.

    Args:
        generation: Gives the start that runs now.
        hear: Is shown each match at once.
    """

    def __init__(
        self,
        target: str,
        matcher: Matcher,
        *,
        generation: Callable[[], int],
        hear: Callable[[LogMatch, datetime], None],
    ) -> None:
        self._target, self._matcher = target, matcher
        self._generation, self._hear = generation, hear
        self.tail: LogTail | None = None
        self.read_lines = 0
        self.carries: dict[str, Carry] = {}
        self._early: list[LogLines | SourceSilent] = []
        self._dark: frozenset[str] = frozenset()
        self._kept: tuple[Position, ...] = ()
        self._behind_at: datetime | None = None
        self._to_be_read: threading.Event | None = None  # set once the ended server's lines are read
        self._next = 0  # the start that all lines are of from then on

    def watch(
        self, folders: Sequence[Path], positions: tuple[Position, ...] | None, now: datetime, *, new: bool
    ) -> None:
        """Begin to read.

        Args:
            positions: Where an earlier daemon came to.
            new: Nothing of these is known yet: all that stands in them is history of one server.
        """
        self._kept = positions or ()
        self.tail = LogTail(
            folders,
            stream_of=fastdeploy.stream_of,
            target=self._target,
            positions=positions,
            from_start=new,
        )
        self.tail.generation = 0 if new else self._generation()  # what waits was written by the server before
        self.tail.most_bytes = MOST // 8  # how long lines take is not known yet
        self._early = self.tail.poll(now)

    def use(self, matcher: Matcher) -> None:
        """Match by these rules from the next line on. What files told stays; what need not be told again may be new."""
        self._matcher = matcher
        self.carries = {name: msgspec.structs.replace(carry, told=frozenset()) for name, carry in self.carries.items()}

    @property
    def busy(self) -> bool:
        """Whether there is more to read at once."""
        return self.tail is not None and self.tail.busy

    def poll(self, now: datetime) -> list[Observation]:
        """Read what is new, as much as a turn may take, and match it."""
        if self.tail is None:
            return []
        told: list[Observation] = []
        early, self._early = self._early, []
        began = time.monotonic()
        ended, started = self._to_be_read, self._generation()  # as they stand before the look
        generation = max(started, self._next)
        to_end = ended is not None or generation > self.tail.generation
        for piece in early or self.tail.poll(now, to_end=to_end):  # a turn is bounded by one poll
            if isinstance(piece, LogLines):
                self.read_lines += piece.data.count(b"\n")
                told += self.match(piece)
            else:
                told.append(piece)
        self._set_pace(self.tail, time.monotonic() - began)
        told += [SourceSees(target=self._target, at=now, source=one) for one in sorted(self._dark - self.tail.silent)]
        self._dark = self.tail.silent
        if self.tail.caught_up and not early:
            if ended and not ended.is_set():
                generation = self._next = started + 1
                ended.set()
            self.tail.generation = generation
        return told

    def await_end(self) -> None:
        """Wait, beside the loop, until what the ended server wrote is read: all that comes then is the next one's.

        Else its last words, read late, would be held against its successor.
        """
        if self.tail is None:
            return
        self._to_be_read = told = threading.Event()
        told.wait(_READ_WITHIN)
        self._to_be_read = None

    def match(self, piece: LogLines) -> list[Observation]:
        """Match lines; those that break the matcher are told of."""
        console = _CONSOLE.search(piece.source)
        generation = int(console[1]) if console else piece.generation or self._generation()
        piece = msgspec.structs.replace(piece, generation=max(generation, 1))
        try:
            matches, carry = self._matcher.scan(piece, self.carries.get(piece.source, Carry()))
        except Exception as error:  # noqa: BLE001 - lines that break the matcher must not end the watch
            told = f"lines from {piece.first_line} were passed over ({type(error).__name__}: {error}). "
            told += "A fault of diagnose: report it, and look at them by hand."
            self.carries.pop(piece.source, None)
            return [SourceSilent(target=self._target, at=piece.read_at, source=piece.source, reason=told)]
        self.carries[piece.source] = carry
        for match in matches:
            self._hear(match, piece.read_at)
        return list(matches)

    def lag(self, now: datetime) -> list[Observation]:
        """Tell each second how many bytes of the logs wait to be read, while any do, and once when none do any more."""
        behind = self.tail.lag_bytes if self.tail else 0
        last = self._behind_at
        if behind and last and _NOTHING <= now - last < _LAG_EVERY:
            return []
        self._behind_at = now if behind else None
        if not behind and not last:
            return []
        values = {"logs.behind_bytes": float(behind)}
        return [Numbers(target=self._target, at=now, generation=self._generation(), values=values)]

    def moved(self) -> tuple[Position, ...] | None:
        """Return where reading has come to, if that is elsewhere than at the last call."""
        positions = self.tail.positions() if self.tail else ()
        if positions == self._kept:
            return None
        self._kept = positions
        return positions

    @staticmethod
    def _set_pace(tail: LogTail, seconds: float) -> None:
        """Read less in the next turn where this one took long: what a turn found is written down at its end only."""
        if seconds > _LONG_TURN:
            tail.most_bytes = max(LEAST, tail.most_bytes // 2)
        elif seconds < _LONG_TURN / 4:
            tail.most_bytes = min(MOST, tail.most_bytes * 2)
