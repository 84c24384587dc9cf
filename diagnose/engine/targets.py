"""What is known of a supervised server: its phase, its command, what its senses told last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from diagnose.engine import cards, pace, rates, signals
from diagnose.engine.pace import Start
from diagnose.engine.policy import Policy
from diagnose.engine.rates import Meters
from diagnose.engine.signals import Signal
from diagnose.launch.surroundings import compare
from diagnose.model.effect import PhaseChanged
from diagnose.model.incident import Incident
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.observation import (
    GpuSample,
    LogMatch,
    Numbers,
    Observation,
    OutputScored,
    ProbeResult,
    ProcessExit,
    ProcessSample,
    ServerFacts,
    ServerStarted,
    SourceSees,
    SourceSilent,
    Surroundings,
    XidEvent,
)

STAGES = ("launching", "loading", "profiling", "kv-cache", "capturing", "engine-ready")
"""Marks of a start in their order; hints only: what proves a start is a completion."""

_BAD_TO_DEGRADE = 2
"""Bad answers in a row before a ready server counts as degraded: one may be chance."""

_STARTS_KEPT = 8
_CARD_KEPT = timedelta(minutes=10)
_LAPSE = timedelta(minutes=2)
"""Between two samples of a start; they come every second."""

_GROWTH_BYTES = 1 << 20
_BUSY_SHARE = 0.05
_STALLS = {"server.stalled_seconds": 20.0, "server.ignored_seconds": 8.0}
"""A ready server that stands still for longer gives a proof of its own that it is not well."""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """A person keeps the daemon's hands off; diagnosis goes on."""

    by: str
    at: datetime
    why: str = ""
    until: datetime | None = None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that were put back on a person's order, until they have proved to work.

    Attributes:
        back: What to lay again if they do not.
        incident_id: In whose history it is told; empty where that is forgotten.
    """

    intent_id: str
    at: datetime
    back: tuple[Overlay, ...]
    incident_id: str = ""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One supervised server.

    Attributes:
        phase: ``stopped``, ``starting``, ``ready``, ``degraded`` or ``failed``.
        starts: The last launches, newest last.
        generation: Which launch this is, from 1; 0 before the first.
        desired: The operator's command.
        overlays: What remedies laid over it.
        good: The overlays of the last start that proved to be well; ``None`` before the first.
        seen: Kinds of independent proof of trouble in this generation, and when: ``exit``, ``probe``,
            ``stall``, ``gpu``, ``load`` (requests wait, or our own was turned away).
        blind: Senses that cannot see, and why.
        progress_at: When the start last showed progress.
        told_at, told: The sample in which the start last wrote, grew or worked.
        most_workers: The most workers that were seen alive in this generation.
        meters: Its numbers, and those of its host.
        pause: Set while a person keeps remedies from being carried out.
        offered: When it was first seen that the operator's own settings would fit again.
        trial: Set while settings that were put back are being proven.
        acts: When remedies were carried out, with whether the server was restarted for it.
        tried: Each remedy's own times of these, by its id.
        climbed: The highest rung (from 0) of each remedy that failed since the server last stood well for long:
            a start that was put back must not begin the ladder anew.
        recoveries: When the server was started again without a remedy, or a change was undone, since it last
            stood well for long.
        slipped: It is stopped because an act of ours failed half-way.
        surroundings: Of the present start, until it is ready.
        healthy: Of the last start that became ready.
    """

    name: str
    phase: str = "stopped"
    since: datetime | None = None
    starts: tuple[Start, ...] = ()
    generation: int = 0
    pid: int | None = None
    desired: LaunchSpec | None = None
    overlays: tuple[Overlay, ...] = ()
    good: tuple[Overlay, ...] | None = None
    facts: ServerFacts | None = None
    gpus: Mapping[str, GpuSample] = {}
    seen: Mapping[str, datetime] = {}
    blind: Mapping[str, str] = {}
    probes: Mapping[str, ProbeResult] = {}
    bad_answers: int = 0
    started_at: datetime | None = None
    ready_at: datetime | None = None
    sample: ProcessSample | None = None
    told: ProcessSample | None = None
    progress_at: datetime | None = None
    most_workers: int = 0
    workers_gone_at: datetime | None = None
    stalled: bool = False
    meters: Meters = Meters()
    pause: Pause | None = None
    offered: datetime | None = None
    trial: Trial | None = None
    acts: tuple[tuple[datetime, bool], ...] = ()
    tried: Mapping[str, tuple[datetime, ...]] = {}
    climbed: Mapping[str, int] = {}
    recoveries: tuple[datetime, ...] = ()
    slipped: bool = False
    surroundings: Surroundings | None = None
    healthy: Surroundings | None = None

    @property
    def proven(self) -> tuple[Overlay, ...]:
        """The overlays that a start has proved; the others are on trial, or have failed."""
        return tuple(one for one in self.overlays if one in (self.good or ()))

    @property
    def stage(self) -> str:
        """How far the newest launch came."""
        return self.starts[-1].stage if self.starts else ""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an observation changed."""

    target: Target
    signals: tuple[Signal, ...] = ()
    effects: tuple[PhaseChanged, ...] = ()


def observe(target: Target, observation: Observation, policy: Policy) -> Told:
    """Take one observation. What speaks of a launch that is over changes nothing."""
    generation = getattr(observation, "generation", 0) or target.generation
    if generation < target.generation:
        return Told(target=target)
    if isinstance(observation, ProcessSample):
        return _sampled(target, observation, policy)
    take = _TAKEN_BY.get(type(observation))
    return take(target, observation) if take else Told(target=target)


def compared(incident: Incident, target: Target) -> Incident:
    """Put into an incident how the start that it is about differs from the last healthy one, if that start failed."""
    start = next((one for one in target.starts if one.generation == incident.attempt), None)
    if start is None:
        return incident
    comparison = None if start.stage == "ready" else start.compared
    return incident if comparison == incident.compared else msgspec.structs.replace(incident, compared=comparison)


def serving(target: Target) -> str:
    """Name the phase as rules know it: ``starting`` or ``ready``; a failed server keeps its last one."""
    return "ready" if target.ready_at else "starting"


def _started(target: Target, started: ServerStarted) -> Told:
    if started.generation == target.generation and target.pid == started.pid:
        return Told(target=target)  # adopted: nothing began
    kept = target.desired if started.how == "spawned" else None
    desired = started.desired or kept or started.spec
    if target.desired is not None and desired != target.desired:  # another wish: what was laid over the old one is gone
        target = msgspec.structs.replace(target, overlays=(), good=None)
    target = msgspec.structs.replace(
        target,
        generation=started.generation,
        pid=started.pid,
        desired=desired,
        starts=(*target.starts, _begun(target, started))[-_STARTS_KEPT:],
        seen={},
        probes={},
        bad_answers=0,
        started_at=started.at,
        ready_at=None,
        sample=None,
        told=None,
        progress_at=started.at,
        most_workers=0,
        workers_gone_at=None,
        stalled=False,
        slipped=False,
        meters=rates.begun_anew(target.meters),
        surroundings=None,
    )
    return _phase(target, "starting", started.at, started.how)


def _begun(target: Target, started: ServerStarted) -> Start:
    others = [max(one.used_bytes - one.own_bytes, 0) for one in target.gpus.values()]
    return Start(generation=started.generation, spec=started.spec, at=started.at, foreign_bytes=max(others, default=0))


def _faced(target: Target, facts: ServerFacts) -> Told:
    return Told(target=msgspec.structs.replace(target, facts=facts))


def _carded(target: Target, told: GpuSample) -> Told:
    """Take a card's reading."""
    same = {name: card for name, card in target.gpus.items() if (card.uuid, card.mig) == (told.uuid, told.mig)}
    before = same.get(told.label) or (next(iter(same.values()), None) if told.uuid else None)
    moved = same.keys() if told.uuid else set()  # where a card is gone, those behind it get other numbers
    fresh = {name: card for name, card in target.gpus.items() if name not in moved and told.at - card.at < _CARD_KEPT}
    gpus = {**fresh, told.label: told}
    target = msgspec.structs.replace(target, gpus=dict(sorted(gpus.items(), key=_by_number)))
    found = cards.of_card(told, before, target.generation, serving(target))
    return Told(target=_shown(target, "gpu", told.at) if cards.proves(told, before) else target, signals=found)


