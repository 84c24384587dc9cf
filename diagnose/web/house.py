"""What the API asks of the daemon that it is the door of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from diagnose.engine.policy import Policy
from diagnose.engine.state import State
from diagnose.model.effect import Answered
from diagnose.model.incident import Incident
from diagnose.model.knowledge import Knowledge
from diagnose.model.mark import Mark
from diagnose.model.observation import Order, OutputScored
from diagnose.model.text import Lang
from diagnose.notices.question import Ask, Said
from diagnose.outbox import Letterhead, Seen
from diagnose.web.standing import Status


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """How far the logs of one server were read, since the daemon began; ``behind`` is on disk and not yet read."""

    lines: int
    bytes: int
    behind_bytes: int


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon's loop turned, since it began.

    Attributes:
        ago: Seconds since the last turn; ``None`` before the first.
        counts: Turns by the longest that they took in seconds, each with those that were quicker; the last is all.
        seconds: All of them together.
    """

    ago: float | None
    counts: tuple[tuple[float, int], ...]
    seconds: float


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon counts of itself.

    Attributes:
        opened: Incidents since it began, by target, cause and severity.
        remedies: Remedies that came to an end since then, by target, remedy and how it ended.
        flows: By target.
    """

    turns: Turns
    opened: Mapping[tuple[str, str, str], int]
    remedies: Mapping[tuple[str, str, str], int]
    flows: Mapping[str, Flow]


class House(Protocol):
    """The daemon, as its door knows it. What is not async may block, and is asked in threads."""

    @property
    def targets(self) -> Collection[str]:
        """The names of the supervised servers."""
        ...

    @property
    def state(self) -> State:
        """Where the mind stands."""
        ...

    @property
    def knowledge(self) -> Knowledge:
        """The rules in force."""
        ...

    @property
    def policy(self) -> Policy:
        """What the operator allows."""
        ...

    def vitals(self) -> Vitals:
        """What it counts of itself."""
        ...

    def incidents(self) -> Sequence[Incident]:
        """Return all that are known, over or not, the newest first."""
        ...

    def status(self, lang: Lang) -> Status:
        """Say where everything stands."""
        ...

    def told(self) -> Seen:
        """Say how the alert path stands."""
        ...

    def news(self, *, state: str, receiver: str, incident: str) -> Sequence[Letterhead]:
        """Say who was told what."""
        ...

    def marks(self) -> Mapping[str, Mark]:
        """Return what people said of diagnoses, by incident."""
        ...

    def mark(self, incident: str, mark: Mark) -> None:
        """Write down what a person says of one.

        Raises:
            JournalError: It was not written.
        """
        ...

    async def obey(self, order: Order) -> Answered:
        """Put a person's order to the mind."""
        ...

    def take(self, told: OutputScored) -> None:
        """Tell the mind of an answer that repeats itself; from the loop's own thread."""
        ...

    async def ask(self, ask: Ask) -> Said:
        """Put a question to the alert path."""
        ...
