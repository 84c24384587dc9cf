"""Log files as the two eras write them.

2.4: a file a logger, ``<name>.log`` a link to ``<name>.log.YYYY-MM-DD``, ANSI colours,
``<name>_error.log`` with the first error. 2.6: channels, no colours, no milliseconds, every error in
``error.log`` too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

_COLOURS = {"WARNING": "33", "ERROR": "31", "CRITICAL": "31"}
_CHANNELS = {
    "api_server": "fastdeploy",
    "request": "request",
    "data_processor": "request",
    "console": "fastdeploy",
    "scheduler": "fastdeploy",
    "config": "fastdeploy",
    "gpu_worker": "worker_process",
    "gpu_model_runner": "worker_process",
    "cudagraph_piecewise_backend": "worker_process",
    "llm": "fastdeploy",
    "zmq_client": "comm",
}
_OLD_NAMES = {"request": "api_server", "llm": "fastdeploy"}


def file_of(logger: str, *, modern: bool) -> str:
    """Name the file, without ``.log``, in which an era keeps a logger's lines."""
    return _CHANNELS.get(logger, logger) if modern else _OLD_NAMES.get(logger, logger)


def log_dir() -> Path:
    """Where logs go: ``FD_LOG_DIR``, relative to the working folder."""
    return Path(os.environ.get("FD_LOG_DIR", "log"))


class Logs:
    """Writes lines to the files of one era. A line is one ``write``: many processes share the files."""

    def __init__(self, *, modern: bool) -> None:
        self._modern = modern
        self._folder = log_dir()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, tuple[str, int]] = {}

    def info(self, logger: str, text: str, at: str = "engine.py:211") -> None:
        """Write at INFO; ``at`` is the place that the original writes, ``file:line``."""
        self.write("INFO", logger, text, at)

    def warning(self, logger: str, text: str, at: str = "engine.py:211") -> None:
        """Write at WARNING."""
        self.write("WARNING", logger, text, at)

    def error(self, logger: str, text: str, at: str = "engine.py:211") -> None:
        """Write at ERROR."""
        self.write("ERROR", logger, text, at)

    def write(self, level: str, logger: str, text: str, at: str) -> None:
        """Write one record where this era keeps it, and to the terminal if it is the console's."""
        line = self._line(level, text, at)
        name = file_of(logger, modern=self._modern)
        self._append(name, line)
        if level in {"ERROR", "CRITICAL"}:
            self._append("error" if self._modern else f"{name}_error", line)
        if logger == "console":
            self._terminal(level, line)

    def _line(self, level: str, text: str, at: str) -> str:
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        if not self._modern:
            stamp += f",{int(now * 1000) % 1000:03d}"
        file, _, number = at.partition(":")
        line = f"{level:<8} {stamp} {os.getpid():<5} {file}[line:{number}] {text}"
        colour = None if self._modern else _COLOURS.get(level)
        return f"\x1b[{colour}m{line}\x1b[0m\n" if colour else line + "\n"

    def _terminal(self, level: str, line: str) -> None:
        out = sys.stdout if self._modern and level == "INFO" else sys.stderr
        with contextlib.suppress(OSError, ValueError):
            out.write(line)
            out.flush()

    def _append(self, name: str, line: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end a server
            os.write(self._handle(name), line.encode("utf-8", "replace"))

    def _handle(self, name: str) -> int:
        today = time.strftime("%Y-%m-%d")
        day, handle = self._files.get(name, ("", -1))
        if day == today:
            return handle
        if handle >= 0:
            os.close(handle)
        target = f"{name}.log.{today}"
        handle = os.open(self._folder / target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        link = self._folder / f"{name}.log"
        if not link.is_symlink() or str(link.readlink()) != target:
            new = self._folder / f".{name}.{os.getpid()}"
            new.symlink_to(target)
            new.replace(link)
        self._files[name] = (today, handle)
        return handle
