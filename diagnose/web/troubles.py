"""Desks for incidents: lists, all of one, reports, marks, and orders of people."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from datetime import datetime, timezone

import anyio.to_thread
from msgspec import UNSET

from diagnose.engine import repetition
from diagnose.engine.incidents import is_open
from diagnose.engine.signals import REPETITIVE
from diagnose.model.causes import CAUSES
from diagnose.model.incident import Incident
from diagnose.model.mark import Mark
from diagnose.model.observation import Order, OutputScored
from diagnose.model.text import Text
from diagnose.notices.book import Face, face_of
from diagnose.report import build, texts
from diagnose.report.build import Scanned, trouble
from diagnose.report.period import summarize
from diagnose.web import paths, shapes
from diagnose.web.asked import Answer, Asked, back_to, length, target_of
from diagnose.web.shapes import Refusal, Reply

_MOST_ID = 128
_REFUSED: Mapping[str, Text] = {
    "no-cause": Text(
        "There is no cause {cause}. See: diagnose rules list", "没有原因类别 {cause}。请查看：diagnose rules list"
    ),
    "cause-of-right": Text(
        "A diagnosis that is right has no other cause; mark it wrong, or name none.",
        "诊断正确时不应另给原因；请改为标记有误，或不指定原因。",
    ),
}


def report(asked: Asked) -> Answer:
    """Make a report of the daemon's incidents."""
    query, now = asked.query, datetime.now(timezone.utc)
    since = back_to(query.since, now)
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


def incidents(asked: Asked) -> Answer:
    """List incidents."""
    query, since = asked.query, back_to(asked.query.since, datetime.now(timezone.utc))
    found = [
        one
        for one in asked.house.incidents()
        if query.target in {UNSET, one.target}
        and query.cause in {UNSET, one.cause}
        and query.state in {UNSET, one.state}
        and query.open in {UNSET, is_open(one)}
        and (query.severity is UNSET or one.severity.rank >= query.severity.rank)
        and (since is None or _changed_at(one) >= since)
    ]
    found.sort(key=_changed_at, reverse=True)
    owners = _owners(asked)
    marks = asked.house.marks()
    briefs = tuple(_brief(one, owners, marks.get(one.id), asked) for one in found[: query.limit])
    return Answer(200, shapes.Incidents(total=len(found), incidents=briefs))


def incident(asked: Asked) -> Answer:
    """Tell all of one."""
    one = _found(asked)
    said = asked.house.marks().get(one.id)
    told = trouble(one, asked.house.knowledge, asked.lang, said)
    return Answer(200, shapes.OneIncident(brief=_brief(one, _owners(asked), said, asked), incident=told))


def mark(asked: Asked) -> Answer:
    """Note whether a diagnosis was right."""
    body, one = asked.body, _found(asked)
    if body.cause and (body.verdict == "right" or body.cause not in CAUSES):
        name = "cause-of-right" if body.verdict == "right" else "no-cause"
        text = _REFUSED[name].in_(asked.lang).replace("{cause}", body.cause)
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
        target=target_of(asked, body.target or (named.target if named else "")),
        at=now,
        id=secrets.token_hex(4),
        kind=body.kind,
        by=body.by,
        incident=body.incident,
        until=now + length(body.lasting) if body.lasting else None,
        why=body.why,
    )
    answer = await asked.house.obey(given)
    text = texts.answer_text(answer, asked.lang)
    reply = Reply(ok=answer.ok, reason=answer.reason, text=text, params=answer.params)
    return Answer(200 if answer.ok else 409, reply)


async def output(asked: Asked) -> Answer:
    """Score an answer of the model; one that repeats itself is told to the mind."""
    told = await anyio.to_thread.run_sync(_score, asked.body, target_of(asked, asked.body.target))
    repetitive = told.repetition >= REPETITIVE
    if repetitive:
        asked.house.take(told)
    return Answer(200, shapes.Scored(repetition=told.repetition, repetitive=repetitive))


def _found(asked: Asked) -> Incident:
    """Find the incident that the path names, by its id or, where only one begins so, by the beginning of it."""
    name, known = asked.names["id"], asked.house.incidents()
    found = [one for one in known if one.id == name] or [one for one in known if one.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} incidents begin with {name!r}" if found else f"no incident {name!r}"
    raise Refusal(404, problem, f"List them with diagnose incidents, or GET {paths.INCIDENTS}.")


def _owners(asked: Asked) -> dict[str, str]:
    """Return who looks after what, by incident."""
    return {name: one.ack.by for name, one in asked.house.told().book.alerts.items() if one.ack}


def _brief(one: Incident, owners: Mapping[str, str], said: Mark | None, asked: Asked) -> shapes.Brief:
    held = one.held if is_open(one) else ""
    return shapes.Brief(
        id=one.id,
        target=one.target,
        cause=one.cause,
        title=build.title_of(one, asked.house.knowledge, asked.lang),
        severity=one.severity,
        state=one.state,
        first_seen=one.first_seen,
        last_seen=one.last_seen,
        changed_at=_changed_at(one),
        person=face_of(one) is Face.PERSON,
        acknowledged_by=owners.get(one.id, ""),
        held=held,
        held_text=texts.hold_text(held, {}, asked.lang) if held else "",
        mark=said,
    )


def _changed_at(one: Incident) -> datetime:
    return max([one.last_seen, *(entry.at for entry in one.timeline[-1:])])


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
