"""A simulated host: servers that fail by rule, clocks that are off, hands that slip, a daemon that dies.

Nothing here asks the engine what it thinks: the world knows the truth, tells what senses would tell of it, obeys
what the mind wants, and writes down all of it for `tests.scenarios.world_checks`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import msgspec

from diagnose.engine.policy import Policy
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.launch.overlays import effective
from diagnose.launch.spec import occurrences
from diagnose.model import codec
from diagnose.model.effect import Effect, Perform, SaveIncident
from diagnose.model.incident import Incident, Intent
from diagnose.model.knowledge import Knowledge
from diagnose.model.launch import LaunchSpec, ModelShape
from diagnose.model.observation import (
    RECOVERED,
    GpuSample,
    LogMatch,
    Observation,
    Order,
    Outcome,
    ProbeResult,
    ProcessExit,
    ProcessSample,
    ServerFacts,
    ServerStarted,
    StepResult,
)
from diagnose.model.remedy import Mode, ServerRestart
from diagnose.model.text import Duration
from tests.scenarios import world_lines

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
GIB = 1 << 30
LOAD_SECONDS = 20
SENSE_SECONDS = 5
FLAGS = (
    "--model",
    "--port",
    "--max-model-len",
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--gpu-memory-utilization",
    "--graph-optimization-config",
    "--quantization",
    "--early-stop-config",
    "--max-concurrency",
)
SHAPE = ModelShape(
    name="ERNIE-4.5-0.3B",
    layers=18,
    heads=16,
    kv_heads=2,
    head_dim=128,
    hidden=1024,
    intermediate=3072,
    vocab=103424,
)
COMMAND = (
    "python",
    "-m",
    "fastdeploy.entrypoints.openai.api_server",
    "--model",
    "/models/m",
    "--port",
    "8180",
    "--max-model-len",
    "32768",
    "--max-num-seqs",
    "128",
)


@dataclass
class Fault:
    """What is wrong with a server.

    Attributes:
        kind: A name of `STARTS` (the start fails) or `SERVES` (it fails after ``after`` seconds of serving).
        times: How many starts it spoils; all where it is large.
        cure: A flag and the value with which it is gone, whatever ``times`` says; empty where no setting helps.
    """

    kind: str
    times: int = 1
    cure: tuple[str, str] | None = None
    after: float = 60

    def strikes(self, argv: Sequence[str]) -> bool:
        """Say whether this start is spoilt."""
        if self.times <= 0:
            return False
        return self.cure is None or not _at_most({one.name: one.value for one in occurrences(tuple(argv))}, self.cure)


def _at_most(flags: dict[str, str], cure: tuple[str, str]) -> bool:
    name, value = cure
    if name not in flags:
        return False
    try:
        return float(flags[name]) <= float(value)
    except ValueError:
        return flags[name] == value


@dataclass
class Server:
    """The truth about one server."""

    name: str
    desired: LaunchSpec
    spec: LaunchSpec
    generation: int = 0
    pid: int = 0
    alive: bool = False
    serving: bool = False
    sick: str = ""
    moving: bool = True
    workers: int = 0
    log_bytes: int = 0
    lines: int = 0
    faults: list[Fault] = field(default_factory=list)
    down_at: datetime | None = None
    served_with: set[tuple[str, ...]] = field(default_factory=set)


@dataclass(frozen=True)
class Turn:
    """One turn of the mind, for the checks and for living it again."""

    at: datetime
    observations: tuple[Observation, ...]
    effects: tuple[Effect, ...]
    policy: Policy
    state: State


class World:
    """Everything that is not the mind.

    Args:
        skew: How far the clocks of logs are off.
    """

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        targets: Sequence[str] = ("t",),
        command: Sequence[str] = COMMAND,
        skew: timedelta = timedelta(0),
        knowledge: Knowledge | None = None,
    ) -> None:
        self.policy = policy or Policy(mode=Mode.AUTO)
        self.knowledge = knowledge or world_lines.knowledge()
        self.state, self.now = State(), NOON
        self.skew = skew
        self.turns: list[Turn] = []
        self.outcomes: list[Outcome] = []
        self.daemons = 1
        self.orders: list[Order] = []
        self.bad_hands: list[str] = []
        self.deaf = False
        self._agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self._count = 0
        self._news: list[Observation] = []
        self.servers: dict[str, Server] = {}
        for name in targets:
            spec = LaunchSpec(argv=tuple(command), cwd="/srv")
            self.servers[name] = Server(name=name, desired=spec, spec=spec)

    # --- time

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (self.now + timedelta(seconds=seconds), self._count, do))

    def wait(self, seconds: float, *, tick: float = SENSE_SECONDS) -> None:
        """Let time pass: what is due happens, senses look, the mind takes its turns."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            upto = min(end, self.now + timedelta(seconds=tick))
            while self._agenda and self._agenda[0][0] <= upto:
                at, _, do = heapq.heappop(self._agenda)
                self.now = max(self.now, at)
                do()
                if self._news:
                    self.think()
            self.now = upto
            for server in self.servers.values():
                self._sense(server)
            self.think()

    def think(self) -> None:
        """One turn of the mind with all that is new; what it wants is begun."""
        if self.deaf:
            return
        observations, self._news = tuple(self._news), []
        before = self.state
        self.state, effects = step(before, observations, knowledge=self.knowledge, policy=self.policy, now=self.now)
        if observations or effects:
            self.turns.append(Turn(self.now, observations, effects, self.policy, self.state))
        for effect in effects:
            if isinstance(effect, Perform):
                self._perform(effect.intent)

    def tell(self, *observations: Observation) -> None:
        self._news += observations

    # --- a server's life

    def start(self, name: str, spec: LaunchSpec | None = None) -> None:
        """Start a server with its effective command, by whoever does it."""
        server = self.servers[name]
        server.spec = spec or server.spec
        server.generation += 1
        server.pid = 100 * server.generation
        server.alive, server.serving, server.sick, server.moving = True, False, "", True
        server.workers, server.log_bytes = 1, 1
        self.tell(
            ServerStarted(
                target=name,
                at=self.now,
                generation=server.generation,
                pid=server.pid,
                how="spawned",
                spec=server.spec,
                desired=server.desired,
            ),
            self._card(server),
        )
        if server.generation == 1:
            self.tell(
                ServerFacts(target=name, at=self.now, version="2.6", flags=FLAGS, flags_from="table", model=SHAPE)
            )
        self.write(name, "start")
        self._live(server)

    def _live(self, server: Server) -> None:
        """Lay down how this start goes."""
        fault = next((one for one in server.faults if one.strikes(server.spec.argv)), None)
        when = self._when(server)
        when(5, lambda: self.write(server.name, "loading"))
        if fault and fault.kind in STARTS:
            fault.times -= 1
            STARTS[fault.kind](self, server, when)
            return
        when(12, lambda: self.write(server.name, "kv-cache"))
        when(LOAD_SECONDS, lambda: self._up(server))
        if fault:
            self.strike(server, fault, LOAD_SECONDS + fault.after)

    def strike(self, server: Server, fault: Fault, seconds: float) -> None:
        """Let a fault come over this start once it serves, after so many seconds."""
        fault.times -= 1
        when = self._when(server)
        when(seconds, lambda: SERVES[fault.kind](self, server, when))

    def _when(self, server: Server) -> When:
        """Return what does a thing later, if this start of the server still lives then."""
        generation = server.generation

        def when(seconds: float, do: Callable[[], None]) -> None:
            self.later(seconds, lambda: do() if server.alive and server.generation == generation else None)

        return when

    def _up(self, server: Server) -> None:
        self.write(server.name, "up")
        server.serving = True
        server.served_with.add(server.spec.argv)

    def ends(self, name: str, code: int | None, *, worker: bool = False, expected: bool = False) -> None:
        """End the main process, or one worker of it."""
        server = self.servers[name]
        if not server.alive:
            return
        if worker:
            server.workers = 0
        else:
            server.alive = server.serving = False
            server.down_at = self.now
        role = "worker" if worker else "main"
        self.tell(
            ProcessExit(
                target=name,
                at=self.now,
                generation=server.generation,
                role=role,
                pid=server.pid + worker,
                code=code,
                expected=expected,
            )
        )

    def write(self, name: str, what: str, *, fresh: bool = True, attempt: int | None = None) -> None:
        """Write lines; they are read at once."""
        server = self.servers[name]
        server.lines += 10
        server.log_bytes += 100
        lines = world_lines.said(
            what,
            target=name,
            at=self.now,
            line=server.lines,
            attempt=attempt if attempt is not None else max(server.generation, 1),
            skew=self.skew,
            fresh=fresh,
        )
        self.tell(*lines)

    # --- senses

    def _sense(self, server: Server) -> None:
        if self.deaf or not server.generation:
            return
        if server.alive:
            if server.moving:
                server.log_bytes += 10
            self.tell(
                ProcessSample(
                    target=server.name,
                    at=self.now,
                    generation=server.generation,
                    alive=True,
                    workers=server.workers,
                    cpu_seconds=0.0,
                    rss_bytes=GIB,
                    log_bytes=server.log_bytes,
                )
            )
        health = "ok" if server.serving else "refused"
        if server.sick in {"unhealthy", "timeout"} and server.serving:
            health = "unhealthy" if server.sick == "unhealthy" else "ok"
        self._answer(server, "health", health)
        if health == "ok":
            self._answer(server, "completion", "ok" if not server.sick else server.sick)

    def _answer(self, server: Server, probe: str, answer: str) -> None:
        self.tell(
            ProbeResult(
                target=server.name,
                at=self.now,
                generation=server.generation,
                probe=probe,  # type: ignore[arg-type]
                answer=answer,  # type: ignore[arg-type]
                status=404 if answer == "unhealthy" else 200 if answer == "ok" else None,
                seconds=0.5,
                tokens=8 if probe == "completion" and answer == "ok" else 0,
            )
        )

    def _card(self, server: Server) -> GpuSample:
        return GpuSample(
            target=server.name,
            at=self.now,
            index=0,
            name="Card",
            total_bytes=24 * GIB,
            used_bytes=0,
            own_bytes=0,
        )

    # --- hands

    def _perform(self, intent: Intent) -> None:
        """Do as the hands do, in their time; ``bad_hands`` says where the next acts fail.

        ``stop``: the old server cannot be ended; ``start``: no new one can be started; ``after``: it runs, but the
        act is told to have failed; ``slow``: it takes minutes.
        """
        restart = any(isinstance(one, ServerRestart) for one in intent.plan.steps)
        slip = self.bad_hands.pop(0) if self.bad_hands else ""
        server = self.servers[intent.target]
        slow = 120.0 if slip == "slow" else 0.0
        if not restart:
            self.later(1, self._by_daemon(lambda: self._done(intent, ok=slip in {"", "slow"})))
            return
        if slip == "stop":
            self.later(3, self._by_daemon(lambda: self._done(intent, ok=False)))
            return
        self.later(3 + slow, self._by_daemon(lambda: self.ends(server.name, 0, expected=True)))
        if slip == "start":
            self.later(5 + slow, self._by_daemon(lambda: self._done(intent, ok=False)))
            return
        self.later(8 + slow, self._by_daemon(lambda: self.start(server.name, intent.plan.after)))
        self.later(9 + slow, self._by_daemon(lambda: self._done(intent, ok=slip in {"", "slow"})))

    def _by_daemon(self, do: Callable[[], None]) -> Callable[[], None]:
        """What a daemon's hands do is not done when that daemon has died meanwhile."""
        daemon = self.daemons
        return lambda: do() if self.daemons == daemon else None

    def _done(self, intent: Intent, *, ok: bool, recovered: bool = False) -> None:
        action = RECOVERED if recovered else "server.restart"
        result = StepResult(action=action, ok=ok, text="done" if ok else "it did not work")
        outcome = Outcome(target=intent.target, at=self.now, intent_id=intent.id, ok=ok, results=(result,))
        self.outcomes.append(outcome)
        self.tell(outcome)

    # --- the daemon and its people

    def kill_daemon(self, seconds: float = 10, command: Sequence[str] = ()) -> None:
        """Kill the daemon and start it again: its memory is what was written down.

        Args:
            command: What the operator starts it with now, where that is another command.
        """
        self.daemons += 1
        self.deaf, self._news = True, []
        self.wait(seconds)
        self.deaf = False
        self._news = [one for one in self._news if isinstance(one, LogMatch)]
        self.state = codec.decode(codec.encode(self.state), State)
        for server in self.servers.values():
            cut_short = [one for one in self.state.intents.values() if one.target == server.name]
            self._begin(server, cut_short, command)

    def _begin(self, server: Server, cut_short: Sequence[Intent], command: Sequence[str]) -> None:
        """Take over the server that runs, or start the command (as `diagnose.agent.session.Session.begin`)."""
        target = self.state.targets.get(server.name)
        if server.alive:
            self.tell(
                ServerStarted(
                    target=server.name,
                    at=self.now,
                    generation=server.generation,
                    pid=server.pid,
                    how="adopted",
                    spec=server.spec,
                    desired=server.desired,
                )
            )
        else:
            spec = server.desired
            if command:
                server.desired = spec = msgspec.structs.replace(server.desired, argv=tuple(command))
            overlays = ()
            if target and target.desired == server.desired:
                restarts = [
                    one.plan for one in cut_short if any(isinstance(step_, ServerRestart) for step_ in one.plan.steps)
                ]
                overlays = restarts[-1].overlays if restarts else target.overlays
            self.start(server.name, effective(spec, overlays))
        for intent in cut_short:
            done = server.generation > intent.generation and server.spec.argv == intent.plan.after.argv
            self._done(intent, ok=done, recovered=True)
        self.think()

    def order(self, kind: str, name: str, incident: str = "") -> None:
        """Let a person ask for something."""
        order = Order(
            target=name,
            at=self.now,
            id=f"order-{len(self.orders)}",
            kind=kind,  # type: ignore[arg-type]
            by="a person",
            incident=incident,
        )
        self.orders.append(order)
        self.tell(order)
        self.think()

    # --- what is seen from outside

    @property
    def performs(self) -> list[tuple[Turn, Intent]]:
        return [(turn, one.intent) for turn in self.turns for one in turn.effects if isinstance(one, Perform)]

    @property
    def saved(self) -> list[tuple[Turn, Incident]]:
        return [(turn, one.incident) for turn in self.turns for one in turn.effects if isinstance(one, SaveIncident)]

    @property
    def incidents(self) -> dict[str, Incident]:
        """Every incident ever told of, as told last."""
        return {one.id: one for _, one in self.saved}


