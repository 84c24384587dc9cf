"""What happened, in words: the entries of a timeline, the reasons for waiting, the states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from diagnose.model.causes import CAUSES
from diagnose.model.effect import Answered
from diagnose.model.incident import Entry, State
from diagnose.model.mark import Mark
from diagnose.model.surroundings import Change, Comparison
from diagnose.model.text import Lang, Text
from diagnose.report.clean import apart, fill, stripped, visible

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
    "acting": Text("carrying out {remedy}, rung {rung}: {change}", "执行 {remedy} 第 {rung} 级：{change}"),
    "step": Text("step {action}: {text}", "步骤 {action}：{text}"),
    "step-failed": Text("step {action} failed: {text}", "步骤 {action} 失败：{text}"),
    "failed": Text("that did not help: {why}", "处置未奏效：{why}"),
    "interrupted": Text("cut short, to be decided anew: {why}", "处置中断，将重新决定：{why}"),
    "verifying": Text("carried out; verifying that it helps", "已执行，正在验证效果"),
    "ready": Text(
        "the server is ready: a completion of {tokens} tokens in {seconds} s",
        "服务已就绪：补全请求返回 {tokens} 个 token，用时 {seconds} 秒",
    ),
    "resolved": Text("resolved: well again, and it has held", "已解决：服务恢复并保持正常"),
    "rolled-back": Text("back to the last settings known to be good", "已恢复到最近一次正常的设置"),
    "recovered": Text("the server was started again", "已重新启动服务"),
    "room": Text(
        "others have given back GPU memory: the settings fit now, the server is started again",
        "其他进程已释放显存，现有参数可以放下，重新启动服务",
    ),
    "recovery-failed": Text(
        "it could not be started again; that is tried again, ever more seldom",
        "未能重新启动，将以越来越长的间隔重试",
    ),
    "rollback-failed": Text(
        "going back to the last good settings failed; a person is needed",
        "恢复到最近一次正常的设置失败，需要人工处理",
    ),
    "escalated": Text("all remedies were tried: a person is called", "所有处置均已尝试，转人工处理"),
    "cleared": Text("over without a remedy: {why}", "未经处置自行恢复：{why}"),
    "superseded": Text("start {attempt} has a trouble of its own", "第 {attempt} 次启动出现了新的问题"),
    "merged": Text("belongs to {cause} (incident {into})", "归入“{cause}”（事件 {into}）"),
    "approve": Text("{remedy} approved by {by}, valid until {until}", "{by} 批准了 {remedy}，有效期至 {until}"),
    "apply": Text("{remedy} ordered by {by}", "{by} 下令执行 {remedy}"),
    "rejected": Text("{remedy} rejected by {by}", "{by} 拒绝了 {remedy}"),
    "way-back": Text(
        "memory was given back: your own settings would fit again; go back with: diagnose remedies rollback",
        "其他进程已释放显存，原参数可以放下；恢复请执行：diagnose remedies rollback",
    ),
    "rollback": Text("{by} puts the settings back: {change}", "{by} 恢复参数：{change}"),
    "restart": Text("{by} has the server started again", "{by} 下令重新启动服务"),
    "trial": Text("the settings are back; proving that they work", "参数已恢复，正在验证"),
    "trial-held": Text("the server works with the settings put back", "恢复参数后服务正常"),
    "trial-failed": Text(
        "the server does not work with the settings put back ({why}): the changes are laid again",
        "恢复参数后服务异常（{why}），重新应用先前的改动",
    ),
}
"""Kinds of `diagnose.model.incident.Entry`, with the params that they name."""

HOLDS: Mapping[str, Text] = {
    "observe": Text("in observe mode nothing is touched", "当前为观察模式，不做任何改动"),
    "suggest": Text("in suggest mode the plan is for a person to apply", "当前为建议模式，方案由人执行"),
    "approve": Text("a person has to approve the plan", "方案需要人工批准"),
    "paused": Text("paused by {detail}", "已暂停（{detail}）"),
    "rejected": Text(
        "a person rejected the plan; nothing else is left to do automatically", "方案已被拒绝，没有其他可自动执行的处置"
    ),
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
    "experimental": Text("the rule or remedy is not stable yet: it only suggests", "规则或处置尚未稳定，只提供建议"),
    "untrusted": Text("the line can carry text of users: never acted upon", "该行可能含有用户文本，绝不据此自动处置"),
    "busy": Text("another remedy is under way", "另一项处置正在进行"),
    "lease": Text("the fleet acts on another host first", "集群正在先处置其他主机"),
    "exhausted": Text("all that could be tried was tried", "可行的处置均已尝试"),
    "advice": Text("nothing to do automatically: see the advice", "没有可自动执行的处置，请参考建议"),
}
"""Why nothing is done now, by the reason that the engine's brakes give."""

