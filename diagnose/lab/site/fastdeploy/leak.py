"""Memory that stays on the card after its process is gone, for a while: the fault ``zombie-memory``.

A keeper waits for the worker's end, holds its bytes in nobody's name, and gives them back when the time
is up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from fastdeploy.gpu_state import Card, NoSuchGpuError
from fastdeploy.process import alive
from fastdeploy.settings import Settings


def leave_memory(settings: Settings, device: str) -> None:
    """Start a keeper for this process, if the fault is asked for."""
    fault = settings.fault("zombie-memory")
    if fault is None:
        return
    seconds = fault.at if fault.at is not None else fault.number("seconds", 20)
    command = [
        sys.executable,
        "-m",
        "fastdeploy.leak",
        settings.gpus,
        device,
        str(os.getpid()),
        str(seconds),
    ]
    subprocess.Popen(  # noqa: S603  # our own module
        command,
        env={**os.environ, "DIAGNOSE_INSTANCE": "the driver"},  # no process of the server: none can end it
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def keep(folder: str, device: str, pid: int, seconds: float) -> None:
    """Wait for the end of ``pid``, leak what it held, give it back after so many seconds."""
    try:
        card = Card(folder, int(device), 0)
    except NoSuchGpuError:
        return
    held = 0
    while alive(pid):
        held = card.held_by(pid)
        time.sleep(0.02)
    label = f"pid-{pid}"
    card.leak(label, held)
    time.sleep(seconds)
    card.leak(label, 0)


if __name__ == "__main__":
    keep(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
