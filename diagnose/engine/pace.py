"""How fast a server starts on this host, learned from its own starts that became ready."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

from diagnose.errors import ConfigError
from diagnose.launch.spec import value
from diagnose.model.launch import LaunchSpec
from diagnose.model.surroundings import Comparison

_GENEROUS = 3.0
"""How much longer than ever before a start may be silent, or take, before that is held against it."""

_LEAST_QUIET_S = 1.0


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of the server, and what its own logs told of it.

    Attributes:
        spec: The effective command.
        at: When it began.
        foreign_bytes: What others held of the fullest card then.
        stage: How far it came: the last mark seen.
        reached: Seconds from its beginning to the first mark of each stage.
        quiet: The longest silence of its logs in each stage, in seconds.
        ready_at: When it first answered with tokens.
        ended: How its main process ended, as people read it; empty while it runs.
        measured: What it printed of its memory: named groups of the mark ``@measured``.
        compared: How its surroundings differ from the last healthy start's; ``None`` until they were looked at.
    """

    generation: int
    spec: LaunchSpec
    at: datetime | None = None
    foreign_bytes: int = 0
    stage: str = ""
    reached: Mapping[str, float] = {}
    quiet: Mapping[str, float] = {}
    ready_at: datetime | None = None
    ended: str = ""
    measured: Mapping[str, str] = {}
    compared: Comparison | None = None


def reach(start: Start, stage: str, at: datetime) -> Start:
    """Note that a start has come to a stage."""
    first = start.at is not None and stage not in start.reached
    reached = {**start.reached, stage: _seconds(start.at, at)} if first else start.reached
    return msgspec.structs.replace(start, stage=stage, reached=reached)


def ready(start: Start, at: datetime) -> Start:
    """Note that a start has answered with tokens."""
    return msgspec.structs.replace(reach(start, "ready", at), ready_at=at)


def silent(start: Start, seconds: float) -> Start:
    """Note a silence that is over."""
    if seconds < _LEAST_QUIET_S or seconds <= start.quiet.get(start.stage, 0.0):
        return start
    return msgspec.structs.replace(start, quiet={**start.quiet, start.stage: seconds})


def patience(start: Start, earlier: Iterable[Start], floor: timedelta) -> timedelta:
    """Return how long this start may be silent in its stage.

    Args:
        earlier: Starts of the same server; those of the same model that became ready count.
        floor: It may always be silent for so long.
    """
    longest = max((one.quiet.get(start.stage, 0.0) for one in _alike(start.spec, earlier)), default=0.0)
    return max(floor, timedelta(seconds=_GENEROUS * longest))


def within(spec: LaunchSpec, earlier: Iterable[Start], floor: timedelta) -> timedelta:
    """Return how long a start with this command may take in all; arguments as for `patience`."""
    took = [one.ready_at - one.at for one in _alike(spec, earlier) if one.ready_at and one.at]
    return max(floor, max(took, default=timedelta(0)) * _GENEROUS)


def _alike(spec: LaunchSpec, earlier: Iterable[Start]) -> list[Start]:
    return [one for one in earlier if one.ready_at and _model(one.spec) == _model(spec)]


def _model(spec: LaunchSpec) -> str | None:
    try:
        return value(spec, "--model")
    except ConfigError:  # attached to something that is started in another way
        return None


def _seconds(start: datetime | None, end: datetime) -> float:
    return max(round((end - start).total_seconds(), 1), 0.0) if start else 0.0  # logs may count whole seconds
