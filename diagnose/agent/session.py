"""One supervised server: its senses and its hands, and how it is begun: adopted, attached or started."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

import msgspec

from diagnose.actuators.command import RunCommand
from diagnose.actuators.evidence import KeepEvidence
from diagnose.actuators.hands import Hands
from diagnose.actuators.ipc import CleanIpc
from diagnose.actuators.server import RestartServer, Server
from diagnose.agent import given, look
from diagnose.agent.asking import Asking
from diagnose.agent.config import Probes, TargetConfig
from diagnose.agent.given import Unused
from diagnose.agent.guard import Guard
from diagnose.agent.logs import Logs
from diagnose.agent.look import Lookout
from diagnose.controllers import procfs
from diagnose.controllers.free_ports import free_ports
from diagnose.controllers.process import ProcessController
from diagnose.engine.match import Matcher
from diagnose.engine.plan import effective
from diagnose.engine.targets import Target
from diagnose.errors import ConfigError, ControllerError, JournalError
from diagnose.launch import settings
from diagnose.launch.flags import accepted
from diagnose.model import codec
from diagnose.model.incident import Intent, Plan
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.observation import (
    RECOVERED,
    GpuSample,
    LogLines,
    LogMatch,
    Observation,
    Outcome,
    ProcessExit,
    ServerStarted,
    SourceSilent,
    StepResult,
)
from diagnose.model.text import Text
from diagnose.ports import Clock, GpuReader, Handle
from diagnose.sources.facts import config_values
from diagnose.sources.gpu import GpuSense
from diagnose.sources.host import HostSense
from diagnose.sources.kernel import KernelLog, Ours, Place, numbered
from diagnose.sources.logtail import Position
from diagnose.sources.process import ProcessSense
from diagnose.sources.surroundings import Look

_NOTHING = timedelta(0)
_MEASURE_EVERY = timedelta(seconds=10)
_ASK_EVERY = timedelta(milliseconds=90)
"""Between two looks at all that is not a log: a flood makes turns more frequent, and these need it not."""

_CARDS_WAIT = timedelta(seconds=10)
"""How long looking around waits for cards that do not answer."""

_AS_IT_IS = LaunchSpec(argv=())
"""The command of a unit is its own."""

_SAMPLE_STARTING, _SAMPLE_READY = timedelta(seconds=1), timedelta(seconds=10)


@dataclass
class Session:
    """The daemon's side of one target. Judges nothing: it tells, and does what it is told.

    Attributes:
        keep: Writes something to the journal at once, from any thread.
        kernel: What the kernel says; ``None`` where nobody listens.
        tell: Tells the operator of what was given and is not used.
        desired: The operator's command, its internal ports named.
        commands: What remedies may run, by name.
    """

    config: TargetConfig
    probes: InitVar[Probes]
    grace: timedelta
    state_dir: Path
    matcher: InitVar[Matcher]
    controller: ProcessController
    gpu: GpuReader
    clock: Clock
    keep: Callable[[str, bytes], None]
    kernel: KernelLog | None = None
    tell: Callable[[Unused], None] = lambda _unused: None
    desired: LaunchSpec | None = None
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _news: list[Observation] = field(default_factory=list)
    _sampled: datetime | None = None
    _ended: int = 0
    _acting: bool = False
    _to_look: tuple[Handle, bool, datetime] | None = None
    _looked: int = 0

    def __post_init__(self, probes: Probes, matcher: Matcher) -> None:
        self.logs = Logs(self.name, matcher, generation=self._generation, hear=self._hear)
        self.asking = Asking(self.name, probes, self.clock, generation=self._generation)
        self.server = Server(
            target=self.name,
            controller=self.controller,
            run_dir=self.state_dir / "run" / self.name,
            gpu=self.gpu,
            started=self._started,
            stopping=self._stopping,
            ended=self.logs.await_end,
        )
        self.hands = Hands(
            (
                RestartServer(self.server, grace=self.grace),
                CleanIpc(self.server),
                KeepEvidence(self.server, self.state_dir / "evidence", self._log_files),
                RunCommand(self.commands),
            ),
            self.clock,
        )
        self.cards = GpuSense(self.name, self.gpu)
        self.sense: ProcessSense | None = None
        self.host: HostSense | None = None
        self._measured_at: datetime | None = None
        self._around_at: datetime | None = None
        self._buses: set[str] = set()
        self._listens_since: datetime | None = None
        self._numbered = numbered()
        self._kept_place: Place | None = None
        self.lookout = Lookout(self.state_dir)
        self.guard = Guard((self.name,), self.clock)

    @property
    def name(self) -> str:
        """The target's name."""
        return self.config.name

    def _generation(self) -> int:
        return self.server.generation

    def _hear(self, match: LogMatch, now: datetime) -> None:
        self.cards.hear(match, now)

    # --- begin

    def begin(self, target: Target, kept: Mapping[str, bytes], cut_short: Sequence[Intent] = ()) -> str:
        """Find the server that runs already, or start the command.

        Args:
            cut_short: Intents whose outcome a daemon before us did not live to write down. Where it ended
                the old server and started no new one, what it meant to start is started.

        Returns:
            ``adopted``, ``attached`` or ``spawned``.

        Raises:
            DiagnoseError: It can neither be found nor started.
        """
        saved = kept.get(f"handle/{self.name}")
        handle = codec.decode(saved, Handle) if saved else None
        self.server.generation = target.generation
        self._looked = target.generation if target.starts and target.starts[-1].compared else 0
        found = self._found(handle)
        how: Literal["adopted", "attached", "spawned"]
        if found:
            how = "adopted"
            self.desired = self.controller.wish(found) or target.desired or found.spec
            self._watch(found.spec, kept, new=False)
            self._taken(found, how)
            self._note_unused(self._unused(found, self.desired))
        elif self.config.unit:
            how = "spawned"
            found = self.start_unit(target.generation + 1)
            self.desired = self.controller.wish(found)
            self._watch(found.spec, kept, new=False)
            self._taken(found, how)
            self._note_unused(None)
        elif self.config.attach is not None:
            how = "attached"
            found = self._attach(target.generation + 1)
            self.desired = found.spec
            self._watch(found.spec, kept, new=True)
            self._taken(found, how)
            self._note_unused(None)
        else:
            how = "spawned"
            self.desired = self._command()
            self._watch(self.desired, kept, new=False)
            self._spawn(target, cut_short)
            self._note_unused(None)
        return how

    def start_unit(self, generation: int = 1) -> Handle:
        """Start the server's unit as it is; may take some time.

        Raises:
            ControllerError: It runs no server then.
        """
        return self.controller.start(self.name, generation, _AS_IT_IS, run_dir="")

    def _unused(self, found: Handle, runs: LaunchSpec) -> Unused | None:
        """Say what was given and is not what runs: the server that runs is taken over as it is."""
        if self.config.unit:
            return None
        if self.config.attach is not None:
            pids = frozenset(one.pid for one in self.controller.tree(found))
            return given.unused_attach(self.config.attach, found, pids)
        try:
            return given.unused_command(self.config, self._command(), runs, found)
        except ConfigError:
            return None

    def _note_unused(self, unused: Unused | None) -> None:
        if unused:
            self.tell(unused)
        with contextlib.suppress(JournalError):
            self.keep(f"unused/{self.name}", codec.encode(unused))

    def _found(self, handle: Handle | None) -> Handle | None:
        """Return the server that runs. What is left of one whose main process is gone is ended: no server any more."""
        found = (self.controller.adopt(handle) if handle else None) or self.controller.find(self.name)
        if found is None or handle is None or found.pid == handle.pid or found.instance != handle.instance:
            return found
        self.server.handle = handle
        self.server.stop(grace=self.grace)
        with contextlib.suppress(ControllerError):  # what cannot be removed is no reason to stay down
            self.controller.clean(handle)
        return None

    def _attach(self, generation: int) -> Handle:
        number = self.config.attach or 0
        if Path(f"/proc/{number}/cmdline").exists() and not _listens(number):
            return self.controller.attach(target=self.name, pid=number, generation=generation)
        return self.controller.attach(target=self.name, port=number, generation=generation)

    def _command(self) -> LaunchSpec:
        """Return the operator's command with its internal ports named, so that its leftovers are known."""
        spec = LaunchSpec(argv=self.config.command, env=self.config.env, cwd=self.config.cwd or str(Path.cwd()))
        if self.config.log_dir:
            spec = msgspec.structs.replace(spec, env={**spec.env, "FD_LOG_DIR": self.config.log_dir})
        flags = config_values(spec)
        ranks = settings.ranks_here(spec, flags)
        ports = free_ports(2 * ranks, settings.http_port(spec, flags), settings.named_ports(spec, flags))
        return settings.with_ports(spec, ports[:ranks], ports[ranks:], accepted=accepted(None), config=flags)

    def _spawn(self, target: Target, cut_short: Sequence[Intent]) -> None:
        spec = self.desired or LaunchSpec(argv=())
        overlays: tuple[Overlay, ...] = ()
        if target.desired and _same_wish(target.desired, spec):
            spec = self.desired = target.desired  # with the ports of last time
            restarts = [one.plan for one in cut_short if one.plan.restarts]
            overlays = restarts[-1].overlays if restarts else target.overlays
        after = effective(msgspec.structs.replace(target, desired=spec), overlays)
        title = Text("first start", "首次启动")
        plan = Plan(remedy_id="start", rung=0, title=title, steps=(), before=spec, after=after, overlays=overlays)
        self._news += self.cards.poll(self._pids(), self.clock.now())  # what others hold, before it takes its share
        self.server.start(plan)

    def _watch(self, spec: LaunchSpec, kept: Mapping[str, bytes], *, new: bool) -> None:
        saved = kept.get(f"positions/{self.name}")
        positions = codec.decode(saved, tuple[Position, ...]) if saved else None
        if self.kernel and (place := kept.get(f"kernel/{self.name}")):
            self.kernel.go_on(codec.decode(place, Place))
        visible = settings.visible_devices(spec, os.environ)
        self.cards = GpuSense(self.name, self.gpu, visible)
        folders = [Path(settings.log_dir(spec, os.environ)), self.server.run_dir]
        self.logs.watch(folders, positions, self.clock.now(), new=new)
        model = Path(spec.cwd) / settings.model_path(spec, config_values(spec))
        places = {"logs": Path(settings.log_dir(spec, os.environ)), "state": self.state_dir}
        self.host = HostSense(self.name, places | ({"model": model} if model.exists() else {}))
        self.asking.point(spec)

    def _taken(self, handle: Handle, how: Literal["adopted", "attached", "spawned"]) -> None:
        if not handle.generation:  # somebody else started it, we know not how often
            handle = msgspec.structs.replace(handle, generation=self.server.generation + 1)
        self.server.handle, self.server.generation = handle, handle.generation
        self._note(handle, how)

    # --- what hands and controller tell, from their thread

    def _started(self, handle: Handle) -> None:
        self._note(handle, "spawned")

    def _note(self, handle: Handle, how: Literal["spawned", "adopted", "attached"]) -> None:
        logs = [Path(settings.log_dir(handle.spec, os.environ))]
        if self.sense:
            self.sense.close()
        self.sense = ProcessSense(self.controller, handle, logs)
        self._news.append(
            ServerStarted(
                target=self.name,
                at=self.clock.now(),
                generation=handle.generation,
                pid=handle.pid,
                how=how,
                spec=handle.spec,
                desired=self.desired,
            )
        )
        self._to_look, self._sampled = (handle, how == "spawned", self.clock.now()), None
        try:
            self.keep(f"handle/{self.name}", codec.encode(handle))
        except JournalError as error:  # the server runs all the same; the next daemon finds it by its mark
            silent = SourceSilent(target=self.name, at=self.clock.now(), source="journal", reason=str(error))
            self._news.append(silent)

    def _stopping(self, handle: Handle) -> None:
        del handle
        if self.sense:
            self.sense.expected = True

    # --- senses

    def poll(self, now: datetime, *, starting: bool) -> list[Observation]:
        """Ask all senses that answer at once; one that breaks is told of, and the others are asked all the same."""
        news, self._news = self._news, []
        told = self.guard.ask("logs", now, lambda: self.logs.poll(now))
        if self._around_at is None or not _NOTHING <= now - self._around_at < _ASK_EVERY:
            self._around_at = now
            told += self._told_beside_logs(now, _SAMPLE_STARTING if starting else _SAMPLE_READY)
        return [*news, *told]

    def _told_beside_logs(self, now: datetime, every: timedelta) -> list[Observation]:
        ask = self.guard.ask
        told = ask("successor", now, self._take_successor)
        told += ask("kernel", now, lambda: self._kernel_lines(now))
        told += ask("logs", now, lambda: self.logs.lag(now))
        told += self.lookout.news()
        told += ask("processes", now, lambda: self._processes(now, every))
        if any(isinstance(one, ProcessExit) for one in told):
            self._measured_at = None  # whether it was killed for want of memory is told beside its end
        told += ask("gpu", now, lambda: self._cards_told(now, every))
        told += ask(look.SOURCE, now, lambda: self._looked_around(now))
        self._buses.update(one.pci for one in told if isinstance(one, GpuSample) and one.pci)
        if self._measured_at is None or not _NOTHING <= now - self._measured_at < _MEASURE_EVERY:
            self._measured_at = now
            told += ask("host", now, lambda: self._measured(now))
        return told

    def _processes(self, now: datetime, every: timedelta) -> Sequence[Observation]:
        """Look at the server's processes, and begin to read its cards, when it is time to."""
        told: Sequence[Observation] = []
        if self.sense and (self._sampled is None or now - self._sampled >= every or self._just_ended()):
            self._sampled = now
            told = self.sense.poll(now)
            self.cards.ask(self._pids(), now)
        elif self.sense and self.cards.due(now):
            self.cards.ask(self._pids(), now)
        return told

    def _looked_around(self, now: datetime) -> Sequence[Observation]:
        """Begin to look at what surrounds a start once its cards have answered; `Lookout.news` tells it."""
        if self._to_look and (not self.cards.asking or now - self._to_look[2] >= _CARDS_WAIT):
            (handle, fresh, _), self._to_look = self._to_look, None
            self._look_around(handle, self.cards.latest, now, fresh=fresh)
        return []

    def _measured(self, now: datetime) -> list[Observation]:
        return [
            *(self.host.poll(now) if self.host else []),
            *(self.sense.measure(now) if self.sense else []),
        ]

    def _take_successor(self) -> Sequence[Observation]:
        """Take over what somebody else started where our server was; not while our own hands are at it."""
        handle = self.server.handle
        if handle is None or self._acting or self._ended != handle.generation:
            return []
        with contextlib.suppress(ControllerError):  # who cannot be asked now is asked again
            found = self.controller.successor(handle)
            if found:
                self.desired = self.controller.wish(found)
                self.asking.point(found.spec)
                self._taken(found, "attached")
        return []

    def _kernel_lines(self, now: datetime) -> list[Observation]:
        """Tell what the kernel says of our processes and cards, or of nobody by name."""
        if self.kernel is None or self.sense is None or self.server.handle is None:
            return []
        ours = Ours(pids=self.sense.pids, names=self.sense.names, buses=self._buses or None, numbered=self._numbered)
        began = datetime.fromtimestamp(self.server.handle.started, timezone.utc)
        told: list[Observation] = []
        self._listens_since = self._listens_since or now
        waits = now - self._listens_since
        hold = not self._buses and _NOTHING <= waits < _CARDS_WAIT  # which cards are ours is not told yet
        for piece in self.kernel.poll(now, ours, since=began, hold=hold):
            told += self.logs.match(piece) if isinstance(piece, LogLines) else [piece]
        return told

    def _look_around(self, handle: Handle, cards: Sequence[GpuSample], now: datetime, *, fresh: bool) -> None:
        """Begin to look at what surrounds a start; the answer comes with the news of a later turn."""
        merged = settings.merged_env(handle.spec, os.environ)
        look = Look(
            target=self.name,
            at=now,
            generation=handle.generation,
            desired=self.desired or handle.spec,
            running=handle.spec,
            environ=merged if fresh else procfs.environ(handle.pid) or merged,
            cards=cards or None,
            chosen=given.chosen(self.config),
            fresh=fresh,
        )
        self.lookout.begin(look, known=handle.generation == self._looked)
        self._looked = handle.generation

    def close(self) -> None:
        """Give up what is being asked beside everything else, and let go of what the senses hold."""
        self.lookout.end()
        if self.kernel:
            self.kernel.close()
        if self.sense:
            self.sense.close()

    def _just_ended(self) -> bool:
        """Notice the end of a worker, or once a generation of the main process, without waiting for the next sample."""
        if self.sense and self.sense.any_ended():
            return True
        handle = self.server.handle
        if handle is None or self._ended == handle.generation or not self.controller.poll_exit(handle):
            return False
        self._ended = handle.generation
        return True

    def _cards_told(self, now: datetime, every: timedelta = _NOTHING) -> list[Observation]:
        """Return what the cards told since the last turn: a reading that is done, and errors of the driver."""
        told: list[Observation] = [*self.cards.told(now, every), *self.cards.xids(now)]
        return told + [one for piece in self.cards.lines(now) for one in self.logs.match(piece)]

    def _pids(self) -> set[int]:
        handle = self.server.handle
        return {one.pid for one in self.controller.tree(handle)} if handle else set()

    def kept(self) -> dict[str, bytes]:
        """Return what must be in the journal with the lines that were read last."""
        kept: dict[str, bytes] = {}
        if (positions := self.logs.moved()) is not None:
            kept[f"positions/{self.name}"] = codec.encode(positions)
        if self.kernel and self.kernel.place != self._kept_place:
            self._kept_place = self.kernel.place
            kept[f"kernel/{self.name}"] = codec.encode(self.kernel.place)
        return kept

    # --- hands

    def perform(self, intent: Intent) -> Outcome:
        """Carry out an intent; blocks as long as it takes."""
        self._acting = True
        try:
            return self.hands.perform(intent)
        finally:
            self._acting = False

    def recover(self, intent: Intent) -> Outcome:
        """Say how an intent went whose outcome a daemon before us did not live to write down.

        Nothing is done again: either its command runs, found or started at our beginning, then verification
        goes on from there, or the try was interrupted.
        """
        handle = self.server.handle
        done = (
            handle is not None and handle.generation > intent.generation and handle.spec.argv == intent.plan.after.argv
        )
        text, zh = ("the daemon was restarted", "守护进程曾重启")
        if done:
            text, zh = ("found done after a restart of the daemon", "守护进程重启后发现已完成")
        return Outcome(
            target=self.name,
            at=self.clock.now(),
            intent_id=intent.id,
            ok=done,
            results=(StepResult(action=RECOVERED, ok=done, text=text, zh=zh),),
        )

    def stop_server(self) -> None:
        """Stop the server and clean up behind it."""
        self.server.stop(grace=self.grace)
        if self.server.handle:
            self.controller.clean(self.server.handle)

    def _log_files(self) -> list[Path]:
        folder = Path(settings.log_dir(self.desired, os.environ)) if self.desired else None
        files = [one for one in folder.rglob("*") if one.is_file()] if folder and folder.is_dir() else []
        console = self.server.handle.console if self.server.handle else ""
        newest = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
        return [*([Path(console)] if console else []), *newest]


def _same_wish(before: LaunchSpec, now: LaunchSpec) -> bool:
    """Say whether two commands differ in nothing but the internal ports, which the daemon chooses."""
    return given.without(before, given.QUEUE_FLAGS) == given.without(now, given.QUEUE_FLAGS)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
