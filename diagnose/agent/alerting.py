"""The daemon's alert path: each turn of the mind is one of it, too; couriers work beside the loop."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import anyio
import httpx

from diagnose.engine.state import State
from diagnose.errors import JournalError
from diagnose.journal import Also, Journal
from diagnose.model.effect import Effect
from diagnose.model.incident import Incident
from diagnose.model.knowledge import Knowledge
from diagnose.notices import asks, decide
from diagnose.notices.book import Book
from diagnose.notices.config import Alerts, Receiver
from diagnose.notices.decide import World
from diagnose.notices.post import Post
from diagnose.notices.question import Ask, AskAck, AskDrill, AskResend, AskSilence, AskUnsilence, Said
from diagnose.outbox import Outbox
from diagnose.ports import Clock
from diagnose.receivers.courier import Courier
from diagnose.receivers.letter import Sender
from diagnose.receivers.make import Blocking

_LAST_WORDS_S = 3.0

BookAsk = AskSilence | AskUnsilence | AskAck | AskDrill
"""What a turn answers, since it changes the book."""


class _Asked:
    """One who asks, and waits."""

    def __init__(self, ask: BookAsk) -> None:
        self.ask = ask
        self.said: Said | None = None
        self.given = anyio.Event()


Senders = Mapping[str, Sender | Blocking]


class Alerting:
    """Decides whom to tell, in the turn that has the news, and sees that they are told.

    Args:
        targets: Names of the supervised servers.
        senders: As `make.senders` makes them of the configuration.

    Raises:
        JournalError: The outbox cannot be read.
    """

    def __init__(
        self, config: Alerts, senders: Senders, book_of: Journal, *, targets: Iterable[str], clock: Clock
    ) -> None:
        self.config, self.clock, self.targets = config, clock, tuple(targets)
        self.host = config.host or socket.gethostname()
        self.outbox = Outbox(book_of, senders, clock.now())
        self.book = self._kept = self.outbox.book()
        self._asked: list[_Asked] = []
        self._answered: list[_Asked] = []
        self._posts: list[Post] = []
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells whole URLs, and those are secrets
        self._senders = senders
        self._couriers: dict[str, Courier] = {}
        self._changed = anyio.Event()

    def use(self, config: Alerts, senders: Senders) -> None:
        """Tell by these from the next turn on; what waits goes on to wait, for receivers that are still there."""
        self.config, self._senders = config, senders
        self.host = config.host or socket.gethostname()
        self.outbox.join(senders)
        self.book = self.book.changed(self.clock.now())
        self._changed.set()

    def begin(self, state: State, knowledge: Knowledge) -> None:
        """Catch up with what happened while nobody told."""
        world = self._world(state.incidents, knowledge)
        self.book = decide.begun(self.book, state.incidents.values(), world, self.clock.now())

    def turn(self, effects: Sequence[Effect], state: State, knowledge: Knowledge, now: datetime) -> Also | None:
        """Decide; return what has to be written in the turn's transaction. Then call `written`."""
        world = self._world(state.incidents, knowledge)
        book, first = decide.heard(self.book, effects, world, now)
        book = self._obey(book, world, now)
        self.book, then = decide.turn(book, world, now)
        self._posts = [*first, *then]
        return self.outbox.saving(self._kept, self.book, self._posts)

    def written(self, *, ok: bool) -> None:
        """Let what was decided happen, whether or not it could be written: a broken disk keeps nobody quiet."""
        if ok:
            self._kept = self.book
        for name in self.outbox.take(self._posts, kept=ok):
            if courier := self._couriers.get(name):
                courier.wake()
        self._posts = []
        for one in self._answered:
            one.given.set()
        self._answered = []

    async def ask(self, ask: Ask) -> Said:
        """Do what a person asks, at the next turn; it is in the journal when this returns."""
        if isinstance(ask, AskResend):
            return self._resend(ask)
        asked = _Asked(ask)
        self._asked.append(asked)
        while asked.said is None:
            await asked.given.wait()
        return asked.said

    async def run(self) -> None:
        """Bring messages until cancelled."""
        async with httpx.AsyncClient() as client, anyio.create_task_group() as tasks:
            while True:
                self._changed = anyio.Event()
                before, self._couriers = self._couriers, {}
                for one in self.config.receivers:
                    courier = self._couriers[one.name] = self._courier(one, client)
                    tasks.start_soon(_succeed, courier, before.pop(one.name, None))
                for name, gone in before.items():
                    tasks.start_soon(self._dismiss, name, gone)
                await self._changed.wait()

    def _courier(self, receiver: Receiver, client: httpx.AsyncClient) -> Courier:
        return Courier(
            receiver,
            self._senders[receiver.name],
            self.outbox,
            self.config,
            client=client,
            now=self.clock.now,
            chance=random.random,
        )

    async def _dismiss(self, name: str, courier: Courier) -> None:
        """Let a receiver go that the configuration has no more, once what is under way to it has arrived."""
        await courier.finish()
        if name not in self._couriers:
            self.outbox.leave(name, self.clock.now())

    async def finish(self) -> None:
        """Begin no more messages, and wait a little for those under way: cut short they would be sent twice."""
        with anyio.move_on_after(_LAST_WORDS_S):
            for courier in self._couriers.values():
                await courier.finish()

    def prune(self, now: datetime) -> None:
        """Forget what was told long ago."""
        self.outbox.prune(now - self.config.keep)

    def _world(self, incidents: Mapping[str, Incident], knowledge: Knowledge) -> World:
        def find(name: str) -> Incident | None:
            return incidents.get(name) or self.outbox.incident(name)

        return World(config=self.config, knowledge=knowledge, host=self.host, find=find)

    def _obey(self, book: Book, world: World, now: datetime) -> Book:
        asked, self._asked = self._asked, []
        for one in asked:
            book, one.said = self._said(book, one.ask, world, now)
        self._answered = asked
        return book

    def _said(self, book: Book, ask: BookAsk, world: World, now: datetime) -> tuple[Book, Said]:
        if isinstance(ask, AskSilence):
            strange = [one for one in ask.targets if one not in self.targets]
            return (book, self._no_target(strange[0])) if strange else asks.silence(book, ask, now)
        if isinstance(ask, AskAck):
            return asks.ack(book, ask, now)
        if isinstance(ask, AskDrill):
            if ask.target not in self.targets:
                return book, self._no_target(ask.target)
            return asks.drill(book, ask, world, now)
        return asks.unsilence(book, ask, now)

    def _no_target(self, name: str) -> Said:
        return Said(ok=False, reason="no-target", params={"name": name, "names": ", ".join(self.targets)})

    def _resend(self, ask: AskResend) -> Said:
        names = [one.name for one in self.config.receivers]
        if ask.receiver and ask.receiver not in names:
            return Said(ok=False, reason="no-receiver", params={"name": ask.receiver, "names": ", ".join(names)})
        try:
            count = self.outbox.resend(ask.receiver)
        except JournalError as error:
            return Said(ok=False, reason="not-written", params={"error": str(error)})
        for courier in self._couriers.values():
            courier.wake()
        return Said(ok=count > 0, reason="resend" if count else "nothing-to-resend", params={"count": str(count)})


async def _succeed(courier: Courier, before: Courier | None) -> None:
    """Bring messages once the one who did so by an earlier configuration has brought his last."""
    if before:
        await before.finish()
    await courier.run()
