"""The alert path by itself: a journal, the decisions, the couriers, and a loop that turns them as the daemon does."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path

import anyio
import msgspec

from diagnose.agent.alerting import Alerting
from diagnose.engine.state import State
from diagnose.journal import Journal, Turn
from diagnose.model import codec
from diagnose.model.effect import SaveIncident
from diagnose.model.incident import State as Stands
from diagnose.notices.config import Alerts
from diagnose.receivers import make
from diagnose.testing import finding, incident, knowledge, remedy, rule

KNOWN = knowledge(rule(), remedy())
QUICK = {
    "host": "gpu-07",
    "group_wait": "50ms",
    "group_interval": "50ms",
    "retry": {"first": "20ms", "most": "100ms"},
}


class Clock:
    def now(self):
        return datetime.now(timezone.utc)


def alerts(*receivers, **more):
    return codec.convert({**QUICK, "receivers": list(receivers), **more}, Alerts)


def trouble(name, cause="gpu_oom_load", *, state=Stands.OPEN, proof="", severity=None, target="default"):
    now = datetime.now(timezone.utc)
    more = {"severity": severity} if severity else {}
    found = finding(cause=cause, at=now, target=target, **({"proof": [proof]} if proof else {}), **more)
    return incident(found, id=name, state=state)


class AlertPath:
    """What a test does to it."""

    def __init__(self, alerting, book, pause):
        self.alerting, self.book, self.pause = alerting, book, pause
        self.state, self._effects = book.state(), []

    def save(self, *incidents):
        """Say that incidents are new or changed."""
        self._effects += [SaveIncident(incident=one) for one in incidents]

    def end(self, one):
        self.save(msgspec.structs.replace(one, state=Stands.RESOLVED))

    def turn(self):
        now = datetime.now(timezone.utc)
        effects, self._effects = tuple(self._effects), []
        saved = {one.incident.id: one.incident for one in effects if isinstance(one, SaveIncident)}
        known = {**self.state.incidents, **saved}
        self.state = State(incidents=known)
        also = self.alerting.turn(effects, self.state, KNOWN, now)
        self.book.record(Turn(at=now, observations=(), effects=effects), self.state, {}, also)
        self.alerting.written(ok=True)

    async def turns(self):
        while True:
            self.turn()
            await anyio.sleep(self.pause)

    async def until(self, true, what="it", seconds=10):
        with anyio.move_on_after(seconds):
            while not true():  # noqa: ASYNC110 - what is waited for tells nobody
                await anyio.sleep(0.01)
            return
        raise AssertionError(f"not within {seconds} s: {what}")

    @property
    def waiting(self):
        return sum(len(rows) for rows in self.alerting.outbox.rows.values())


def live(folder: Path, config, script, *, pause=0.01):
    """Live one life of the alert path, in a folder."""

    async def life():
        book = Journal(folder)
        with contextlib.closing(book):
            alerting = Alerting(config, make.senders(config), book, targets=["default"], clock=Clock())
            path = AlertPath(alerting, book, pause)
            async with anyio.create_task_group() as tasks:
                alerting.begin(path.state, KNOWN)
                tasks.start_soon(alerting.run)
                tasks.start_soon(path.turns)
                await script(path)
                await alerting.finish()
                tasks.cancel_scope.cancel()

    anyio.run(life)
