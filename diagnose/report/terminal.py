"""A report for a person at a terminal: the root cause first, then what proves it, then what helps.

Text of logs never meets rich's markup: every piece is a `rich.text.Text`, with control characters
spelled out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from diagnose.model.incident import State
from diagnose.model.rule import Severity
from diagnose.model.text import Lang
from diagnose.report import texts, words
from diagnose.report.build import Cure, Proof, Report, Trouble
from diagnose.report.clean import visible

_PAST = frozenset({State.RESOLVED, State.HISTORY})
_MOST_PROOFS, _MOST_UNEXPLAINED, _MOST_PAST, _MOST_EVENTS = 3, 5, 5, 30
_MOST_CHANGES = 12
_LEAST_CELLS = 20

_TELLING = re.compile(
    r"\w{0,40}(?:Error|Exception)\b"
    r"|(?i:out of memory|\bfatal|\bfail\w*|\berror\b|\bcannot\b|\bnot found\b|\bxid\b)"
)
"""Words around which a line that is too long is cropped."""


def render(report: Report, *, lang: Lang, width: int) -> RenderableType:
    """Draw a report for a terminal of ``width`` cells."""
    return Group(*_blocks(report, lang, width))


def render_trouble(one: Trouble, *, lang: Lang, width: int) -> RenderableType:
    """Draw one incident with all that happened in it."""
    return Group(*_trouble(one, lang, width), *_timeline(one, lang))


def crop(text: str, cells: int) -> str:
    """Cut a line to a width in terminal cells (a Chinese character takes two), around what tells most.

    >>> crop("a" * 50 + " KeyError: 'x' " + "b" * 50, 30)
    "…aaaaaa KeyError: 'x' bbbbbbb…"
    """
    if cell_len(text) <= cells:
        return text
    cells = max(cells, _LEAST_CELLS)
    found = _TELLING.search(text)
    start = found.start() if found else 0
    if cell_len(text[: start + 1]) + cells // 2 <= cells:
        return chop_cells(text, cells - 1)[0] + "…"
    before = chop_cells(text[:start][::-1], cells // 4)[0][::-1]
    rest = text[start - len(before) :]
    if cell_len(rest) < cells:
        rest = chop_cells(text[::-1], cells - 1)[0][::-1]
        return "…" + rest
    return "…" + chop_cells(rest, cells - 2)[0] + "…"


def _blocks(report: Report, lang: Lang, width: int) -> Iterator[RenderableType]:
    notes = [one for one in report.incidents if one.severity is Severity.INFO]
    real = [one for one in report.incidents if one.severity is not Severity.INFO]
    now = [one for one in real if one.state not in _PAST]
    shown, past = (now, [one for one in real if one.state in _PAST]) if now else (real[:1], real[1:])
    if not real:
        yield _nothing(report, lang)
    for place, one in enumerate(shown):
        if place:
            yield Text()
        yield from _trouble(one, lang, width)
        if len(one.timeline) > 1 + len(one.consequences):
            yield from _timeline(one, lang)
    if past:
        yield from _heading("history", lang)
        yield from (_line(one, lang) for one in past[:_MOST_PAST])
        yield from _more(len(past) - _MOST_PAST, lang)
    if notes:
        yield from _heading("notes", lang)
        yield from (_line(one, lang) for one in notes[:_MOST_PAST])
        yield from _more(len(notes) - _MOST_PAST, lang)
    yield from _unexplained(report, lang, width)
    if report.skipped:
        yield from _heading("skipped", lang)
        yield from (_indented(visible(one), "yellow") for one in report.skipped)
    yield Text()
    yield Text(words.scanned(report, lang), style="dim")


def _trouble(one: Trouble, lang: Lang, width: int) -> Iterator[RenderableType]:
    well = one.state is State.RESOLVED
    style = "bold green" if well else "bold red" if one.severity.rank >= Severity.ERROR.rank else "bold yellow"
    head = Text.assemble(("✓ " if well else "✗ ") + visible(one.title), style=style)
    if one.state is not State.OPEN:
        head.append(words.aside(texts.STATES[one.state].in_(lang), lang), style="not bold")
    yield head
    if one.mark:
        yield _indented(texts.marked(one.mark, lang), "dim")
    for number, proof in enumerate(one.evidence[:_MOST_PROOFS]):
        yield from _proof(proof, width, first=not number)
    yield from _more(len(one.evidence) - _MOST_PROOFS, lang)
    yield Text()
    yield _named("fix", visible(one.fix), lang, "bold")
    for cure in one.remedies:
        yield from _cure(cure, lang)
    if one.why:
        yield _named("why", visible(one.why), lang)
    yield from _changed(one, lang)
    if one.consequences:
        yield from _heading("consequences", lang)
    for echo in one.consequences:
        where = "  " + _place(echo.evidence[0]) if echo.evidence else ""
        yield _indented(Text.assemble(texts.cause_name(echo.cause, lang), (where, "cyan")))


def _proof(proof: Proof, width: int, *, first: bool) -> Iterator[RenderableType]:
    """Show where it stands and what it says: on one line where both fit."""
    place = _place(proof)
    room = width - 2 - cell_len(place) - 2
    said = visible(proof.text).strip()
    style = "" if first else "dim"
    if room >= max(_LEAST_CELLS, min(cell_len(said), width // 2)):
        yield Text.assemble("  ", (place, "cyan"), "  ", (crop(said, room), style))
        return
    yield Text.assemble("  ", (place, "cyan"))
    yield Text.assemble("    ", (crop(said, width - 4), style))


def _cure(cure: Cure, lang: Lang) -> Iterator[RenderableType]:
    if cure.id != "advice":
        told = words.cure(cure, lang)
        yield _indented(Text.assemble((visible(cure.id), "bold"), (words.aside(told, lang), "dim")))
        for change in cure.change:
            yield _indented(visible(change), "green", cells=6)
    if cure.command:  # never folded: it is there to be copied whole
        yield Text.assemble(("    $ ", "dim"), (visible(cure.command), "bold green"), no_wrap=True, overflow="ignore")


def _changed(one: Trouble, lang: Lang) -> Iterator[RenderableType]:
    """Say what is not as it was when the server last started well."""
    compared = one.compared
    if compared is None:
        return
    yield Text()
    yield Text(texts.changed_head(compared, lang), style="bold" if compared.changes else "")
    for change in compared.changes[:_MOST_CHANGES]:
        before, after = texts.change_sides(change)
        name = f"{visible(change.name)}: " if change.name else ""
        kind = texts.kind_name(change.kind, lang)
        yield _indented(Text.assemble((f"{kind}  ", "dim"), name, (before, "red"), " → ", (after, "green")))
    yield from _more(len(compared.changes) + compared.more - _MOST_CHANGES, lang)
    if compared.since and compared.unseen:
        yield _indented(texts.unseen(compared.unseen, lang), "dim")


def _timeline(one: Trouble, lang: Lang) -> Iterator[RenderableType]:
    yield from _heading("timeline", lang)
    for event in one.timeline[-_MOST_EVENTS:]:
        yield _indented(Text.assemble((texts.moment(event.at), "dim"), "  ", visible(event.event)))


def _line(one: Trouble, lang: Lang) -> RenderableType:
    place = _place(one.evidence[0]) if one.evidence else ""
    told = words.aside(texts.STATES[one.state].in_(lang), lang)
    return _indented(Text.assemble(visible(one.title), (told, "dim"), ("  " + place, "cyan")))


def _unexplained(report: Report, lang: Lang, width: int) -> Iterator[RenderableType]:
    if not report.unexplained:
        return
    yield from _heading("unexplained", lang)
    for one in report.unexplained[:_MOST_UNEXPLAINED]:
        place = f"{visible(one.source)}:{one.line}"
        yield Text.assemble("  ", (place, "cyan"), f"  ×{one.count}")
        yield Text.assemble("    ", (crop(visible(one.sample).strip(), width - 4), "yellow"))
    yield from _more(len(report.unexplained) - _MOST_UNEXPLAINED, lang)


def _nothing(report: Report, lang: Lang) -> Text:
    if report.unexplained:
        return Text(words.say("unsure", lang), style="bold yellow")
    return Text(words.say("healthy", lang), style="bold green")


def _place(proof: Proof) -> str:
    source = visible(proof.source)
    return source if proof.line is None else f"{source}:{proof.line}"


def _heading(name: str, lang: Lang) -> Sequence[RenderableType]:
    return Text(), Text(words.say(name, lang), style="bold")


def _named(name: str, text: str, lang: Lang, style: str = "") -> RenderableType:
    return _indented(Text.assemble((words.say(name, lang), "bold cyan"), (text, style)))


def _indented(text: Text | str, style: str = "", cells: int = 2) -> RenderableType:
    whole = text if isinstance(text, Text) else Text(text, style=style)
    whole.overflow = "fold"
    return Padding(whole, (0, 0, 0, cells), expand=False)


def _more(count: int, lang: Lang) -> Iterator[RenderableType]:
    if count > 0:
        yield _indented(words.say("more", lang).replace("{count}", str(count)), "dim")
