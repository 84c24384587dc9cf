"""The process sense: is the server there, do its workers live, does it get anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from pathlib import Path

from diagnose.model.observation import Numbers, ProcessExit, ProcessSample
from diagnose.ports import Controller, Handle, Member
from diagnose.sources.exits import ExitWatch
from diagnose.sources.host import container_numbers, names_of, threads_of, tree_numbers

_REMEMBERED = timedelta(minutes=5)


class ProcessSense:
    """Watches one generation of one server; a new generation gets a new sense.

    Args:
        logs: Files and folders whose bytes count as progress; a folder is looked at two levels deep.
    """

    def __init__(self, controller: Controller, handle: Handle, logs: Iterable[Path] = ()) -> None:
        self._controller, self._handle = controller, handle
        self._logs = tuple(dict.fromkeys([*logs, *([Path(handle.console)] if handle.console else [])]))
        self._workers: dict[tuple[int, int], Member] = {}
        self._main_ended = False
        self._watch = ExitWatch()
        self.expected = False
        """Set to True before the server is stopped on purpose: its exits are no news then."""
        self._seen: dict[int, datetime] = {}
        self.names: set[str] = set()
        """What the kernel calls its processes."""

    def poll(self, now: datetime) -> list[ProcessSample | ProcessExit]:
        """Return the exits since the last call, workers first, and one sample.

        A worker is not our child: its exit is seen by its absence, and how it ended told by the kernel, if at all.
        """
        members = self._controller.tree(self._handle)
        workers = {(one.pid, one.ticks): one for one in members if one.role == "worker"}
        exits = [
            self._exit("worker", one.pid, self._watch.code(one.pid), now)
            for key, one in self._workers.items()
            if key not in workers
        ]
        self._workers = workers
        self._watch.keep(one.pid for one in workers.values())
        self._seen |= dict.fromkeys((one.pid for one in members), now)
        ended = None if self._main_ended else self._controller.poll_exit(self._handle)
        if ended is not None:
            self._main_ended = True
            exits.append(self._exit("main", self._handle.pid, ended.code, now))
        sample = ProcessSample(
            target=self._handle.target,
            at=now,
            generation=self._handle.generation,
            alive=any(one.role == "main" for one in members),
            workers=len(workers),
            cpu_seconds=round(sum(one.cpu_seconds for one in members), 2),
            rss_bytes=sum(one.rss_bytes for one in members),
            log_bytes=log_bytes(self._logs),
        )
        return [*exits, sample]

    @property
    def pids(self) -> AbstractSet[int]:
        """Its processes and their threads, those too that ended in the last minutes."""
        return self._seen.keys() | {self._handle.pid}

    def any_ended(self) -> bool:
        """Say at once, and cheaply, whether a worker has ended since the last `poll`."""
        return self._watch.any_ended()

    def measure(self, now: datetime) -> list[Numbers]:
        """Return the numbers of the tree, and of the container that it runs in; nothing where it is gone."""
        members = self._controller.tree(self._handle)
        pids = [one.pid for one in members]
        if not pids:
            return []
        self._seen = {pid: at for pid, at in self._seen.items() if now - at <= _REMEMBERED}
        self._seen |= dict.fromkeys(threads_of(pids), now)
        self.names = names_of(pids) | self.names
        values = {"process.rss_bytes": float(sum(one.rss_bytes for one in members))}
        values |= {**tree_numbers(pids), **container_numbers(pids[0])}
        handle = self._handle
        return [Numbers(target=handle.target, at=now, generation=handle.generation, values=values)]

    def close(self) -> None:
        """Let go of the processes; may be called from another thread."""
        self._watch.close()

    def _exit(self, role: str, pid: int, code: int | None, now: datetime) -> ProcessExit:
        return ProcessExit(
            target=self._handle.target,
            at=now,
            generation=self._handle.generation,
            role="main" if role == "main" else "worker",
            pid=pid,
            code=code,
            expected=self.expected,
        )


def log_bytes(places: Iterable[Path]) -> int:
    """Return the bytes of all files there; two names of one file count once, what is gone not at all."""
    sizes: dict[tuple[int, int], int] = {}
    for place in places:
        _add(sizes, str(place), depth=2)
    return sum(sizes.values())


def _add(sizes: dict[tuple[int, int], int], path: str, *, depth: int) -> None:
    try:
        if Path(path).is_dir():
            if depth:
                with os.scandir(path) as entries:
                    for entry in entries:
                        _add(sizes, entry.path, depth=depth - 1)
        else:
            found = Path(path).stat()
            sizes[found.st_dev, found.st_ino] = found.st_size
    except OSError:
        return
