"""What happened, in words: the entries of a timeline, the reasons for waiting, the states."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from diagnose.model.causes import CAUSES
from diagnose.model.incident import Entry, State
from diagnose.model.text import Lang, Text
from diagnose.report.clean import fill, stripped

_MOST_CHARS = 400

STATES: Mapping[State, Text] = {
    State.PENDING: Text("being looked at", "正在确认"),
    State.OPEN: Text("open", "尚未解决"),
    State.ACTING: Text("a remedy is being carried out", "正在处置"),
    State.VERIFYING: Text("a remedy was carried out and is being verified", "已处置，正在验证"),
    State.RESOLVED: Text("resolved", "已解决"),
    State.EXHAUSTED: Text("all remedies were tried, a person is needed", "自动处置均已尝试，需要人工处理"),
    State.HISTORY: Text("in an earlier start", "发生在先前的启动中"),
}

EVENTS: Mapping[str, Text] = {
    "opened": Text("first sign: {cause}", "首次发现：{cause}"),
    "cause": Text("root cause is now: {cause} (was: {before})", "根因更正为：{cause}（此前：{before}）"),
    "consequence": Text("consequence: {cause}", "连带现象：{cause}"),
    "settled": Text("root cause settled: {cause}", "根因已确定：{cause}"),
    "plan": Text("plan: {remedy} {change}", "方案：{remedy} {change}"),
    "acting": Text("carrying out {remedy}, rung {rung}: {change}", "执行 {remedy} 第 {rung} 级：{change}"),
    "step": Text("step {action}: {text}", "步骤 {action}：{text}"),
    "step-failed": Text("step {action} failed: {text}", "步骤 {action} 失败：{text}"),
    "acted": Text("remedy {remedy} carried out", "处置 {remedy} 已执行"),
    "failed": Text("that did not help: {why}", "处置未奏效：{why}"),
    "interrupted": Text("cut short, to be decided anew: {why}", "处置中断，将重新决定：{why}"),
    "verifying": Text("carried out; verifying that it helps", "已执行，正在验证效果"),
    "ready": Text(
        "the server is ready: a completion of {tokens} tokens in {seconds} s",
        "服务已就绪：补全请求返回 {tokens} 个 token，用时 {seconds} 秒",
    ),
    "completion": Text("a completion was answered in {seconds} s", "补全请求已应答，用时 {seconds} 秒"),
    "resolved": Text("resolved: well again, and it has held", "已解决：服务恢复并保持正常"),
    "rolled-back": Text("back to the last settings known to be good", "已恢复到最近一次正常的设置"),
    "rollback-failed": Text(
        "going back to the last good settings failed; a person is needed",
        "恢复到最近一次正常的设置失败，需要人工处理",
    ),
    "climbed": Text("next rung: {remedy}, rung {rung}", "升级处置：{remedy} 第 {rung} 级"),
    "escalated": Text("all remedies were tried: a person is called", "所有处置均已尝试，转人工处理"),
    "cleared": Text("over without a remedy: {why}", "未经处置自行恢复：{why}"),
    "adopted": Text("the daemon took over the running server again", "守护进程重新接管了运行中的服务"),
    "flapping": Text("keeps coming back: {count} times in {within}", "反复出现：{within} 内 {count} 次"),
    "superseded": Text("start {attempt} has a trouble of its own", "第 {attempt} 次启动出现了新的问题"),
    "history": Text("belongs to an earlier start", "属于先前的启动"),
    "merged": Text("belongs to {cause} (incident {into})", "归入“{cause}”（事件 {into}）"),
    "phase": Text("the server is {phase}: {reason}", "服务进入 {phase} 阶段：{reason}"),
    "approved": Text("approved by {by}", "已由 {by} 批准"),
    "rejected": Text("rejected by {by}", "已由 {by} 拒绝"),
}
"""Kinds of `diagnose.model.incident.Entry`, with the params that they name."""

HOLDS: Mapping[str, Text] = {
    "observe": Text("in observe mode nothing is touched", "当前为观察模式，不做任何改动"),
    "suggest": Text("in suggest mode the plan is for a person to apply", "当前为建议模式，方案由人执行"),
    "approve": Text("a person has to approve the plan", "方案需要人工批准"),
    "paused": Text("paused by the operator", "已被运维人员暂停"),
    "stale": Text(
        "this is older than the daemon's watch or the present start",
        "证据早于守护进程开始监视的时间或当前这次启动",
    ),
    "uncorroborated": Text(
        "no second, independent proof yet ({detail}): a log line alone restarts nothing",
        "尚无第二个独立证据（{detail}）：仅凭一行日志不会重启服务",
    ),
    "cooldown": Text("cooling down after the last try", "距上次尝试过近，正在冷却"),
    "budget-remedy": Text("this remedy was tried as often as allowed ({detail})", "该处置的次数已用尽（{detail}）"),
    "budget-restarts": Text(
        "the server was restarted as often as allowed ({detail})", "自动重启次数已用尽（{detail}）"
    ),
    "budget-remedies": Text("remedies were tried as often as allowed ({detail})", "自动处置次数已用尽（{detail}）"),
    "budget": Text("the budget is spent ({detail})", "次数预算已用尽（{detail}）"),
    "experimental": Text("the rule or remedy is not stable yet: it only suggests", "规则或处置尚未稳定，只提供建议"),
    "untrusted": Text("the line can carry text of users: never acted upon", "该行可能含有用户文本，绝不据此自动处置"),
    "busy": Text("another remedy is under way", "另一项处置正在进行"),
    "lease": Text("the fleet acts on another host first", "集群正在先处置其他主机"),
    "exhausted": Text("all that could be tried was tried", "可行的处置均已尝试"),
    "advice": Text("nothing to do automatically: see the advice", "没有可自动执行的处置，请参考建议"),
}
"""Why nothing is done now, by the reason that the engine's brakes give."""