# --- what can be wrong

When = Callable[[float, Callable[[], None]], None]
Script = Callable[[World, Server, When], None]


def _fails(*whats: str, code: int | None = 1, worker: int | None = 1) -> Script:
    """Make a failure: these lines, a worker's end, then the end of the main process."""

    def play(world: World, server: Server, when: When) -> None:
        for place, what in enumerate(whats):
            when(6 + place, lambda what=what: world.write(server.name, what))
        if worker is not None:
            when(7 + len(whats), lambda: world.ends(server.name, worker, worker=True))
        when(9 + len(whats), lambda: world.ends(server.name, code))

    return play


def _hangs(*, workers: int, what: str = "") -> Script:
    def play(world: World, server: Server, when: When) -> None:
        def hang() -> None:
            server.moving, server.workers = False, workers
            if what:
                world.write(server.name, what)

        when(10, hang)

    return play


def _sickens(how: str, *, back: float = 0) -> Script:
    """Make a server that no longer answers; by itself well again after ``back`` seconds."""

    def play(world: World, server: Server, when: When) -> None:
        del world

        def heal() -> None:
            server.sick = ""

        server.sick = how
        if back:
            when(back, heal)

    return play


def _says(*whats: str) -> Script:
    def play(world: World, server: Server, when: When) -> None:
        for place, what in enumerate(whats):
            when(place, lambda what=what: world.write(server.name, what))

    return play


