"""``diagnose init``: the first process of a container; it buries the dead, hands signals on, keeps the daemon alive.

A container ends with its first process, and the server with it. So that is not the daemon: one that breaks is started
again, and takes over the server that served on.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HANDED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_STEADY_SECONDS = 60.0
"""A daemon that ran for so long is started again at once when it breaks."""

_LAST_GRACE = 10.0


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "init",
        help="be the first process of a container, and run diagnose in it",
        description="Runs `diagnose ARGUMENTS` as process 1 of a container should: buries orphans, hands signals on, "
        "and starts a daemon that broke again, which takes over the server that served on.",
        epilog="example: ENTRYPOINT [diagnose, init, --]  CMD [run, --config, FILE, --on-exit, stop]",
    )
    parser.add_argument("arguments", nargs="+", metavar="-- ARGUMENTS", help="of diagnose, e.g. run --config FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until the daemon ends by itself or is told to."""
    return Init([sys.executable, "-m", "diagnose", *args.arguments]).run()


class Init:
    """Runs one command, and cares for all processes that end here.

    Args:
        command: Of the daemon. Exit statuses 0 to 3 are its own word; all else means that it broke.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._ending = False
        self._pause = _FIRST_PAUSE

    def run(self) -> int:
        """Return the exit status of the daemon, as a shell counts."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {*HANDED_ON, signal.SIGCHLD})
        while True:
            began = time.monotonic()
            status = self._wait(self._start())
            if self._ending or 0 <= status <= 3:
                break
            steady = time.monotonic() - began >= _STEADY_SECONDS
            self._pause = _FIRST_PAUSE if steady else min(self._pause * 2, _LONGEST_PAUSE)
            print(f"diagnose init: the daemon broke (status {status}); again in {self._pause:.0f} s", file=sys.stderr)
            self._sleep(self._pause)
            if self._ending:
                break
        self._end_all()
        return status if status >= 0 else 128 - status

    def _start(self) -> int:
        return subprocess.Popen(  # noqa: S603 - diagnose itself
            self._command,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, ()),  # noqa: PLW1509 - one thread only
        ).pid

    def _wait(self, daemon: int) -> int:
        """Care for everything until the daemon has ended; how, as `subprocess` counts."""
        while True:
            number = signal.sigwait({*HANDED_ON, signal.SIGCHLD})
            if number == signal.SIGCHLD:
                ended = self._bury()
                if daemon in ended:
                    return ended[daemon]
            else:
                self._ending = self._ending or number in _ENDING
                os.kill(daemon, number)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless the end is asked for."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._ending:
            told = signal.sigtimedwait({*HANDED_ON, signal.SIGCHLD}, left)
            if told is not None and told.si_signo == signal.SIGCHLD:
                self._bury()
            self._ending = told is not None and told.si_signo in _ENDING

    @staticmethod
    def _bury() -> dict[int, int]:
        """Take the exit statuses of all that have ended: children, and orphans that came to us."""
        ended: dict[int, int] = {}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if not pid:
                return ended
            ended[pid] = os.waitstatus_to_exitcode(status)

    def _end_all(self) -> None:
        """End what is left in the container; only where all processes that can be reached are ours."""
        if os.getpid() != 1:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(-1, number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + _LAST_GRACE
            while (left := deadline - time.monotonic()) > 0:
                self._bury()
                try:
                    os.kill(-1, 0)
                except ProcessLookupError:
                    return
                signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.2))
