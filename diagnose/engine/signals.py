"""Observations of every kind, brought to one shape that conditions can be asked about."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from diagnose.model.finding import Evidence
from diagnose.model.observation import Hit, LogMatch, Numbers, OutputScored, ProbeResult, ProcessExit, SourceSilent

Kind = Literal["log", "exit", "probe", "stall", "silent", "sample"]

REPETITIVE = 0.6
"""Score from which a completion counts as repetitive (0 to 1, `diagnose.engine.repetition`)."""

_CLOCKS_DIFFER = timedelta(minutes=2)
"""A line that was just read is not older than this by its own date; what is, has another clock."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One thing seen, by name, with labels.

    Attributes:
        name: ``log``, or what a rule names: ``process.exit``, ``process.stall``, ``probe.health``,
            ``sample.host.memory_available_ratio`` ...
        hits: The patterns that a log line hit; empty for all else.
        value: The number of a sample.
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
    value: float | None = None
    phase: str = ""
    fresh: bool = True


def on_our_clock(match: LogMatch, now: datetime) -> LogMatch:
    """Date a line that was just read by our own clock where it bears no date, or one that cannot be right.

    A container in another time zone, a clock that is off, a traceback hours below the last dated line: by their
    own dates such lines would belong to no trouble of now. The line's text keeps what it says.
    """
    if match.dated and now - _CLOCKS_DIFFER <= match.at <= now:
        return match
    if not match.fresh:
        return msgspec.structs.replace(match, at=now) if match.at > now else match
    return msgspec.structs.replace(match, at=now, dated=False)


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


def of_exit(exit_: ProcessExit, phase: str, stage: str = "") -> Signal:
    """Say how a process ended, and how far the server had come."""
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
            "stage": stage,
        },
        text=f"{exit_.role} process {exit_.pid} ended: {ended}{_when(phase, stage)}",
    )


def _when(phase: str, stage: str) -> str:
    return f", {phase}" + (f" ({stage})" if stage and stage != phase else "") if phase else ""


def of_output(scored: OutputScored, attempt: int, phase: str) -> Signal:
    """Say how much of an answer that was handed in repeats itself."""
    request = f" of request {scored.request_id}" if scored.request_id else ""
    return of_event(
        target=scored.target,
        attempt=attempt,
        at=scored.at,
        name="text.answer",
        labels={"repetitive": str(scored.repetition >= REPETITIVE).lower(), "phase": phase},
        text=f"answer{request}, {scored.characters} characters, sha256 {scored.digest}: "
        f"repetition {scored.repetition:.2f}",
    )


def of_probe(result: ProbeResult, phase: str) -> Signal:
    """Say what a probe was answered."""
    repetitive = result.repetition is not None and result.repetition >= REPETITIVE
    status = "" if result.status is None else str(result.status)
    first = f"first token after {result.first_token_seconds:.1f} s" if result.first_token_seconds is not None else ""
    text = f"{result.probe} probe: {result.answer} {status} {result.detail} {first}"
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


def of_numbers(told: Numbers, attempt: int, phase: str) -> tuple[Signal, ...]:
    """Say each number that was measured, as a signal of its own."""
    return tuple(
        of_sample(
            target=told.target, attempt=attempt, at=told.at, name=name, value=value, labels=told.labels, phase=phase
        )
        for name, value in told.values.items()
    )


def of_sample(
    *,
    target: str,
    attempt: int,
    at: datetime,
    name: str,
    value: float,
    labels: Mapping[str, str],
    phase: str = "",
    text: str = "",
) -> Signal:
    """Say one number.

    Args:
        text: What it is a number of, in words; empty to name it by its labels.
    """
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    which = "" if text else "".join(f" ({key} {of})" for key, of in labels.items() if key != "phase")
    told = f"{text} [{name} {shown}]" if text else f"{name}{which}: {shown}"
    return Signal(
        target=target,
        attempt=attempt,
        at=at,
        name=f"sample.{name}",
        kind="sample",
        evidence=Evidence(source=name.partition(".")[0], line=None, at=at, text=told),
        labels={**labels, "value": shown},
        value=value,
        phase=phase,
    )


def of_silence(silent: SourceSilent, attempt: int) -> Signal:
    """Say which sense cannot see, and why."""
    return of_event(
        target=silent.target,
        attempt=attempt,
        at=silent.at,
        name="source.silent",
        labels={"source": silent.source, "sense": _sense(silent.source), "kind": silent.kind},
        text=f"{silent.source}: {silent.reason}",
    )


def _sense(source: str) -> str:
    """Name the kind of a source: logs are told by their paths."""
    return "logs" if "/" in source or "." in source else source
