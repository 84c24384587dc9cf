"""Cures: a ladder of rungs over a closed set of actions. The YAML of ``remedies/`` decodes into these."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Literal

import msgspec

from diagnose.model.text import Duration, Text


class Mode(str, Enum):
    """How much may be done without a person; what holds is the lowest of all that have a say."""

    OBSERVE = "observe"
    SUGGEST = "suggest"
    APPROVE = "approve"
    AUTO = "auto"

    @property
    def rank(self) -> int:
        """0 for observe to 3 for auto."""
        return list(Mode).index(self)


class Risk(str, Enum):
    """What a remedy costs the users."""

    HARMLESS = "harmless"
    DISRUPTIVE = "disruptive"
    DEGRADING = "degrading"
    DESTRUCTIVE = "destructive"

    @property
    def rank(self) -> int:
        """0 for harmless to 3 for destructive."""
        return list(Risk).index(self)


class _Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action"):
    """One call to a hand."""

    timeout: Duration = Duration(minutes=15)


class ServerRestart(_Step, frozen=True, kw_only=True, tag="server.restart"):
    """Stop the whole tree, wait until its GPU memory is free, start the effective command.

    Attributes:
        drain: How long requests in flight may take before the stop.
    """

    drain: Duration = Duration(0)


class FlagSet(_Step, frozen=True, kw_only=True, tag="flag.set"):
    """Lay values over flags. ``null`` takes a flag out, ``""`` sets a switch."""

    set: Mapping[str, str | None]


class FlagScale(_Step, frozen=True, kw_only=True, tag="flag.scale"):
    """Multiply a number flag, within bounds; coupled limits are kept."""

    flag: str
    factor: float
    least: float
    most: float


class FlagFit(_Step, frozen=True, kw_only=True, tag="flag.fit"):
    """Ask ``capacity`` for the smallest change that fits the measured memory.

    Attributes:
        allow: Flags that may change, gentlest first.
    """

    allow: tuple[str, ...]


class IpcClean(_Step, frozen=True, kw_only=True, tag="ipc.clean"):
    """Remove the shared memory and sockets that this instance left behind, and no other's."""


class EvidenceKeep(_Step, frozen=True, kw_only=True, tag="evidence.keep"):
    """Copy the ends of all logs and the state of the processes aside before they change."""


class OperatorCommand(_Step, frozen=True, kw_only=True, tag="operator.command"):
    """Run a program of this site's.

    Attributes:
        command: Its name under ``commands:`` in the configuration; never the program itself.
    """

    command: str


class Advice(_Step, frozen=True, kw_only=True, tag="advice"):
    """A step for a person: what to do, and the exact command."""

    text: Text
    command: str = ""


Step = ServerRestart | FlagSet | FlagScale | FlagFit | IpcClean | EvidenceKeep | OperatorCommand | Advice


class Rung(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps that are tried together."""

    rung: Text
    steps: tuple[Step, ...]


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most ``limit`` tries in ``per``."""

    limit: int = 3
    per: Duration = Duration(minutes=15)


class Verify(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Well again: ready and a completion answered, for ``holds_for``, all ``within``."""

    holds_for: Duration = Duration(minutes=2)
    within: Duration = Duration(minutes=20)


class RemedyTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test inside a remedy: this command, on this card, must change so.

    Attributes:
        rung: Which rung, from 1.
        expect: Changes in order, as ``--flag before -> after``; ``-`` for not given.
    """

    name: str
    command: str
    rung: int = 1
    cause: str = ""
    labels: Mapping[str, str] = {}
    model: str = ""
    gpu_memory: str = ""
    expect: tuple[str, ...] = ()


class Remedy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a cause is cured, gentlest first.

    Attributes:
        cures: Causes (classes) that it helps against.
        expects: Causes that it provokes itself while it runs: no news.
        mode: The most autonomy that this remedy may have; a site can lower it.
    """

    id: str
    title: Text
    why: Text
    cures: tuple[str, ...]
    ladder: tuple[Rung, ...]
    risk: Risk
    mode: Mode = Mode.AUTO
    cooldown: Duration = Duration(seconds=30)
    budget: Budget = Budget()
    expects: tuple[str, ...] = ()
    verify: Verify = Verify()
    tests: tuple[RemedyTest, ...] = ()
    status: Literal["experimental", "stable", "deprecated"] = "stable"

    def __post_init__(self) -> None:
        if not self.ladder:
            raise ValueError("a remedy needs a ladder of at least one rung")
