"""Observations of every kind, brought to one shape that conditions can be asked about."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from diagnose.model.finding import Evidence
from diagnose.model.observation import Hit, LogMatch, ProbeResult, ProcessExit, SourceSilent

Kind = Literal["log", "exit", "probe", "stall", "silent"]

REPETITIVE = 0.6
"""Score from which a completion counts as repetitive (0 to 1, `diagnose.engine.repetition`)."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One thing seen, by name, with labels.

    Attributes:
        name: ``log``, or what a rule names: ``process.exit``, ``process.stall``, ``probe.health`` ...
        hits: The patterns that a log line hit; empty for all else.
        phase: Where the attempt stood: ``starting``, ``ready`` or ``""`` where nobody knows.
    """

    target: str
    attempt: int
    at: datetime
    name: str
    kind: Kind
    evidence: Evidence
    labels: Mapping[str, str] = {}
    hits: tuple[Hit, ...] = ()
    phase: str = ""
    fresh: bool = True


def of_log(match: LogMatch, phase: str) -> Signal:
    """Bring a matched line to the common shape."""
    return Signal(
        target=match.target,
        attempt=match.attempt,
        at=match.at,
        name="log",
        kind="log",
        evidence=Evidence(source=match.source, line=match.line, at=match.at, text=match.text, dated=match.dated),
        hits=match.hits,
        phase=phase,
        fresh=match.fresh,
    )


def of_event(*, target: str, attempt: int, at: datetime, name: str, labels: Mapping[str, str], text: str) -> Signal:
    """Make a signal of a structured observation; its kind follows from its name."""
    kinds: Mapping[str, Kind] = {
        "process.exit": "exit",
        "process.stall": "stall",
        "source.silent": "silent",
    }
    return Signal(
        target=target,
        attempt=attempt,
        at=at,
        name=name,
        kind=kinds.get(name, "probe"),
        evidence=Evidence(source=name, line=None, at=at, text=text),
        labels=labels,
        phase=labels.get("phase", ""),
    )


def of_exit(exit_: ProcessExit, phase: str) -> Signal:
    """Say how a process ended."""
    signal = str(-exit_.code) if exit_.code is not None and exit_.code < 0 else ""
    code = "" if exit_.code is None else str(exit_.code)
    ended = f"signal {signal}" if signal else f"exit code {code or 'unknown'}"
    return of_event(
        target=exit_.target,
        attempt=exit_.generation,
        at=exit_.at,
        name="process.exit",
        labels={
            "role": exit_.role,
            "code": code,
            "signal": signal,
            "phase": phase,
            "after_ready": str(phase == "ready").lower(),
            "pid": str(exit_.pid),
        },
        text=f"{exit_.role} process {exit_.pid} ended: {ended}",
    )


def of_probe(result: ProbeResult, phase: str) -> Signal:
    """Say what a probe was answered."""
    repetitive = result.repetition is not None and result.repetition >= REPETITIVE
    status = "" if result.status is None else str(result.status)
    text = f"{result.probe} probe: {result.answer} {status} {result.detail}"
    return of_event(
        target=result.target,
        attempt=result.generation,
        at=result.at,
        name=f"probe.{result.probe}",
        labels={
            "answer": result.answer,
            "status": status,
            "phase": phase,
            "after_ready": str(phase == "ready").lower(),
            "repetitive": str(repetitive).lower(),
        },
        text=" ".join(text.split()),
    )


def of_silence(silent: SourceSilent, attempt: int) -> Signal:
    """Say which sense cannot see, and why."""
    return of_event(
        target=silent.target,
        attempt=attempt,
        at=silent.at,
        name="source.silent",
        labels={"source": silent.source},
        text=f"{silent.source} cannot see: {silent.reason}",
    )
