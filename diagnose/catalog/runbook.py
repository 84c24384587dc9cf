"""A page for people about each cause, from rules and remedies: how to tell it, what to do, what diagnose can do.

Whoever reads has been woken: the line in front of them comes first, then what to do, then why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from diagnose.model.causes import CAUSES
from diagnose.model.knowledge import Knowledge
from diagnose.model.remedy import (
    Advice,
    EvidenceKeep,
    FlagFit,
    FlagScale,
    FlagSet,
    IpcClean,
    OperatorCommand,
    Remedy,
    ServerRestart,
    Step,
)
from diagnose.model.rule import LogTest, Rule, Severity
from diagnose.model.text import Duration, Lang, Text
from diagnose.profiles import xid
from diagnose.report import words
from diagnose.report.build import Cure
from diagnose.report.clean import fill_command, unfolded
from diagnose.report.markdown import fence
from diagnose.report.texts import cause_name

UNKNOWN = "unknown"

_CODES = "gpu_xid"
"""The cause whose page lists the driver's codes."""

_MOST_LINES, _MOST_CHARS = 3, 240
"""Of one sample."""

_WORDS: Mapping[str, Text] = {
    "made": Text(
        "Made from the rules and remedies by `diagnose rules runbook`; do not edit.",
        "由 `diagnose rules runbook` 根据规则与处置生成，请勿手改。",
    ),
    "index": Text("Runbook", "运维手册"),
    "cause": Text("Cause", "根因"),
    "worst": Text("Worst", "最高级别"),
    "forms": Text("Known forms", "已知形式"),
    "unknown": Text(
        "The server failed, and no rule knows the lines that it left. Read those that the report shows as errors that "
        "no rule knows, and what stands before them in the same file; then the logs of the worker that failed first, "
        "which tell most. `diagnose report LOG_DIR` reads all of them together. If it comes again, `diagnose rules "
        "draft FILE` makes the beginning of a rule from such a line.",
        "服务已失败，但现有规则不认识它留下的日志。先看报告中“规则尚不认识的错误”以及同一文件中更早的内容，"
        "再看最先失败的 worker 的日志，通常最有用；`diagnose report 日志目录` 会把全部日志放在一起分析。"
        "如果反复出现，可用 `diagnose rules draft 文件` 从这样的日志行生成规则草稿。",
    ),
    "after": Text(
        "**Look above first.** It is often only a consequence of:",
        "**先排查上游。** 它常常只是以下问题的连带现象：",
    ),
    "signs": Text("Which one is it?", "对照日志"),
    "sign": Text("Form", "表现"),
    "severity": Text("Severity", "级别"),
    "forms-title": Text("What to do", "处理办法"),
    "why": Text("Why.", "原因："),
    "false": Text("Do not mistake.", "注意误判（原文）："),
    "remedies": Text("What diagnose can do", "diagnose 可执行的处置"),
    "no-remedies": Text(
        "Nothing by itself: this is for a person.",
        "没有可自动执行的处置，需要人工处理。",
    ),
    "rung": Text("Rung {number}: {name}", "第 {number} 级：{name}"),
    "brakes": Text(
        "See the exact change before anything is touched: `diagnose remedies plan`. Each rung is proven by a "
        "completion and {holds} without the trouble, within {within}; else it is rolled back and the next one is "
        "tried.",
        "执行前可用 `diagnose remedies plan` 查看确切改动。每一级都要在 {within}内通过补全请求验证，"
        "并保持 {holds}不再出现故障；否则回滚并尝试下一级。",
    ),
    "for-people": Text("These steps are for a person:", "以下步骤由人工执行："),
    "echoes": Text("What may follow from it", "可能引发的连带现象"),
    "codes": Text("Xid codes", "Xid 编号速查"),
    "references": Text("References", "参考资料"),
}
_SEVERITIES: Mapping[Severity, Text] = {
    Severity.INFO: Text("info", "提示"),
    Severity.WARNING: Text("warning", "警告"),
    Severity.ERROR: Text("error", "错误"),
    Severity.CRITICAL: Text("critical", "严重"),
}
_PLACE = re.compile(r"\{\w+\}")
_MARKUP = re.compile(r"(`[^`]+`)|([\\`*]|\](?=[(\[:])|<(?=[A-Za-z/!?])|(?<!\w)_|_(?!\w))")


def pages(knowledge: Knowledge, langs: Sequence[Lang] = get_args(Lang)) -> dict[str, str]:
    """Make all pages: path (``en/gpu_lost.md``, ``index.md``) to Markdown."""
    told = {f"{lang}/{cause}.md": page(cause, knowledge, lang) for lang in langs for cause in causes(knowledge)}
    return {"index.md": index(knowledge, langs), **told}


