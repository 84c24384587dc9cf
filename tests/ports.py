"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator


def _ports() -> Iterator[int]:
    """Go round ports that no kernel gives and no daemon chooses; tests that run at once have their own.

    No two of them name the same place among the ports that daemons choose from.
    """
    worker, workers = (os.environ.get(f"PYTEST_XDIST_WORKER{what}", "") for what in ("", "_COUNT"))
    own = range(8750 + int(worker.removeprefix("gw") or 0), 10000, int(workers or 1))
    first = random.randrange(len(own))
    return itertools.cycle((*own[first:], *own[:first]))


_PORTS = _ports()


def free_port() -> int:
    """Find a port that nobody listens on, and that no other test is given before it is used."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