ANSWERS: Mapping[str, Text] = {
    "approve": Text("Approved: {remedy} starts now. {change}", "已批准，{remedy} 立即开始执行。{change}"),
    "approve-waits": Text(
        "Approved: {remedy} starts as soon as it may ({held}), until {until}. {change}",
        "已批准，{remedy} 将在条件允许时执行（{held}），有效期至 {until}。{change}",
    ),
    "apply": Text("{remedy} starts now. {change}", "{remedy} 立即开始执行。{change}"),
    "reject": Text("Rejected: {remedy} is not asked for this incident again.", "已拒绝，本次事件不再询问 {remedy}。"),
    "pause": Text(
        "Paused: nothing is touched; diagnosis goes on. End it with: diagnose resume",
        "已暂停：不做任何改动，诊断照常进行。恢复请执行：diagnose resume",
    ),
    "resume": Text("Remedies may be carried out again.", "已恢复，可以执行处置。"),
    "rollback": Text(
        "The server is restarted with the settings put back: {change}. What does not work is laid again.",
        "正在以恢复后的参数重启服务：{change}。若服务异常，将重新应用这些改动。",
    ),
    "restart": Text(
        "The server is started again with the settings that it has. See: diagnose status",
        "正在以现有参数重新启动服务。进展请查看：diagnose status",
    ),
    "no-command": Text(
        "It is not known yet with which command the server runs. Wait until diagnose status shows one.",
        "尚不知道该服务的启动命令。请等到 diagnose status 显示后再试。",
    ),
    "no-incident": Text(
        "There is no such incident any more. See: diagnose incidents", "该事件已不存在。请查看：diagnose incidents"
    ),
    "not-waiting": Text(
        "Incident {incident} waits for nobody ({state}). See: diagnose incidents {incident}",
        "事件 {incident} 当前无需人工确认（{state}）。请查看：diagnose incidents {incident}",
    ),
    "no-plan": Text(
        "Incident {incident} has no plan that could be carried out. See its advice: diagnose incidents {incident}",
        "事件 {incident} 没有可执行的方案。请查看建议：diagnose incidents {incident}",
    ),
    "not-asked-observe": Text(
        "In observe mode nothing is carried out. See diagnose remedies plan {incident}, or set mode: approve",
        "当前为观察模式，不执行任何处置。可查看 diagnose remedies plan {incident}，或设置 mode: approve",
    ),
    "not-asked-suggest": Text(
        "In suggest mode an approval changes nothing. To carry the plan out now: diagnose remedies apply {incident}",
        "当前为建议模式，批准不会触发执行。如需立即执行：diagnose remedies apply {incident}",
    ),
    "not-asked-auto": Text(
        "This plan needs no approval; other brakes hold it. See: diagnose remedies plan {incident}",
        "该方案无需批准，是其他限制使其暂缓。请查看：diagnose remedies plan {incident}",
    ),
    "not-paused": Text("Nothing is paused.", "当前没有暂停。"),
    "nothing-to-undo": Text(
        "No remedy has changed the settings: there is nothing to put back.", "没有处置改动过参数，无需恢复。"
    ),
}
"""What became of a person's order, by the reason of an `diagnose.model.effect.Answered`."""

_NOT_NOW = Text("Not now: ", "暂不能执行：")

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
    "sees": Text("it can be seen again", "已恢复监测"),
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
    if lang == "zh" and params.get("text_zh"):
        params["text"] = params["text_zh"]
    for name in ("cause", "before"):
        if name in params:
            params[name] = cause_name(params[name], lang)
    if params.get("until"):
        params["until"] = _moment(params["until"])
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


def answer_text(answer: Answered, lang: Lang) -> str:
    """Say what became of a person's order."""
    params = dict(answer.params)
    if answer.reason.startswith("held-"):
        return _NOT_NOW.in_(lang) + hold_text(answer.reason.removeprefix("held-"), params, lang)
    if params.get("held"):
        params["held"] = hold_text(params["held"], {}, lang)
    if params.get("until"):
        params["until"] = _moment(params["until"])
    return fill(ANSWERS[answer.reason].in_(lang), params, most=_MOST_CHARS).strip()


