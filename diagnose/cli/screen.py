"""Where a daemon tells what it does: in colour on a terminal, as plain text to a file, a pipe or systemd's journal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from diagnose.cli.output import no_reader, write

if TYPE_CHECKING:
    from rich.console import Console

Show = Callable[[Sequence[tuple[str, str]]], None]
"""Shows one line: its pieces, each with its style as rich names it."""


def standard_output() -> Show:
    """Return what shows lines on standard output; rich (6 MB in a service that runs for months) is for terminals."""
    if not sys.stdout.isatty():
        return _plain
    from rich.console import Console

    return on(Console(highlight=False))


def on(console: Console) -> Show:
    """Return what shows lines on a console; text is never taken for markup."""
    from rich.text import Text

    return lambda pieces: console.print(Text.assemble(*pieces), soft_wrap=True)


def _plain(pieces: Sequence[tuple[str, str]]) -> None:
    try:
        write("".join(text for text, _ in pieces) + "\n", None)
    except BrokenPipeError:  # the daemon looks after its servers all the same
        no_reader()
