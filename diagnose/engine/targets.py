"""What is known of a supervised server: its phase, its command, what its senses told last."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from diagnose.engine import signals
from diagnose.engine.policy import Policy
from diagnose.engine.signals import Signal
from diagnose.model.effect import PhaseChanged
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.observation import (
    GpuSample,
    LogMatch,
    Observation,
    ProbeResult,
    ProcessExit,
    ProcessSample,
    ServerFacts,
    ServerStarted,
    SourceSilent,
)

STAGES = ("launching", "loading", "profiling", "kv-cache", "capturing", "engine-ready")
"""Marks of a start in their order; hints only: what proves a start is a completion."""

_BAD_TO_DEGRADE = 2
"""Bad answers in a row before a ready server counts as degraded: one may be chance."""

_STARTS_KEPT = 8
_GROWTH_BYTES = 1 << 20
_BUSY_SHARE = 0.05


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of the server, and what its own logs told of it.

    Attributes:
        spec: The effective command.
        stage: How far it came: the last mark seen.
        measured: What it printed of its memory: named groups of the mark ``@measured``.
    """

    generation: int
    spec: LaunchSpec
    stage: str = ""
    measured: Mapping[str, str] = {}


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
            ``stall``.
        progress_at: When the start last showed progress.
        told_at, told: The sample in which the start last wrote, grew or worked.
        most_workers: The most workers that were seen alive in this generation.
        acts: When remedies were carried out, with whether the server was restarted for it.
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
    acts: tuple[tuple[datetime, bool], ...] = ()

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
    generation = getattr(observation, "generation", target.generation)
    if generation < target.generation:
        return Told(target=target)
    if isinstance(observation, ServerStarted):
        return _started(target, observation)
    if isinstance(observation, ProcessExit):
        return _exited(target, observation)
    if isinstance(observation, ProbeResult):
        return _answered(target, observation)
    if isinstance(observation, ProcessSample):
        return _sampled(target, observation, policy)
    if isinstance(observation, LogMatch):
        return Told(target=_staged(target, observation))
    if isinstance(observation, ServerFacts):
        return Told(target=msgspec.structs.replace(target, facts=observation))
    if isinstance(observation, GpuSample):
        gpus = {**target.gpus, str(observation.index): observation}
        return Told(target=msgspec.structs.replace(target, gpus=gpus))
    if isinstance(observation, SourceSilent):
        return Told(target=target, signals=(signals.of_silence(observation, target.generation),))
    return Told(target=target)


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
        starts=(*target.starts, Start(generation=started.generation, spec=started.spec))[-_STARTS_KEPT:],
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
    )
    return _phase(target, "starting", started.at, started.how)


def _exited(target: Target, exit_: ProcessExit) -> Told:
    if exit_.expected:
        return _phase(target, "stopped", exit_.at, "stopped") if exit_.role == "main" else Told(target=target)
    signal = signals.of_exit(exit_, serving(target))
    target = msgspec.structs.replace(target, seen={**target.seen, "exit": exit_.at})
    if exit_.role == "worker":
        return Told(target=target, signals=(signal,))
    told = _phase(target, "failed", exit_.at, signal.evidence.text)
    return msgspec.structs.replace(told, signals=(signal,))


def _answered(target: Target, result: ProbeResult) -> Told:
    signal = signals.of_probe(result, serving(target))
    target = msgspec.structs.replace(target, probes={**target.probes, result.probe: result})
    if result.answer == "ok":
        return msgspec.structs.replace(_well(target, result), signals=(signal,))
    if result.answer == "busy" or not target.ready_at:
        return Told(target=target, signals=(signal,))
    bad = target.bad_answers + 1
    target = msgspec.structs.replace(target, bad_answers=bad)
    if bad >= _BAD_TO_DEGRADE:
        target = msgspec.structs.replace(target, seen={**target.seen, "probe": result.at})
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
        target = msgspec.structs.replace(target, starts=(*older, msgspec.structs.replace(start, stage="ready")))
    target = msgspec.structs.replace(target, bad_answers=0, ready_at=target.ready_at or result.at)
    if target.phase in {"starting", "degraded"}:
        return _phase(target, "ready", result.at, f"completion answered in {result.seconds:.1f} s")
    return Told(target=target)


def _sampled(target: Target, sample: ProcessSample, policy: Policy) -> Told:
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
    seen = {**target.seen, "stall": sample.at}
    return Told(target=msgspec.structs.replace(target, stalled=True, seen=seen), signals=(signal,))


def _progress(target: Target, sample: ProcessSample) -> Target:
    """Note what moved: a log that grew is progress; memory or work alone stretch the patience."""
    told = target.told
    if told is None or sample.log_bytes > told.log_bytes:
        return msgspec.structs.replace(target, told=sample, progress_at=sample.at)
    return target


def _stalls(target: Target, sample: ProcessSample, policy: Policy) -> str:
    """Say why this start hangs, or nothing."""
    if target.workers_gone_at and sample.at - target.workers_gone_at >= policy.workers_gone:
        return "all workers are gone while the main process goes on waiting for them"
    told = target.told
    if told is None:
        return ""
    quiet = (sample.at - told.at).total_seconds()
    patience = policy.stall_after.total_seconds()
    works = sample.cpu_seconds - told.cpu_seconds > _BUSY_SHARE * quiet
    grows = sample.rss_bytes - told.rss_bytes > _GROWTH_BYTES
    if quiet < patience * (policy.busy_factor if works or grows else 1.0):
        return ""
    doing = "the processor is busy" if works else "no processor time used"
    return (
        f"no progress for {quiet:.0f} s at stage {target.stage or 'launching'}: "
        f"no log line, {doing}, {sample.workers} workers alive"
    )


def _staged(target: Target, match: LogMatch) -> Target:
    """Note how far a start has come and what it printed of its memory, by the marks in its logs."""
    if target.phase != "starting" or not match.fresh or match.attempt != target.generation:
        return target
    *older, start = target.starts
    for hit in match.hits:
        if hit.rule_id[1:] in STAGES:
            start = msgspec.structs.replace(start, stage=hit.rule_id[1:])
        elif hit.rule_id == "@measured":
            start = msgspec.structs.replace(start, measured={**start.measured, **hit.labels})
    return msgspec.structs.replace(target, starts=(*older, start))


def _phase(target: Target, phase: str, at: datetime, reason: str) -> Told:
    target = msgspec.structs.replace(target, phase=phase, since=at)
    return Told(
        target=target,
        effects=(PhaseChanged(target=target.name, at=at, phase=phase, reason=reason, stage=target.stage),),
    )