def _xid(target: Target, event: XidEvent) -> Told:
    """Take an error of a card that the driver reported."""
    return Told(target=_shown(target, "gpu", event.at) if cards.xid_proves(event) else target)


def _by_number(named: tuple[str, GpuSample]) -> tuple[int, str]:
    return named[1].index, named[0]


def _shown(target: Target, kind: str, at: datetime) -> Target:
    """Note that something else than a log line shows trouble."""
    return msgspec.structs.replace(target, seen={**target.seen, kind: at})


def _surrounded(target: Target, seen: Surroundings) -> Told:
    """Note how this start's surroundings differ from the last healthy one's."""
    if not target.starts or target.starts[-1].generation != seen.generation or target.starts[-1].compared:
        return Told(target=target)
    *older, start = target.starts
    start = msgspec.structs.replace(start, compared=compare(target.healthy, seen))
    target = msgspec.structs.replace(target, starts=(*older, start), surroundings=seen)
    return Told(target=_well_surrounded(target) if target.ready_at else target)


def _well_surrounded(target: Target) -> Target:
    """Keep the surroundings in which the server became ready as those of a healthy start."""
    if target.surroundings is None:
        return target
    return msgspec.structs.replace(target, healthy=target.surroundings, surroundings=None)


def _exited(target: Target, exit_: ProcessExit) -> Told:
    signal = signals.of_exit(exit_, serving(target), target.stage)
    if exit_.role == "main" and target.starts:
        *older, start = target.starts
        ended = "stopped" if exit_.expected else signal.evidence.text
        target = msgspec.structs.replace(target, starts=(*older, msgspec.structs.replace(start, ended=ended)))
    if exit_.expected:
        return _phase(target, "stopped", exit_.at, "stopped") if exit_.role == "main" else Told(target=target)
    target = _shown(target, "exit", exit_.at)
    if exit_.role == "worker":
        return Told(target=target, signals=(signal,))
    told = _phase(target, "failed", exit_.at, signal.evidence.text)
    return msgspec.structs.replace(told, signals=(signal,))


