"""What people ask of the alert path: silence, acknowledge, practise."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from diagnose.model.causes import CAUSES
from diagnose.model.finding import Evidence, Finding
from diagnose.model.incident import Entry, Incident, State
from diagnose.model.text import Lang, Text
from diagnose.notices.book import Ack, Book, Silence, alert_of
from diagnose.notices.decide import World
from diagnose.notices.question import AskAck, AskDrill, AskSilence, AskUnsilence, Said
from diagnose.notices.quiet import receivers_for, told_off
from diagnose.report.clean import fill
from diagnose.report.texts import moment

ANSWERS: Mapping[str, Text] = {
    "silenced": Text("Silence {id}: {what}, until {until}.", "静默 {id}：{what}，直到 {until}。"),
    "until-resolved": Text("they are resolved", "相关事件恢复"),
    "everything": Text("everything", "全部告警"),
    "unsilenced": Text("Silence {id} is over.", "静默 {id} 已结束。"),
    "no-silence": Text(
        "There is no silence {id}. See: diagnose silence list", "没有静默 {id}。请查看：diagnose silence list"
    ),
    "nothing-to-silence": Text(
        "Nothing of that is open now, so a silence until it is resolved would end at once. Give a time: --for 2h",
        "目前没有相应的未恢复事件，直到恢复为止的静默会立即结束。请指定时长：--for 2h",
    ),
    "no-incident": Text(
        "No open incident {id} is known to the alert path. See: diagnose incidents",
        "告警通道中没有未恢复的事件 {id}。请查看：diagnose incidents",
    ),
    "acked": Text(
        "Incident {id} is yours; its end, and what is worse, is still told.",
        "事件 {id} 已由你认领；恢复或恶化时仍会通知。",
    ),
    "resend": Text("{count} messages go out again.", "{count} 条消息将重新发送。"),
    "nothing-to-resend": Text("Nothing was put aside.", "没有发送失败而搁置的消息。"),
    "not-written": Text("Not done: {error}", "未执行：{error}"),
    "no-receiver": Text("There is no receiver {name}; there are: {names}.", "没有接收方 {name}；现有：{names}。"),
    "no-cause": Text(
        "There is no cause {name}. See: diagnose rules list", "没有原因类别 {name}。请查看：diagnose rules list"
    ),
    "no-target": Text("There is no target {name}; there are: {names}.", "没有目标 {name}；现有：{names}。"),
    "no-route": Text(
        "No route leads from this to a receiver now: nobody would be told. "
        "Change alerts: routes, or name one (--receiver).",
        "目前没有路由通向任何接收方，不会通知任何人。请修改 alerts: routes，或用 --receiver 指定。",
    ),
    "drill-silenced": Text(
        "A silence or maintenance covers this now: nobody would be told. See: diagnose silence list",
        "静默或维护窗口正覆盖此告警，不会通知任何人。请查看：diagnose silence list",
    ),
    "drill": Text("Practice incident {id} goes to: {names}.", "演练事件 {id} 将发往：{names}。"),
    "no-alerts": Text(
        "This daemon tells nobody: its configuration has no alerts: receivers. See docs/alerts.md.",
        "守护进程未配置告警接收方（alerts: receivers）。请参阅 docs/alerts.md。",
    ),
}


def answer(said: Said, lang: Lang) -> str:
    """Put an answer into words."""
    params = dict(said.params)
    for name in ("until", "what"):
        if params.get(name) in ANSWERS:
            params[name] = ANSWERS[params[name]].in_(lang)
    return fill(ANSWERS[said.reason].in_(lang), params, most=400)


def silence(book: Book, ask: AskSilence, now: datetime) -> tuple[Book, Said]:
    """Add a silence; one until resolved must cover something that is open."""
    if strange := [one for one in ask.causes if one not in CAUSES]:
        return book, Said(ok=False, reason="no-cause", params={"name": strange[0]})
    made = Silence(
        id=_id("silence", ask.by, now.isoformat(), str(len(book.silences))),
        by=ask.by,
        at=now,
        why=ask.why,
        until=ask.until,
        causes=ask.causes,
        targets=ask.targets,
        incident=ask.incident,
    )
    if made.until is None and not any(made.covers(one) and not one.over for one in book.alerts.values()):
        return book, Said(ok=False, reason="nothing-to-silence")
    params = {
        "id": made.id,
        "what": made.names or "everything",
        "until": moment(made.until) if made.until else "until-resolved",
    }
    held = book.changed(now, silences={**book.silences, made.id: made})
    return held, Said(ok=True, reason="silenced", params=params, id=made.id)


def unsilence(book: Book, ask: AskUnsilence, now: datetime) -> tuple[Book, Said]:
    """End a silence."""
    params = {"id": ask.id}
    if ask.id not in book.silences:
        return book, Said(ok=False, reason="no-silence", params=params)
    left = {name: one for name, one in book.silences.items() if name != ask.id}
    return book.changed(now, silences=left), Said(ok=True, reason="unsilenced", params=params)


def ack(book: Book, ask: AskAck, now: datetime) -> tuple[Book, Said]:
    """Note that a person looks after an incident."""
    found = book.alerts.get(ask.incident)
    params = {"id": ask.incident}
    if found is None or found.over:
        return book, Said(ok=False, reason="no-incident", params=params)
    taken = msgspec.structs.replace(found, ack=Ack(by=ask.by, at=now), acks=())
    owned = book.changed(now, alerts={**book.alerts, found.id: taken})
    return owned, Said(ok=True, reason="acked", params=params)


def drill(book: Book, ask: AskDrill, world: World, now: datetime) -> tuple[Book, Said]:
    """Make a practice incident; it takes the way of a real one."""
    names = [one.name for one in world.config.receivers]
    if ask.cause not in CAUSES:
        return book, Said(ok=False, reason="no-cause", params={"name": ask.cause})
    if ask.receiver and ask.receiver not in names:
        return book, Said(ok=False, reason="no-receiver", params={"name": ask.receiver, "names": ", ".join(names)})
    incident = practice(ask, now)
    made = msgspec.structs.replace(
        alert_of(incident, world.host, now),
        practice=incident,
        until=now + timedelta(seconds=max(ask.seconds, 0.0)),
        only=ask.receiver,
    )
    led = receivers_for(made, world.config, now)
    if not led:
        return book, Said(ok=False, reason="no-route")
    if told_off(made, book.silences.values(), world.config, now):
        return book, Said(ok=False, reason="drill-silenced")
    params = {"id": made.id, "names": ", ".join(led)}
    begun = book.changed(now, alerts={**book.alerts, made.id: made})
    return begun, Said(ok=True, reason="drill", params=params, id=made.id)


def practice(ask: AskDrill, now: datetime) -> Incident:
    """Make the incident of a drill."""
    proof = Evidence(
        source="log/practice", line=1, at=now, text=f"a practice line for {ask.cause}, asked for by {ask.by} <&> 演练"
    )
    finding = Finding(
        rule_id=f"practice.{ask.cause}",
        cause=ask.cause,
        target=ask.target,
        attempt=1,
        at=now,
        last_at=now,
        severity=ask.severity,
        confidence=1.0,
        labels={},
        evidence=(proof,),
    )
    return Incident(
        id=f"drill-{_id('drill', ask.by, now.isoformat(), ask.cause)}",
        target=ask.target,
        cause=ask.cause,
        rule_id=finding.rule_id,
        severity=ask.severity,
        confidence=1.0,
        state=State.OPEN,
        attempt=1,
        first_seen=now,
        last_seen=now,
        findings=(finding,),
        timeline=(Entry(at=now, kind="opened", params={"cause": ask.cause}),),
    )


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:6]
