"""Ports for a server's insides: not those of outgoing connections, and not those of a neighbour that starts too."""

import socket

import pytest

from diagnose.controllers.free_ports import free_ports


@pytest.fixture
def clients(tmp_path):
    def written(words):
        (tmp_path / "range").write_text(words)
        return tmp_path / "range"

    return written


def test_neighbours_that_start_at_once_do_not_meet():
    chosen = [free_ports(16, http_port) for http_port in range(8000, 8008)]
    assert len({port for ports in chosen for port in ports}) == 8 * 16
    assert all(10000 <= port < 30000 for ports in chosen for port in ports)


def test_a_server_that_starts_again_is_given_the_same():
    assert free_ports(2, 8188) == free_ports(2, 8188)


def test_a_port_that_is_in_use_is_left_out():
    first, second, third = free_ports(3, 8188)
    with socket.socket() as other:
        other.bind(("127.0.0.1", second))
        assert free_ports(2, 8188) == [first, third]


def test_a_port_that_the_server_uses_itself_is_left_out():
    first, second, third, fourth = free_ports(4, 26000)  # whose place is 26000 itself
    assert free_ports(2, 26000, {first, third}) == [second, fourth]
    assert 26000 not in free_ports(4, 26000, {26000})


@pytest.mark.parametrize("http_port", [8000, 8188, 65535])
def test_ports_of_outgoing_connections_are_left_out(clients, http_port):
    chosen = free_ports(4, http_port, clients=clients("12000\t60999\n"))
    assert len(chosen) == 4
    assert all(10000 <= port < 12000 for port in chosen)


@pytest.mark.parametrize("words", ["1024 65535", "", "no numbers"])
def test_where_all_are_of_outgoing_connections_or_unknown_some_are_found_all_the_same(clients, words):
    assert len(free_ports(4, 8188, clients=clients(words))) == 4


def test_without_proc_some_are_found(tmp_path):
    assert len(free_ports(4, 8188, clients=tmp_path / "none")) == 4
