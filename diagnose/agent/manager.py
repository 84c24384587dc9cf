"""What the service manager is told: ready, alive, reloading, stopping (``man 3 sd_notify``).

One datagram a message; without a service manager nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from datetime import timedelta
from typing import Literal

from diagnose.engine.state import State
from diagnose.model.incident import State as Stands

ReadyWhen = Literal["watching", "serving"]

_FEEDS = 4
"""How often the watchdog is fed within its time."""

_EXTEND_EVERY, _EXTEND_BY = 5.0, timedelta(seconds=60)
_ENDED = {Stands.RESOLVED, Stands.HISTORY}


class Manager:
    """Tells the service manager how the daemon fares; silent where there is none.

    Args:
        address: Its socket, as ``NOTIFY_SOCKET`` names it; empty where there is none.
        watchdog: It ends a daemon that was silent for so long; ``None`` where it waits for ever.
        ready_when: ``watching``: ready once the daemon is on watch. ``serving``: once every server is up, or has
            failed to come up: the daemon that is to find out why must not be ended for it.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        address: str = "",
        *,
        watchdog: timedelta | None = None,
        ready_when: ReadyWhen = "watching",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._clock, self._ready_when = address, clock, ready_when
        self._feed_every = watchdog.total_seconds() / _FEEDS if watchdog else None
        self._turns = 0
        self._ready = False
        self._fed = self._extended = float("-inf")
        self._status = ""

    def turned(self, state: State) -> None:
        """Take note of one turn of the loop. The watchdog is fed from here only: a loop that hangs starves it."""
        if not self._address:
            return
        self._turns += 1
        now = self._clock()
        if not self._ready:
            self._begin(state, now)
        if self._feed_every is not None and now - self._fed >= self._feed_every:
            self._fed = now
            self._send("WATCHDOG=1")
        status = status_of(state)
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def extend(self, by: timedelta) -> None:
        """Ask for more time to begin or to end."""
        self._send(f"EXTEND_TIMEOUT_USEC={by // timedelta(microseconds=1)}")

    def stopping(self, by: timedelta | None = None) -> None:
        """Say that the end has begun.

        Args:
            by: How long it may take, where that is longer than usual.
        """
        self._send("STOPPING=1")
        if by:
            self.extend(by)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that a reload was asked for, and at the end that it is over."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self._send("READY=1")

    def _begin(self, state: State, now: float) -> None:
        if self._turns > 1 and (self._ready_when == "watching" or not _starting(state)):  # the first opens the socket
            self._ready = True
            self._send("READY=1")
        elif now - self._extended >= _EXTEND_EVERY:
            self._extended = now
            self.extend(_EXTEND_BY)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0)  # a manager that does not listen must not hold up the watch
            sender.sendto(message.encode(), address)


def of_environment(environ: MutableMapping[str, str], ready_when: ReadyWhen = "watching") -> Manager:
    """Make the one that ``environ`` names, and take its names out: they are not for the servers that we start."""
    address = environ.pop("NOTIFY_SOCKET", "")
    micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    watched = micros.isdigit() and int(micros) > 0 and pid in {"", str(os.getpid())}
    watchdog = timedelta(microseconds=int(micros)) if watched else None
    return Manager(address, watchdog=watchdog, ready_when=ready_when)


def status_of(state: State) -> str:
    """Say in one line how the servers are.

    >>> status_of(State())
    'no server yet'
    """
    servers = [f"{name} {one.phase} (generation {one.generation})" for name, one in sorted(state.targets.items())]
    open_ones = sum(one.state not in _ENDED for one in state.incidents.values())
    told = ", ".join(servers) or "no server yet"
    return f"{told}; {open_ones} open incident{'s' * (open_ones > 1)}" if open_ones else told


def _starting(state: State) -> bool:
    return not state.targets or any(one.phase in {"starting", "stopped"} for one in state.targets.values())
