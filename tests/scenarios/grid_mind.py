"""The mind of the daemon against starts on paper: real rules, real matcher, real remedies, mode auto."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from diagnose.capacity.shapes import shape_from_config
from diagnose.engine.match import Carry
from diagnose.engine.policy import Policy
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.launch.flags import accepted
from diagnose.model.effect import Effect, Perform
from diagnose.model.incident import Incident, Intent
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import (
    GpuSample,
    LogLines,
    Observation,
    Order,
    Outcome,
    ProbeResult,
    ProcessExit,
    ServerFacts,
    ServerStarted,
    StepResult,
)
from diagnose.model.remedy import Mode, ServerRestart
from diagnose.profiles.fastdeploy import stream_of
from tests.scenarios import world_lines
from tests.scenarios.grid_lab import Host, Start, checks, read_flags

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
MOST_RESTARTS = 6
_PATIENCE = 40
"""Turns of a few seconds without a decision: then none will come."""


@dataclass(frozen=True)
class Cure:
    """How one case went.

    Attributes:
        ends: How each start ended, empty for one that serves.
        specs: The command of each start.
        changes: What each restart changed, as `remedies plan` prints it.
        held: Why nothing more is done, where it does not serve.
        rejected: Flags that were written though this version does not know them, and numbers that it refuses.
        asked: A person was asked, and said yes.
    """

    ends: tuple[str, ...]
    specs: tuple[LaunchSpec, ...]
    changes: tuple[str, ...]
    held: str = ""
    rejected: tuple[str, ...] = ()
    asked: bool = False

    @property
    def restarts(self) -> int:
        """How often a remedy started the server anew."""
        return len(self.ends) - 1

    @property
    def cured(self) -> bool:
        """Whether the last start serves."""
        return not self.ends[-1]


class Mind:
    """One daemon with one server that is only on paper."""

    def __init__(self, host: Host, spec: LaunchSpec, version: str, *, consent: bool = False) -> None:
        self.host, self.spec, self.version, self.consent = host, spec, version, consent
        self.knowledge, self.matcher = world_lines.knowledge(), world_lines.matcher()
        self.policy = Policy(mode=Mode.AUTO)
        self.state, self.now, self.generation = State(), NOON, 0
        self.ends: list[str] = []
        self.specs: list[LaunchSpec] = []
        self.changes: list[str] = []
        self.rejected: list[str] = []
        self.asked, self.told_yes = False, itertools.count(1)
        self.flags = accepted(version)

    @property
    def modern(self) -> bool:
        return self.version == "2.6.0"

    def tell(self, *observations: Observation) -> tuple[Effect, ...]:
        """Take one turn."""
        self.state, effects = step(self.state, observations, knowledge=self.knowledge, policy=self.policy, now=self.now)
        return effects

    def cure(self) -> Cure:
        """Let it start, fail, be treated, until it serves or nothing more is done."""
        spec: LaunchSpec | None = self.spec
        held = ""
        while spec is not None and len(self.ends) <= MOST_RESTARTS:
            intent = self._start(spec)
            if not self.ends[-1]:
                break
            spec, intent = None, intent or self._wait()
            while intent is not None and intent.undo and not _restarts(intent):  # what failed is taken back
                self._done(intent)
                intent = self._wait()
            if intent is None:
                held = self._held()
            else:
                spec = self._carried_out(intent)
        return Cure(
            ends=tuple(self.ends),
            specs=tuple(self.specs),
            changes=tuple(self.changes),
            held=held,
            rejected=tuple(self.rejected),
            asked=self.asked,
        )

    def _start(self, spec: LaunchSpec) -> Intent | None:
        self.generation += 1
        self.specs.append(spec)
        model = shape_from_config(str(self.host.config["_name"]), self.host.config)
        facts = ServerFacts(
            target="t", at=self.now, version=self.version, flags=self.flags, flags_from="table", model=model
        )
        started = ServerStarted(
            target="t",
            at=self.now,
            generation=self.generation,
            pid=4700 + self.generation,
            how="spawned",
            spec=spec,
            desired=self.spec,
        )
        flags = read_flags(spec.argv, spec.env, self.version)
        start = Start(self.host, flags, at=self.now + timedelta(seconds=1), modern=self.modern)
        self.ends.append(start.walk.end)
        self.tell(facts, started, *self._cards(flags.ranks, start.walk.used - self.host.hidden.neighbour))
        self.now += timedelta(seconds=60)
        matches = self._read(start)
        if start.serves:
            return self._serves(matches)
        effects = [self.tell(*matches)]
        self.now += timedelta(seconds=1)
        ends = [("worker", 1)] * (start.walk.end != "blocks-few") + [("main", 1)]
        exits = [
            ProcessExit(
                target="t", at=self.now, generation=self.generation, role=role, pid=4700 + self.generation, code=code
            )
            for role, code in ends
        ]
        effects.append(self.tell(*exits, *self._cards(flags.ranks, 0)))
        return next((one for many in effects for one in _intents(many)), None)

    def _read(self, start: Start) -> list[Observation]:
        found: list[Observation] = []
        for name, data in start.pieces():
            lines = LogLines(
                target="t",
                source=name,
                stream=stream_of(name),
                first_line=1,
                data=data,
                read_at=self.now,
                generation=self.generation,
            )
            found += self.matcher.scan(lines, Carry())[0]
        return found

    def _cards(self, ranks: int, own: int) -> Sequence[GpuSample]:
        return [
            GpuSample(
                target="t",
                at=self.now,
                index=rank,
                name="Lab",
                total_bytes=self.host.total,
                used_bytes=self.host.hidden.neighbour + own,
                own_bytes=own,
            )
            for rank in range(ranks)
        ]

    def _serves(self, matches: Sequence[Observation]) -> None:
        """Let the cure be proven."""
        for _ in range(8):
            answer = ProbeResult(
                target="t",
                at=self.now,
                generation=self.generation,
                probe="completion",
                answer="ok",
                status=200,
                tokens=8,
            )
            self.tell(*matches, answer)
            matches = ()
            self.now += timedelta(seconds=30)
        live = [one for one in self.state.incidents.values() if one.state.value not in {"resolved", "history"}]
        assert not live, f"it serves, but {live[0].cause} is {live[0].state.value}"

    def _wait(self) -> Intent | None:
        for _ in range(_PATIENCE):
            self.now += timedelta(seconds=3)
            if intents := _intents(self.tell()):
                return intents[0]
            waiting = self._open()
            if self.consent and waiting and waiting.held == "approve" and waiting.plan:
                self.asked = True
                order = Order(
                    target="t",
                    at=self.now,
                    id=f"yes-{next(self.told_yes)}",
                    kind="approve",
                    by="somebody",
                    incident=waiting.id,
                )
                if intents := _intents(self.tell(order)):
                    return intents[0]
            elif waiting and waiting.held in {"advice", "approve"}:
                return None
        return None

    def _open(self) -> Incident | None:
        live = [one for one in self.state.incidents.values() if one.state.value == "open"]
        return live[0] if live else None

    def _held(self) -> str:
        open_ = self._open()
        return open_.held if open_ else "exhausted"

    def _carried_out(self, intent: Intent) -> LaunchSpec | None:
        plan = intent.plan
        self.changes.append("; ".join(f"{one.flag} {one.before or '-'} -> {one.after}" for one in plan.changes))
        self.rejected += [
            one.flag for one in plan.changes if one.after is not None and one.flag not in accepted(self.version)
        ]
        self.rejected += _refused(plan.after.argv, plan.after.env, self.version)
        assert _restarts(intent), "a cure of memory restarts the server"
        self._done(intent)
        return None if self.rejected else plan.after

    def _done(self, intent: Intent) -> None:
        self.now += timedelta(seconds=5)
        results = (StepResult(action="server.restart", ok=True, text="done"),)
        self.tell(Outcome(target="t", at=self.now, intent_id=intent.id, ok=True, results=results))


def _refused(argv: Sequence[str], env: Mapping[str, str], version: str) -> list[str]:
    try:
        flags = read_flags(argv, env, version)
    except (SystemExit, checks.ConfigError) as error:
        return [f"refused: {error}"]
    return ["refused: the lengths do not go together"] if flags.refused() else []


def _restarts(intent: Intent) -> bool:
    return any(isinstance(one, ServerRestart) for one in intent.plan.steps)


def _intents(effects: Sequence[Effect]) -> list[Intent]:
    return [effect.intent for effect in effects if isinstance(effect, Perform)]
