"""What a rung would do here and now: the command before and after, and the sums behind each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from diagnose.capacity import parse
from diagnose.capacity.advise import Advice, advise
from diagnose.capacity.bill import Bill, again
from diagnose.capacity.settings import Card, Measured, Settings
from diagnose.engine.pace import Start
from diagnose.engine.targets import Target
from diagnose.errors import DiagnoseError
from diagnose.launch import config as config_of
from diagnose.launch import overlays as laid
from diagnose.launch.flags import everywhere, parse_version
from diagnose.launch.table import NEWEST
from diagnose.model.incident import Incident, Plan
from diagnose.model.launch import LaunchSpec, ModelShape, Overlay
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

_NOTABLE = 0.02
"""The share of a card that others must have given back before that is worth a look."""

_V1_SINCE, _CHUNKED_SINCE = (2, 1), (2, 2)
"""Versions from which the V1 scheduler and chunked prefill are the default (their release notes, roughly)."""

Values = Mapping[str, str | None]

_MOST_ANSWERS = 64
_answers: dict[tuple[str, str, str, int], tuple[tuple[object, ...], tuple[Values, tuple[Text, ...]]]] = {}
"""What `_worked_out` found last. Nothing is decided by it: the same question has the same answer without it."""


def effective(target: Target, overlays: Sequence[Overlay] | None = None) -> LaunchSpec:
    """Return the command that runs, or would run with these overlays."""
    desired = target.desired or LaunchSpec(argv=())
    return laid.effective(desired, target.overlays if overlays is None else overlays, _known(target))


def build(remedy: Remedy, rung: int, incident: Incident, target: Target, *, now: datetime) -> Plan | None:
    """Make the plan of a rung; ``None`` where it cannot help: no command known, or nothing to change.

    Changes are laid over what is proven: a try that failed is dropped by the next one, whoever made it.
    """
    if target.desired is None:
        return None
    steps = remedy.ladder[rung].steps
    base = target.proven
    under = effective(target, base)
    try:
        values, arithmetic = _worked_out(remedy, rung, under, incident, target)
        known = {flag: value for flag, value in values.items() if value is None or laid.writable(flag, _known(target))}
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


def _known(target: Target) -> Sequence[str]:
    """Return the flags that this server accepts; until it was asked, those that every version does."""
    return target.facts.flags if target.facts else everywhere()


def _flags(spec: LaunchSpec, target: Target) -> dict[str, str]:
    """Return the flags in force: of the ``--config`` file, and over them those of the command."""
    return config_of.merged(spec, target.facts.config if target.facts else {})


def _settings(spec: LaunchSpec, target: Target) -> Settings:
    """Return what of a command costs memory, read as this version of the server would."""
    version = parse_version(target.facts.version if target.facts else None) or NEWEST
    v1 = spec.env.get("ENABLE_V1_KVCACHE_SCHEDULER", "1" if version >= _V1_SINCE else "0") != "0"
    flags = _flags(spec, target)
    off = spec.env.get("FD_DISABLE_CHUNKED_PREFILL", "0") == "1" or version < _CHUNKED_SINCE
    return Settings.from_flags(flags, v1=v1, chunked="--enable-chunked-prefill" in flags or not off)


def _worked_out(
    remedy: Remedy, rung: int, under: LaunchSpec, incident: Incident, target: Target
) -> tuple[Values, tuple[Text, ...]]:
    """Return the values of a rung and their sums; worked out once for as long as all that they rest on stays.

    A plan that is held is asked for at every turn, up to a hundred times a second.
    """
    rests_on = (remedy, under, incident.findings, incident.attempt, target.starts, target.facts, _card(target))
    place = (target.name, incident.id, remedy.id, rung)
    if place in _answers and _answers[place][0] == rests_on:
        return _answers[place][1]
    values: dict[str, str | None] = {}
    arithmetic: tuple[Text, ...] = ()
    for step in remedy.ladder[rung].steps:
        more, sums = _changes(step, under, incident, target)
        values |= more
        arithmetic += sums
    if len(_answers) >= _MOST_ANSWERS:
        _answers.clear()
    _answers[place] = rests_on, (values, arithmetic)
    return values, arithmetic


def _changes(step: Step, under: LaunchSpec, incident: Incident, target: Target) -> tuple[Values, tuple[Text, ...]]:
    if isinstance(step, FlagSet):
        return step.set, ()
    if isinstance(step, FlagScale):
        return _scaled(step, under, target)
    if isinstance(step, FlagFit):
        return _fitted(step, under, incident, target)
    return {}, ()


def _scaled(step: FlagScale, under: LaunchSpec, target: Target) -> tuple[Values, tuple[Text, ...]]:
    settings = _settings(under, target)
    text = _flags(under, target).get(step.flag) or settings.text(step.flag)
    if text is None:
        return {}, ()
    try:
        present = float(text)
    except ValueError:  # the server will say so itself
        return {}, ()
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
    settings = _settings(under, target)
    latest = told[-1] if told else None
    accepted = _known(target)
    advice = _advised(shape, settings, card, latest, step.allow, accepted, tuple(told[:-1]))
    if not advice.fits:
        return {}, advice.arithmetic
    return {flag: after for flag, _, after in advice.changes}, (*advice.arithmetic, advice.costs)


def fits_again(incident: Incident, target: Target) -> Bill | None:
    """Write the bill of the operator's own settings, where others have given back memory since they last failed.

    Returns:
        ``None`` where nothing was given back, or nobody can tell; a bill need not fit.
    """
    shape = target.facts.model if target.facts else None
    card, desired = _card(target), effective(target, ())
    failed = [start for start in _failed_starts(target, incident, desired) if start.spec == desired]
    if shape is None or card is None or not failed:
        return None
    then = failed[-1].foreign_bytes
    if then - card.foreign_bytes < card.total_bytes * _NOTABLE:
        return None
    before = Card(total_bytes=card.total_bytes, foreign_bytes=then)
    told = [_measured(start, incident, target) for start in failed]
    return again(shape, _settings(desired, target), card, told, before=before)


@lru_cache(maxsize=64)
def _advised(
    shape: ModelShape,
    settings: Settings,
    card: Card,
    latest: Measured | None,
    allow: tuple[str, ...],
    accepted: tuple[str, ...],
    failures: tuple[Measured, ...],
) -> Advice:
    """Search once for the same question: a plan that is held is made anew at every turn."""
    return advise(shape, settings, card, latest, allow=allow, accepted=accepted, failures=failures)


def _card(target: Target) -> Card | None:
    """Take the card with the least room: every rank must fit its own."""
    cards = [
        Card(total_bytes=one.total_bytes, foreign_bytes=max(one.used_bytes - one.own_bytes, 0))
        for one in target.gpus.values()
        if one.total_bytes
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
    for finding in reversed(own):
        labels |= finding.labels
    rules = [finding.rule_id for finding in own]
    rule_id = next((one for one in rules if parse.phase_of(one)), rules[0] if rules else "")
    if phase := parse.phase_of(rule_id) or _MEMORY_PHASE.get(start.stage):
        labels["phase"] = phase  # where the traceback points says more than how far the marks came
    return parse.measured_from(
        labels,
        at=_settings(start.spec, target),
        rule_id=rule_id,
        lines=[evidence.text for finding in own for evidence in finding.evidence],
    )
