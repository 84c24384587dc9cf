"""Builders of the model's values, with defaults that make sense, for tests of ours and of rule authors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from diagnose.model import codec
from diagnose.model.finding import Evidence, Finding
from diagnose.model.incident import Entry, Incident, Plan, State, Try
from diagnose.model.knowledge import Knowledge
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.remedy import Mode, Remedy, Risk, Rung, ServerRestart, Step
from diagnose.model.rule import Clears, Rule, RuleTests, Severity, Status, When
from diagnose.model.text import Text

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
"""A moment for tests."""

OOM = "ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 2.000000GB memory on GPU 0"
"""A line as a worker out of GPU memory writes it."""


def both(en: str, zh: str | None = None) -> Text:
    """Make a text; without Chinese the same words in both languages."""
    return Text(en, zh or en)


def evidence(
    text: str = OOM, *, source: str = "log/workerlog.0", line: int | None = 812, at: datetime = NOON
) -> Evidence:
    """Make one line of proof."""
    return Evidence(source=source, line=line, at=at, text=text)


def finding(
    rule_id: str = "gpu.oom.load",
    *,
    cause: str = "gpu_oom_load",
    target: str = "default",
    attempt: int = 1,
    at: datetime = NOON,
    severity: Severity = Severity.CRITICAL,
    confidence: float = 0.97,
    labels: Mapping[str, str] | None = None,
    proof: Sequence[Evidence | str] = (OOM,),
) -> Finding:
    """Make a finding; a plain string of ``proof`` is a line of ``log/workerlog.0``."""
    lines = tuple(evidence(one, at=at) if isinstance(one, str) else one for one in proof)
    return Finding(
        rule_id=rule_id,
        cause=cause,
        target=target,
        attempt=attempt,
        at=at,
        last_at=at,
        severity=severity,
        confidence=confidence,
        labels=labels or {},
        evidence=lines,
    )


def incident(
    *findings: Finding,
    id: str = "a1b2c3d4",  # noqa: A002 - the field's own name
    state: State = State.OPEN,
    timeline: Sequence[Entry] | None = None,
    tries: Sequence[Try] = (),
    plan: Plan | None = None,
    held: str = "",
) -> Incident:
    """Make an incident of findings, root cause first; what they say is not asked for again."""
    found = findings or (finding(),)
    lead = found[0]
    opened = Entry(at=lead.at, kind="opened", params={"cause": lead.cause, "rule": lead.rule_id})
    return Incident(
        id=id,
        target=lead.target,
        cause=lead.cause,
        rule_id=lead.rule_id,
        severity=lead.severity,
        confidence=lead.confidence,
        state=state,
        attempt=lead.attempt,
        first_seen=min(one.at for one in found),
        last_seen=max(one.last_at for one in found),
        findings=found,
        timeline=(opened,) if timeline is None else tuple(timeline),
        tries=tuple(tries),
        plan=plan,
        held=held,
    )


def rule(
    id: str = "gpu.oom.load",  # noqa: A002 - the field's own name
    *,
    cause: str = "gpu_oom_load",
    pattern: str = r"Out of memory error on GPU (?P<gpu>\d+)",
    title: Text | None = None,
    why: Text | None = None,
    fix: Text | None = None,
    command: str = "",
    severity: Severity = Severity.CRITICAL,
    confidence: float = 0.97,
    status: Status = "stable",
    explains: Sequence[str] = (),
    remedies: Sequence[str] = (),
    when: When | None = None,
    clears: Clears | None = None,
) -> Rule:
    """Make a rule of one pattern."""
    return Rule(
        id=id,
        cause=cause,
        title=title or both("Out of GPU memory while loading", "加载阶段显存不足"),
        why=why or both("The weights do not fit the card.", "权重放不进这张卡的显存。"),
        fix=fix or both("Use fewer bytes a weight.", "请降低权重的精度。"),
        when=when or When(pattern=pattern),
        clears=clears or Clears(ready=True),
        tests=RuleTests(hits=(), misses=()),
        command=command,
        severity=severity,
        confidence=confidence,
        status=status,
        explains=tuple(explains),
        remedies=tuple(remedies),
    )


def remedy(
    id: str = "server.lower-memory-use",  # noqa: A002 - the field's own name
    *,
    cures: Sequence[str] = ("gpu_oom_load",),
    steps: Sequence[Step] = (ServerRestart(),),
    ladder: Sequence[Rung] = (),
    risk: Risk = Risk.DEGRADING,
    mode: Mode = Mode.AUTO,
    why: Text | None = None,
    status: Status = "stable",
) -> Remedy:
    """Make a remedy of one rung, or of a ladder."""
    return Remedy(
        id=id,
        title=both("Make the server fit the card", "让服务适配显存"),
        why=why or both("The same model in fewer bytes.", "同一模型占用更少显存。"),
        cures=tuple(cures),
        ladder=tuple(ladder) or (Rung(rung=both("at once", "直接执行"), steps=tuple(steps)),),
        risk=risk,
        mode=mode,
        status=status,
    )


def knowledge(*known: Rule | Remedy) -> Knowledge:
    """Gather rules and remedies."""
    return Knowledge(
        rules={one.id: one for one in known if isinstance(one, Rule)},
        remedies={one.id: one for one in known if isinstance(one, Remedy)},
        marks={},
        digest=hashlib.sha256(codec.encode(known)).hexdigest()[:32],
    )


def plan(
    *changes: tuple[str, str | None, str | None],
    remedy_id: str = "server.lower-memory-use",
    argv: Sequence[str] = ("python", "-m", "fastdeploy.entrypoints.openai.api_server"),
    after: Sequence[str] = (),
    arithmetic: Sequence[Text] = (),
) -> Plan:
    """Make a plan of changes: flag, value before, value after; ``after`` is the whole command then."""
    overlays = tuple(
        Overlay(flag=flag, before=old, after=new, incident_id="a1b2c3d4", at=NOON) for flag, old, new in changes
    )
    return Plan(
        remedy_id=remedy_id,
        rung=0,
        title=both("smaller", "缩小"),
        steps=(ServerRestart(),),
        before=LaunchSpec(argv=tuple(argv)),
        after=LaunchSpec(argv=tuple(after or argv)),
        changes=overlays,
        overlays=overlays,
        arithmetic=tuple(arithmetic),
    )