def _answered(target: Target, result: ProbeResult) -> Told:
    signal = signals.of_probe(result, serving(target))
    target = msgspec.structs.replace(target, probes={**target.probes, result.probe: result})
    if result.answer == "ok":
        told = _well(target, result)
        timed = _timed(told.target, result)
        return msgspec.structs.replace(told, target=timed.target, signals=(signal, *timed.signals))
    if result.answer == "busy":
        return Told(target=_shown(target, "load", result.at), signals=(signal,))
    if not target.ready_at:
        return Told(target=target, signals=(signal,))
    bad = target.bad_answers + 1
    target = msgspec.structs.replace(target, bad_answers=bad)
    if bad >= _BAD_TO_DEGRADE:
        target = _shown(target, "probe", result.at)
    if target.phase == "ready" and bad >= _BAD_TO_DEGRADE:
        told = _phase(target, "degraded", result.at, signal.evidence.text)
        return msgspec.structs.replace(told, signals=(signal,))
    return Told(target=target, signals=(signal,))


def _well(target: Target, result: ProbeResult) -> Told:
    """Take a good answer; only tokens prove that the server serves."""
    if result.probe != "completion":
        return Told(target=target)
    if target.starts and not target.ready_at:
        *older, start = target.starts
        target = msgspec.structs.replace(target, starts=(*older, pace.ready(start, result.at)))
    target = msgspec.structs.replace(target, bad_answers=0, ready_at=target.ready_at or result.at)
    target = _well_surrounded(target)
    if target.phase in {"starting", "degraded"}:
        return _phase(target, "ready", result.at, f"completion answered in {result.seconds:.1f} s")
    return Told(target=target)


def _timed(target: Target, result: ProbeResult) -> Told:
    """Take how long our own question waited for its first token as a number."""
    if result.first_token_seconds is None:
        return Told(target=target)
    values = {"server.canary_first_token_seconds": result.first_token_seconds}
    return _measured(target, Numbers(target=result.target, at=result.at, values=values, generation=result.generation))


def _sampled(target: Target, sample: ProcessSample, policy: Policy) -> Told:
    if target.sample and not timedelta(0) <= sample.at - target.sample.at <= _LAPSE:
        target = msgspec.structs.replace(target, told=None, workers_gone_at=None)  # the clock was put: count anew
    target = msgspec.structs.replace(target, sample=sample, most_workers=max(target.most_workers, sample.workers))
    if target.phase != "starting" or not sample.alive:
        return Told(target=target)
    target = _progress(target, sample)
    gone_at = None
    if target.most_workers and not sample.workers:
        gone_at = target.workers_gone_at or sample.at
    target = msgspec.structs.replace(target, workers_gone_at=gone_at)
    reason = "" if target.stalled else _stalls(target, sample, policy)
    if not reason:
        return Told(target=target)
    signal = signals.of_event(
        target=target.name,
        attempt=target.generation,
        at=sample.at,
        name="process.stall",
        labels={
            "phase": "starting",
            "workers": "alive" if sample.workers else "dead",
            "stage": target.stage,
        },
        text=reason,
    )
    stalled = msgspec.structs.replace(target, stalled=True)
    return Told(target=_shown(stalled, "stall", sample.at), signals=(signal,))


