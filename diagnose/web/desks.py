"""One function for each thing that the API does, and the table of them all: what it takes and what it may answer."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import anyio.to_thread
from msgspec import UNSET, UnsetType

from diagnose.engine import repetition
from diagnose.engine.incidents import LIVE
from diagnose.engine.signals import REPETITIVE
from diagnose.model.causes import CAUSES
from diagnose.model.incident import Incident
from diagnose.model.mark import Mark
from diagnose.model.observation import Order, OutputScored
from diagnose.model.rule import Severity
from diagnose.model.text import Duration, Lang, Text
from diagnose.notices import asks
from diagnose.notices.book import Face, face_of
from diagnose.notices.question import Ask, AskAck, AskDrill, AskResend, AskSilence, AskUnsilence
from diagnose.outbox import Letterhead
from diagnose.report import build, texts
from diagnose.report.build import Report, Scanned, trouble
from diagnose.report.period import summarize
from diagnose.web import paths, shapes, standing
from diagnose.web.house import House
from diagnose.web.shapes import Problem, Refusal, Reply
from diagnose.web.standing import Status

_STALE_S = 30.0
"""A loop that has not turned for so long stands still: it turns each tenth of a second."""

_MOST_ID = 128
MARKS: Mapping[str, Text] = {
    "no-cause": Text(
        "There is no cause {cause}. See: diagnose rules list", "没有原因类别 {cause}。请查看：diagnose rules list"
    ),
    "cause-of-right": Text(
        "A diagnosis that is right has no other cause; mark it wrong, or name none.",
        "诊断正确时不应另给原因；请改为标记有误，或不指定原因。",
    ),
}


@dataclass(frozen=True)
class Asked:
    """One request, understood.

    Attributes:
        names: What stands in its path.
        query, body: Of the types that its desk names.
    """

    house: House
    names: Mapping[str, str]
    query: Any
    body: Any

    @property
    def lang(self) -> Lang:
        """In which language it is to be answered."""
        return getattr(self.query, "lang", "en")


@dataclass(frozen=True)
class Answer:
    """What is answered: one of the shapes of the desk."""

    status: int
    body: object


@dataclass(frozen=True)
class Desk:
    """One thing that can be asked for.

    Attributes:
        name: Of the operation.
        about: What it does, in a sentence.
        serve: Answers; may block where it is not a coroutine function.
        gives: Shape of the answer, by status. Problems that every desk may have are not named here.
        query, body: Shapes of what it takes.
    """

    method: str
    path: str
    name: str
    about: str
    serve: Callable[[Asked], Answer | Awaitable[Answer]]
    gives: Mapping[int, Any] = field(default_factory=dict)
    query: Any = None
    body: Any = None


# --- how it is


async def health(asked: Asked) -> Answer:
    """Say whether the loop turns."""
    ago = asked.house.vitals().turns.ago
    ok = ago is not None and ago < _STALE_S
    return Answer(200 if ok else 503, shapes.Health(ok=ok, seconds=round(ago or 0.0, 3)))


async def ready(asked: Asked) -> Answer:
    """Say whether all servers were taken up."""
    known = asked.house.state.targets
    phases = {name: known[name].phase for name in asked.house.targets if name in known}
    taken = len(phases) == len(asked.house.targets) and all(known[name].generation for name in phases)
    return Answer(200 if taken else 503, shapes.Ready(ready=taken, targets=phases))


def status(asked: Asked) -> Answer:
    """Say where everything stands."""
    return Answer(200, asked.house.status(asked.lang))


def report(asked: Asked) -> Answer:
    """Make a report of the daemon's incidents."""
    query, now = asked.query, datetime.now(timezone.utc)
    since = _since(query.since, now)
    found = [
        one
        for one in asked.house.incidents()
        if (since is None or one.last_seen >= since) and query.target in {UNSET, one.target}
    ]
    marks = asked.house.marks()
    made = build.build(
        target=query.target or ", ".join(sorted(asked.house.targets)),
        generated_at=now,
        scanned=Scanned(),
        incidents=found,
        knowledge=asked.house.knowledge,
        unexplained=(),
        lang=asked.lang,
        period=summarize(found, since=since, until=now, marks=marks),
        marks=marks,
    )
    return Answer(200, made)


