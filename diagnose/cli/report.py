"""``diagnose report``: what is wrong, what proves it, what helps; of log files or the journal."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diagnose.cli.place import add_common, language, state_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from diagnose.model.incident import Incident
    from diagnose.model.knowledge import Knowledge
    from diagnose.model.text import Lang
    from diagnose.report.build import Report
    from diagnose.report.charts import Chart

_MOST_CHARTED = 20
"""Incidents of one page with charts: each reads its part of the journal."""


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "report",
        help="diagnose log files, or show what the daemon found",
        description="Names the root cause in log files and what helps. Without PATH it shows what the "
        "daemon found. Exit 0 healthy, 1 a problem was found, 2 bad input, 3 cannot tell.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files, folders, .gz, or - for stdin")
    parser.add_argument(
        "--format",
        choices=("terminal", "markdown", "html", "json"),
        default="terminal",
        help="what to write (default: terminal)",
    )
    parser.add_argument("--since", metavar="LENGTH", help="only what was seen within, such as 30m or 24h")
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE, whole or not at all")
    parser.add_argument("--target", metavar="NAME", help="the server that the logs are of, or to show")
    add_common(parser, state=True, knowledge=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; the status says what it found.

    Raises:
        DiagnoseError: The input, the rules or the journal cannot be read, or the report not be written.
    """
    from diagnose.cli.output import write

    lang, since = language(args), _since(args.since)
    report = _of_paths(args, lang, since) if args.paths else _of_journal(args, lang, since)
    write(_spelled(report, args, lang), args.output)
    return status(report)


def status(report: Report) -> int:
    """Say what was found: 1 a problem, 3 something that nobody knows, 0 nothing."""
    from diagnose.model.rule import Severity

    real = [one for one in report.incidents if one.severity is not Severity.INFO]
    if any(one.cause != "unknown" for one in real):
        return 1
    return 3 if real or report.unexplained else 0


def knowledge(args: argparse.Namespace) -> Knowledge:
    """Load the shipped rules and remedies, and those of the command line over them.

    Raises:
        RuleFileError: A file cannot be used.
    """
    from pathlib import Path

    from diagnose.catalog import load

    return load.load([Path(one) for one in (*args.rules, *args.remedies)])


def read_incidents(folder: Path) -> Sequence[Incident]:
    """Read the incidents of the daemon's journal, the newest first.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """
    from diagnose import journal

    return journal.read(folder).incidents


def _spelled(report: Report, args: argparse.Namespace, lang: Lang) -> str:
    if args.format == "json":
        from diagnose.report.build import encode

        return encode(report)
    if args.format == "markdown":
        from diagnose.report import markdown

        return markdown.render(report, lang=lang)
    if args.format == "html":
        from diagnose.report import page

        return page.render(report, lang=lang, charts=None if args.paths else _charts(report, args, lang))
    from diagnose.cli.output import drawn, screen_width
    from diagnose.report import terminal

    to_file = bool(args.output)
    width = screen_width(to_file=to_file)
    return drawn(terminal.render(report, lang=lang, width=width), width, to_file=to_file)


def _charts(report: Report, args: argparse.Namespace, lang: Lang) -> dict[str, tuple[Chart, ...]]:
    """Gather what was measured around the newest incidents."""
    from diagnose import journal
    from diagnose.report import measured

    folder = state_dir(args)
    told = {one.id for one in report.incidents[:_MOST_CHARTED]}
    found = [one for one in journal.read(folder).incidents if one.id in told]
    return {one.id: measured.around(one, journal.seen(folder, *measured.span(one)), lang) for one in found}


def _of_paths(args: argparse.Namespace, lang: Lang, since: datetime | None) -> Report:
    from datetime import datetime, timezone

    from diagnose import offline
    from diagnose.catalog import cache
    from diagnose.cli.output import progress
    from diagnose.report.build import build

    now = datetime.now(timezone.utc)
    known = knowledge(args)
    with progress() as show:
        examined = offline.diagnose(
            args.paths,
            knowledge=known,
            matcher=cache.matcher(known),
            target=args.target or "default",
            progress=show,
        )
    return build(
        target=args.target or "default",
        generated_at=now,
        scanned=examined.scanned,
        incidents=[one for one in examined.incidents if since is None or one.last_seen >= since],
        knowledge=known,
        unexplained=examined.unexplained,
        lang=lang,
        skipped=examined.skipped,
    )


def _of_journal(args: argparse.Namespace, lang: Lang, since: datetime | None) -> Report:
    from datetime import datetime, timezone

    from diagnose import journal
    from diagnose.report.build import Scanned, build
    from diagnose.report.period import summarize

    now, marks = datetime.now(timezone.utc), journal.marks(state_dir(args))
    found = [
        one
        for one in read_incidents(state_dir(args))
        if (since is None or one.last_seen >= since) and args.target in {None, one.target}
    ]
    return build(
        target=args.target or ", ".join(sorted({one.target for one in found})) or "default",
        generated_at=now,
        scanned=Scanned(),
        incidents=found,
        knowledge=knowledge(args),
        unexplained=(),
        lang=lang,
        period=summarize(found, since=since, until=now, marks=marks),
        marks=marks,
    )


def _since(text: str | None) -> datetime | None:
    from datetime import datetime, timezone

    from diagnose.errors import InputError
    from diagnose.model.text import Duration

    try:
        return datetime.now(timezone.utc) - Duration.parse(text) if text else None
    except (ValueError, OverflowError) as error:
        raise InputError(f"--since: {error}.") from error
