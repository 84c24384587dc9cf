"""Which start of the server a line belongs to, where many files tell of many starts.

``workerlog.N`` is appended to over restarts, ``launch_worker.log`` begins anew at each, others show no
start at all. Each file counts its own start marks; here the counts are laid over one another by time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone

import msgspec

from diagnose.engine.lines import take_apart
from diagnose.model.observation import LogMatch

_ONE_START = timedelta(minutes=2)
"""Marks of one start in different files lie closer than this: imports take seconds, not minutes."""

_EARLY = timedelta(seconds=5)
"""A line may be stamped so much before the start that it belongs to (different clocks)."""


class _Start(msgspec.Struct):
    """One start of the server: the earliest mark of it, and each file's own count of it."""

    at: datetime
    files: dict[str, int]


_JUST_BEFORE = timedelta(milliseconds=1)


def is_mark(match: LogMatch, name: str) -> bool:
    """Say whether a line bears the mark."""
    return any(hit.rule_id == name for hit in match.hits)


def number(matches: Sequence[LogMatch]) -> list[LogMatch]:
    """Give each line the number of its start, from 1, counted over all files; order is kept.

    Only starts of which a line is left are counted, so that the numbers have no gaps.
    """
    starts = _starts(matches)
    first = {source: min(counts) for source, counts in _counts(matches).items()}
    placed = [_place(match, starts, first.get(match.source)) for match in matches]
    numbers = {place: number for number, place in enumerate(sorted(set(placed)), start=1)}
    return [
        match if match.attempt == numbers[place] else msgspec.structs.replace(match, attempt=numbers[place])
        for match, place in zip(matches, placed, strict=True)
    ]


def _counts(matches: Iterable[LogMatch]) -> dict[str, set[int]]:
    counts: dict[str, set[int]] = {}
    for match in matches:
        if is_mark(match, "@start"):
            counts.setdefault(match.source, set()).add(match.attempt)
    return counts


def _starts(matches: Sequence[LogMatch]) -> list[_Start]:
    """Collect starts by time; a file that marks a start twice tells of two."""
    marks = sorted(
        (match for match in matches if is_mark(match, "@start")),
        key=lambda match: (match.at, match.attempt),
    )
    starts: list[_Start] = []
    for mark in marks:
        newest = starts[-1] if starts else None
        known = newest.files.get(mark.source) if newest else None
        if newest and known == mark.attempt:
            continue
        if newest and known is None and mark.at - newest.at <= _ONE_START:
            newest.files[mark.source] = mark.attempt
        else:
            starts.append(_Start(at=mark.at, files={mark.source: mark.attempt}))
    return starts


def _place(match: LogMatch, starts: Sequence[_Start], first: int | None) -> int:
    """Find the start, from 1, that a line belongs to; 0 for what is older than all."""
    if not starts:
        return 1
    by_time = sum(start.at <= match.at + _EARLY for start in starts) if match.dated else len(starts)
    if first is None:
        return by_time
    by_count = next(
        (
            place
            for place, start in enumerate(starts, start=1)
            if start.files.get(match.source) == max(match.attempt, first)
        ),
        by_time,
    )
    if not match.dated:
        return by_count
    if match.attempt < first:
        # Above a file's first mark stands the prelude of that start (imports that fail, the warnings
        # of every start), or the end of an older one.
        return by_count - (starts[by_count - 1].at - match.at > _ONE_START)
    between = starts[by_count:by_time]
    # A start that fails before it leaves its mark in this file is known by the other files' marks.
    return by_time if between and all(match.source not in start.files for start in between) else by_count


def settle(matches: Sequence[LogMatch]) -> list[LogMatch]:
    """Date the last words of workers by who noticed their end; order is kept.

    A traceback or a crash bears no date and looks as old as the dated line above it: after hours of serving,
    hours too old. The launcher dates it (``launch_worker.log``), until the next start empties that file. Without
    it, a rank that died in a start which became ready died after that, for all ranks must live for it: then the
    end of that start, in any file, is the latest that it can have been.

    Args:
        matches: As `number` gives them.
    """
    ends: dict[int, list[datetime]] = {}
    newest: dict[tuple[str, int], datetime] = {}
    ready: dict[int, datetime] = {}
    over: dict[int, datetime] = {}
    for match in matches:
        if match.stream == "launch" and match.dated and any(not hit.rule_id.startswith("@") for hit in match.hits):
            ends.setdefault(match.attempt, []).append(match.at)
        place = match.source, match.attempt
        newest[place] = max(newest.get(place, match.at), match.at)
        if match.dated:
            over[match.attempt] = max(over.get(match.attempt, match.at), match.at)
            if is_mark(match, "@ready"):
                ready[match.attempt] = min(ready.get(match.attempt, match.at), match.at)
    last = [match for match in matches if match.stream == "worker" and match.at == newest[match.source, match.attempt]]
    died = _last_words(last)

    def end_of(match: LogMatch) -> datetime | None:
        if match.stream != "worker" or match.at != newest[match.source, match.attempt]:
            return None
        if end := min((at for at in ends.get(match.attempt, ()) if at > match.at), default=None):
            return end - _JUST_BEFORE
        served = ready.get(match.attempt)
        dead = match.line >= died.get((match.source, match.attempt), match.line + 1)
        return over[match.attempt] if dead and served and served > match.at else None

    return [
        msgspec.structs.replace(match, at=end) if (end := end_of(match)) and not _has_date(match) else match
        for match in matches
    ]


def _last_words(matches: Iterable[LogMatch]) -> dict[tuple[str, int], int]:
    """Name the line, by file and start, on which what ended a rank begins: a fatal error or an exception."""
    return {
        (match.source, match.attempt): match.line - max(len(match.block) - 1, 0)
        for match in matches
        if is_mark(match, "@fatal") or is_mark(match, "@traceback")
    }


def _has_date(match: LogMatch) -> bool:
    """Say whether the line itself bears a date, not one above it."""
    return take_apart(match.text.encode(), zone=timezone.utc, reference=match.at).at is not None
