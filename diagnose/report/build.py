"""Incidents to a report: the JSON that programs read, and all that the other formats show.

The shape is a promise (``diagnose.report/1``): keys are added, never renamed or taken away.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import msgspec

from diagnose.engine import planner
from diagnose.engine.templates import Template
from diagnose.model.finding import Finding
from diagnose.model.incident import Incident, Plan, State
from diagnose.model.knowledge import Knowledge
from diagnose.model.launch import Overlay
from diagnose.model.mark import Mark
from diagnose.model.remedy import Advice, Mode, Remedy, Risk
from diagnose.model.rule import Rule, Severity
from diagnose.model.surroundings import Change, Comparison
from diagnose.model.text import Lang, Text
from diagnose.profiles import xid
from diagnose.report import texts
from diagnose.report.clean import fill, fill_command, sound, stripped, unfolded
from diagnose.report.period import Period

SCHEMA = "diagnose.report/1"

_MOST_EVIDENCE = 20
_MOST_PROOF_CHARS = 160
_SECRET = re.compile(r"(?i)[-_](?:keys?|token|secret|passw\w*|credentials?)$")

_UNKNOWN_WHY = Text(
    "The server failed, but no rule knows the lines that it left. The last of them stand below.",
    "服务已失败，但现有规则不认识它留下的日志。以下是最后的相关日志行。",
)
_UNKNOWN_FIX = Text(
    "Read the lines below and those before them in the same file; look also into the other logs of this "
    "start (the first worker that failed usually tells most). Give the whole log folder to the report.",
    "请查看以下日志行及同一文件中更早的内容，并检查本次启动的其他日志"
    "（最先失败的 worker 的日志通常最有用）；也可以对整个日志目录重新生成报告。",
)


class Scanned(msgspec.Struct, frozen=True, kw_only=True):
    """How much was read, in how many seconds."""

    files: int = 0
    bytes: int = 0
    lines: int = 0
    seconds: float = 0.0


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One line or sample, word for word; ``line`` counts from 1, null for what is no file."""

    source: str
    line: int | None
    at: datetime
    text: str


class Consequence(msgspec.Struct, frozen=True, kw_only=True):
    """A class of trouble that the root cause led to."""

    cause: str
    evidence: tuple[Proof, ...]


class Cure(msgspec.Struct, frozen=True, kw_only=True):
    """What helps: the rule's own advice, or a remedy of the catalogue.

    Attributes:
        change: What it changes of the launch command here, where that is known.
        command: For a person to run; empty where there is none.
    """

    id: str
    mode: str
    risk: str
    why: str
    change: tuple[str, ...]
    command: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened, as a sentence."""

    at: datetime
    event: str


class Trouble(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One incident, as the report shows it.

    Attributes:
        attempt: The start of the server in which it was seen, from 1.
        changed: How that start differs from the last healthy one, most suspicious first. This and all below is
            left out where the start did not fail or nobody looked.
        changed_since: When the last healthy start began; left out where none is known.
        changed_more: How many further changes are not listed.
        not_compared: Kinds of things that could not be looked at.
        mark: What a person said of it; left out where nobody did.
    """

    id: str
    target: str
    cause: str
    title: str
    severity: Severity
    confidence: float
    state: State
    attempt: int
    first_seen: datetime
    last_seen: datetime
    summary: str
    why: str
    fix: str
    evidence: tuple[Proof, ...]
    consequences: tuple[Consequence, ...]
    remedies: tuple[Cure, ...]
    timeline: tuple[Event, ...]
    changed: tuple[Change, ...] | None = None
    changed_since: datetime | None = None
    changed_more: int = 0
    not_compared: tuple[str, ...] = ()
    mark: Mark | None = None

    @property
    def compared(self) -> Comparison | None:
        """All that is said of changes, in one."""
        if self.changed is None:
            return None
        return Comparison(
            since=self.changed_since, changes=self.changed, more=self.changed_more, unseen=self.not_compared
        )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that one look found.

    Attributes:
        incidents: Root causes first, notes (severity ``info``) last.
        unexplained: Kinds of error lines that no rule knows.
        skipped: What could not be read, and why, one sentence each.
        period: All incidents of the journal in the time asked for, in numbers; left out for logs.
    """

    generated_at: datetime
    target: str
    scanned: Scanned
    incidents: tuple[Trouble, ...]
    unexplained: tuple[Template, ...]
    schema: str = SCHEMA
    skipped: tuple[str, ...] = ()
    period: Period | None = None


def build(
    *,
    target: str,
    generated_at: datetime,
    scanned: Scanned,
    incidents: Sequence[Incident],
    knowledge: Knowledge,
    unexplained: Sequence[Template],
    lang: Lang,
    skipped: Sequence[str] = (),
    period: Period | None = None,
    marks: Mapping[str, Mark] = MappingProxyType({}),
) -> Report:
    """Make a report.

    Args:
        incidents: In the engine's order, root cause first; notes are put behind all else.
        lang: Of titles, summaries, advice and events; evidence stays as it was written.
        marks: What people said of them, by incident.
    """
    ordered = sorted(incidents, key=lambda one: one.severity is Severity.INFO)
    return Report(
        generated_at=generated_at,
        target=sound(target),
        scanned=scanned,
        incidents=tuple(trouble(one, knowledge, lang, marks.get(one.id)) for one in ordered),
        unexplained=tuple(_sound_template(one) for one in unexplained),
        skipped=tuple(sound(one) for one in skipped),
        period=period,
    )


def encode(report: Report | Trouble | Sequence[Trouble]) -> str:
    """Spell a report, or part of one, as indented JSON with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(_plain(report)), indent=2).decode() + "\n"


