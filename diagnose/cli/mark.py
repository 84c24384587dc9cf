"""``diagnose mark``: say afterwards whether the root cause that an incident names was right."""

from __future__ import annotations

import argparse
from typing import Any

from diagnose.cli import ask
from diagnose.cli.place import add_common


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "mark",
        help="say whether a diagnosis was right: reports count it, and name rules that are often wrong",
        epilog="example: diagnose mark a1b2c3d4 wrong --cause gpu_memory_taken --note 'a notebook held 20 GiB'",
    )
    parser.add_argument("incident", metavar="INCIDENT", help="its id, or the beginning of it")
    parser.add_argument("verdict", choices=("right", "wrong"))
    parser.add_argument("--cause", default="", metavar="CAUSE", help="what it was instead (diagnose rules list)")
    parser.add_argument("--note", default="", help="shown to others in the report")
    add_common(parser, state=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mark an incident."""
    from diagnose.web import paths

    mark = {"by": ask.who(), "verdict": args.verdict, "cause": args.cause, "note": args.note}
    return ask.said(ask.put(args, "POST", paths.MARK.format(id=args.incident), mark))
