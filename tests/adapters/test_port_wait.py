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


def test_the_port_of_the_config_file_is_looked_at_and_not_the_usual_one(stranger, tmp_path):
    port = stranger.getsockname()[1]
    (tmp_path / "c.yaml").write_text(f"port: {port}\n")
    spec = LaunchSpec(argv=("fastdeploy", "serve", "--config", "c.yaml"), cwd=str(tmp_path))
    with pytest.raises(ActuatorError, match=f"port {port} is still held"):
        Server.wait_for_ports(spec, timedelta(0))


def test_a_port_that_becomes_free_in_time_is_waited_for(stranger):
    leaving = threading.Timer(0.3, stranger.close)
    leaving.start()
    Server.wait_for_ports(serving_at(stranger.getsockname()[1]), timedelta(seconds=20))
    leaving.join()


@pytest.mark.parametrize("argv", [("sleep", "1"), ("fastdeploy", "serve", "--port", "0")])
def test_nothing_is_waited_for_where_no_port_is_known(argv):
    Server.wait_for_ports(LaunchSpec(argv=argv), timedelta(0))