KINDS: Mapping[str, Text] = {
    "command": Text("command line", "启动命令"),
    "config": Text("--config file", "--config 文件"),
    "remedy": Text("changed by a remedy", "处置所做的更改"),
    "python": Text("Python", "Python"),
    "package": Text("package", "软件包"),
    "host": Text("driver and system", "驱动与系统"),
    "model": Text("model file", "模型文件"),
    "env": Text("environment", "环境变量"),
    "gpu": Text("card", "显卡"),
    "neighbour": Text("other users of the card", "显卡上的其他进程"),
}
"""Kinds of `diagnose.model.surroundings.Change`."""

_SINCE = Text("since the last healthy start ({at})", "与最近一次正常启动（{at}）相比")
_UNCHANGED = Text("Nothing changed {since}.", "{since}没有变化。")
_CHANGED = Text("Changed {since}:", "{since}有以下变化：")
_NO_HEALTHY = Text(
    "No healthy start of this server is known yet: there is nothing to compare with.",
    "尚无该服务正常启动的记录，无从比较。",
)
_UNSEEN = Text("Could not be compared: {kinds}.", "未能比较：{kinds}。")
_UNUSED = Text(
    "the server that runs (process {pid}) was taken over as it is; what was given now differs and is not used: "
    "{changes}. To use it, end diagnose run, then the server (kill {pid}), and run the command again.",
    "已按现状接管运行中的服务（进程 {pid}）；本次给出的设置与之不同，未被采用：{changes}。"
    "如需采用，请先结束 diagnose run，再结束服务（kill {pid}），然后重新执行该命令。",
)
_MARKED: Mapping[str, Text] = {
    "right": Text("diagnosis marked right by {by}", "{by} 确认诊断正确"),
    "wrong": Text("diagnosis marked wrong by {by}", "{by} 标记诊断有误"),
}
_MARKED_INSTEAD = Text(", it was: {cause}", "，实际原因：{cause}")
_MOST_SHOWN = 5


def changed_head(compared: Comparison, lang: Lang) -> str:
    """Say what a failed start is compared with, and whether anything is different."""
    if compared.since is None:
        return _NO_HEALTHY.in_(lang)
    since = _SINCE.in_(lang).replace("{at}", moment(compared.since))
    return (_CHANGED if compared.changes else _UNCHANGED).in_(lang).replace("{since}", since)


def change_sides(change: Change) -> tuple[str, str]:
    """Return what was and what is, shortened to where they differ; ``-`` for what is not there."""
    before, after = ("-" if text is None else visible(text) for text in (change.before, change.after))
    return apart(before, after)


def changed_line(compared: Comparison, lang: Lang) -> str:
    """Name what changed, in one line."""
    names = [change.name for change in compared.changes]
    more = len(names) + compared.more - _MOST_SHOWN
    shown = (", " if lang == "en" else "、").join(stripped(name) for name in names[:_MOST_SHOWN])
    rest = "" if more <= 0 else f", +{more}"
    return f"{changed_head(compared, lang)} {shown}{rest}".rstrip()


def unseen(kinds: Sequence[str], lang: Lang) -> str:
    """Say which kinds of things could not be compared; nothing where all could."""
    names = [kind_name(kind, lang) for kind in kinds]
    return _UNSEEN.in_(lang).replace("{kinds}", (", " if lang == "en" else "、").join(names)) if names else ""


def kind_name(kind: str, lang: Lang) -> str:
    """Name a kind of surroundings; one of a later version by its own word."""
    return KINDS[kind].in_(lang) if kind in KINDS else stripped(kind)


def unused_text(pid: int, changes: Sequence[str], lang: Lang) -> str:
    """Say that a server was taken over as it runs although something else was given, and how to get that."""
    more = [f"+{len(changes) - _MOST_SHOWN}"] if len(changes) > _MOST_SHOWN else []
    shown = "; ".join([*(stripped(line) for line in changes[:_MOST_SHOWN]), *more])
    return _UNUSED.in_(lang).replace("{pid}", str(pid)).replace("{changes}", shown)


def marked(mark: Mark, lang: Lang) -> str:
    """Say what a person said of a diagnosis."""
    text = _MARKED[mark.verdict].in_(lang).replace("{by}", stripped(mark.by))
    if mark.cause:
        text += _MARKED_INSTEAD.in_(lang).replace("{cause}", cause_name(mark.cause, lang))
    return text + (f": {stripped(mark.note)}" if mark.note else "")


def moment(at: datetime) -> str:
    """Spell a time for people, to the second, in UTC."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _moment(text: str) -> str:
    try:
        return moment(datetime.fromisoformat(text))
    except ValueError:
        return stripped(text)
