"""A report as one HTML file that needs nothing else: for a ticket, a mail, the morning's meeting, or paper."""

from __future__ import annotations

from collections.abc import Mapping

import jinja2
from markupsafe import Markup

from diagnose.engine.incidents import LIVE
from diagnose.model.rule import Severity
from diagnose.model.text import Lang
from diagnose.report import texts, words
from diagnose.report.build import Report
from diagnose.report.charts import Chart, draw
from diagnose.report.clean import visible

_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("diagnose.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def render(report: Report, *, lang: Lang, charts: Mapping[str, tuple[Chart, ...]] | None = None) -> str:
    """Write a report as HTML.

    Args:
        charts: What was measured around incidents, by their ids.
    """
    real = [one for one in report.incidents if one.severity is not Severity.INFO]
    drawn = {
        name: [(chart.title.in_(lang), Markup(draw(chart))) for chart in found]  # noqa: S704 - drawn from numbers
        for name, found in (charts or {}).items()
    }
    return _PAGE.get_template("page.html.j2").render(
        report=report,
        lang=lang,
        real=real,
        open=[one for one in real if one.state in LIVE],
        notes=[one for one in report.incidents if one.severity is Severity.INFO],
        charts=drawn,
        rows=words.period_rows(report.period, lang) if report.period else [],
        say=lambda name: words.say(name, lang),
        cause=lambda cause: texts.cause_name(cause, lang),
        state=lambda state: texts.STATES[state].in_(lang),
        severity=lambda severity: words.severity(severity, lang),
        cure=lambda one: words.cure(one, lang),
        changed_head=lambda one: texts.changed_head(one.compared, lang),
        kind=lambda kind: texts.kind_name(kind, lang),
        sides=texts.change_sides,
        moment=texts.moment,
        marked=lambda mark: texts.marked(mark, lang),
        scanned=words.scanned(report, lang),
        visible=visible,
    )
