"""``diagnose silence``: "I know, do not tell me": until a time, or until it is resolved."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diagnose.cli import ask
from diagnose.cli.place import add_common, language, state_dir
from diagnose.errors import InputError

if TYPE_CHECKING:
    from diagnose.model.text import Lang
    from diagnose.notices.book import Silence


def add(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "silence",
        help="tell nobody of these incidents; they are still found, treated and recorded",
        epilog="example: diagnose silence add --cause overload_503 --for 2h --why 'load test'",
    )
    commands = parser.add_subparsers(dest="silence_command", required=True, metavar="COMMAND")
    made = commands.add_parser("add", help="begin one")
    made.add_argument("--cause", action="append", default=[], metavar="CAUSE", help="only these causes")
    made.add_argument("--target", action="append", default=[], metavar="NAME", help="only these servers")
    made.add_argument("--incident", default="", metavar="ID", help="only this incident")
    made.add_argument("--everything", action="store_true", help="all incidents of all servers here")
    ask.add_lasting(made, "--for", "how long (30m, 2h); without it until what it covers is resolved")
    made.add_argument("--why", default="", help="shown to others")
    made.set_defaults(run=run_add)
    shown = commands.add_parser("list", help="those that hold")
    shown.add_argument("--json", action="store_true", help="for programs")
    shown.set_defaults(run=run_list)
    ended = commands.add_parser("end", help="end one")
    ended.add_argument("id", metavar="ID")
    ended.set_defaults(run=run_end)
    for one in (made, shown, ended):
        add_common(one, state=True)


def run_add(args: argparse.Namespace) -> int:
    """Begin a silence.

    Raises:
        InputError: It does not say what to be silent about.
    """
    from diagnose.web import paths

    if not (args.cause or args.target or args.incident or args.everything):
        raise InputError("silent about what? Give --cause, --target, --incident or --everything.")
    made = {
        "by": ask.who(),
        "why": args.why,
        "for": ask.spelled(args.lasting),
        "causes": args.cause,
        "targets": args.target,
        "incident": args.incident,
    }
    return ask.said(ask.put(args, "POST", paths.SILENCES, made))


def run_end(args: argparse.Namespace) -> int:
    """End a silence."""
    from diagnose.web import paths

    return ask.said(ask.put(args, "DELETE", paths.SILENCE.format(id=args.id), by=ask.who()))


def run_list(args: argparse.Namespace) -> int:
    """Print those that hold."""
    from diagnose import outbox
    from diagnose.cli.output import write
    from diagnose.model import codec
    from diagnose.web import paths
    from diagnose.web.shapes import Silences

    folder, lang = state_dir(args), language(args)
    told = ask.look(folder, paths.SILENCES, Silences)
    told = told or Silences(silences=tuple(outbox.read(folder).book.silences.values()))
    if args.json:
        write(codec.encode(told).decode() + "\n", None)
        return 0
    lines = [line(one, lang) for one in told.silences]
    write("\n".join(lines or ["没有静默" if lang == "zh" else "no silence"]) + "\n", None)
    return 0


def line(silence: Silence, lang: Lang) -> str:
    """Tell a silence in one line."""
    from diagnose.report import texts
    from diagnose.report.clean import visible

    zh = lang == "zh"
    until = texts.moment(silence.until) if silence.until else "恢复" if zh else "resolved"
    why = f": {silence.why}" if silence.why else ""
    every = "全部" if zh else "everything"
    told = f"由 {silence.by} 静默，直到 {until}" if zh else f"silenced by {silence.by} until {until}"
    return visible(f"{silence.id}  {silence.names or every}: {told}{why}")
