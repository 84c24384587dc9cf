"""What a service manager hears from the daemon, on a real socket."""

from __future__ import annotations

import contextlib
import os
import socket
from datetime import timedelta

import pytest

from diagnose.agent import manager
from diagnose.engine.state import State
from diagnose.engine.targets import Target

WATCHDOG_USEC = "4000000"


class Listener:
    """The manager's end, and a clock that goes when it is told to."""

    def __init__(self, address):
        self.seconds = 0.0
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self):
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode())
        return found

    def daemon(self, *, watchdog=None, ready_when="watching"):
        return manager.Manager(self.address, watchdog=watchdog, ready_when=ready_when, clock=lambda: self.seconds)

    def close(self):
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"@diagnose-test-{os.getpid()}"
    made = Listener(address)
    yield made
    made.close()


def standing(phase):
    return State(targets={"ernie": Target(name="ernie", phase=phase, generation=1)})


def test_the_watchdog_is_fed_by_turns_alone_and_often_enough(listener):
    told = listener.daemon(watchdog=timedelta(seconds=4))
    heard = []
    for _ in range(100):  # 10 s of turns
        told.turned(standing("ready"))
        listener.seconds += 0.1
        heard += listener.heard()  # a socket nobody reads holds ten
    assert heard.count("WATCHDOG=1") == 10
    listener.seconds += 60
    assert not listener.heard(), "no turn, no word"


def test_it_is_ready_on_watch_after_the_first_turn_and_says_so_once(listener):
    told = listener.daemon()
    told.turned(standing("starting"))
    assert "READY=1" not in listener.heard()
    told.turned(standing("starting"))
    told.turned(standing("starting"))
    assert listener.heard().count("READY=1") == 1


@pytest.mark.parametrize("phase", ["ready", "degraded", "failed"])
def test_where_it_is_to_be_ready_with_its_servers_it_asks_for_time_until_they_are_up_or_have_failed(listener, phase):
    told = listener.daemon(ready_when="serving")
    for _ in range(40):
        told.turned(standing("starting"))
        listener.seconds += 1
    heard = listener.heard()
    assert "READY=1" not in heard
    assert heard.count("EXTEND_TIMEOUT_USEC=60000000") == 8
    told.turned(standing(phase))
    assert "READY=1" in listener.heard()


def test_a_reload_begins_with_its_time_and_ends_ready(listener):
    told = listener.daemon()
    with told.reloading():
        begun = listener.heard()[0].splitlines()
        assert begun[0] == "RELOADING=1"
        assert int(begun[1].removeprefix("MONOTONIC_USEC=")) > 0
    assert listener.heard() == ["READY=1"]


def test_the_status_is_told_when_it_changes(listener):
    told = listener.daemon()
    for phase in ("starting", "starting", "ready"):
        told.turned(standing(phase))
    status = [one for one in listener.heard() if one.startswith("STATUS=")]
    assert status == ["STATUS=ernie starting (generation 1)", "STATUS=ernie ready (generation 1)"]


def test_an_end_that_takes_long_asks_for_time(listener):
    listener.daemon().stopping(timedelta(minutes=2))
    assert listener.heard() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=120000000"]


@pytest.mark.parametrize(
    ("pid", "fed"),
    [
        pytest.param(str(os.getpid()), True, id="its own watchdog"),
        pytest.param("1", False, id="that of another process"),
    ],
)
def test_what_the_environment_says_is_taken_and_taken_out_of_it(listener, pid, fed):
    environ = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": WATCHDOG_USEC, "WATCHDOG_PID": pid, "PATH": "/bin"}
    told = manager.of_environment(environ)
    assert environ == {"PATH": "/bin"}, "a server that we start is not to speak for us"
    told.turned(standing("ready"))
    assert ("WATCHDOG=1" in listener.heard()) is fed


def test_nobody_who_listens_is_no_trouble(tmp_path):
    manager.Manager(str(tmp_path / "nobody")).turned(standing("ready"))
    told = manager.of_environment({})
    told.turned(standing("ready"))
    told.stopping()
