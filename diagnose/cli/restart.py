"""``diagnose restart``: have the server started again, once what ailed it is mended."""

from __future__ import annotations

import argparse
from typing import Any

from diagnose.cli import ask
from diagnose.cli.place import add_common


def add(subparsers: Any) -> None:
    """Register the command."""
    restart = subparsers.add_parser(
        "restart",
        help="end the server in order, if it runs, and start it with the settings that it has",
        epilog="example, once the driver, a path or a disk is mended: diagnose restart",
    )
    ask.add_target(restart)
    add_common(restart, state=True)
    restart.set_defaults(run=run_restart)


def run_restart(args: argparse.Namespace) -> int:
    """Start it again."""
    return ask.tell(args, "restart", target=ask.target_of(args))