def trouble(incident: Incident, knowledge: Knowledge, lang: Lang, mark: Mark | None = None) -> Trouble:
    """Put one incident into the report's shape and words."""
    rule = knowledge.rules.get(incident.rule_id)
    lead = _lead(incident)
    labels = _labels(lead)
    own = [one for one in incident.findings if one.cause == incident.cause and one.attempt == lead.attempt]
    evidence = _proofs([lead, *own])
    title = title_of(incident, knowledge, lang)
    why = rule.why if rule else _UNKNOWN_WHY
    compared = incident.compared or Comparison()
    return Trouble(
        id=incident.id,
        target=sound(incident.target),
        cause=incident.cause,
        title=title,
        severity=incident.severity,
        confidence=incident.confidence,
        state=incident.state,
        attempt=incident.attempt,
        first_seen=incident.first_seen,
        last_seen=incident.last_seen,
        summary=_summary(title, evidence[0], incident.state, lang),
        why=fill(_said(why, lang), labels),
        fix=_fix(rule, labels, lang),
        evidence=evidence,
        consequences=_consequences(incident),
        remedies=_cures(incident, rule, labels, knowledge, lang),
        timeline=tuple(Event(at=one.at, event=sound(texts.entry_text(one, lang))) for one in incident.timeline),
        changed=tuple(_sound_change(one) for one in compared.changes) if incident.compared else None,
        changed_since=compared.since,
        changed_more=compared.more,
        not_compared=compared.unseen,
        mark=mark and _sound_mark(mark),
    )


def title_of(incident: Incident, knowledge: Knowledge, lang: Lang) -> str:
    """Say in a few words what failed: by its rule, else by its class of cause."""
    rule, labels = knowledge.rules.get(incident.rule_id), _labels(_lead(incident))
    title = fill(_said(rule.title, lang), labels) if rule else texts.cause_name(incident.cause, lang)
    return title + _xid_name(labels, lang)


def change_text(overlay: Overlay) -> str:
    """Spell one change of the launch command.

    A flag that is new is spelled as it is written on the command line, one that goes with a minus.
    """
    flag = overlay.flag
    if overlay.after is None:
        return f"- {flag} {overlay.before or ''}".rstrip()
    if overlay.before is None:
        return f"{flag} {overlay.after}".rstrip()
    return f"{flag} {overlay.before} -> {overlay.after}"


def _lead(incident: Incident) -> Finding:
    """Find the newest finding that names the root cause."""
    named = [one for one in incident.findings if one.rule_id == incident.rule_id]
    same = named or [one for one in incident.findings if one.cause == incident.cause]
    return max(same, key=lambda one: one.attempt, default=incident.findings[0])


def _labels(lead: Finding) -> dict[str, str]:
    return {name: sound(value) for name, value in lead.labels.items()}


def _proofs(findings: Iterable[Finding]) -> tuple[Proof, ...]:
    pieces = dict.fromkeys((one.source, one.line, one.at, one.text) for f in findings for one in f.evidence)
    return tuple(
        Proof(source=sound(source), line=line, at=at, text=sound(text))
        for source, line, at, text in list(pieces)[:_MOST_EVIDENCE]
    )


def _consequences(incident: Incident) -> tuple[Consequence, ...]:
    grouped: dict[str, list[Finding]] = {}
    for finding in incident.findings:
        if finding.cause != incident.cause:
            grouped.setdefault(finding.cause, []).append(finding)
    return tuple(Consequence(cause=cause, evidence=_proofs(same)) for cause, same in grouped.items())


