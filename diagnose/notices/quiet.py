"""Who is to be told of an incident, and what keeps it quiet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from diagnose.notices.book import RANK, Alert, Face, Silence, Told
from diagnose.notices.config import Alerts

Explains = Callable[[str], frozenset[str]]
"""From a cause to the causes that are its echoes."""


def receivers_for(alert: Alert, config: Alerts, now: datetime) -> tuple[str, ...]:
    """Name the receivers that the routes lead to now."""
    if alert.only:
        return (alert.only,)
    if RANK[alert.severity] < RANK[config.severity]:
        return ()
    if not config.routes:
        return tuple(one.name for one in config.receivers)
    found: dict[str, None] = {}
    for route in config.routes:
        if not route.fits(cause=alert.cause, target=alert.target, severity=alert.severity):
            continue
        if route.hours and not route.hours.hold(now.astimezone(config.zone)):
            continue
        found |= dict.fromkeys(route.to)
        if not route.go_on:
            break
    return tuple(found)


Open = Mapping[str, Mapping[str, Alert]]
"""What is open, by target and cause: of several the first."""


def open_ones(alerts: Iterable[Alert]) -> Open:
    """Index what is open; drills keep nothing quiet."""
    found: dict[str, dict[str, Alert]] = {}
    for alert in alerts:
        if not alert.over and not alert.practice:
            same = found.setdefault(alert.target, {})
            first = same.get(alert.cause)
            if first is None or (alert.since, alert.id) < (first.since, first.id):
                same[alert.cause] = alert
    return found


def hushed(
    alert: Alert,
    there: Open,
    silences: Iterable[Silence],
    config: Alerts,
    explains: Explains,
    now: datetime,
) -> bool:
    """Say whether nobody is told of this incident now: a silence, maintenance, or an open cause covers it.

    Args:
        there: What is open.
    """
    if told_off(alert, silences, config, now):
        return True
    if alert.practice:
        return False
    return any(_inhibits(other, alert, config, explains) for other in _near(alert, there, config))


def told_off(alert: Alert, silences: Iterable[Silence], config: Alerts, now: datetime) -> bool:
    """Say whether people wished to hear nothing of this incident now: by a silence, or by maintenance."""
    return any(one.holds(now) and one.covers(alert) for one in silences) or any(
        one.fits(cause=alert.cause, target=alert.target, severity=alert.severity) and one.holds(now, config.zone)
        for one in config.maintenance
    )


def _near(alert: Alert, there: Open, config: Alerts) -> Iterable[Alert]:
    """Return the open incidents that may keep this one quiet: those of its server, of all where the site says so."""
    if any(one.same == "host" and alert.cause in one.quiet for one in config.inhibit):
        return [one for causes in there.values() for one in causes.values()]
    return there.get(alert.target, {}).values()


def _inhibits(cause: Alert, echo: Alert, config: Alerts, explains: Explains) -> bool:
    """Say whether an open incident keeps another one quiet.

    What is graver than its cause is told all the same; of two that explain each other the first is told.
    """
    same = cause.target == echo.target
    if cause.cause == echo.cause or RANK[cause.severity] < max(RANK[config.severity], RANK[echo.severity]):
        return False
    if same and echo.cause in explains(cause.cause):
        return cause.cause not in explains(echo.cause) or (cause.since, cause.id) < (echo.since, echo.id)
    return any(
        cause.cause in one.by and echo.cause in one.quiet and (same or one.same == "host") for one in config.inhibit
    )


def is_news(alert: Alert, told: Told | None) -> bool:
    """Say whether a receiver that was told so must be told now."""
    if told is None:
        return not alert.over
    if told.face is Face.RESOLVED:
        return False  # told of its end: it is over for that receiver
    changed = (told.face, told.cause, told.severity) != (alert.face, alert.cause, alert.severity)
    return changed and (alert.over or alert.ack is None or _is_worse(alert, told))


def _is_worse(alert: Alert, told: Told) -> bool:
    """Say whether it became worse since: an acknowledgement does not cover that."""
    return RANK[alert.severity] > RANK[told.severity] or (alert.face is Face.PERSON and told.face is not Face.PERSON)
