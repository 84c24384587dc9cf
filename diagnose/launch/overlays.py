"""What remedies laid over the operator's command: the command itself is never edited."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from diagnose.launch.spec import set_flag, spelling, value
from diagnose.launch.table import canonical
from diagnose.model.launch import LaunchSpec, Overlay


def effective(desired: LaunchSpec, overlays: Iterable[Overlay], accepted: Collection[str] = ()) -> LaunchSpec:
    """Return the command with all overlays, oldest first; what the server does not accept is not written.

    Args:
        accepted: As in `diagnose.launch.spec.spelling`.

    Raises:
        ConfigError: The command starts no FastDeploy server.
    """
    spec = desired
    for overlay in overlays:
        if overlay.after is None or writable(overlay.flag, accepted):
            spec = set_flag(spec, overlay.flag, overlay.after, accepted)
    return spec


def writable(flag: str, accepted: Collection[str] = ()) -> bool:
    """Say whether the server takes a flag, in whichever spelling; where that is not known: yes."""
    return not accepted or spelling(flag, accepted) in accepted


def lay(
    desired: LaunchSpec,
    overlays: tuple[Overlay, ...],
    changes: Mapping[str, str | None],
    *,
    incident_id: str,
    at: datetime,
) -> tuple[Overlay, ...]:
    """Return the overlays with these changes on top; what changes nothing is left out.

    Args:
        changes: Flag to value, as in `diagnose.model.remedy.FlagSet`.

    Raises:
        ConfigError: The command starts no FastDeploy server.
    """
    for flag, after in changes.items():
        before = value(effective(desired, overlays), flag)
        if before != after:
            new = Overlay(flag=canonical(flag), before=before, after=after, incident_id=incident_id, at=at)
            overlays = (*overlays, new)
    return overlays


def drop(overlays: Iterable[Overlay], incident_id: str | None = None) -> tuple[Overlay, ...]:
    """Return the overlays without those of one incident, or none at all where none is named."""
    return () if incident_id is None else tuple(one for one in overlays if one.incident_id != incident_id)
