"""The life of a trouble, from its first finding to proven cure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum

import msgspec

from diagnose.model.finding import Finding
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.remedy import ServerRestart, Step
from diagnose.model.rule import Severity
from diagnose.model.surroundings import Comparison
from diagnose.model.text import Text


class State(str, Enum):
    """Where an incident stands; the arrows are the table in ``engine/incidents.py``."""

    PENDING = "pending"
    OPEN = "open"
    ACTING = "acting"
    VERIFYING = "verifying"
    RESOLVED = "resolved"
    EXHAUSTED = "exhausted"
    HISTORY = "history"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened in an incident's life. ``report/texts.py`` puts it into words.

    Attributes:
        kind: A key of that table, e.g. ``opened``, ``cause``, ``plan``, ``acting``, ``resolved``.
        params: What the sentence names.
    """

    at: datetime
    kind: str
    params: Mapping[str, str] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a rung would do here and now; touching nothing.

    Attributes:
        before: The effective command now.
        after: The effective command with this plan.
        changes: Overlays that it adds.
        overlays: All overlays after it.
        arithmetic: The sums that chose the values, one line each.
    """

    remedy_id: str
    rung: int
    title: Text
    steps: tuple[Step, ...]
    before: LaunchSpec
    after: LaunchSpec
    changes: tuple[Overlay, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    arithmetic: tuple[Text, ...] = ()

    @property
    def restarts(self) -> bool:
        """Whether it interrupts the service."""
        return any(isinstance(step, ServerRestart) for step in self.steps)


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that is being carried out; written down before the act."""

    id: str
    incident_id: str
    target: str
    generation: int
    at: datetime
    plan: Plan
    undo: bool = False


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One intent of an incident and how it ended.

    Attributes:
        result: ``running``, ``failed``, ``kept``, ``rolled-back`` or ``interrupted``.
    """

    intent_id: str
    remedy_id: str
    rung: int
    at: datetime
    result: str = "running"
    changes: tuple[str, ...] = ()


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """A person's yes to one plan; to another plan it says nothing.

    Attributes:
        forced: Whatever the mode, the brakes of caution and the budgets say.
    """

    by: str
    remedy_id: str
    rung: int
    changes: tuple[str, ...]
    until: datetime
    forced: bool = False


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One trouble of one target: the root cause, its echoes, and all that was done.

    Attributes:
        cause: Class of the root cause.
        rule_id: The rule that named it.
        findings: All findings, root cause first.
        attempt: The start of the server in which it was seen last.
        held: Why nothing is done now, if so: a key of ``HoldReason`` and its detail.
        compared: How a start that failed differs from the last healthy one; ``None`` where the start became
            ready, or nobody looked.
        consent: The last yes of a person to a plan.
        rejected: Remedies that a person will not have for this incident.
    """

    id: str
    target: str
    cause: str
    rule_id: str
    severity: Severity
    confidence: float
    state: State
    attempt: int
    first_seen: datetime
    last_seen: datetime
    findings: tuple[Finding, ...]
    timeline: tuple[Entry, ...] = ()
    tries: tuple[Try, ...] = ()
    plan: Plan | None = None
    held: str = ""
    compared: Comparison | None = None
    consent: Consent | None = None
    rejected: tuple[str, ...] = ()
