"""``diagnose pause`` and ``diagnose resume``: keep the daemon's hands off while a person works."""

from __future__ import annotations

import argparse
from typing import Any

from diagnose.cli import ask
from diagnose.cli.place import add_common


def add(subparsers: Any) -> None:
    """Register the commands."""
    pause = subparsers.add_parser(
        "pause",
        help="no remedy is carried out until resume; diagnosis goes on",
        epilog="example: diagnose pause --for 2h --why 'driver upgrade'",
    )
    ask.add_lasting(pause, "--for", "how long (30m, 2h); without it until diagnose resume")
    pause.add_argument("--why", default="", help="shown to others in status and report")
    pause.set_defaults(run=run_pause)
    resume = subparsers.add_parser("resume", help="let remedies be carried out again")
    resume.set_defaults(run=run_resume)
    for parser in (pause, resume):
        ask.add_target(parser)
        add_common(parser, state=True)


def run_pause(args: argparse.Namespace) -> int:
    """Pause a target."""
    return ask.tell(args, "pause", target=ask.target_of(args), why=args.why)


def run_resume(args: argparse.Namespace) -> int:
    """End the pause of a target."""
    return ask.tell(args, "resume", target=ask.target_of(args))
