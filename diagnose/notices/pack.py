"""What goes into the next message of a receiver, and when: limits are kept by merging, never by dropping."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from diagnose.model.rule import Severity
from diagnose.notices.config import Alertmanager, Receiver, Webhook
from diagnose.notices.post import Post

MINUTE = timedelta(minutes=1)
_SECOND = timedelta(seconds=1)
_MOST = {Webhook: 100, Alertmanager: 500}
_KEPT_FOR_THE_WORST = 0.25
"""Of the minute's messages so many are left to what is critical and fires."""


class Row(msgspec.Struct, kw_only=True, eq=False):
    """A post that waits.

    Attributes:
        tries: How often it was sent, or may have been.
        kept: It is in the journal.
    """

    post: Post
    tries: int = 0
    kept: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What goes into one message.

    Attributes:
        rows: All that it settles, told or overtaken by newer news.
        merged: It is of several groups.
    """

    rows: tuple[Row, ...]
    merged: bool = False

    @property
    def posts(self) -> tuple[Post, ...]:
        """The news in it, oldest first."""
        return tuple(row.post for row in self.rows)


def pick(rows: Sequence[Row], used: Sequence[datetime], receiver: Receiver, now: datetime) -> Batch | datetime | None:
    """Choose the next message: its rows, or when to ask again; ``None`` where nothing waits.

    Args:
        rows: What waits, oldest first.
        used: When messages went out, oldest first; failed ones count, as vendors count them.
    """
    if not rows:
        return None
    if until := _held(rows, used, receiver, now):
        return until
    if receiver.keyed:
        return _one_key(rows)
    groups = _sorted_by(rows, lambda row: row.post.group)
    room = receiver.limit - len(_within(used, now, MINUTE))
    most = _MOST.get(type(receiver), len(rows))
    apart = isinstance(receiver, Webhook) and receiver.format == "alertmanager"  # its readers know groups by their key
    if isinstance(receiver, Alertmanager) or (len(groups) > max(room // 3, 1) and not apart):
        latest = _within(used, now, MINUTE)[-1:] if receiver.vendors_limit else []
        paced = latest[0] + MINUTE / receiver.limit if latest else now
        if paced > now:  # in a storm, what comes in the next seconds goes into the same message
            return paced
        return Batch(rows=tuple(_first(rows, most)), merged=len(groups) > 1)
    worst = max(groups, key=_weight)
    return Batch(rows=tuple(_first(worst, most)))


def _held(rows: Sequence[Row], used: Sequence[datetime], receiver: Receiver, now: datetime) -> datetime | None:
    """Say until when the receiver's limit holds all of it back."""
    minute, second = _within(used, now, MINUTE), _within(used, now, _SECOND)
    if len(second) >= receiver.limit_of_a_second:
        return second[-receiver.limit_of_a_second] + _SECOND
    worst = any(row.post.kind == "fire" and row.post.severity is Severity.CRITICAL for row in rows)
    limit = receiver.limit if worst else max(round(receiver.limit * (1 - _KEPT_FOR_THE_WORST)), 1)
    return minute[-limit] + MINUTE if len(minute) >= limit else None


def _within(used: Sequence[datetime], now: datetime, length: timedelta) -> list[datetime]:
    """Leave out what is older, and what a clock that was put back has in its future."""
    return [at for at in used if timedelta(0) <= now - at < length]


def _weight(rows: Sequence[Row]) -> tuple[tuple[bool, int], float]:
    return max(row.post.rank for row in rows), -rows[0].post.at.timestamp()


def _first(rows: Sequence[Row], most: int) -> list[Row]:
    """Take so many: whole incidents, the gravest first; each incident's news in order."""
    if len(rows) <= most:
        return list(rows)
    taken: list[Row] = []
    for same in sorted(_sorted_by(rows, lambda row: row.post.key), key=_weight, reverse=True):
        if taken and len(taken) + len(same) > most:
            break
        taken += same
    return taken


def _one_key(rows: Sequence[Row]) -> Batch:
    """Take one incident's oldest news; what it was told of the same kind meanwhile overtakes it."""
    same = max(_sorted_by(rows, lambda row: row.post.key), key=_weight)
    return Batch(rows=tuple(itertools.takewhile(lambda row: row.post.kind == same[0].post.kind, same)))


def _sorted_by(rows: Sequence[Row], name: Callable[[Row], str]) -> list[list[Row]]:
    """Put rows of one name together, in the order in which names and rows come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(name(row), []).append(row)
    return list(found.values())


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a receiver does.

    Attributes:
        since: When it began to fail; ``None``: it does not.
        error: What it said last.
        tries: Failures in a row.
        next: When it is tried again.
        used: When messages went to it, within the last minute.
        sent: How many it took, of all time.
        last: When it took the last one.
        note: What is amiss though it takes messages (a template that cannot be used).
    """

    since: datetime | None = None
    error: str = ""
    tries: int = 0
    next: datetime | None = None
    used: tuple[datetime, ...] = ()
    sent: int = 0
    last: datetime | None = None
    note: str = ""


def tried(health: Health, now: datetime) -> Health:
    """Count a message before it goes out."""
    return msgspec.structs.replace(health, used=(*_within(health.used, now, MINUTE), now))


def well(health: Health, now: datetime, note: str = "") -> Health:
    """Note that one was taken."""
    return Health(used=health.used, sent=health.sent + 1, last=now, note=note)


def unwell(health: Health, now: datetime, error: str, wait: timedelta) -> Health:
    """Note that one was not, and when the next may go."""
    return msgspec.structs.replace(
        health, since=health.since or now, error=error, tries=health.tries + 1, next=now + wait
    )


def pause(tries: int, first: timedelta, most: timedelta, chance: float) -> timedelta:
    """Say how long to wait after so many failures in a row: doubled each time, the half of it left to chance.

    >>> pause(3, timedelta(seconds=1), timedelta(minutes=5), 1.0).total_seconds()
    4.0
    """
    whole = min(first.total_seconds() * 2.0 ** min(max(tries - 1, 0), 30), most.total_seconds())
    return timedelta(seconds=whole * (0.5 + chance / 2))
