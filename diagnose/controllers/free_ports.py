"""Ports for a server's insides, that nothing else on the host comes to use before the server does."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Collection
from pathlib import Path

_OURS = range(10000, 30000)
"""Below the ports of Kubernetes' NodePort services (30000 to 32767) and, by default, of outgoing connections."""
_BLOCK = 16
"""How many of them an HTTP port has for itself: two for each of eight ranks."""

_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int, http_port: int, named: Collection[int] = frozenset(), clients: Path = _CLIENTS) -> list[int]:
    """Return ports that nobody listens on, and that outgoing connections do not take meanwhile.

    A port that the kernel gives (bind to 0) can be given to another between the look and the server's own bind,
    minutes or a restart later. These are looked for from a place that the HTTP port names: servers of one host
    differ in that, so those that start at once do not meet.

    Args:
        named: Ports that the server will use besides.
        clients: The kernel's setting of the ports of outgoing connections, ``32768 60999`` by default; they are
            left out, where any others are left.
    """
    low, high = 1, 0
    with contextlib.suppress(OSError, ValueError):
        low, high = map(int, clients.read_text().split())
    ours = [port for port in _OURS if not low <= port <= high] or _OURS
    first = http_port * _BLOCK % len(ours)
    free = (port for port in (*ours[first:], *ours[:first]) if port not in named and _free(port))
    return list(itertools.islice(free, count))


def _free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("", port))  # on all addresses, as the server does
        return True
    return False