_ALIASES = {
    "not-fresh": "stale",
    "not-corroborated": "uncorroborated",
    "needs-approval": "approve",
    "no-remedy": "advice",
    "other-remedy": "busy",
}

_WAITS = Text("waits: ", "暂不处置：")
_UNTIL = Text(" (until {until} at least)", "（至少到 {until}）")

_WHYS: Mapping[str, Text] = {
    "symptom": Text("the trouble showed again", "故障再次出现"),
    "ended": Text("the server ended", "服务进程退出"),
    "late": Text("it was not ready in time", "未能在限定时间内就绪"),
    "remedy-gone": Text("the remedy is no longer in the catalogue", "处置已不在目录中"),
    "ready": Text("the server became ready", "服务已就绪"),
    "probe": Text("a probe was answered well", "探测恢复正常"),
    "pattern": Text("the log says so", "日志表明已恢复"),
    "quiet": Text("it did not show for long enough", "足够长时间内未再出现"),
}


def cause_name(cause: str, lang: Lang) -> str:
    """Name a class of cause; a class of a later version by its own word."""
    return CAUSES[cause].in_(lang) if cause in CAUSES else cause


def entry_text(entry: Entry, lang: Lang) -> str:
    """Put one entry of a timeline into a sentence; an unknown kind by its name and params."""
    params = dict(entry.params)
    kind = "step-failed" if entry.kind == "step" and params.get("ok") == "false" else entry.kind
    if kind in {"held", "hold"}:
        return _WAITS.in_(lang) + hold_text(params.pop("reason", ""), params, lang)
    if kind not in EVENTS:
        told = ", ".join(f"{name}={stripped(value)}" for name, value in params.items() if value)
        return f"{stripped(kind)}: {told}" if told else stripped(kind)
    for name in ("cause", "before"):
        if name in params:
            params[name] = cause_name(params[name], lang)
    if params.get("why") in _WHYS:
        params["why"] = _WHYS[params["why"]].in_(lang)
    return fill(EVENTS[kind].in_(lang), params, most=_MOST_CHARS).rstrip(" :：,，")


def hold_text(reason: str, params: Mapping[str, str], lang: Lang) -> str:
    """Say why nothing is done now.

    Args:
        reason: A key of `HOLDS`; an unknown one is shown as it is.
        params: ``detail`` and ``until`` (ISO time), each optional.
    """
    key = _ALIASES.get(reason, reason)
    text = fill(HOLDS[key].in_(lang), params) if key in HOLDS else stripped(reason)
    if until := params.get("until"):
        text += _UNTIL.in_(lang).replace("{until}", _moment(until))
    return text


def moment(at: datetime) -> str:
    """Spell a time for people, to the second, in UTC."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _moment(text: str) -> str:
    try:
        return moment(datetime.fromisoformat(text))
    except ValueError:
        return stripped(text)
