"""What follows from numbers that were measured before: rates, stand-stills, how long until something is full.

Pure: the memory between two measurements is a value, and a journal that is lived again gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec

from diagnose.model.observation import Numbers

_LAPSE = timedelta(seconds=30)
"""Between two measurements of a server. What lies further apart is not compared: the clock may have been put."""

_LEAST_ANSWERS = 3
"""Fewer between two looks may be our own questions, which are always cut."""

NEVER = 1e9
"""Seconds until something is full that does not grow, or since what never was (JSON has no infinity)."""

_POINTS = 20
_TREND_EVERY, _TREND_LEAST = timedelta(minutes=1), timedelta(minutes=10)
_SURE_SHARE = 0.7
"""So much of all steps must go the same way, or it is no trend."""

_FULL_BY = {
    "process.rss_bytes": ("host.memory_available_bytes", "process.memory_full_in_seconds"),
    "process.container_memory_bytes": ("process.container_memory_free_bytes", "process.container_full_in_seconds"),
    "host.disk_used_bytes": ("host.disk_free_bytes", "host.disk_full_in_seconds"),
    "host.shm_used_bytes": ("host.shm_free_bytes", "host.shm_full_in_seconds"),
}
"""What grows: what is left of it, and the name of the time that it lasts at this pace."""

_TOLD = {
    "server": (
        "requests_running requests_waiting cache_usage_ratio slots canary_seconds requests_total requests_done_total "
        "generated_tokens_total prompt_tokens_total stalled_seconds prefill_seconds ignored_seconds tokens_per_second "
        "first_token_seconds canary_first_token_seconds queue_seconds request_seconds limit_share_ratio"
    ),
    "process": (
        "rss_bytes threads zombies descriptors_ratio container_memory_bytes container_memory_free_bytes "
        "container_memory_ratio container_pids_ratio container_throttled_ratio container_periods_total "
        "container_throttled_total container_oom_kills_total container_oom_kill_age_seconds "
        "memory_full_in_seconds container_full_in_seconds"
    ),
    "host": (
        "memory_total_bytes memory_available_bytes memory_available_ratio oom_kills_total oom_kill_age_seconds "
        "load_per_cpu clock_jump_seconds "
        "disk_used_bytes disk_free_bytes disk_free_ratio disk_free_inodes_ratio disk_full_in_seconds "
        "shm_used_bytes shm_free_bytes shm_free_ratio shm_free_inodes_ratio shm_full_in_seconds"
    ),
    "logs": "behind_bytes",
}
_KILLS = {f"{of}oom_kills_total": f"{of}oom_kill_age_seconds" for of in ("host.", "process.container_")}
"""What the kernel counts, and the name of how long ago it counted last."""
_MEANS = frozenset(
    f"server.{name}_{part}_total"
    for name in ("first_token", "queue", "request", "made", "allowed")
    for part in ("count", "sum")
)
NAMES = _MEANS | {f"{of}.{name}" for of, names in _TOLD.items() for name in names.split()}
"""All that rules may ask for, of server, processes and host (`diagnose.engine.cards.NAMES` has the cards')."""


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """How one number went: times and values, oldest first, about one a minute."""

    points: tuple[tuple[datetime, float], ...] = ()


class Meters(msgspec.Struct, frozen=True, kw_only=True):
    """What must be remembered of a target's numbers; a new launch begins anew.

    Attributes:
        latest: All numbers as measured or derived last, by name; with labels ``name{place=logs}``.
        counted_at, counted: The newest measurement of the server's own metrics.
        moved_at: When tokens came last, or a question was first seen after nothing was asked.
        lost: Requests that began to be answered and never ended, as far as known.
        tracks: What grows, by name and labels.
        killed_at: When the kernel was first seen to have killed for want of memory once more, by name of the count.
    """

    latest: Mapping[str, float] = {}
    counted_at: datetime | None = None
    counted: Mapping[str, float] = {}
    moved_at: datetime | None = None
    lost: float = 0.0
    tracks: Mapping[str, Track] = {}
    killed_at: Mapping[str, datetime] = {}


def begun_anew(meters: Meters) -> Meters:
    """Forget what an earlier launch told; what is of the host stays."""
    return Meters(
        latest={name: value for name, value in meters.latest.items() if name.startswith("host.")},
        tracks={name: track for name, track in meters.tracks.items() if name.startswith("host.")},
        killed_at={name: at for name, at in meters.killed_at.items() if name.startswith("host.")},
    )


def take(meters: Meters, told: Numbers) -> tuple[Meters, Numbers]:
    """Take one measurement; return it with what follows from it."""
    values = dict(told.values)
    if "server.requests_running" in values:
        meters, more = _server(meters, told)
        values |= more
    values |= _shares(meters, told)
    meters, more = _kills(meters, told)
    values |= more
    meters, more = _full_in(meters, told, values)
    values |= more
    suffix = _suffix(told.labels)
    latest = {**meters.latest, **{name + suffix: value for name, value in values.items()}}
    return msgspec.structs.replace(meters, latest=latest), msgspec.structs.replace(told, values=values)


def _suffix(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={of}" for name, of in sorted(labels.items())) + "}" if labels else ""


# --- the server's own metrics


def _server(meters: Meters, told: Numbers) -> tuple[Meters, dict[str, float]]:
    """Derive rates and stand-stills.

    A long prompt gives no token for minutes while it is read, and is well: so long as no running request has had its
    first token, and more than our own short question is asked, that is told as ``server.prefill_seconds``.
    """
    now, before = told.values, meters.counted
    running, waiting = now["server.requests_running"], now.get("server.requests_waiting", 0.0)
    canary = now.get("server.canary_seconds", 0.0)
    begun, ended = now.get("server.first_token_count_total"), now.get("server.requests_done_total", 0.0)
    seconds = (told.at - meters.counted_at).total_seconds() if meters.counted_at else 0.0
    known = 0 < seconds <= _LAPSE.total_seconds() and not _began_anew(before, now)
    grew = {name: now[name] - before[name] for name in before if known and name in now}
    moved = any(grew.get(name, 0.0) > 0 for name in ("server.generated_tokens_total", "server.requests_done_total"))
    asked = running + waiting
    asked_before = before.get("server.requests_running", 0.0) + before.get("server.requests_waiting", 0.0)
    fresh = not known or moved or not asked or not asked_before
    moved_at = told.at if fresh or meters.moved_at is None else meters.moved_at
    lost = meters.lost if running or begun is None else begun - ended
    answering = min(running, begun - ended - lost) if begun is not None else 0.0
    quiet = (told.at - moved_at).total_seconds()
    reads = running > 0 and answering <= 0 and not (canary and asked <= 1)
    found = {
        "server.stalled_seconds": 0.0 if reads else quiet,
        "server.prefill_seconds": quiet if reads else 0.0,
        "server.ignored_seconds": 0.0 if asked or moved or not known else canary,
        **_rates(grew, seconds),
    }
    meters = msgspec.structs.replace(meters, counted_at=told.at, counted=dict(now), moved_at=moved_at, lost=lost)
    return meters, found


def _began_anew(before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    """Say whether a counter went back: another process counts."""
    return any(name.endswith("_total") and now.get(name, value) < value for name, value in before.items())


def _rates(grew: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Derive what is told per second and per request; nothing where no request says."""
    found: dict[str, float] = {}
    if "server.generated_tokens_total" in grew:
        found["server.tokens_per_second"] = grew["server.generated_tokens_total"] / seconds
    for name in ("first_token", "queue", "request"):
        if (mean := _mean(grew, name)) is not None:
            found[f"server.{name}_seconds"] = mean
    made, allowed = _mean(grew, "made"), _mean(grew, "allowed")
    if made is not None and allowed and grew["server.made_count_total"] >= _LEAST_ANSWERS:
        found["server.limit_share_ratio"] = min(1.0, made / allowed)
    return found


def _mean(grew: Mapping[str, float], name: str) -> float | None:
    count, total = grew.get(f"server.{name}_count_total", 0.0), grew.get(f"server.{name}_sum_total")
    return total / count if count > 0 and total is not None else None


# --- containers


def _shares(meters: Meters, told: Numbers) -> dict[str, float]:
    """Derive how often the container was kept from the processor since the last look."""
    names = ("process.container_periods_total", "process.container_throttled_total")
    if not all(name in told.values and name in meters.latest for name in names):
        return {}
    periods, throttled = (told.values[name] - meters.latest[name] for name in names)
    return {"process.container_throttled_ratio": min(1.0, throttled / periods)} if periods > 0 <= throttled else {}


# --- kills for want of memory


def _kills(meters: Meters, told: Numbers) -> tuple[Meters, dict[str, float]]:
    """Derive how long ago the kernel killed last; nothing at the first look, which says nothing of when."""
    killed_at, found = dict(meters.killed_at), dict[str, float]()
    for count, age in _KILLS.items():
        if count not in told.values or count not in meters.latest:
            continue
        if told.values[count] > meters.latest[count]:
            killed_at[count] = told.at
        last = killed_at.get(count)
        found[age] = max(0.0, (told.at - last).total_seconds()) if last else NEVER
    return msgspec.structs.replace(meters, killed_at=killed_at), found


# --- what fills up


def _full_in(meters: Meters, told: Numbers, values: Mapping[str, float]) -> tuple[Meters, dict[str, float]]:
    """Derive how long the rest lasts, of what has grown steadily for ten minutes."""
    tracks, found = dict(meters.tracks), dict[str, float]()
    suffix = _suffix(told.labels)
    for grows, (left, name) in _FULL_BY.items():
        if grows not in values:
            continue
        track = tracks[grows + suffix] = _longer(tracks.get(grows + suffix, Track()), told.at, values[grows])
        rest = values.get(left, meters.latest.get(left + suffix))
        pace = _pace(track)
        if pace > 0 and rest is not None:
            found[name] = min(NEVER, max(0.0, rest) / pace)
        elif name + suffix in meters.latest:
            found[name] = NEVER
    return msgspec.structs.replace(meters, tracks=tracks), found


def _longer(track: Track, at: datetime, value: float) -> Track:
    points = track.points
    if points and not timedelta(0) <= at - points[-1][0] <= _TREND_LEAST:
        return Track(points=((at, value),))  # the clock was put, or nobody looked for long
    if points and at - points[-1][0] < _TREND_EVERY:
        return track
    return Track(points=(*points, (at, value))[-_POINTS:])


def _pace(track: Track) -> float:
    """Return the growth per second, 0 where there is none that lasts."""
    points = track.points
    if len(points) < 2 or points[-1][0] - points[0][0] < _TREND_LEAST:
        return 0.0
    steps = [after[1] - before[1] for before, after in pairwise(points)]
    if sum(step > 0 for step in steps) < _SURE_SHARE * len(steps):
        return 0.0
    return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0]).total_seconds()
