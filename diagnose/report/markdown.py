"""A report as Markdown, for a ticket or a chat. Log text stands in fences that it cannot leave."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from diagnose.model.incident import State
from diagnose.model.rule import Severity
from diagnose.model.text import Lang
from diagnose.report import texts, words
from diagnose.report.build import Proof, Report, Trouble
from diagnose.report.clean import visible

_MOST_PROOFS, _MOST_UNEXPLAINED, _MOST_CHANGES = 8, 20, 30

_SPECIAL = re.compile(r"([\\`*\[\]|~!])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def render(report: Report, *, lang: Lang) -> str:
    """Write a report as Markdown (GitHub's kind), with a newline at its end."""
    return "\n".join(_lines(report, lang)).rstrip() + "\n"


def fence(lines: Sequence[str], info: str = "text") -> str:
    """Put lines into a code block whose fence is longer than any run of backticks within.

    >>> print(fence(["```", "x"]))
    ````text
    ```
    x
    ````
    """
    shown = [visible(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall(r"`+", line)), default=0)
    marks = "`" * max(3, longest + 1)
    return "\n".join([marks + info, *shown, marks])


def escape(text: str) -> str:
    r"""Take from text all that Markdown, HTML or a mention could make of it.

    >>> escape("<b>*x* @all")
    '&lt;b&gt;\\*x\\* &#64;all'
    """
    line = " ".join(visible(one) for one in text.splitlines())
    line = _SPECIAL.sub(r"\\\1", line)
    line = re.sub(r"[&<>@]", lambda found: _ENTITIES[found[0]], line)
    return re.sub(r"^(\s*)([#+=-]|\d+(?=[.)]))", r"\1&#8203;\2", line)


def _lines(report: Report, lang: Lang) -> Iterator[str]:
    real = [one for one in report.incidents if one.severity is not Severity.INFO]
    notes = [one for one in report.incidents if one.severity is Severity.INFO]
    yield "# " + escape(words.say("title", lang).replace("{target}", report.target))
    yield ""
    if not real:
        yield escape(words.say("unsure" if report.unexplained else "healthy", lang))
        yield ""
    for one in real:
        yield from _trouble(one, lang)
    if report.period and report.period.incidents > 1:
        yield "## " + words.say("period", lang)
        yield ""
        yield "| | |"
        yield "| --- | --- |"
        yield from (f"| {escape(name)} | {escape(value)} |" for name, value in words.period_rows(report.period, lang))
        yield ""
    if notes:
        yield "## " + words.say("notes", lang)
        yield ""
        yield from (f"- {escape(one.summary)}" for one in notes)
        yield ""
    if report.unexplained:
        yield "## " + words.say("unexplained", lang)
        yield ""
        kinds = report.unexplained[:_MOST_UNEXPLAINED]
        yield fence([f"{one.source}:{one.line} ×{one.count}  {one.sample}" for one in kinds])
        yield from _more(len(report.unexplained) - _MOST_UNEXPLAINED, lang)
        yield ""
    if report.skipped:
        yield "## " + words.say("skipped", lang)
        yield ""
        yield from (f"- {escape(one)}" for one in report.skipped)
        yield ""
    yield escape(words.scanned(report, lang))


def _trouble(one: Trouble, lang: Lang) -> Iterator[str]:
    mark = "✓" if one.state is State.RESOLVED else "✗"
    yield f"## {mark} {escape(one.title)}"
    yield ""
    yield f"`{one.cause}` · {one.severity.value} · {escape(texts.STATES[one.state].in_(lang))}"
    yield ""
    if one.mark:
        yield escape(texts.marked(one.mark, lang))
        yield ""
    yield fence([_proof(proof) for proof in one.evidence[:_MOST_PROOFS]])
    yield from _more(len(one.evidence) - _MOST_PROOFS, lang)
    yield ""
    yield f"**{words.say('fix', lang).strip()}** {escape(one.fix)}"
    yield ""
    for cure in one.remedies:
        if cure.id != "advice":
            told = words.aside(escape(words.cure(cure, lang)), lang)
            yield f"- {escape(cure.id)}{told}: {escape(cure.why)}"
            yield ""
        for shown, info in ((cure.change, "text"), ((cure.command,), "sh")):
            if any(shown):
                yield fence(shown, info)
                yield ""
    if one.why:
        yield f"**{words.say('why', lang).strip()}** {escape(one.why)}"
        yield ""
    yield from _changed(one, lang)
    if one.consequences:
        yield "### " + words.say("consequences", lang)
        yield ""
        for echo in one.consequences:
            yield f"- {escape(texts.cause_name(echo.cause, lang))}"
        yield ""
        yield fence([_proof(echo.evidence[0]) for echo in one.consequences if echo.evidence])
        yield ""
    if one.timeline:
        yield "### " + words.say("timeline", lang)
        yield ""
        yield from (f"- {texts.moment(event.at)} {escape(event.event)}" for event in one.timeline)
        yield ""


def _changed(one: Trouble, lang: Lang) -> Iterator[str]:
    """Say what is not as it was when the server last started well."""
    compared = one.compared
    if compared is None:
        return
    yield f"**{escape(texts.changed_head(compared, lang))}**"
    yield ""
    for change in compared.changes[:_MOST_CHANGES]:
        before, after = texts.change_sides(change)
        kind = texts.kind_name(change.kind, lang)
        yield "- " + escape(f"{kind}: {change.name}: {before} → {after}")
    more = [*_more(len(compared.changes) + compared.more - _MOST_CHANGES, lang)]
    yield from more
    if compared.changes:
        yield ""
    if compared.since and compared.unseen:
        yield escape(texts.unseen(compared.unseen, lang))
        yield ""


def _proof(proof: Proof) -> str:
    place = proof.source if proof.line is None else f"{proof.source}:{proof.line}"
    return f"{place}: {proof.text}"


def _more(count: int, lang: Lang) -> Iterator[str]:
    if count > 0:
        yield ""
        yield words.say("more", lang).replace("{count}", str(count))
