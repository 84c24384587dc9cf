"""Where each process of a server stands in its code: py-spy, where it is installed.

A stall leaves no line in any log; its stacks are the only proof, and a restart destroys them. No process is paused
for it (``--nonblocking``), and it takes no longer than it is worth.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

EACH_SECONDS, ALL_SECONDS = 5.0, 20.0
MOST_BYTES = 64 * 1024
CURE = "no stacks: py-spy is not installed. Install it beside diagnose: python -m pip install py-spy\n"


def find() -> str:
    """Return py-spy from PATH or from the environment that diagnose itself runs in; empty where it is in neither."""
    beside = Path(sys.executable).parent / "py-spy"
    return shutil.which("py-spy") or (str(beside) if beside.is_file() else "")


def dump(
    pids: Iterable[int],
    *,
    program: str | None = None,
    each_seconds: float = EACH_SECONDS,
    all_seconds: float = ALL_SECONDS,
) -> str:
    """Return the stacks of these processes; of one that gave none, why. Never raises.

    Args:
        program: py-spy; looked for where not given, the empty text where there is none.
        each_seconds, all_seconds: How long one process, and all of them, may take.
    """
    program = find() if program is None else program
    if not program:
        return CURE
    deadline = time.monotonic() + all_seconds
    told = []
    for pid in pids:
        left = min(each_seconds, deadline - time.monotonic())
        words = _one(program, pid, left) if left > 0 else f"passed over: no time left after {all_seconds:g} s"
        told.append(f"=== process {pid}\n{words.rstrip()}\n")
    return "\n".join(told) or "no process lived any more\n"


def _one(program: str, pid: int, seconds: float) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - py-spy and a number, no shell
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:.1f} s"
    except OSError as error:
        return f"{program} cannot be run: {error.strerror}"
    return (done.stdout + done.stderr)[:MOST_BYTES].decode("utf-8", "replace") or f"exit code {done.returncode}"
