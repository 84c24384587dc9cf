"""What a rung would do here and now: the command before and after, and the sums behind each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from diagnose.capacity import parse
from diagnose.capacity.advise import advise
from diagnose.capacity.settings import Card, Measured, Settings
from diagnose.engine.targets import Start, Target
from diagnose.errors import DiagnoseError
from diagnose.launch import overlays as laid
from diagnose.launch import spec as spec_of
from diagnose.model.incident import Incident, Plan
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.remedy import FlagFit, FlagScale, FlagSet, Remedy, Step
from diagnose.model.text import Text

_MEMORY_PHASE = {
    "loading": "load",
    "profiling": "profile",
    "kv-cache": "kv",
    "capturing": "capture",
    "ready": "serving",
}
"""Stage of a start to the phase of memory in `diagnose.capacity`."""

Values = Mapping[str, str | None]


def effective(target: Target, overlays: Sequence[Overlay] | None = None) -> LaunchSpec:
    """Return the command that runs, or would run with these overlays."""
    desired = target.desired or LaunchSpec(argv=())
    return laid.effective(desired, target.overlays if overlays is None else overlays)


def build(remedy: Remedy, rung: int, incident: Incident, target: Target, *, now: datetime) -> Plan | None:
    """Make the plan of a rung; ``None`` where it cannot help: no command known, or nothing to change.

    Changes are laid over what held before this incident's own tries: a try that failed is dropped by
    the next one.
    """
    if target.desired is None:
        return None
    steps = remedy.ladder[rung].steps
    base = laid.drop(target.overlays, incident.id)
    under = effective(target, base)
    values: dict[str, str | None] = {}
    arithmetic: tuple[Text, ...] = ()
    try:
        for step in steps:
            more, sums = _changes(step, under, incident, target)
            values |= more
            arithmetic += sums
        known = {flag: value for flag, value in values.items() if _accepted(flag, target)}
        overlays = laid.lay(target.desired, base, known, incident_id=incident.id, at=now)
    except DiagnoseError:
        return None
    changing = any(isinstance(step, FlagSet | FlagScale | FlagFit) for step in steps)
    if changing and overlays == base:
        return None
    return Plan(
        remedy_id=remedy.id,
        rung=rung,
        title=remedy.ladder[rung].rung,
        steps=steps,
        before=effective(target),
        after=effective(target, overlays),
        changes=overlays[len(base) :],
        overlays=overlays,
        arithmetic=arithmetic,
    )


def _accepted(flag: str, target: Target) -> bool:
    """A flag that this server does not know is never written."""
    return target.facts is None or flag in target.facts.flags


def _flags(spec: LaunchSpec, target: Target) -> dict[str, str]:
    """Return the flags in force: of the ``--config`` file, and over them those of the command."""
    given = {one.name: one.value for one in spec_of.occurrences(spec.argv)}
    return {**(target.facts.config if target.facts else {}), **given}


def _changes(step: Step, under: LaunchSpec, incident: Incident, target: Target) -> tuple[Values, tuple[Text, ...]]:
    if isinstance(step, FlagSet):
        return step.set, ()
    if isinstance(step, FlagScale):
        return _scaled(step, under, target)
    if isinstance(step, FlagFit):
        return _fitted(step, under, incident, target)
    return {}, ()


def _scaled(step: FlagScale, under: LaunchSpec, target: Target) -> tuple[Values, tuple[Text, ...]]:
    settings = Settings.from_flags(_flags(under, target))
    text = _flags(under, target).get(step.flag) or settings.text(step.flag)
    if text is None:
        return {}, ()
    present = float(text)
    scaled = min(max(present * step.factor, step.least), step.most)
    value = f"{scaled:.2f}" if "." in text else str(round(scaled))
    if value == text:
        return {}, ()
    line = f"{step.flag}: {text} x {step.factor:g} = {value} ({step.least:g} .. {step.most:g})"
    return {step.flag: value}, (Text(line, line),)


def _fitted(step: FlagFit, under: LaunchSpec, incident: Incident, target: Target) -> tuple[Values, tuple[Text, ...]]:
    """Ask the arithmetic for the smallest change, with all that this incident's starts taught."""
    shape = target.facts.model if target.facts else None
    card = _card(target)
    if shape is None or card is None:
        return {}, ()
    told = [_measured(start, incident, target) for start in _failed_starts(target, incident, under)]
    settings = Settings.from_flags(_flags(under, target))
    latest = told[-1] if told else None
    accepted = target.facts.flags if target.facts else ()
    advice = advise(shape, settings, card, latest, allow=step.allow, accepted=accepted, failures=told[:-1])
    if not advice.fits:
        return {}, advice.arithmetic
    return {flag: after for flag, _, after in advice.changes}, (*advice.arithmetic, advice.costs)


def _card(target: Target) -> Card | None:
    """Take the card with the least room: every rank must fit its own."""
    cards = [
        Card(total_bytes=one.total_bytes, foreign_bytes=max(one.used_bytes - one.own_bytes, 0))
        for one in target.gpus.values()
    ]
    return min(cards, key=lambda card: card.total_bytes - card.foreign_bytes, default=None)


def _failed_starts(target: Target, incident: Incident, under: LaunchSpec) -> list[Start]:
    """Return the starts that this incident saw fail; where none was seen, the command as it stands."""
    attempts = {finding.attempt for finding in incident.findings}
    starts = [start for start in target.starts if start.generation in attempts]
    return starts or [Start(generation=incident.attempt, spec=under)]


def _measured(start: Start, incident: Incident, target: Target) -> Measured:
    """Gather what a start told of its memory: marks in its logs, and the findings with their lines."""
    own = [finding for finding in incident.findings if finding.attempt == start.generation]
    labels: dict[str, str] = dict(start.measured)
    if start.stage in _MEMORY_PHASE:
        labels["phase"] = _MEMORY_PHASE[start.stage]
    for finding in reversed(own):
        labels |= finding.labels
    return parse.measured_from(
        labels,
        at=Settings.from_flags(_flags(start.spec, target)),
        rule_id=own[0].rule_id if own else "",
        lines=[evidence.text for finding in own for evidence in finding.evidence],
    )
