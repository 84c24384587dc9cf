"""Brings what waits to one receiver, one message at a time; what fails is tried again, what is refused is kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import anyio
import anyio.to_thread
import httpx

from diagnose.errors import ConfigError
from diagnose.notices import pack
from diagnose.notices.config import Alerts, Receiver
from diagnose.notices.pack import Batch
from diagnose.outbox import DEAD, SENT, WAITING, Outbox
from diagnose.receivers import letter
from diagnose.receivers.letter import Sender
from diagnose.receivers.make import Blocking
from diagnose.receivers.outcome import Outcome
from diagnose.receivers.secrets import hidden

_STRANGE_TRIES = 4
_BARRED_PAUSE = timedelta(seconds=30)
_SLOW_ANSWER_S = 2.0
_LONGEST = timedelta(hours=2)


class Courier:
    """Serves one receiver.

    Args:
        now: The present.
        chance: A number from 0 to 1, each time another.
    """

    def __init__(
        self,
        receiver: Receiver,
        sender: Sender | Blocking,
        outbox: Outbox,
        alerts: Alerts,
        *,
        client: httpx.AsyncClient,
        now: Callable[[], datetime],
        chance: Callable[[], float],
    ) -> None:
        self.receiver, self.sender, self.outbox, self.alerts = receiver, sender, outbox, alerts
        self.client, self.now, self.chance = client, now, chance
        self._news = anyio.Event()
        self._last = False
        self._free = anyio.Lock()

    def wake(self) -> None:
        """Say that something new waits."""
        self._news.set()

    async def run(self) -> None:
        """Bring messages until cancelled, or `finish` was called."""
        while not self._last:
            self._news = anyio.Event()
            picked = self._pick()
            if isinstance(picked, Batch):
                async with self._free:
                    if self._last:
                        return
                    await self._bring(picked)
                continue
            wait = (picked - self.now()).total_seconds() if picked else float("inf")
            with anyio.move_on_after(max(wait, 0.001)):
                await self._news.wait()

    async def finish(self) -> None:
        """Begin no more messages, and wait for the one under way."""
        self._last = True
        self.wake()
        async with self._free:
            pass

    def _pick(self) -> Batch | datetime | None:
        name, now = self.receiver.name, self.now()
        health = self.outbox.health[name]
        waits = health.next is not None and now < health.next <= now + _LONGEST  # a clock may have been put back
        if waits and self.outbox.rows[name]:
            return health.next
        return pack.pick(self.outbox.rows[name], health.used, self.receiver, now)

    async def _bring(self, batch: Batch) -> None:
        health = pack.tried(self.outbox.health[self.receiver.name], self.now())
        self.outbox.trying(batch.rows, health, keep=self.receiver.vendors_limit)
        outcome = await self._send(batch)
        self._settle(batch, outcome)

    async def _send(self, batch: Batch) -> Outcome:
        """Send; words are put together in a thread, since a storm has many of them."""
        now, sender = self.now(), self.sender
        seconds = self.receiver.timeout.total_seconds()
        try:
            if isinstance(sender, Blocking):
                return await anyio.to_thread.run_sync(sender.send_now, batch, now)
            written = await anyio.to_thread.run_sync(sender.compose, batch, now)
            with anyio.move_on_after(seconds + _SLOW_ANSWER_S):  # httpx's own limit is for each piece of an answer
                return await letter.send(self.client, written, sender, seconds)
        except ConfigError as error:
            return Outcome(kind="barred", error=str(error))
        except Exception as error:  # noqa: BLE001 - one message, or a strange answer to it, must not end all others
            return Outcome(kind="strange", error=hidden(f"{type(error).__name__}: {error}", [])[:300])
        return Outcome(kind="later", error=f"no whole answer within {seconds + _SLOW_ANSWER_S:g} s")

    def _settle(self, batch: Batch, outcome: Outcome) -> None:
        now, health = self.now(), self.outbox.health[self.receiver.name]
        if outcome.kind == "sent":
            self.outbox.settle(batch.rows, SENT, pack.well(health, now, outcome.note), now)
            return
        hopeless = outcome.kind == "refused" or (
            outcome.kind == "strange" and min(row.tries for row in batch.rows) >= _STRANGE_TRIES
        )
        wait = self._pause(outcome, health.tries + 1)
        failed = pack.unwell(health, now, outcome.error, timedelta(0) if outcome.kind == "refused" else wait)
        young = [row for row in batch.rows if not hopeless and now - row.post.at < self.alerts.give_up_after]
        kept = set(young)
        if old := [row for row in batch.rows if row not in kept]:
            self.outbox.settle(old, DEAD, failed, now, outcome.error)
        if young:
            self.outbox.settle(young, WAITING, failed, now, outcome.error)

    def _pause(self, outcome: Outcome, tries: int) -> timedelta:
        retry = self.alerts.retry
        first = max(retry.first, min(_BARRED_PAUSE, retry.most)) if outcome.kind == "barred" else retry.first
        own = pack.pause(tries, first, retry.most, self.chance())
        return max(own, outcome.wait) if outcome.wait is not None else own
