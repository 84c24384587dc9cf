"""A restart waits for a port that another program still has, and names who keeps it."""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta

import pytest

from diagnose.actuators.server import Server
from diagnose.errors import ActuatorError
from diagnose.model.launch import LaunchSpec


@pytest.fixture
def stranger():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    yield listener
    listener.close()


def serving_at(port: int) -> LaunchSpec:
    return LaunchSpec(argv=("fastdeploy", "serve", "--port", str(port)))


def test_who_keeps_the_port_is_named(stranger):
    port = stranger.getsockname()[1]
    with pytest.raises(ActuatorError, match=f"port {port} is still held by process {os.getpid()}"):
        Server.wait_for_ports(serving_at(port), timedelta(0))


def test_a_port_that_becomes_free_in_time_is_waited_for(stranger):
    leaving = threading.Timer(0.3, stranger.close)
    leaving.start()
    Server.wait_for_ports(serving_at(stranger.getsockname()[1]), timedelta(seconds=20))
    leaving.join()


@pytest.mark.parametrize("argv", [("sleep", "1"), ("fastdeploy", "serve", "--port", "0")])
def test_nothing_is_waited_for_where_no_port_is_known(argv):
    Server.wait_for_ports(LaunchSpec(argv=argv), timedelta(0))