# --- incidents


def incidents(asked: Asked) -> Answer:
    """List incidents."""
    query, since = asked.query, _since(asked.query.since, datetime.now(timezone.utc))
    found = [
        one
        for one in asked.house.incidents()
        if query.target in {UNSET, one.target}
        and query.cause in {UNSET, one.cause}
        and query.state in {UNSET, one.state}
        and query.open in {UNSET, _is_open(one)}
        and (query.severity is UNSET or one.severity.rank >= query.severity.rank)
        and (since is None or _changed_at(one) >= since)
    ]
    found.sort(key=_changed_at, reverse=True)
    owners = _owners(asked)
    marks = asked.house.marks()
    briefs = tuple(_brief(one, owners, marks.get(one.id), asked.lang) for one in found[: query.limit])
    return Answer(200, shapes.Incidents(total=len(found), incidents=briefs))


def incident(asked: Asked) -> Answer:
    """Tell all of one."""
    one = _found(asked)
    said = asked.house.marks().get(one.id)
    told = trouble(one, asked.house.knowledge, asked.lang, said)
    return Answer(200, shapes.OneIncident(brief=_brief(one, _owners(asked), said, asked.lang), incident=told))


async def ack(asked: Asked) -> Answer:
    """Note that a person looks after an incident."""
    name = await anyio.to_thread.run_sync(_told_of, asked, asked.names["id"])
    return await _alerting(asked, AskAck(by=asked.body.by, incident=name))


def mark(asked: Asked) -> Answer:
    """Note whether a diagnosis was right."""
    body, one = asked.body, _found(asked)
    if body.cause and (body.verdict == "right" or body.cause not in CAUSES):
        name = "cause-of-right" if body.verdict == "right" else "no-cause"
        text = MARKS[name].in_(asked.lang).replace("{cause}", body.cause)
        return Answer(409, Reply(ok=False, reason=name, text=text))
    made = Mark(by=body.by, at=datetime.now(timezone.utc), verdict=body.verdict, cause=body.cause, note=body.note)
    asked.house.mark(one.id, made)
    text = f"{one.id} ({texts.cause_name(one.cause, asked.lang)}): {texts.marked(made, asked.lang)}"
    return Answer(200, Reply(ok=True, reason=f"marked-{body.verdict}", text=text, id=one.id))


async def order(asked: Asked) -> Answer:
    """Put an order to the mind."""
    body, now = asked.body, datetime.now(timezone.utc)
    named = asked.house.state.incidents.get(body.incident)
    given = Order(
        target=_target(asked, body.target or (named.target if named else "")),
        at=now,
        id=secrets.token_hex(4),
        kind=body.kind,
        by=body.by,
        incident=body.incident,
        until=now + _length(body.lasting) if body.lasting else None,
        why=body.why,
    )
    answer = await asked.house.obey(given)
    text = texts.answer_text(answer, asked.lang)
    reply = Reply(ok=answer.ok, reason=answer.reason, text=text, params=answer.params)
    return Answer(200 if answer.ok else 409, reply)


async def output(asked: Asked) -> Answer:
    """Score an answer of the model; one that repeats itself is told to the mind."""
    told = await anyio.to_thread.run_sync(_score, asked.body, _target(asked, asked.body.target))
    repetitive = told.repetition >= REPETITIVE
    if repetitive:
        asked.house.take(told)
    return Answer(200, shapes.Scored(repetition=told.repetition, repetitive=repetitive))


# --- who is told


def alerts(asked: Asked) -> Answer:
    """Say who was told what."""
    query = asked.query
    found = asked.house.news(state=query.state or "", receiver=query.receiver or "", incident=query.incident or "")
    told = shapes.Told(receivers=standing.receivers(asked.house.told()), news=tuple(map(news, found)))
    return Answer(200, told)


