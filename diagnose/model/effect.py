"""What the mind wants done: values, carried out by the shell after they are written down."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from diagnose.model.incident import Incident, Intent


class SaveIncident(msgspec.Struct, frozen=True, kw_only=True, tag="incident"):
    """An incident is new or has changed."""

    incident: Incident


class Perform(msgspec.Struct, frozen=True, kw_only=True, tag="perform"):
    """Carry out an intent; the answer is an `Outcome`."""

    intent: Intent


class PhaseChanged(msgspec.Struct, frozen=True, kw_only=True, tag="phase"):
    """The server went from one phase to another.

    Attributes:
        phase: ``stopped``, ``starting``, ``ready``, ``degraded``, ``stopping`` or ``failed``.
        stage: Within ``starting``: ``launching``, ``loading`` ...; from log marks, a hint only.
    """

    target: str
    at: datetime
    phase: str
    reason: str
    stage: str = ""


class KnownGood(msgspec.Struct, frozen=True, kw_only=True, tag="good"):
    """The present settings have stood well for long: a rollback goes back to them."""

    target: str
    at: datetime


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag="answered"):
    """What became of a person's order.

    Attributes:
        reason: A key of the report's texts.
        params: What its sentence names.
    """

    target: str
    at: datetime
    order_id: str
    ok: bool
    reason: str
    params: Mapping[str, str] = {}


Effect = SaveIncident | Perform | PhaseChanged | KnownGood | Answered
