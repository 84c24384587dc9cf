"""The daemon: poll, step, write down, act; over and over. It owns the order of things, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from diagnose.agent import memory
from diagnose.agent.config import Config, governed
from diagnose.agent.guard import Guard, reason_of
from diagnose.agent.manager import Manager
from diagnose.agent.reload import CONFIG, Reload
from diagnose.agent.session import Session
from diagnose.agent.vitals import HELD_UP, Pulse
from diagnose.engine.match import Matcher
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.engine.targets import Target
from diagnose.engine.window import forget_changed
from diagnose.errors import ControllerError, JournalError, UnitDownError
from diagnose.journal import Also, Journal, Turn
from diagnose.model import codec
from diagnose.model.effect import Answered, Effect, Perform
from diagnose.model.incident import Intent
from diagnose.model.incident import State as Stands
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import Observation, Order, Outcome, ProbeResult, StepResult
from diagnose.ports import Clock

if TYPE_CHECKING:
    from diagnose.agent.alerting import Alerting  # a daemon that tells nobody need not load it

_PAUSES = (0.008, 0.008, 0.04, 0.2)
"""Seconds between two turns after none, one, two, and more turns without news: who writes lines pauses, too."""

_SPOILT_MOST = 3
"""Questions in a row that may be spoilt by that before it is told."""

_LOOK_AT_CONSOLE = 10.0
_THINK_EVERY = timedelta(milliseconds=500)
_PRUNE_EVERY = timedelta(hours=1)
_ENDING = timedelta(seconds=90)
"""How long the end of a server takes at most, after its grace: what is killed, and its GPU memory."""

_RESTART = "Restart the daemon (systemctl restart diagnose); the servers serve on."
_NOT_WRITTEN = "not done: the intent could not be written to the journal. Make room on its disk."
"""What cannot be written down is not done: after a crash nobody would know of it."""

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
        manager: Is told that the daemon is ready, and that its loop turns.
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
        manager: Manager | None = None,
    ) -> None:
        self.config, self.knowledge, self.journal = config, knowledge, journal
        self.sessions, self.clock, self.watcher = sessions, clock, watcher
        self.stop_servers, self.reload, self.door, self.alerts = stop_servers, reload, door, alerts
        self.manager = manager or Manager()
        self.state = journal.state()
        self.pulse = Pulse()
        self._inbox: list[Observation] = []
        self._answers: dict[str, _Answer] = {}
        self._stopping = False
        self._late: list[str] = []
        self._thought: datetime | None = None
        self._pruned: datetime | None = None
        self._guard = Guard(sessions, clock)
        self._guards = [self._guard]
        self._journal_silent = False
        self._tasks: anyio.abc.TaskGroup

    def stop(self) -> None:
        """Ask the daemon to end after this turn."""
        self._stopping = True

    async def run(self) -> None:
        """Begin all targets and look after them, until `stop`, SIGINT or SIGTERM.

        Raises:
            DiagnoseError: A target can neither be found nor started.
        """
        self._keep_policy()
        self._begin(self.journal.kept())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._obey_signals)
            self._keep_at_work(tasks)
            async with anyio.create_task_group() as hands:  # its end waits for what is being done
                await self._take_turns(hands)
                self.manager.stopping(self.config.grace + _ENDING if self.stop_servers else None)
            if self.stop_servers:
                for session in self.sessions.values():
                    await anyio.to_thread.run_sync(session.stop_server)
                self._turn(tasks)
            if self.alerts:
                await self.alerts.finish()
            tasks.cancel_scope.cancel()

    def _keep_policy(self) -> None:
        """Let commands that read the journal know by what is judged."""
        with contextlib.suppress(JournalError):  # a full disk is told of by the next turn
            self.journal.keep("policy", codec.encode(self.config.policy))

    async def _take_turns(self, hands: anyio.abc.TaskGroup) -> None:
        quiet = 0
        while not self._stopping:
            with self.pulse.beat():
                self._turn(hands)
            self.manager.turned(self.state)
            quiet = 0 if any(session.logs.busy for session in self.sessions.values()) else quiet + 1
            await anyio.sleep(_PAUSES[min(quiet, len(_PAUSES) - 1)])

    def _begin(self, kept: Mapping[str, bytes]) -> None:
        """Find or start all servers."""
        for name, session in self.sessions.items():
            self.manager.extend(self.config.grace + _ENDING)
            cut_short = [one for one in self.state.intents.values() if one.target == name]
            try:
                session.begin(self.state.targets.get(name, Target(name=name)), kept, cut_short)
            except UnitDownError:
                self._late.append(name)  # its unit runs no server now: why, is to be found out, and it may yet
            except OSError as error:
                raise ControllerError(
                    f"{name}: it cannot be told whether a server runs: {error}. Free descriptors (ulimit -n), memory "
                    "or disk of this host, and start again."
                ) from error
            self._inbox += [session.recover(intent) for intent in cut_short]

    def _keep_at_work(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start all that works beside the turns; what ends there is started again."""
        for name, session in self.sessions.items():
            own = Guard([name], self.clock)
            self._guards.append(own)
            if name in self._late:
                tasks.start_soon(own.keep, "server", partial(self._begin_late, session, self.journal.kept()))
            tasks.start_soon(own.keep, "probes", partial(self._probe, session))
            tasks.start_soon(own.keep, "metrics", partial(self._measure, session))
            tasks.start_soon(own.keep, "console", partial(self._bound_console, session))
        tasks.start_soon(self._guard.keep, "memory", memory.keep_small)
        if self.reload:
            tasks.start_soon(self._guard.keep, "rules", partial(self.reload.watch, self))
        if self.door:
            tasks.start_soon(self._guard.keep, "api", partial(self.door, self))
        self._tasks = tasks
        if self.alerts:
            self.tell_by(self.alerts)

    def tell_by(self, alerts: Alerting) -> None:
        """Tell people by this from the next turn on."""
        self.alerts = alerts
        alerts.begin(self.state, self.knowledge)
        self._tasks.start_soon(self._guard.keep, "alerts", alerts.run)

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

    def use(self, knowledge: Knowledge, matcher: Matcher) -> None:
        """Judge by these rules from the next turn on."""
        windows = forget_changed(self.state.windows, self.knowledge, knowledge)
        self.state = msgspec.structs.replace(self.state, windows=windows)
        self.knowledge = knowledge
        for session in self.sessions.values():
            session.logs.use(matcher)

    def govern(self, config: Config) -> None:
        """Go by this from the next turn on; what takes a restart stays as it is, and is told of."""
        self.config, waits = governed(self.config, config)
        self._keep_policy()
        if waits:
            self.tell_silent(CONFIG, f"changed, and not in force yet: {', '.join(waits)}. {_RESTART}")
        else:
            self.tell_sees(CONFIG)

    def tell_silent(self, source: str, reason: str) -> None:
        """Tell each target of a sense that cannot see."""
        self._inbox += self._guard.silent(source, reason, self.clock.now())

    def tell_sees(self, source: str) -> None:
        """Tell each target that this sense can see again."""
        self._inbox += self._guard.sees(source, self.clock.now())

    async def _begin_late(self, session: Session, kept: Mapping[str, bytes]) -> None:
        """Start a unit that ran no server when we began; told, and tried again, by who keeps this at work.

        Raises:
            ControllerError: It still runs none.
        """
        await anyio.to_thread.run_sync(session.start_unit)
        session.begin(self.state.targets.get(session.name, Target(name=session.name)), kept)
        await anyio.sleep_forever()

    async def _obey_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.stop()

    def _turn(self, hands: anyio.abc.TaskGroup) -> None:
        now = self.clock.now()
        observations, self._inbox = self._inbox, []
        observations += [one for guard in self._guards for one in guard.news(now)]
        for name, session in self.sessions.items():
            observations = [*session.poll(now, starting=self._watchful(name)), *observations]
        if not observations and self._thought and now - self._thought < _THINK_EVERY:
            return
        self._thought = now
        state, effects = self._step(observations, now)
        kept = {name: value for one in self.sessions.values() for name, value in one.kept().items()}
        turn = Turn(at=now, observations=tuple(observations), effects=effects)
        also = self._told(effects, state, now)
        written = self._write(turn, state, kept, also)
        self.state = state
        if self.alerts:
            self.alerts.written(ok=written)
        if effects:
            self._show(state, effects, now)
        for effect in effects:
            if isinstance(effect, Perform) and written:
                hands.start_soon(self._perform, effect.intent)
            elif isinstance(effect, Perform):
                self._inbox.append(_not_done(effect.intent, now, _NOT_WRITTEN))
            elif isinstance(effect, Answered) and effect.order_id in self._answers:
                self._answers[effect.order_id].give(effect)
        self._prune(now)

    def _step(self, observations: Sequence[Observation], now: datetime) -> tuple[State, tuple[Effect, ...]]:
        """Think; what the mind breaks on is passed over, and told."""
        policy, knowledge = self.config.policy, self.knowledge
        try:
            return step(self.state, observations, knowledge=knowledge, policy=policy, now=now)
        except Exception as error:  # noqa: BLE001 - one strange observation must not end the watch over all
            self._inbox += self._guard.broke("mind", error, now)
        state = self.state
        effects: list[Effect] = []
        for one in observations:
            with contextlib.suppress(Exception):  # it was told
                state, more = step(state, [one], knowledge=knowledge, policy=policy, now=now)
                effects += more
        return state, tuple(effects)

    def _told(self, effects: Sequence[Effect], state: State, now: datetime) -> Also | None:
        """Decide whom to tell; return what has to be written for it."""
        try:
            return self.alerts.turn(effects, state, self.knowledge, now) if self.alerts else None
        except Exception as error:  # noqa: BLE001 - nobody to tell is no reason not to cure
            self._inbox += self._guard.broke("alerts", error, now)
            return None

    def _show(self, state: State, effects: Sequence[Effect], now: datetime) -> None:
        try:
            self.watcher(state, effects)
        except OSError:
            return  # who watches has gone, or its disk is full
        except Exception as error:  # noqa: BLE001 - a screen that breaks is no reason not to cure
            self._inbox += self._guard.broke("screen", error, now)

    def _write(self, turn: Turn, state: State, kept: Mapping[str, bytes], also: Also | None = None) -> bool:
        """Write the turn down. A disk that is full or broken is told once; the daemon goes on in memory."""
        if not (turn.observations or turn.effects or kept or also):
            return True
        try:
            self.journal.record(turn, state, kept, also)
        except JournalError as error:
            if not self._journal_silent:
                self.tell_silent("journal", str(error))
            self._journal_silent = True
            return False
        if self._journal_silent:
            self.tell_sees("journal")
        self._journal_silent = False
        for notice in self.journal.notices:
            self._inbox += [
                *self._guard.silent("journal", notice, turn.at, "renewed"),
                *self._guard.sees("journal", turn.at),
            ]
        self.journal.notices.clear()
        return True

    async def _perform(self, intent: Intent) -> None:
        try:
            outcome = await anyio.to_thread.run_sync(self.sessions[intent.target].perform, intent)
        except Exception as error:  # noqa: BLE001 - no thread can be had: then nothing was done
            outcome = _not_done(intent, self.clock.now(), f"not done: {reason_of(error)}")
        self._inbox.append(outcome)

    async def _probe(self, session: Session) -> None:
        """Ask the server over HTTP, often while it starts or is being proven, seldom while it serves."""
        probes = self.config.probes
        asked: datetime | None = None
        while True:
            result = await self._unspoilt(session.asking.health)
            self._tell(result)
            now = self.clock.now()
            watchful = self._watchful(session.name)
            due = asked is None or now - asked >= probes.completion_every or watchful
            if result and result.answer == "ok" and due:
                asked = now
                self._tell(await self._unspoilt(session.asking.completion))
            pause = probes.starting_every if self._watchful(session.name) else probes.health_every
            await anyio.sleep(pause.total_seconds())

    async def _measure(self, session: Session) -> None:
        """Ask a ready server for its own numbers."""
        while True:
            target = self.state.targets.get(session.name)
            if target is not None and target.phase in {"ready", "degraded"}:
                began = anyio.current_time()
                told = await session.asking.metrics()
                self._inbox += [] if self.pulse.held_up(began) else told
            await anyio.sleep(self.config.probes.metrics_every.total_seconds())

    @staticmethod
    async def _bound_console(session: Session) -> None:
        """Keep what the server writes to its terminal from filling the disk."""
        while True:
            await anyio.sleep(_LOOK_AT_CONSOLE)
            await anyio.to_thread.run_sync(session.server.bound_console)

    async def _unspoilt(self, ask: Callable[[], Awaitable[ProbeResult | None]]) -> ProbeResult | None:
        """Ask; where no good answer came while the daemon itself was held up, that says nothing about the server.

        Raises:
            OSError: It is so again and again.
        """
        for _ in range(_SPOILT_MOST):
            began = anyio.current_time()
            result = await ask()
            if result is None or result.answer == "ok" or not self.pulse.held_up(began):
                return result
            await anyio.sleep(HELD_UP / 2)  # so that the loop comes to its turns meanwhile
        raise TimeoutError(errno.ETIMEDOUT, "the daemon is held up itself: no answer can be waited for in time")

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


def _not_done(intent: Intent, now: datetime, why: str) -> Outcome:
    result = StepResult(action="daemon", ok=False, text=why)
    return Outcome(target=intent.target, at=now, intent_id=intent.id, ok=False, results=(result,))