async def resend(asked: Asked) -> Answer:
    """Send again what was put aside."""
    return await _alerting(asked, AskResend(by=asked.body.by, receiver=asked.body.receiver))


async def drill(asked: Asked) -> Answer:
    """Tell receivers of a practice incident."""
    body = asked.body
    ask = AskDrill(
        by=body.by,
        cause=body.cause,
        target=_target(asked, body.target),
        severity=body.severity,
        seconds=_length(body.lasting).total_seconds(),
        receiver=body.receiver,
    )
    return await _alerting(asked, ask)


def silences(asked: Asked) -> Answer:
    """List the silences that hold."""
    return Answer(200, shapes.Silences(silences=tuple(asked.house.told().book.silences.values())))


async def silence(asked: Asked) -> Answer:
    """Begin a silence."""
    body = asked.body
    ask = AskSilence(
        by=body.by,
        why=body.why,
        until=datetime.now(timezone.utc) + _length(body.lasting) if body.lasting else None,
        causes=body.causes,
        targets=body.targets,
        incident=await anyio.to_thread.run_sync(_told_of, asked, body.incident) if body.incident else "",
    )
    return await _alerting(asked, ask)


async def unsilence(asked: Asked) -> Answer:
    """End a silence."""
    return await _alerting(asked, AskUnsilence(by=asked.query.by, id=asked.names["id"]))


def news(one: Letterhead) -> shapes.News:
    """Tell of one message."""
    return shapes.News(
        id=one.post.id,
        receiver=one.post.receiver,
        kind=one.post.kind,
        key=one.post.key,
        severity=one.post.severity,
        at=one.post.at,
        state=one.state,
        done_at=one.done_at,
        tries=one.tries,
        error=one.error,
    )


# --- what several need


async def _alerting(asked: Asked, ask: Ask) -> Answer:
    said = await asked.house.ask(ask)
    reply = Reply(ok=said.ok, reason=said.reason, text=asks.answer(said, asked.lang), params=said.params, id=said.id)
    return Answer(200 if said.ok else 409, reply)


def _target(asked: Asked, name: str) -> str:
    """Return the server that is meant: the only one where none is named."""
    names = sorted(asked.house.targets)
    if not name and len(names) == 1:
        return names[0]
    if name in names:
        return name
    raise Refusal(404, f"no target {name!r}" if name else "which target?", f"Name one of: {', '.join(names)}.")


def _found(asked: Asked) -> Incident:
    """Find the incident that the path names, by its id or, where only one begins so, by the beginning of it."""
    name, known = asked.names["id"], asked.house.incidents()
    found = [one for one in known if one.id == name] or [one for one in known if one.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} incidents begin with {name!r}" if found else f"no incident {name!r}"
    raise Refusal(404, problem, f"List them with diagnose incidents, or GET {paths.INCIDENTS}.")


def _told_of(asked: Asked, name: str) -> str:
    """Return the id of the open incident that people were told of and that begins so; else the name itself."""
    alerts = asked.house.told().book.alerts.values()
    found = [one.id for one in alerts if not one.over and one.id.startswith(name)]
    return found[0] if len(found) == 1 else name


def _owners(asked: Asked) -> dict[str, str]:
    """Return who looks after what, by incident."""
    return {name: one.ack.by for name, one in asked.house.told().book.alerts.items() if one.ack}


def _brief(one: Incident, owners: Mapping[str, str], said: Mark | None, lang: Lang) -> shapes.Brief:
    held = one.held if _is_open(one) else ""
    return shapes.Brief(
        id=one.id,
        target=one.target,
        cause=one.cause,
        title=texts.cause_name(one.cause, lang),
        severity=one.severity,
        state=one.state,
        first_seen=one.first_seen,
        last_seen=one.last_seen,
        changed_at=_changed_at(one),
        person=face_of(one) is Face.PERSON,
        acknowledged_by=owners.get(one.id, ""),
        held=held,
        held_text=texts.hold_text(held, {}, lang) if held else "",
        mark=said,
    )


