"""The daemon: poll, step, write down, act; over and over. It owns the order of things, and nothing else."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from diagnose.agent.config import Config
from diagnose.agent.reload import Reload
from diagnose.agent.session import Session
from diagnose.engine.match import Matcher
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.engine.targets import Target
from diagnose.engine.window import forget_changed
from diagnose.errors import JournalError
from diagnose.journal import Also, Journal, Turn
from diagnose.model import codec
from diagnose.model.effect import Answered, Effect, Perform
from diagnose.model.incident import Intent
from diagnose.model.incident import State as Stands
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import Observation, Order, Outcome, SourceSilent, StepResult
from diagnose.ports import Clock

if TYPE_CHECKING:
    from diagnose.agent.alerting import Alerting  # a daemon that tells nobody need not load it

_BUSY, _IDLE = 0.01, 0.1
_THINK_EVERY = timedelta(milliseconds=500)
_PRUNE_EVERY = timedelta(hours=1)

Watcher = Callable[[State, Sequence[Effect]], None]


Door = Callable[["Daemon"], Awaitable[None]]


class _Answer:
    """What one who asks waits for."""

    def __init__(self) -> None:
        self._given = anyio.Event()
        self._answer: Answered | None = None

    def give(self, answer: Answered) -> None:
        self._answer = answer
        self._given.set()

    async def get(self) -> Answered:
        while self._answer is None:
            await self._given.wait()
        return self._answer


class Daemon:
    """Looks after its targets until it is told to stop; then the servers go on without it.

    Args:
        watcher: Is shown each turn that had effects, after it was written down.
        stop_servers: End the servers, too, when the daemon ends.
        reload: Brings changed rules into force.
        door: Lets in what people ask for, and what gateways tell, until cancelled.
        alerts: Tells people; ``None`` where there is nobody to tell.
    """

    def __init__(
        self,
        *,
        config: Config,
        knowledge: Knowledge,
        journal: Journal,
        sessions: Mapping[str, Session],
        clock: Clock,
        watcher: Watcher = lambda _state, _effects: None,
        stop_servers: bool = False,
        reload: Reload | None = None,
        door: Door | None = None,
        alerts: Alerting | None = None,
    ) -> None:
        self.config, self.knowledge, self.journal = config, knowledge, journal
        self.sessions, self.clock, self.watcher = sessions, clock, watcher
        self.stop_servers, self.reload, self.door, self.alerts = stop_servers, reload, door, alerts
        self.state = journal.state()
        self._inbox: list[Observation] = []
        self._answers: dict[str, _Answer] = {}
        self._stop = anyio.Event()
        self._thought: datetime | None = None
        self._pruned: datetime | None = None
        self._journal_silent = False

    def stop(self) -> None:
        """Ask the daemon to end after this turn."""
        self._stop.set()

    async def run(self) -> None:
        """Begin all targets and look after them, until `stop`, SIGINT or SIGTERM.

        Raises:
            DiagnoseError: A target can neither be found nor started.
        """
        kept = self.journal.kept()
        self.journal.keep("policy", codec.encode(self.config.policy))
        for name, session in self.sessions.items():
            cut_short = [one for one in self.state.intents.values() if one.target == name]
            session.begin(self.state.targets.get(name, Target(name=name)), kept, cut_short)
            self._inbox += [session.recover(intent) for intent in cut_short]
        async with anyio.create_task_group() as tasks:
            for session in self.sessions.values():
                tasks.start_soon(self._probe, session)
                tasks.start_soon(self._measure, session)
            tasks.start_soon(self._obey_signals)
            if self.reload:
                tasks.start_soon(self.reload.watch, self)
            if self.door:
                tasks.start_soon(self._open_door, self.door)
            if self.alerts:
                self.alerts.begin(self.state, self.knowledge)
                tasks.start_soon(self.alerts.run)
            async with anyio.create_task_group() as hands:  # its end waits for what is being done
                while not self._stop.is_set():
                    self._turn(hands)
                    busy = any(session.busy for session in self.sessions.values())
                    with anyio.move_on_after(_BUSY if busy else _IDLE):
                        await self._stop.wait()
            if self.stop_servers:
                for session in self.sessions.values():
                    await anyio.to_thread.run_sync(session.stop_server)
                self._turn(tasks)
            if self.alerts:
                await self.alerts.finish()
            tasks.cancel_scope.cancel()

    async def obey(self, order: Order) -> Answered:
        """Put a person's order to the mind, and return what became of it; it is in the journal then."""
        waiting = self._answers[order.id] = _Answer()
        self._inbox.append(msgspec.structs.replace(order, at=self.clock.now()))
        try:
            return await waiting.get()
        finally:
            del self._answers[order.id]

    def take(self, told: Observation) -> None:
        """Put what somebody outside observed to the mind."""
        self._inbox.append(told)

    async def _open_door(self, door: Door) -> None:
        try:
            await door(self)
        except OSError as error:
            self.tell_silent("api", f"orders of people cannot be taken: {error}. See to the state folder, and restart.")

    def use(self, knowledge: Knowledge, matcher: Matcher) -> None:
        """Judge by these rules from the next turn on."""
        windows = forget_changed(self.state.windows, self.knowledge, knowledge)
        self.state = msgspec.structs.replace(self.state, windows=windows)
        self.knowledge = knowledge
        for session in self.sessions.values():
            session.use(matcher)

    def tell_silent(self, source: str, reason: str) -> None:
        """Tell each target of a sense that cannot see."""
        now = self.clock.now()
        self._inbox += [SourceSilent(target=name, at=now, source=source, reason=reason) for name in self.sessions]

    async def _obey_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.stop()

    def _turn(self, hands: anyio.abc.TaskGroup) -> None:
        now = self.clock.now()
        observations, self._inbox = self._inbox, []
        for name, session in self.sessions.items():
            observations = [*session.poll(now, starting=self._watchful(name)), *observations]
        if not observations and self._thought and now - self._thought < _THINK_EVERY:
            return
        self._thought = now
        state, effects = step(self.state, observations, knowledge=self.knowledge, policy=self.config.policy, now=now)
        kept = {name: value for one in self.sessions.values() for name, value in one.kept().items()}
        turn = Turn(at=now, observations=tuple(observations), effects=effects)
        also = self.alerts.turn(effects, state, self.knowledge, now) if self.alerts else None
        written = self._write(turn, state, kept, also)
        self.state = state
        if self.alerts:
            self.alerts.written(ok=written)
        if effects:
            with contextlib.suppress(OSError):  # who watches may have gone, or its disk be full
                self.watcher(state, effects)
        for effect in effects:
            if isinstance(effect, Perform) and written:
                hands.start_soon(self._perform, effect.intent)
            elif isinstance(effect, Perform):
                self._inbox.append(_not_written(effect.intent, now))
            elif isinstance(effect, Answered) and effect.order_id in self._answers:
                self._answers[effect.order_id].give(effect)
        self._prune(now)

    def _write(self, turn: Turn, state: State, kept: Mapping[str, bytes], also: Also | None = None) -> bool:
        """Write the turn down. A disk that is full or broken is told once; the daemon goes on in memory."""
        if not (turn.observations or turn.effects or kept or also):
            return True
        try:
            self.journal.record(turn, state, kept, also)
        except JournalError as error:
            if not self._journal_silent:
                self._inbox += [
                    SourceSilent(target=name, at=turn.at, source="journal", reason=str(error)) for name in self.sessions
                ]
            self._journal_silent = True
            return False
        self._journal_silent = False
        return True

    async def _perform(self, intent: Intent) -> None:
        session = self.sessions[intent.target]
        outcome = await anyio.to_thread.run_sync(session.perform, intent)
        self._inbox.append(outcome)

    async def _probe(self, session: Session) -> None:
        """Ask the server over HTTP, often while it starts or is being proven, seldom while it serves."""
        probes = self.config.probes
        asked: datetime | None = None
        while True:
            result = await session.ask_health()
            self._tell(result)
            now = self.clock.now()
            watchful = self._watchful(session.name)
            due = asked is None or now - asked >= probes.completion_every or watchful
            if result and result.answer == "ok" and due:
                asked = now
                self._tell(await session.ask_completion())
            pause = probes.starting_every if self._watchful(session.name) else probes.health_every
            await anyio.sleep(pause.total_seconds())

    async def _measure(self, session: Session) -> None:
        """Ask a ready server for its own numbers."""
        while True:
            target = self.state.targets.get(session.name)
            if target is not None and target.phase in {"ready", "degraded"}:
                told = await session.ask_metrics()
                self._inbox += told
            await anyio.sleep(self.config.probes.metrics_every.total_seconds())

    def _tell(self, result: Observation | None) -> None:
        if result is not None:
            self._inbox.append(result)

    def _watchful(self, name: str) -> bool:
        """Whether this target is to be looked at closely: it starts, is unwell, or a remedy is on trial."""
        target = self.state.targets.get(name)
        if target is None or target.phase in {"starting", "degraded"}:
            return True
        on_trial = {Stands.ACTING, Stands.VERIFYING}
        return any(one.target == name and one.state in on_trial for one in self.state.incidents.values())

    def _prune(self, now: datetime) -> None:
        if self._pruned is None or now - self._pruned >= _PRUNE_EVERY:
            self._pruned = now
            self.journal.prune(now - self.config.keep_turns)
            if self.alerts:
                self.alerts.prune(now)


def _not_written(intent: Intent, now: datetime) -> Outcome:
    """What cannot be written down is not done: after a crash nobody would know of it."""
    text = "not done: the intent could not be written to the journal. Make room on its disk."
    result = StepResult(action="journal", ok=False, text=text)
    return Outcome(target=intent.target, at=now, intent_id=intent.id, ok=False, results=(result,))
