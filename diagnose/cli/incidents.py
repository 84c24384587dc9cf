"""``diagnose incidents``: what the daemon found, newest first; with an ID all that happened in one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diagnose.cli.place import add_common, language, state_dir
from diagnose.cli.report import knowledge, read_incidents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from diagnose.model.incident import Incident
    from diagnose.model.text import Lang
    from diagnose.report.build import Trouble


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "incidents",
        help="list what the daemon found; with ID tell all of one",
        description="Lists the incidents of the daemon's journal, newest first. Exit 0 none is open, 1 one is.",
    )
    parser.add_argument("id", nargs="?", metavar="ID", help="an incident's id, or its beginning")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_common(parser, state=True, knowledge=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list, or one incident; 1 where one of them is open.

    Raises:
        DiagnoseError: There is no journal, or no incident of that id.
    """
    from diagnose import journal
    from diagnose.cli.output import drawn, screen_width, write
    from diagnose.report.build import encode, trouble
    from diagnose.report.terminal import render_trouble

    lang, known = language(args), knowledge(args)
    found = read_incidents(state_dir(args))
    if args.id:
        found = [_named(found, args.id)]
    marks = journal.marks(state_dir(args))
    told = [trouble(one, known, lang, marks.get(one.id)) for one in found]
    width = screen_width()
    if args.json:
        write(encode(told[0] if args.id else told), None)
    elif args.id:
        write(drawn(render_trouble(told[0], lang=lang, width=width), width), None)
    else:
        write(drawn(_table(told, lang), width), None)
    return int(any(_is_open(one) for one in told))


def _named(incidents: Sequence[Incident], name: str) -> Incident:
    from diagnose.errors import InputError

    found = [one for one in incidents if one.id == name] or [one for one in incidents if one.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} incidents begin with" if found else "no incident is called"
    raise InputError(f"{problem} {name!r}. List them with: diagnose incidents")


def _is_open(one: Trouble) -> bool:
    from diagnose.model.incident import State
    from diagnose.model.rule import Severity

    return one.severity is not Severity.INFO and one.state not in {State.RESOLVED, State.HISTORY}


def _table(told: Sequence[Trouble], lang: Lang) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from diagnose.report import texts, words
    from diagnose.report.clean import visible

    if not told:
        return Text(words.say("healthy", lang))
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("id", "last seen", "state", "title"):
        table.add_column(name, overflow="fold", no_wrap=name in {"id", "last seen"})
    for one in told:
        style = "red" if _is_open(one) else ""
        table.add_row(
            Text(one.id, style="bold"),
            Text(texts.moment(one.last_seen), style="dim"),
            Text(texts.STATES[one.state].in_(lang), style=style),
            Text(f"{visible(one.target)}: {visible(one.title)}"),
        )
    return table