def _is_open(one: Incident) -> bool:
    return one.state in LIVE and one.severity is not Severity.INFO


def _changed_at(one: Incident) -> datetime:
    return max([one.last_seen, *(entry.at for entry in one.timeline[-1:])])


def _since(length: str | UnsetType, now: datetime) -> datetime | None:
    return now - _length(length) if length else None


def _length(text: str) -> timedelta:
    """Read a length of time of the API's own form; one of more than ten years is as good as ten."""
    return min(Duration.parse(text), timedelta(days=3650))


def _score(given: shapes.Output, target: str) -> OutputScored:
    text = given.text.encode("utf-8", "replace")
    return OutputScored(
        target=target,
        at=datetime.now(timezone.utc),
        repetition=repetition.score(given.text),
        characters=len(given.text),
        digest=hashlib.sha256(text).hexdigest()[:16],
        request_id=given.request_id[:_MOST_ID],
    )


_TOLD = {200: Reply, 409: Reply}
_ONE = {404: Problem}

DESKS = (
    Desk("GET", paths.HEALTH, "health", "Whether the daemon's loop turns.", health,
         gives={200: shapes.Health, 503: shapes.Health}),
    Desk("GET", paths.READY, "ready", "Whether the daemon has taken up its servers.", ready,
         gives={200: shapes.Ready, 503: shapes.Ready}),
    Desk("GET", paths.STATUS, "status", "Where everything stands now.", status,
         gives={200: Status}, query=shapes.InLang),
    Desk("GET", paths.REPORT, "report", "What was found, as diagnose report --format json tells it.", report,
         gives={200: Report}, query=shapes.WhichReport),
    Desk("GET", paths.INCIDENTS, "incidents", "Incidents, what changed last first.", incidents,
         gives={200: shapes.Incidents}, query=shapes.WhichIncidents),
    Desk("GET", paths.INCIDENT, "incident", "All of one incident, by its id or the beginning of it.", incident,
         gives={200: shapes.OneIncident, **_ONE}, query=shapes.InLang),
    Desk("POST", paths.ACK, "acknowledge", "An incident is yours: no more news of it, but when it is worse or over.",
         ack, gives={**_TOLD, **_ONE}, query=shapes.InLang, body=shapes.NewAck),
    Desk("POST", paths.MARK, "mark", "Say whether the root cause that an incident names is right.", mark,
         gives={**_TOLD, **_ONE}, query=shapes.InLang, body=shapes.NewMark),
    Desk("POST", paths.ORDERS, "order", "Approve, reject, apply, roll back, pause, resume.", order,
         gives={**_TOLD, **_ONE}, query=shapes.InLang, body=shapes.NewOrder),
    Desk("POST", paths.OUTPUTS, "output", "Hand in an answer of the model that looks wrong.", output,
         gives={200: shapes.Scored, **_ONE}, body=shapes.Output),
    Desk("GET", paths.ALERTS, "alerts", "Who was told what, newest first.", alerts,
         gives={200: shapes.Told}, query=shapes.WhichNews),
    Desk("POST", paths.RESEND, "resend", "Send again what was put aside.", resend,
         gives=_TOLD, query=shapes.InLang, body=shapes.Again),
    Desk("POST", paths.DRILLS, "drill", "Tell receivers of a practice incident, and of its end.", drill,
         gives={**_TOLD, **_ONE}, query=shapes.InLang, body=shapes.NewDrill),
    Desk("GET", paths.SILENCES, "silences", "The silences that hold.", silences, gives={200: shapes.Silences}),
    Desk("POST", paths.SILENCES, "silence", "Tell nobody of some incidents, for a time or until they are resolved.",
         silence, gives=_TOLD, query=shapes.InLang, body=shapes.NewSilence),
    Desk("DELETE", paths.SILENCE, "unsilence", "End a silence.", unsilence,
         gives=_TOLD, query=shapes.WhoInLang),
)  # fmt: skip