def causes(knowledge: Knowledge) -> list[str]:
    """List the causes that have a page, in the order of `diagnose.model.causes.CAUSES`; a site's own last."""
    known = {rule.cause for rule in knowledge.rules.values()} | {UNKNOWN}
    return [*(cause for cause in CAUSES if cause in known), *sorted(known - set(CAUSES))]


def index(knowledge: Knowledge, langs: Sequence[Lang]) -> str:
    """Make the list of all pages."""

    def all_of(name: str) -> str:
        return " · ".join(_WORDS[name].in_(lang) for lang in langs)

    lines = [f"# {all_of('index')}", "", *(f"{_WORDS['made'].in_(lang)}\n" for lang in langs)]
    heads = [all_of("cause"), *("English" if lang == "en" else "中文" for lang in langs), all_of("worst")]
    lines += [_row(heads), _row(["---"] * len(heads))]
    for cause in causes(knowledge):
        links = [f"[{_plain(cause_name(cause, lang))}]({lang}/{cause}.md)" for lang in langs]
        severity = _SEVERITIES[_worst(_rules(cause, knowledge))]
        lines.append(_row([f"`{cause}`", *links, " · ".join(severity.in_(lang) for lang in langs)]))
    return "\n".join(lines) + "\n"


def page(cause: str, knowledge: Knowledge, lang: Lang) -> str:
    """Make the page of one cause, with a newline at its end."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_page(cause, knowledge, lang))).strip() + "\n"


def _page(cause: str, knowledge: Knowledge, lang: Lang) -> Iterator[str]:
    rules = _rules(cause, knowledge)
    yield f"# {_plain(cause_name(cause, lang))}"
    yield ""
    yield _facts(cause, rules, lang)
    yield ""
    if cause == UNKNOWN:
        yield _WORDS["unknown"].in_(lang)
        yield ""
    yield from _above(cause, knowledge, lang)
    if len(rules) > 1:
        yield from _signs(rules, lang)
    if rules:
        yield f"## {_WORDS['forms-title'].in_(lang)}"
        yield ""
    for rule in rules:
        yield from _form(rule, lang)
    yield from _codes(cause, rules, lang)
    yield from _remedies(cause, rules, knowledge, lang)
    yield from _echoes(rules, lang)
    yield from _references(rules, lang)
    yield "---"
    yield ""
    yield _WORDS["made"].in_(lang)


def _rules(cause: str, knowledge: Knowledge) -> list[Rule]:
    """Return the rules of a cause, the gravest and surest first."""
    mine = [rule for rule in knowledge.rules.values() if rule.cause == cause and rule.status != "deprecated"]
    return sorted(mine, key=lambda rule: (-rule.severity.rank, -rule.confidence, rule.id))


def _worst(rules: Sequence[Rule]) -> Severity:
    return max((rule.severity for rule in rules), key=lambda one: one.rank, default=Severity.ERROR)


def _facts(cause: str, rules: Sequence[Rule], lang: Lang) -> str:
    worst = _SEVERITIES[_worst(rules)].in_(lang)
    if lang == "zh":
        return f"`{cause}` · 最高级别：{worst}" + (f" · 已知形式：{len(rules)} 种" if rules else "")
    forms = f" · {len(rules)} known form{'' if len(rules) == 1 else 's'}" if rules else ""
    return f"`{cause}` · at worst {worst}{forms}"


def _above(cause: str, knowledge: Knowledge, lang: Lang) -> Iterator[str]:
    parents = {rule.cause for rule in knowledge.rules.values() if cause in rule.explains}
    if parents:
        blank = "" if lang == "zh" else " "
        yield _WORDS["after"].in_(lang) + blank + _links([one for one in causes(knowledge) if one in parents], lang)
        yield ""


def _signs(rules: Sequence[Rule], lang: Lang) -> Iterator[str]:
    yield f"## {_WORDS['signs'].in_(lang)}"
    yield ""
    for number, rule in enumerate(rules, 1):
        yield f"{number}. [{_title(rule, lang)}](#{_anchor(rule)})"
    yield ""


def _form(rule: Rule, lang: Lang) -> Iterator[str]:
    yield f'<a id="{_anchor(rule)}"></a>'
    yield ""
    yield f"### {_title(rule, lang)}"
    yield ""
    severity = _SEVERITIES[rule.severity].in_(lang)
    yield f"`{rule.id}` · {severity}" + ("" if rule.status == "stable" else f" · {rule.status}")
    yield ""
    if sample := _sample(rule):
        yield fence(sample)
        yield ""
    yield _plain(rule.fix.in_(lang))
    yield ""
    if rule.command:
        yield fence([fill_command(rule.command, {})], "sh")
        yield ""
    yield f"**{_WORDS['why'].in_(lang)}** {_plain(rule.why.in_(lang))}"
    yield ""
    if rule.false_positives:
        yield f"**{_WORDS['false'].in_(lang)}** {_plain(rule.false_positives)}"
        yield ""


def _sample(rule: Rule) -> list[str]:
    """Return what the first hit shows: lines of a log, or events."""
    first = next(iter(rule.tests.hits), "")
    test = LogTest(log=first) if isinstance(first, str) else first
    if not test.log:
        events = [dict(event) for event in test.events[:_MOST_LINES]]
        return [
            f"{_event_name(event)}: " + ", ".join(f"{name}={value}" for name, value in event.items() if name != "at")
            for event in events
        ]
    lines = [line.rstrip() for line in test.log.splitlines() if line.strip()]
    kept = lines if len(lines) <= _MOST_LINES else [lines[0], "...", lines[-1]]
    return [line if len(line) <= _MOST_CHARS else line[: _MOST_CHARS - 3] + "..." for line in kept]


def _event_name(event: dict[str, str]) -> str:
    """Take its name out of an event of a test."""
    if "sample" in event:
        return event.pop("sample")
    return event.pop("event", "") or f"probe {event.pop('probe', '')}"


def _codes(cause: str, rules: Sequence[Rule], lang: Lang) -> Iterator[str]:
    """List the driver's codes by what they ask for, or say where the list is."""
    if cause == _CODES:
        yield f"## {_WORDS['codes'].in_(lang)}"
        yield ""
        engines = {code for *_, codes in xid.ENGINES for code in codes}
        for action, advice in xid.ACTIONS.items():
            yield _plain(advice.in_(lang))
            yield ""
            entries = sorted((one for one in xid.ENTRIES.values() if one.action == action), key=lambda one: one.code)
            yield from (f"- **{one.code}** {_plain(one.name.in_(lang))}" for one in entries if one.code not in engines)
            yield from (_engines(one, lang) for one in xid.ENGINES if action == xid.ENTRIES[one[2][0]].action)
            yield ""
    elif any("(?P<xid>" in str(rule.when) for rule in rules):
        yield f"[{_WORDS['codes'].in_(lang)}]({_CODES}.md)"
        yield ""


