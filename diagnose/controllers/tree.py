"""Which processes belong to a server: by parent, by mark, by what was seen before, by the queue's port.

FastDeploy starts its workers in a session of their own, and they outlive a killed main process: neither the
process group nor the parent chain alone finds them all.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from posixpath import basename

from diagnose.controllers import procfs
from diagnose.controllers.procfs import Stat
from diagnose.ports import Handle, Member, Role

MARK = "DIAGNOSE_INSTANCE"

_ROLES: tuple[tuple[str, Role], ...] = (
    ("paddle.distributed.launch", "launcher"),  # first: its command names worker_process.py too
    ("worker_process.py", "worker"),
    ("cache_transfer_manager.py", "cache"),
    ("cache_messager.py", "cache"),
)
_LOOK_SECONDS = 30.0
_Key = tuple[str, int, int]
_QUEUE_FLAGS = ("--engine_worker_queue_port", "--engine-worker-queue-port")


def role_of(command: tuple[str, ...]) -> Role:
    """Tell what a process of FastDeploy does from its command; ``other`` where nothing tells."""
    names = {basename(word) for word in command}
    return next((role for mark, role in _ROLES if mark in names), "other")


def queue_ports_of(command: tuple[str, ...]) -> tuple[int, ...]:
    """Return the engine worker queue's ports that a worker's command names."""
    for at, word in enumerate(command):
        name, equals, inline = word.partition("=")
        if name in _QUEUE_FLAGS:
            given = inline if equals else "".join(command[at + 1 : at + 2])
            return tuple(int(port) for port in given.split(",") if port.strip().isdigit())
    return ()


class TreeFinder:
    """Finds the members of servers, and remembers them as long as they live.

    A look is cheap: processes that were strangers at the last look are passed over, until every 30 s, or
    where it matters, all are looked at again. A stranger cannot become a member, but its number may.
    May be asked from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._marks: dict[tuple[int, int], str] = {}
        self._seen: dict[_Key, set[tuple[int, int]]] = {}
        self._strangers: dict[_Key, set[int]] = {}
        self._ended: dict[_Key, set[int]] = {}
        self._looked: dict[_Key, float] = {}

    def members(self, handle: Handle, *, thorough: bool = False) -> tuple[Member, ...]:
        """Return the live processes of a server, main first; never this process or one above it."""
        with self._lock:
            return self._members(handle, thorough=thorough)

    def _members(self, handle: Handle, *, thorough: bool) -> tuple[Member, ...]:
        key = (handle.target, handle.pid, handle.ticks)
        everyone = self._look(key, thorough=thorough)
        mine = _self_and_above()
        roots = {one.pid for one in everyone.values() if self._is_root(one, handle, key)}
        family = _with_children(roots, everyone)
        found = [
            one for pid in family if pid not in mine and (one := everyone[pid]).alive and not self._foreign(one, handle)
        ]
        self._seen[key] = {(one.pid, one.ticks) for one in found}
        self._ended[key] = {
            pid for pid in family - mine if not everyone[pid].alive and everyone[pid].ppid == os.getpid()
        }
        self._strangers.setdefault(key, set()).update(everyone.keys() - family)
        found.sort(key=lambda one: (one.pid != handle.pid, one.ticks, one.pid))
        return tuple(_member(one, main=(one.pid, one.ticks) == (handle.pid, handle.ticks)) for one in found)

    def _look(self, key: _Key, *, thorough: bool) -> dict[int, Stat]:
        now = time.monotonic()
        if thorough or now - self._looked.get(key, -_LOOK_SECONDS) >= _LOOK_SECONDS:
            self._looked[key] = now
            everyone = {one.pid: one for one in procfs.processes()}
            self._strangers[key] = set()
            self._forget(everyone, key)
            return everyone
        pids = procfs.pids()
        self._strangers[key] &= pids
        return {one.pid: one for one in procfs.processes(pids - self._strangers[key])}

    def ended_children(self, handle: Handle) -> set[int]:
        """Return members that ended and wait for this process to take their exit codes.

        Orphans come to us where we are PID 1, in a container: nobody else would ever bury them.
        """
        with self._lock:
            return self._ended.pop((handle.target, handle.pid, handle.ticks), set()) - {handle.pid}

    def mark(self, one: Stat) -> str:
        """Return the instance that a process belongs to by its environment, or the empty text."""
        key = (one.pid, one.ticks)
        with self._lock:
            if key not in self._marks:
                self._marks[key] = procfs.environ(one.pid).get(MARK, "")
            return self._marks[key]

    def _is_root(self, one: Stat, handle: Handle, key: _Key) -> bool:
        if (one.pid, one.ticks) == (handle.pid, handle.ticks) or (one.pid, one.ticks) in self._seen.get(key, ()):
            return True
        mark = self.mark(one)
        if mark or handle.instance:
            return bool(mark) and mark == handle.instance
        return self._by_port(one, handle)

    @staticmethod
    def _by_port(one: Stat, handle: Handle) -> bool:
        """The only way to find the workers of an attached server whose main process is gone."""
        command = procfs.cmdline(one.pid) if handle.ports.queue else ()
        role = role_of(command)
        return role in {"worker", "cache", "launcher"} and bool(set(queue_ports_of(command)) & {*handle.ports.queue})

    def _foreign(self, one: Stat, handle: Handle) -> bool:
        mark = self.mark(one)
        return bool(mark) and mark != handle.instance

    def _forget(self, everyone: Mapping[int, Stat], looking: _Key) -> None:
        alive = {(one.pid, one.ticks) for one in everyone.values()}
        for gone in self._marks.keys() - alive:
            del self._marks[gone]
        for key in [one for one, members in self._seen.items() if one != looking and not members & alive]:
            del self._seen[key], self._strangers[key], self._looked[key]


def _self_and_above() -> set[int]:
    found, pid = {0}, os.getpid()
    while pid not in found:
        found.add(pid)
        one = procfs.stat(pid)
        pid = one.ppid if one is not None else 0
    return found


def _with_children(roots: Iterable[int], everyone: Mapping[int, Stat]) -> set[int]:
    children: dict[int, list[int]] = {}
    for one in everyone.values():
        children.setdefault(one.ppid, []).append(one.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def _member(one: Stat, *, main: bool) -> Member:
    command = procfs.cmdline(one.pid)
    return Member(
        pid=one.pid,
        ticks=one.ticks,
        role="main" if main else role_of(command),
        command=command,
        cpu_seconds=one.cpu_seconds,
        rss_bytes=one.rss_bytes,
    )