def _said(text: Text, lang: Lang) -> str:
    return unfolded(text.in_(lang))


def _xid(labels: Mapping[str, str]) -> xid.XidEntry | None:
    code = labels.get("xid", "")
    return xid.explain(int(code)) if code.isascii() and code.isdigit() and len(code) < 6 else None


def _xid_name(labels: Mapping[str, str], lang: Lang) -> str:
    """Say behind a title what the driver's code stands for."""
    if entry := _xid(labels):
        return ("，" if lang == "zh" else " – ") + entry.name.in_(lang)
    return ""


def _fix(rule: Rule | None, labels: Mapping[str, str], lang: Lang) -> str:
    """Say what to do; what a driver's code asks for is surer than what its rule says of many."""
    if entry := _xid(labels):
        return entry.advice.in_(lang)
    return fill(_said(rule.fix if rule else _UNKNOWN_FIX, lang), labels)


def _summary(title: str, proof: Proof, state: State, lang: Lang) -> str:
    place = proof.source if proof.line is None else f"{proof.source}:{proof.line}"
    text, stands = stripped(proof.text, _MOST_PROOF_CHARS), texts.STATES[state].in_(lang)
    if lang == "zh":
        return f"{title.rstrip('。')}：{stripped(place)} 显示“{text}”，{stands}。"
    return f'{title.rstrip(".")}: {stripped(place)} says "{text}"; {stands}.'


def _cures(
    incident: Incident, rule: Rule | None, labels: Mapping[str, str], knowledge: Knowledge, lang: Lang
) -> tuple[Cure, ...]:
    advice = Cure(
        id="advice",
        mode=Mode.SUGGEST.value,
        risk=Risk.HARMLESS.value,
        why=_fix(rule, labels, lang),
        change=(),
        command=fill_command(rule.command, labels) if rule else "",
    )
    return (advice, *(_cure(one, incident, labels, lang) for one in planner.remedies_for(incident, knowledge)))


def _cure(remedy: Remedy, incident: Incident, labels: Mapping[str, str], lang: Lang) -> Cure:
    plan = incident.plan if incident.plan and incident.plan.remedy_id == remedy.id else None
    limits = {mode.value for mode in Mode}
    sums = [one.in_(lang) for one in plan.arithmetic] if plan else []
    return Cure(
        id=remedy.id,
        mode=incident.held if plan and incident.held in limits else remedy.mode.value,
        risk=remedy.risk.value,
        why="\n".join([_said(remedy.why, lang), *sums]),
        change=tuple(sound(change_text(one)) for one in plan.changes) if plan else (),
        command=_new_command(plan) if plan and plan.changes else _advised(remedy, labels),
    )


def _new_command(plan: Plan) -> str:
    """Spell the launch command with the plan's changes; values of secrets are left out."""
    words: list[str] = []
    for word in plan.after.argv:
        name, equals, _ = word.partition("=")
        if words and words[-1].startswith("-") and "=" not in words[-1] and _SECRET.search(words[-1]):
            hidden = word if word.startswith("-") else "***"
        else:
            hidden = f"{name}=***" if equals and name.startswith("-") and _SECRET.search(name) else word
        words.append(hidden)
    return sound(shlex.join(words))


def _advised(remedy: Remedy, labels: Mapping[str, str]) -> str:
    steps = (step for rung in remedy.ladder for step in rung.steps)
    commands = (step.command for step in steps if isinstance(step, Advice) and step.command)
    return fill_command(next(commands, ""), labels)


def _sound_template(one: Template) -> Template:
    return msgspec.structs.replace(
        one, template=sound(one.template), sample=sound(one.sample), source=sound(one.source)
    )


def _sound_change(one: Change) -> Change:
    before, after = (None if text is None else sound(text) for text in (one.before, one.after))
    return msgspec.structs.replace(one, name=sound(one.name), before=before, after=after)


def _sound_mark(one: Mark) -> Mark:
    return msgspec.structs.replace(one, by=sound(one.by), cause=sound(one.cause), note=sound(one.note))


def _plain(report: Report | Trouble | Sequence[Trouble]) -> object:
    """Put the schema first, and leave out what was skipped where nothing was."""
    if not isinstance(report, Report):
        return report
    fields = msgspec.structs.asdict(report)
    for name in ("skipped", "period"):
        if not fields[name]:
            del fields[name]
    return {"schema": fields.pop("schema"), **fields}
