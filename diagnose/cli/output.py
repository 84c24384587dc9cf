"""What commands print: drawn to the width, written whole, with a bar while it takes long."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diagnose.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

_PIPED_WIDTH = 100
"""Cells of a line where no terminal says how wide it is."""

_PATIENCE_SECONDS = 0.5


def screen_width(*, to_file: bool = False) -> int:
    """Return the cells of a line of standard output."""
    if to_file or not sys.stdout.isatty():
        return _PIPED_WIDTH
    return max(shutil.get_terminal_size().columns, 40)


def drawn(what: RenderableType, width: int, *, to_file: bool = False) -> str:
    """Draw for standard output, in colour only where a terminal shows it; no blanks at line ends."""
    from rich.console import Console

    in_colour = not to_file and sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width,
        force_terminal=in_colour,
        color_system="auto" if in_colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(what, crop=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))


def write(text: str, output: str | None) -> None:
    """Write to a file, whole or not at all, or to standard output.

    Raises:
        InputError: The file cannot be written.
    """
    if output and output != "-":
        _write_file(text, Path(output))
        return
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:
        sys.stdout.write(text)
    else:  # what the terminal's encoding lacks becomes a question mark, never an error
        sys.stdout.flush()
        raw.write(text.encode(sys.stdout.encoding or "utf-8", "replace"))
    sys.stdout.flush()


def no_reader() -> None:
    """Let what is still written to standard output vanish: who read it has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_file(text: str, path: Path) -> None:
    try:
        if _is_device(path):
            path.write_text(text, encoding="utf-8")
        else:
            _replace(path.resolve(), text)  # what a link names is replaced, not the link
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}. Name a file in a folder that you can write.") from error


def _is_device(path: Path) -> bool:
    """Say whether there is nothing to replace: a pipe, a device, or a link to a file held open.

    A rename over ``/dev/stdout``, which may well lead to a plain file, would take the link away from
    every process of the machine.
    """
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow the very link in question
    led = [whole, *([whole.readlink()] if whole.is_symlink() else [])]
    kept = any(one.is_relative_to(root) for one in led for root in ("/dev", "/proc", "/sys"))
    return kept or (path.exists() and not path.is_file())


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Give a function that is told the bytes done and in all (0: nobody knows), and draws a bar.

    Only on a terminal, on standard error, and only once it takes long.
    """
    since = time.monotonic()
    drawn_bar: list[tuple[Progress, TaskID]] = []
    wanted = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        if not wanted or time.monotonic() - since < _PATIENCE_SECONDS:
            return
        if not drawn_bar:
            bar = _new_bar()
            drawn_bar.append((bar, bar.add_task("", total=total or None)))
            bar.start()
        for bar, task in drawn_bar:
            bar.update(task, completed=done, total=total or None)

    try:
        yield show
    finally:
        for bar, _ in drawn_bar:
            bar.stop()


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console, transient=True)