def _engines(family: tuple[str, str, tuple[int, ...]], lang: Lang) -> str:
    english, chinese, codes = family
    name = f"{chinese}出错" if lang == "zh" else f"fault of one of the {english}s"
    return f"- **{', '.join(map(str, codes))}** {name}"


def _remedies(cause: str, rules: Sequence[Rule], knowledge: Knowledge, lang: Lang) -> Iterator[str]:
    named = [name for rule in rules for name in rule.remedies]
    general = sorted(
        (one for one in knowledge.remedies.values() if cause in one.cures), key=lambda one: (one.risk.rank, one.id)
    )
    every = {
        one.id: one for one in (*general, *(knowledge.remedies[name] for name in named if name in knowledge.remedies))
    }
    yield f"## {_WORDS['remedies'].in_(lang)}"
    yield ""
    if not every:
        yield _WORDS["no-remedies"].in_(lang)
        yield ""
    for remedy in every.values():
        if remedy.status != "deprecated":
            yield from _remedy(remedy, lang)


def _remedy(remedy: Remedy, lang: Lang) -> Iterator[str]:
    cost = Cure(id=remedy.id, mode=remedy.mode.value, risk=remedy.risk.value, why="", change=(), command="")
    yield f"### {_plain(remedy.title.in_(lang))}"
    yield ""
    yield f"`{remedy.id}` · {words.cure(cost, lang)}"
    yield ""
    yield _plain(remedy.why.in_(lang))
    yield ""
    by_hand = all(isinstance(step, Advice) for rung in remedy.ladder for step in rung.steps)
    if by_hand:
        yield _WORDS["for-people"].in_(lang)
        yield ""
    for number, rung in enumerate(remedy.ladder, 1):
        name = _WORDS["rung"].in_(lang).replace("{number}", str(number)).replace("{name}", _plain(rung.rung.in_(lang)))
        yield f"**{name}**"
        yield ""
        for step in rung.steps:
            yield f"- {_step(step, lang)}"
            if isinstance(step, Advice) and step.command:
                yield ""
                yield from ("  " + line for line in fence([fill_command(step.command, {})], "sh").splitlines())
                yield ""
        yield ""
    if not by_hand:
        brakes = _WORDS["brakes"].in_(lang)
        yield brakes.replace("{holds}", _length(remedy.verify.holds_for, lang)).replace(
            "{within}", _length(remedy.verify.within, lang)
        )
        yield ""


