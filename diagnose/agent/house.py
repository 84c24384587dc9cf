"""The daemon, as its door knows it: what the API asks for, out of the mind, the senses and the journal."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from diagnose import journal, outbox
from diagnose.agent import given
from diagnose.agent.vitals import Tally
from diagnose.engine.policy import Policy
from diagnose.engine.state import State
from diagnose.errors import JournalError
from diagnose.model.effect import Answered
from diagnose.model.incident import Incident
from diagnose.model.knowledge import Knowledge
from diagnose.model.mark import Mark
from diagnose.model.observation import Order, OutputScored
from diagnose.model.text import Lang
from diagnose.notices.question import Ask, Said
from diagnose.outbox import Letterhead, Seen
from diagnose.web import standing
from diagnose.web.house import Flow, Vitals
from diagnose.web.standing import Status

if TYPE_CHECKING:
    from diagnose.agent.loop import Daemon


class House:
    """See `diagnose.web.house.House`.

    Where the journal cannot be read, what the mind has in memory is told.
    """

    def __init__(self, daemon: Daemon, folder: Path, tally: Tally) -> None:
        self._daemon, self._folder, self._tally = daemon, folder, tally

    @property
    def targets(self) -> Collection[str]:
        """The names of the supervised servers."""
        return self._daemon.sessions.keys()

    @property
    def state(self) -> State:
        """Where the mind stands."""
        return self._daemon.state

    @property
    def knowledge(self) -> Knowledge:
        """The rules in force."""
        return self._daemon.knowledge

    @property
    def policy(self) -> Policy:
        """What the operator allows."""
        return self._daemon.config.policy

    def vitals(self) -> Vitals:
        """What it counts of itself."""
        flows = {
            name: Flow(lines=logs.read_lines, bytes=logs.tail.read_bytes, behind_bytes=logs.tail.lag_bytes)
            for name, logs in ((name, one.logs) for name, one in self._daemon.sessions.items())
            if logs.tail
        }
        return Vitals(
            turns=self._daemon.pulse.turns(),
            opened=dict(self._tally.opened),
            remedies=dict(self._tally.remedies),
            flows=flows,
        )

    def incidents(self) -> Sequence[Incident]:
        """Return all that are known, over or not, the newest first."""
        known: dict[str, Incident] = {}
        with contextlib.suppress(JournalError):
            known = {one.id: one for one in journal.incidents(self._folder)}
        known |= self.state.incidents
        return sorted(known.values(), key=lambda one: one.last_seen, reverse=True)

    def status(self, lang: Lang) -> Status:
        """Say where everything stands."""
        state, kept = self.state, {}
        with contextlib.suppress(JournalError):
            kept = journal.kept(self._folder, "unused/")
        return standing.status(
            state,
            state.incidents.values(),
            self.told(),
            at=self._daemon.clock.now(),
            unused=given.unused_of(kept, state),
            knowledge=self.knowledge,
            lang=lang,
        )

    def told(self) -> Seen:
        """Say how the alert path stands."""
        seen, alerts = Seen(), self._daemon.alerts
        with contextlib.suppress(JournalError):
            seen = outbox.read(self._folder)
        if alerts is None:
            return seen
        waiting = {name: len(rows) for name, rows in alerts.outbox.rows.items()}
        return msgspec.structs.replace(seen, book=alerts.book, health=dict(alerts.outbox.health), waiting=waiting)

    def news(self, *, state: str, receiver: str, incident: str) -> Sequence[Letterhead]:
        """Say who was told what."""
        return outbox.posts(self._folder, state=state, receiver=receiver, incident=incident)

    def marks(self) -> Mapping[str, Mark]:
        """Return what people said of diagnoses, by incident."""
        with contextlib.suppress(JournalError):
            return journal.marks(self._folder)
        return {}

    def mark(self, incident: str, mark: Mark) -> None:
        """Write down what a person says of one.

        Raises:
            JournalError: It was not written.
        """
        self._daemon.journal.mark(incident, mark)

    async def obey(self, order: Order) -> Answered:
        """Put a person's order to the mind."""
        return await self._daemon.obey(order)

    def take(self, told: OutputScored) -> None:
        """Tell the mind of an answer that repeats itself."""
        self._daemon.take(told)

    async def ask(self, ask: Ask) -> Said:
        """Put a question to the alert path."""
        if self._daemon.alerts is None:
            return Said(ok=False, reason="no-alerts")
        return await self._daemon.alerts.ask(ask)
