"""What the alert path remembers: of each incident who was told what, and what people said of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum

import msgspec

from diagnose.model.incident import Incident, State
from diagnose.model.rule import Severity

RANK = {severity: severity.rank for severity in Severity}
"""How grave each is; a storm asks often."""


class Face(str, Enum):
    """How an incident looks to one who is told of it; nothing but a new face is news."""

    OPEN = "open"
    TREATED = "treated"
    PERSON = "person"
    RESOLVED = "resolved"


_FACES = {
    State.PENDING: Face.OPEN,
    State.OPEN: Face.OPEN,
    State.ACTING: Face.TREATED,
    State.VERIFYING: Face.TREATED,
    State.EXHAUSTED: Face.PERSON,
    State.RESOLVED: Face.RESOLVED,
    State.HISTORY: Face.RESOLVED,
}


def face_of(incident: Incident) -> Face:
    """Tell the face of an incident: one that waits for a yes needs a person as much as one that nothing cured."""
    if incident.state is State.OPEN and incident.held in {"approve", "needs-approval"}:
        return Face.PERSON
    return _FACES[incident.state]


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a receiver was told last of an incident.

    Attributes:
        labels: By which it was told; an end must name the same ones.
        times: How often it was told.
    """

    at: datetime
    face: Face
    severity: Severity
    cause: str
    labels: Mapping[str, str] = {}
    times: int = 1


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """A person looks after it: no reminders, and nothing but what is worse, or the end, is told."""

    by: str
    at: datetime


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One incident, as the alert path sees it.

    Attributes:
        key: The same for all its life, for all receivers, over restarts.
        since: When it was first heard of here.
        told: By receiver.
        treated: A remedy was tried: that is told even where it helped before anybody was told of the trouble.
        groups: The group in which a receiver was told, by receiver: it stays in that.
        acks: To whom the acknowledgement was told.
        practice: The incident of a drill; real ones are in the journal.
        until: When a drill ends.
        only: The one receiver that a drill is for; all that routes name where empty.
    """

    id: str
    key: str
    target: str
    cause: str
    severity: Severity
    face: Face
    since: datetime
    changed: datetime
    treated: bool = False
    told: Mapping[str, Told] = {}
    groups: Mapping[str, str] = {}
    ack: Ack | None = None
    acks: tuple[str, ...] = ()
    practice: Incident | None = None
    until: datetime | None = None
    only: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.face is Face.RESOLVED


def alert_of(incident: Incident, host: str, now: datetime) -> Alert:
    """Begin to follow an incident."""
    return Alert(
        id=incident.id,
        key=f"diagnose/{host}/{incident.target}/{incident.id}",
        target=incident.target,
        cause=incident.cause,
        severity=incident.severity,
        face=face_of(incident),
        since=now,
        changed=now,
    )


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one receiver is told together.

    Attributes:
        due: When its next notice goes out; ``None`` while there is no news.
        last: When the last one did.
    """

    due: datetime | None = None
    last: datetime | None = None


class Silence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person knows: these are not told, until then.

    Attributes:
        until: A time; ``None``: until none of them is open any more.
    """

    id: str
    by: str
    at: datetime
    why: str = ""
    until: datetime | None = None
    causes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    incident: str = ""

    @property
    def names(self) -> str:
        """What it names: causes, servers, an incident; empty where it covers everything."""
        return ", ".join((*self.causes, *self.targets, *([self.incident] if self.incident else ())))

    def holds(self, now: datetime) -> bool:
        """Say whether its time is not over."""
        return self.until is None or self.until > now

    def covers(self, alert: Alert) -> bool:
        """Say whether an incident is one of these."""
        return (
            (not self.causes or alert.cause in self.causes)
            and (not self.targets or alert.target in self.targets)
            and (not self.incident or alert.id == self.incident)
        )


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """All that is remembered.

    Attributes:
        alerts: By the incident's id.
        groups: By receiver and group, ``oncall/default/gpu_oom_load``.
        silences: By id.
        look: When there is something to do next, if nothing happens before. This and the rest are not kept.
        scan: When all alerts are to be looked at next; ``None``: at once.
        dirty: Those that changed or have news that waits: until then no other is looked at.
    """

    alerts: Mapping[str, Alert] = {}
    groups: Mapping[str, Group] = {}
    silences: Mapping[str, Silence] = {}
    look: datetime | None = None
    scan: datetime | None = None
    dirty: frozenset[str] = frozenset()

    def changed(
        self, now: datetime, *, alerts: Mapping[str, Alert] | None = None, silences: Mapping[str, Silence] | None = None
    ) -> Book:
        """Return it with other alerts or silences, all of it to be looked at now."""
        return msgspec.structs.replace(
            self,
            alerts=self.alerts if alerts is None else alerts,
            silences=self.silences if silences is None else silences,
            look=now,
            scan=None,
        )
