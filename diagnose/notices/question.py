"""What people ask of the alert path, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from diagnose.model.rule import Severity


class AskSilence(msgspec.Struct, frozen=True, kw_only=True, tag="silence", forbid_unknown_fields=True):
    """Tell nobody of these, until a time or until they are over."""

    by: str
    why: str = ""
    until: datetime | None = None
    causes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    incident: str = ""


class AskUnsilence(msgspec.Struct, frozen=True, kw_only=True, tag="unsilence", forbid_unknown_fields=True):
    """End a silence."""

    by: str
    id: str


class AskAck(msgspec.Struct, frozen=True, kw_only=True, tag="ack", forbid_unknown_fields=True):
    """A person looks after an incident."""

    by: str
    incident: str


class AskResend(msgspec.Struct, frozen=True, kw_only=True, tag="resend", forbid_unknown_fields=True):
    """Send again what was put aside: of one receiver, or of all."""

    by: str
    receiver: str = ""


class AskDrill(msgspec.Struct, frozen=True, kw_only=True, tag="drill", forbid_unknown_fields=True):
    """Tell of a practice incident.

    Attributes:
        seconds: When it ends.
        receiver: Only this one; all that routes name where it is empty.
    """

    by: str
    cause: str
    target: str
    severity: Severity = Severity.CRITICAL
    seconds: float = 10.0
    receiver: str = ""


Ask = AskSilence | AskUnsilence | AskAck | AskResend | AskDrill


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    Attributes:
        reason: A key of `diagnose.notices.asks.ANSWERS`.
        id: Of what was made: a silence, a drill's incident.
    """

    ok: bool
    reason: str
    params: Mapping[str, str] = {}
    id: str = ""
