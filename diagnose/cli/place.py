"""Where the daemon keeps its state, and which language the reader reads."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagnose.model.text import Lang


def state_dir(args: argparse.Namespace) -> Path:
    """Return the state folder: ``--state-dir``, the service's (``STATE_DIRECTORY``), else the user's own."""
    if given := getattr(args, "state_dir", None):
        return Path(given)
    if service := os.environ.get("STATE_DIRECTORY"):
        return Path(service.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "diagnose"


def language(args: argparse.Namespace) -> Lang:
    """Return the language: ``--lang``, else that of the locale."""
    given = getattr(args, "lang", None)
    if given in {"en", "zh"}:
        return "zh" if given == "zh" else "en"
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return "zh" if value.startswith("zh") else "en"
    return "en"


def add_common(parser: argparse.ArgumentParser, *, state: bool = False, knowledge: bool = False) -> None:
    """Add the options that several commands share."""
    parser.add_argument("--lang", choices=("en", "zh"), help="language of the answer (default: of the locale)")
    if state:
        parser.add_argument("--state-dir", metavar="DIR", help="folder of the daemon's journal")
    if knowledge:
        parser.add_argument(
            "--rules", action="append", default=[], metavar="DIR", help="more rules, over the shipped ones"
        )
        parser.add_argument(
            "--remedies",
            action="append",
            default=[],
            metavar="DIR",
            help="more remedies, over the shipped ones",
        )
