"""Asking a program one question: bounded in time and bytes, and given up at once when it is no longer wanted."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

_LOOK_SECONDS = 0.05
_MOST_BYTES = 4 << 20
_PIECE = 1 << 16


def ask(
    argv: Sequence[str], *, cwd: str, env: Mapping[str, str], seconds: float, stop: threading.Event | None = None
) -> str:
    """Run a program and return what it says, if it ends well in time; else nothing.

    It gets a session of its own; what is left of that is killed in the end.

    Args:
        stop: Set by another thread when the answer is no longer wanted.
    """
    try:
        child = subprocess.Popen(  # noqa: S603 - the operator's own program
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return ""
    deadline = time.monotonic() + seconds
    try:
        said = _listen(child, deadline, stop or threading.Event())
    finally:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        if child.stdout:
            child.stdout.close()
    return said.decode(errors="replace") if said is not None and code == 0 else ""


def _listen(child: subprocess.Popen[bytes], deadline: float, stop: threading.Event) -> bytes | None:
    """Read until it has ended; ``None`` where that takes too long, or it says too much."""
    said = b""
    if child.stdout is None:
        return None
    pipe = child.stdout.fileno()
    os.set_blocking(pipe, False)
    closed = False
    while not stop.is_set() and time.monotonic() < deadline and len(said) <= _MOST_BYTES:
        ended = _ended(child.pid)  # asked before the pipe is emptied: all that it wrote is in there then
        if not closed and select.select([pipe], [], [], 0 if ended else _LOOK_SECONDS)[0]:
            piece = os.read(pipe, _PIECE)
            said += piece
            closed = not piece
        elif ended:
            return said
        elif closed:
            stop.wait(_LOOK_SECONDS)
    return None


def _ended(pid: int) -> bool:
    """Say whether it has ended, without taking its exit status: until then its number is nobody else's."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
