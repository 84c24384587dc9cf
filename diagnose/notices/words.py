"""What messages say around the facts: what is asked of the reader, and the words of a template."""

from __future__ import annotations

from collections.abc import Mapping

from diagnose.engine import planner
from diagnose.model.incident import Incident, State
from diagnose.model.rule import Severity
from diagnose.model.text import Lang, Text
from diagnose.notices.book import Face
from diagnose.report.clean import sound, unfolded

SEVERITIES: Mapping[Severity, Text] = {
    Severity.CRITICAL: Text("critical", "严重"),
    Severity.ERROR: Text("error", "错误"),
    Severity.WARNING: Text("warning", "警告"),
    Severity.INFO: Text("info", "提示"),
}

FACES: Mapping[Face, Text] = {
    Face.OPEN: Text("firing", "告警"),
    Face.TREATED: Text("being treated", "处置中"),
    Face.PERSON: Text("needs you", "需要人工处理"),
    Face.RESOLVED: Text("resolved", "已恢复"),
}

WORDS: Mapping[str, Text] = {
    "proof": Text("Proof", "证据"),
    "done": Text("Done so far", "已执行"),
    "asked": Text("Your part", "需要你做"),
    "look": Text("Look closer", "进一步查看"),
    "echoes": Text("With it came", "连带现象"),
    "acked": Text("Acknowledged by", "已认领"),
    "practice": Text("PRACTICE", "演练"),
    "practice-note": Text("This is a drill. Nothing is wrong.", "这是一次演练，实际没有故障。"),
    "still": Text("still", "仍在持续"),
    "lasted": Text("It lasted", "持续"),
    "resolved": Text("resolved", "已恢复"),
    "more": Text("and {count} more", "另有 {count} 项"),
    "all": Text("See all with: diagnose incidents", "查看全部：diagnose incidents"),
    "storm": Text("{firing} open, {resolved} resolved", "{firing} 项未恢复，{resolved} 项已恢复"),
    "since": Text("since", "始于"),
    "open-link": Text("Open", "打开"),
}

_CHANGE = Text(" ({change})", "（{change}）")
_ASKED: Mapping[str, Text] = {
    "resolved": Text("nothing any more.", "无需操作。"),
    "resolved-changed": Text(
        "nothing now. The server runs with {change}; to put that back later: diagnose remedies rollback {id}",
        "暂时无需操作。服务目前以 {change} 运行；如需恢复原参数：diagnose remedies rollback {id}",
    ),
    "acting": Text(
        "nothing for now: {remedy}{change} is being carried out.", "暂时无需操作：正在执行 {remedy}{change}。"
    ),
    "verifying": Text(
        "nothing for now: {remedy}{change} was carried out, and is being verified.",
        "暂时无需操作：{remedy}{change} 已执行，正在验证效果。",
    ),
    "pending": Text("nothing yet: the cause is being settled.", "暂时无需操作：正在确认根因。"),
    "approve": Text(
        "say yes or no to {remedy}{change}: diagnose remedies approve {id} (or reject {id}). "
        "Until then nothing is done.",
        "请决定是否执行 {remedy}{change}：diagnose remedies approve {id}（或 reject {id}）。在此之前不会处置。",
    ),
    "suggest": Text(
        "decide whether to apply {remedy}{change}: diagnose remedies apply {id}. Nothing is done by itself.",
        "请决定是否执行 {remedy}{change}：diagnose remedies apply {id}。系统不会自行处置。",
    ),
    "paused": Text(
        "remedies are paused. {remedy}{change} waits for: diagnose resume",
        "处置已暂停。{remedy}{change} 等待恢复：diagnose resume",
    ),
    "waits": Text(
        "nothing yet: {remedy}{change} follows as soon as it may. To see what holds it: diagnose remedies plan {id}",
        "暂时无需操作：条件允许后将执行 {remedy}{change}。查看暂缓原因：diagnose remedies plan {id}",
    ),
    "exhausted": Text(
        "take over, all that could be tried was tried. {fix} If it is down then: diagnose restart --target {target}",
        "请接手处理，可行的自动处置均已尝试。{fix}修复后若服务未运行：diagnose restart --target {target}",
    ),
    "advice": Text(
        "nothing can be done automatically. {fix} If it is down then: diagnose restart --target {target}",
        "没有可自动执行的处置。{fix}修复后若服务未运行：diagnose restart --target {target}",
    ),
    "failing": Text("watch: the next step is being decided. {fix}", "请关注：正在决定下一步。{fix}"),
}
_PERSONS = frozenset({"suggest", "observe", "approve", "needs-approval"})


def asked(incident: Incident, fix: str, lang: Lang) -> str:
    """Say in one sentence what a reader is to do now."""
    remedy, changes = _plan(incident)
    given = {
        "id": incident.id,
        "target": incident.target,
        "remedy": remedy,
        "change": _CHANGE.in_(lang).replace("{change}", "; ".join(changes)) if changes else "",
        "fix": fix,
    }
    kind = _kind(incident, planned=bool(remedy))
    if kind == "resolved-changed":
        given["change"] = "; ".join(_kept(incident))
    text = _ASKED[kind].in_(lang)
    for name, value in given.items():
        text = text.replace(f"{{{name}}}", value)
    return sound(unfolded(text.strip()))


def look(incident: Incident) -> str:
    """Return the command that shows most of it."""
    waits = incident.state is State.OPEN and incident.plan is not None
    return f"diagnose remedies plan {incident.id}" if waits else f"diagnose incidents {incident.id}"


def _kind(incident: Incident, *, planned: bool) -> str:
    plain = {
        State.PENDING: "pending",
        State.EXHAUSTED: "exhausted",
        State.ACTING: "acting",
        State.VERIFYING: "verifying",
        State.HISTORY: "resolved",
        State.RESOLVED: "resolved-changed" if _kept(incident) else "resolved",
    }
    if incident.state in plain:
        return plain[incident.state]
    if not planned:
        return "advice" if incident.held in {"advice", "no-remedy", "rejected"} else "failing"
    if incident.held in {"approve", "needs-approval"}:
        return "approve"
    if incident.held in _PERSONS:
        return "suggest"
    return "paused" if incident.held == "paused" else "waits"


def _plan(incident: Incident) -> tuple[str, tuple[str, ...]]:
    if incident.plan is None:
        return "", ()
    remedy, _, changes = planner.said(incident.plan)
    return remedy, changes


def _kept(incident: Incident) -> tuple[str, ...]:
    return tuple(change for one in incident.tries if one.result == "kept" for change in one.changes)
