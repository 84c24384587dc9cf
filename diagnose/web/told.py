"""Desks for who is told: silences, acknowledgements, drills, and what was told to whom."""

from __future__ import annotations

from datetime import datetime, timezone

import anyio.to_thread

from diagnose.notices import asks
from diagnose.notices.question import Ask, AskAck, AskDrill, AskResend, AskSilence, AskUnsilence
from diagnose.outbox import Letterhead
from diagnose.web import shapes, standing
from diagnose.web.asked import Answer, Asked, length, target_of
from diagnose.web.shapes import Reply


async def ack(asked: Asked) -> Answer:
    """Note that a person looks after an incident."""
    name = await anyio.to_thread.run_sync(_told_of, asked, asked.names["id"])
    return await _alerting(asked, AskAck(by=asked.body.by, incident=name))


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
        target=target_of(asked, body.target),
        severity=body.severity,
        seconds=length(body.lasting).total_seconds(),
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
        until=datetime.now(timezone.utc) + length(body.lasting) if body.lasting else None,
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


async def _alerting(asked: Asked, ask: Ask) -> Answer:
    said = await asked.house.ask(ask)
    reply = Reply(ok=said.ok, reason=said.reason, text=asks.answer(said, asked.lang), params=said.params, id=said.id)
    return Answer(200 if said.ok else 409, reply)


def _told_of(asked: Asked, name: str) -> str:
    """Return the id of the open incident that people were told of and that begins so; else the name itself."""
    alerts = asked.house.told().book.alerts.values()
    found = [one.id for one in alerts if not one.over and one.id.startswith(name)]
    return found[0] if len(found) == 1 else name
