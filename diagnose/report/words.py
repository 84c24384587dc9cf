"""The fixed words of a report: headings and totals, in both languages."""

from __future__ import annotations

from collections.abc import Mapping

from diagnose.model.rule import Severity
from diagnose.model.text import Duration, Lang, Text
from diagnose.report import texts
from diagnose.report.build import Cure, Report
from diagnose.report.period import Period, Times

_WORDS: Mapping[str, Text] = {
    "healthy": Text("✓ nothing found", "✓ 未发现问题"),
    "unsure": Text("? no known trouble, but errors that no rule knows", "? 未发现已知故障，但有规则尚不认识的错误"),
    "fix": Text("Fix: ", "处理办法："),
    "why": Text("Why: ", "原因说明："),
    "evidence": Text("Evidence", "证据"),
    "remedies": Text("Remedies", "可用处置"),
    "consequences": Text("Consequences", "连带现象"),
    "history": Text("Earlier", "先前的故障"),
    "notes": Text("Notes (the server is fine)", "提示（服务正常）"),
    "timeline": Text("What happened", "经过"),
    "unexplained": Text("Errors that no rule knows", "规则尚不认识的错误"),
    "skipped": Text("Could not be read", "未能读取"),
    "more": Text("... and {count} more", "……另有 {count} 条"),
    "title": Text("Diagnosis of {target}", "{target} 诊断报告"),
    "period": Text("In numbers", "数据汇总"),
    "incidents": Text("incidents", "事件"),
    "still-open": Text("still open", "尚未解决"),
    "detected": Text("from the first proof to the incident", "首个证据到发现事件"),
    "repaired": Text("from there to the end", "发现到恢复"),
    "times": Text("median {median}, longest {most}", "中位数 {median}，最长 {most}"),
    "tried": Text("{count} times, kept {kept}", "执行 {count} 次，保留 {kept} 次"),
    "noisy": Text(
        "ended by itself {count} times: look at the rule, or at what it watches",
        "自行恢复 {count} 次，建议检查该规则或其监视对象",
    ),
    "marked": Text("diagnoses marked by people", "人工标记的诊断"),
    "verdicts": Text("{right} right, {wrong} wrong", "正确 {right} 次，有误 {wrong} 次"),
    "mistaken": Text("marked wrong: {count}; look at the rule", "被标记有误 {count} 次，建议检查该规则"),
    "confidence": Text("confidence", "置信度"),
    "command": Text("Command", "命令"),
    "generated": Text("Generated {at}", "生成时间：{at}"),
}

_RISKS: Mapping[str, Text] = {
    "harmless": Text("harmless", "无影响"),
    "disruptive": Text("interrupts the service", "会中断服务"),
    "degrading": Text("answers or limits change for users", "会改变用户的结果或限额"),
    "destructive": Text("destructive", "有破坏性"),
}
_MODES: Mapping[str, Text] = {
    "observe": Text("watched only", "仅观察"),
    "suggest": Text("suggested", "仅建议"),
    "approve": Text("needs approval", "需人工批准"),
    "auto": Text("can run by itself", "可自动执行"),
}


def say(name: str, lang: Lang) -> str:
    """Return a heading or a fixed sentence."""
    return _WORDS[name].in_(lang)


_SEVERITIES: Mapping[Severity, Text] = {
    Severity.INFO: Text("note", "提示"),
    Severity.WARNING: Text("warning", "警告"),
    Severity.ERROR: Text("error", "错误"),
    Severity.CRITICAL: Text("critical", "严重"),
}


def severity(one: Severity, lang: Lang) -> str:
    """Name a severity."""
    return _SEVERITIES[one].in_(lang)


def times(one: Times, lang: Lang) -> str:
    """Say how long something took."""
    middle, most = (str(Duration(seconds=round(seconds, 1))) for seconds in (one.median, one.most))
    return say("times", lang).replace("{median}", middle).replace("{most}", most)


def period_rows(period: Period, lang: Lang) -> list[tuple[str, str]]:
    """Put a stretch of time into rows of a table: name and value."""
    rows = [(say("incidents", lang), str(period.incidents)), (say("still-open", lang), str(period.open))]
    rows += [(texts.cause_name(cause, lang), str(count)) for cause, count in period.causes]
    rows += [
        (say(name, lang), times(found, lang))
        for name, found in (("detected", period.detected), ("repaired", period.repaired))
        if found
    ]
    for one in period.remedies:
        told = say("tried", lang).replace("{count}", str(one.count)).replace("{kept}", str(one.kept))
        rows.append((one.remedy, told))
    if period.right or period.wrong:
        told = say("verdicts", lang).replace("{right}", str(period.right)).replace("{wrong}", str(period.wrong))
        rows.append((say("marked", lang), told))
    rows += [(rule, say("mistaken", lang).replace("{count}", str(count))) for rule, count in period.mistaken]
    rows += [(rule, say("noisy", lang).replace("{count}", str(count))) for rule, count in period.noisy]
    return rows


def aside(text: str, lang: Lang) -> str:
    """Put a remark into the parentheses of the language."""
    return f"（{text}）" if lang == "zh" else f" ({text})"


def cure(one: Cure, lang: Lang) -> str:
    """Say what a remedy costs and how far it may go by itself."""
    parts = [table[word].in_(lang) if word in table else word for word, table in _of(one)]
    return ("，" if lang == "zh" else ", ").join(parts)


def scanned(report: Report, lang: Lang) -> str:
    """Say how much was read; nothing was read for what comes from a journal."""
    read = report.scanned
    if not read.files and not read.lines:
        return say("generated", lang).replace("{at}", f"{report.generated_at:%Y-%m-%d %H:%M:%S %Z}")
    if lang == "zh":
        return f"已扫描 {read.files} 个文件，{read.lines:,} 行，{size(read.bytes)}，用时 {read.seconds:.2f} 秒"
    files, lines = "file" if read.files == 1 else "files", "line" if read.lines == 1 else "lines"
    return f"scanned {read.files} {files}, {read.lines:,} {lines}, {size(read.bytes)} in {read.seconds:.2f} s"


def size(count: int) -> str:
    """Spell a number of bytes.

    >>> size(5_300_000)
    '5.1 MiB'
    """
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def _of(one: Cure) -> tuple[tuple[str, Mapping[str, Text]], ...]:
    return (one.risk, _RISKS), (one.mode, _MODES)