def _blinded(target: Target, silent: SourceSilent) -> Told:
    """Note that a sense cannot see."""
    blind = {**target.blind, silent.source: silent.reason}
    signal = signals.of_silence(silent, target.generation)
    return Told(target=msgspec.structs.replace(target, blind=blind), signals=(signal,))


def _seeing(target: Target, sees: SourceSees) -> Told:
    """Note that a sense can see again."""
    blind = {source: reason for source, reason in target.blind.items() if source != sees.source}
    return Told(target=msgspec.structs.replace(target, blind=blind))


def _scored(target: Target, output: OutputScored) -> Told:
    return Told(target=target, signals=(signals.of_output(output, target.generation, serving(target)),))


def _measured(target: Target, told: Numbers) -> Told:
    """Take numbers; a server that stands still, or cannot keep up, proves it by them."""
    meters, told = rates.take(target.meters, told)
    target = msgspec.structs.replace(target, meters=meters)
    if any(told.values.get(name, 0.0) >= least for name, least in _STALLS.items()):
        target = _shown(target, "stall", told.at)
    if told.values.get("server.requests_waiting", 0.0) > 0:
        target = _shown(target, "load", told.at)
    return Told(target=target, signals=signals.of_numbers(told, target.generation, serving(target)))


def _progress(target: Target, sample: ProcessSample) -> Target:
    """Note what moved: a log that grew is progress; memory or work alone stretch the patience."""
    told = target.told
    if told is not None and sample.log_bytes <= told.log_bytes:
        return target
    if told and target.starts:
        *older, start = target.starts
        start = pace.silent(start, (sample.at - told.at).total_seconds())
        target = msgspec.structs.replace(target, starts=(*older, start))
    return msgspec.structs.replace(target, told=sample, progress_at=sample.at)


def _stalls(target: Target, sample: ProcessSample, policy: Policy) -> str:
    """Say why this start hangs, or nothing."""
    if target.workers_gone_at and sample.at - target.workers_gone_at >= policy.workers_gone:
        return "all workers are gone while the main process goes on waiting for them"
    told = target.told
    if told is None or not target.starts:
        return ""
    quiet = (sample.at - told.at).total_seconds()
    *older, start = target.starts
    patience = pace.patience(start, older, policy.stall_after).total_seconds()
    works = sample.cpu_seconds - told.cpu_seconds > _BUSY_SHARE * quiet
    grows = sample.rss_bytes - told.rss_bytes > _GROWTH_BYTES
    if quiet < patience * (policy.busy_factor if works or grows else 1.0):
        return ""
    doing = "the processor is busy" if works else "no processor time used"
    return (
        f"no progress for {quiet:.0f} s at stage {target.stage or 'launching'}: "
        f"no log line, {doing}, {sample.workers} workers alive"
    )


def _staged(target: Target, match: LogMatch) -> Told:
    """Note how far a start has come and what it printed of its memory, by the marks in its logs.

    The end of a process is often seen before its last lines are read: they count for the start that failed, too.
    """
    starts = target.phase == "starting" or (target.phase == "failed" and target.ready_at is None)
    if not starts or not match.fresh or match.attempt != target.generation:
        return Told(target=target)
    *older, start = target.starts
    for hit in match.hits:
        if hit.rule_id[1:] in STAGES:
            start = pace.reach(start, hit.rule_id[1:], match.at)
        elif hit.rule_id == "@measured":
            start = msgspec.structs.replace(start, measured={**start.measured, **hit.labels})
    return Told(target=msgspec.structs.replace(target, starts=(*older, start)))


def _phase(target: Target, phase: str, at: datetime, reason: str) -> Told:
    target = msgspec.structs.replace(target, phase=phase, since=at)
    return Told(
        target=target,
        effects=(PhaseChanged(target=target.name, at=at, phase=phase, reason=reason, stage=target.stage),),
    )


_TAKEN_BY: Mapping[type[Any], Callable[[Target, Any], Told]] = {
    ServerStarted: _started,
    ProcessExit: _exited,
    ProbeResult: _answered,
    LogMatch: _staged,
    ServerFacts: _faced,
    Surroundings: _surrounded,
    GpuSample: _carded,
    XidEvent: _xid,
    Numbers: _measured,
    OutputScored: _scored,
    SourceSilent: _blinded,
    SourceSees: _seeing,
}
"""What tells of a target, by who takes it; outcomes and orders are for `diagnose.engine.step`."""