STARTS: dict[str, Script] = {
    "oom-weights": _fails("oom-weights", "container", "launch-failed", code=0),
    "oom-capture": _fails("oom-capture", "launch-failed"),
    "kv-small": _fails("kv-small", "launch-failed", code=0),
    "no-weight": _fails("no-weight", "launch-failed", code=0),
    "port-taken": _fails("port-taken", worker=None),
    "driver-old": _fails("driver-old", "launch-failed"),
    "crash-start": _fails("segfault", "container", code=1, worker=-11),
    "exit-0": _fails(code=0, worker=None),
    "exit-1": _fails(code=1, worker=None),
    "exit-unknown": _fails(code=None, worker=None),
    "exit-77": _fails(code=77, worker=None),
    "exit-term": _fails(code=-15, worker=None),
    "nccl": _fails("nccl", "launch-failed"),
    "hang": _hangs(workers=1),
    "hang-dead": _hangs(workers=0),
    "hang-oom": _hangs(workers=0, what="oom-weights"),
}
SERVES: dict[str, Script] = {
    "oom-serving": _fails("oom-serving", "worker-died"),
    "crash": _fails("segfault", "worker-died", worker=-11),
    "illegal": _fails("illegal", "worker-died"),
    "killed": _fails(code=-9, worker=-9),
    "disk-full": _fails("disk-full", code=1, worker=None),
    "silent-end": _fails(code=0, worker=None),
    "term": _fails(code=-15, worker=None),
    "unhealthy": _sickens("unhealthy"),
    "timeout": _sickens("timeout"),
    "blip": _sickens("timeout", back=40),
    "oom-lives": _says("oom-serving", "oom-serving", "oom-serving"),
}


def fast(**changes: object) -> Policy:
    """Make a policy that proves soon."""
    return Policy(
        **{
            "mode": Mode.AUTO,
            "holds_for": Duration(seconds=60),
            "within": Duration(minutes=5),
            "stable_after": Duration(minutes=5),
            **changes,
        }  # type: ignore[arg-type]
    )
