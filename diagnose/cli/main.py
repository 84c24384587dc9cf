"""The command line: one family of commands a module, each loaded when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from diagnose import __version__
from diagnose.errors import DiagnoseError

FAMILIES = (
    "run",
    "report",
    "status",
    "incidents",
    "mark",
    "remedies",
    "pause",
    "restart",
    "alerts",
    "silence",
    "drill",
    "rules",
    "capacity",
    "config",
    "service",
    "init",
    "lab",
)
"""Each is a module of this package with ``add(subparsers)``."""

EXIT_FINE, EXIT_FOUND, EXIT_USAGE, EXIT_UNSURE = 0, 1, 2, 3


def build_parser(families: Sequence[str] = FAMILIES) -> argparse.ArgumentParser:
    """Build the parser of these families. Their modules import nothing heavy at their top."""
    parser = argparse.ArgumentParser(
        prog="diagnose",
        description="Find, name and cure what ails a FastDeploy server.",
        epilog="Exit status: 0 fine, 1 a problem was found, 2 usage or bad input, 3 cannot tell.",
    )
    parser.add_argument("--version", action="version", version=f"diagnose {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for family in families:
        importlib.import_module(f"diagnose.cli.{family}").add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. A known error is one line on stderr, never a traceback."""
    words = sys.argv[1:] if argv is None else argv
    asked = [word for word in words[:1] if word in FAMILIES]
    parser = build_parser(asked or FAMILIES)  # a daemon need not hold the rest
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return EXIT_USAGE
    try:
        status = int(args.run(args))
        sys.stdout.flush()
    except DiagnoseError as error:
        print(f"diagnose: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:  # the reader has seen enough
        from diagnose.cli.output import no_reader

        no_reader()
        return EXIT_FINE
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
