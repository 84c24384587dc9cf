"""Where everything stands now, as programs and people are told: one shape for the API and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from diagnose import __version__
from diagnose.engine import cards
from diagnose.engine.incidents import is_open
from diagnose.engine.plan import effective
from diagnose.engine.state import State
from diagnose.engine.targets import Target
from diagnose.launch import secrets
from diagnose.model.incident import Incident
from diagnose.model.incident import State as Stands
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import GpuSample
from diagnose.model.rule import Severity
from diagnose.model.text import Lang
from diagnose.notices.book import Silence
from diagnose.outbox import Seen
from diagnose.report import texts
from diagnose.report.build import title_of


class Overlaid(msgspec.Struct, frozen=True, kw_only=True):
    """One change that a remedy laid over the command, and the incident that it is for."""

    flag: str
    before: str | None
    after: str | None
    incident: str


class Paused(msgspec.Struct, frozen=True, kw_only=True):
    """A person keeps remedies from being carried out; without ``until`` till it is resumed."""

    by: str
    why: str
    until: datetime | None


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU that the server may use.

    Attributes:
        index: As ``nvidia-smi`` counts; ``cuda``: as the server does.
        name: Of its model.
        title, facts, wrong: What it is called, what it shows, and what is amiss, in words.
    """

    index: int
    cuda: int | None
    name: str
    total_bytes: int
    used_bytes: int
    busy_ratio: float | None
    celsius: int | None
    state: str
    title: str
    facts: tuple[str, ...]
    wrong: tuple[str, ...]


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that is not over.

    Attributes:
        held: Why nothing is done now, if so: a word; ``held_text`` says it.
    """

    id: str
    cause: str
    title: str
    severity: Severity
    state: Stands
    held: str
    held_text: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One server.

    Attributes:
        phase: ``stopped``, ``starting``, ``ready``, ``degraded`` or ``failed``; ``stage``: within a start.
        generation: Which launch this is, from 1.
        command: What runs, secrets hidden.
        given_but_unused: What was given to the daemon otherwise, where it took a running server over.
        changed: How a start that is under way or failed differs from the last healthy one, in a line.
        numbers: What the server counts of itself.
        blind: Senses that cannot see, and why.
    """

    target: str
    phase: str
    stage: str
    since: datetime | None
    generation: int
    pid: int | None
    command: tuple[str, ...]
    overlays: tuple[Overlaid, ...]
    paused: Paused | None
    gpus: tuple[Card, ...]
    given_but_unused: tuple[str, ...] | None
    changed: str
    numbers: Mapping[str, float]
    blind: Mapping[str, str]
    incidents: tuple[Open, ...]


class Taker(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver of alerts and how it does.

    Attributes:
        failing_since: Since when it takes nothing; ``error`` says what it said.
        note: What is amiss though it takes messages.
        waiting, put_aside: Messages.
    """

    name: str
    failing_since: datetime | None
    error: str
    next_try: datetime | None
    sent: int
    last_sent: datetime | None
    note: str
    waiting: int
    put_aside: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        at: The moment that is told of: now where the daemon answers, else the last turn that it wrote down.
        version: Of the program that answers.
    """

    schema: str = "diagnose.status/1"
    at: datetime | None
    version: str
    targets: tuple[Standing, ...]
    receivers: tuple[Taker, ...]
    silences: tuple[Silence, ...]


def status(
    state: State,
    incidents: Iterable[Incident],
    told: Seen,
    *,
    at: datetime | None,
    unused: Mapping[str, Sequence[str]],
    knowledge: Knowledge,
    lang: Lang,
) -> Status:
    """Say where everything stands.

    Args:
        unused: What was given for a target and is not what runs, a line each.
        lang: Of what is told in words.
    """
    live = [one for one in incidents if is_open(one)]
    return Status(
        at=at,
        version=__version__,
        targets=tuple(
            standing(
                one,
                [_open(found, knowledge, lang) for found in live if found.target == one.name],
                unused.get(one.name),
                lang,
            )
            for one in state.targets.values()
        ),
        receivers=receivers(told),
        silences=tuple(told.book.silences.values()),
    )


def receivers(told: Seen) -> tuple[Taker, ...]:
    """Say how each receiver does."""
    names = sorted({*told.health, *told.waiting, *told.dead})
    healths = [(name, told.health.get(name)) for name in names]
    return tuple(
        Taker(
            name=name,
            failing_since=health.since if health else None,
            error=health.error if health else "",
            next_try=health.next if health and health.since else None,
            sent=health.sent if health else 0,
            last_sent=health.last if health else None,
            note=health.note if health else "",
            waiting=told.waiting.get(name, 0),
            put_aside=told.dead.get(name, 0),
        )
        for name, health in healths
    )


def standing(target: Target, live: Sequence[Open], unused: Sequence[str] | None, lang: Lang) -> Standing:
    """Say where one server stands.

    Args:
        live: Its incidents that are not over.
        unused: See `status`.
    """
    compared = target.starts[-1].compared if target.starts else None
    differs = compared and compared.since and target.phase in {"starting", "failed"}
    return Standing(
        target=target.name,
        phase=target.phase,
        stage=target.stage,
        since=target.since,
        generation=target.generation,
        pid=target.pid,
        command=secrets.hidden(effective(target).argv),
        overlays=tuple(
            Overlaid(flag=one.flag, before=one.before, after=one.after, incident=one.incident_id)
            for one in target.overlays
        ),
        paused=Paused(by=target.pause.by, why=target.pause.why, until=target.pause.until) if target.pause else None,
        gpus=tuple(_card(one, lang) for one in target.gpus.values()),
        given_but_unused=tuple(unused) if unused else None,
        changed=texts.changed_line(compared, lang) if compared and differs else "",
        numbers=target.meters.latest,
        blind=target.blind,
        incidents=tuple(live),
    )


def _open(one: Incident, knowledge: Knowledge, lang: Lang) -> Open:
    return Open(
        id=one.id,
        cause=one.cause,
        title=title_of(one, knowledge, lang),
        severity=one.severity,
        state=one.state,
        held=one.held,
        held_text=texts.hold_text(one.held, {}, lang) if one.held else "",
    )


def _card(gpu: GpuSample, lang: Lang) -> Card:
    return Card(
        index=gpu.index,
        cuda=gpu.ordinal,
        name=gpu.name,
        total_bytes=gpu.total_bytes,
        used_bytes=gpu.used_bytes,
        busy_ratio=gpu.busy_ratio,
        celsius=gpu.celsius,
        state=gpu.state,
        title=cards.named(gpu),
        facts=tuple(cards.shown(gpu, lang)),
        wrong=tuple(trouble.in_(lang) for trouble in cards.troubles(gpu)),
    )