def _step(step: Step, lang: Lang) -> str:
    """Say what a step does."""
    if isinstance(step, Advice):
        return _plain(step.text.in_(lang))
    return _told(step).in_(lang)


def _told(step: Step) -> Text:
    if isinstance(step, ServerRestart):
        return Text(
            "stop the server, wait until its GPU memory is free, start it again", "停止服务，等待显存释放后重新启动"
        )
    if isinstance(step, IpcClean):
        return Text("remove the shared memory and sockets that this instance left", "清理本实例残留的共享内存和套接字")
    if isinstance(step, EvidenceKeep):
        return Text("keep the ends of all logs and the state of the processes", "保存全部日志末尾和进程状态")
    if isinstance(step, OperatorCommand):
        return Text(f"run this site's command `{step.command}`", f"运行本站点命令 `{step.command}`")
    if isinstance(step, FlagFit):
        flags = [f"`{flag}`" for flag in step.allow]
        return Text(
            f"compute the smallest change that fits the card, gentlest first: {', '.join(flags)}",
            f"计算能放进显存的最小改动，按影响从小到大依次为：{'、'.join(flags)}",
        )
    if isinstance(step, FlagScale):
        return Text(
            f"multiply `{step.flag}` by {step.factor:g} (from {step.least:g} to {step.most:g})",
            f"将 `{step.flag}` 乘以 {step.factor:g}（范围 {step.least:g} 至 {step.most:g}）",
        )
    if isinstance(step, FlagSet):
        given = [f"`{name} {value}`".replace(" `", "`") for name, value in step.set.items() if value is not None]
        gone = [f"`{name}`" for name, value in step.set.items() if value is None]
        english = [*(["set " + ", ".join(given)] if given else []), *(["take out " + ", ".join(gone)] if gone else [])]
        chinese = [*(["设置 " + "、".join(given)] if given else []), *(["去掉 " + "、".join(gone)] if gone else [])]
        return Text("; ".join(english), "；".join(chinese))
    raise AssertionError(f"no words for a step of kind {type(step).__name__}")


def _echoes(rules: Sequence[Rule], lang: Lang) -> Iterator[str]:
    named = dict.fromkeys(echo for rule in rules for echo in rule.explains)
    if named:
        yield f"## {_WORDS['echoes'].in_(lang)}"
        yield ""
        yield _links([one for one in CAUSES if one in named], lang)
        yield ""


def _references(rules: Sequence[Rule], lang: Lang) -> Iterator[str]:
    named = dict.fromkeys(one for rule in rules for one in rule.references)
    if named:
        yield f"## {_WORDS['references'].in_(lang)}"
        yield ""
        yield from (f"- <{one}>" if re.fullmatch(r"https?://\S+", one) else f"- {_plain(one)}" for one in named)
        yield ""


def _links(named: Sequence[str], lang: Lang) -> str:
    return ("、" if lang == "zh" else ", ").join(f"[{_plain(cause_name(one, lang))}]({one}.md)" for one in named)


def _title(rule: Rule, lang: Lang) -> str:
    """Return the title with an ellipsis where a log will tell."""
    return _plain(_PLACE.sub("…", rule.title.in_(lang)))


def _anchor(rule: Rule) -> str:
    return rule.id.replace(".", "-")


def _length(length: Duration, lang: Lang) -> str:
    """Spell a length of time.

    >>> _length(Duration(minutes=2), "zh"), _length(Duration(hours=1, minutes=30), "en")
    ('2 分钟', '1 h 30 min')
    """
    units = {"d": "天", "h": "小时", "m": "分钟", "s": "秒"} if lang == "zh" else {"m": "min"}
    parts = re.findall(r"(\d+)(\D+)", str(length))
    return " ".join(f"{number} {units.get(unit, unit)}" for number, unit in parts)


def _plain(text: str) -> str:
    r"""Put text into one line, and take from it what Markdown would make something else of; code stays code.

    >>> print(_plain("Set `--a *` and *b*"))
    Set `--a *` and \*b\*
    """
    line = unfolded(" ".join(_PLACE.sub("…", text).split()))
    return _MARKUP.sub(lambda found: found[1] or "\\" + found[2], line)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
