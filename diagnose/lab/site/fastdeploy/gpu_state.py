"""The memory of pretend GPUs: one JSON file a card, shared by all lab servers of a host.

``gpu<N>.json`` is ``{"index", "name", "total_bytes", "processes": {"<pid>": bytes}, "leaked": {"<label>":
bytes}}``, guarded by ``flock`` on ``lock``. What a dead process held is free; what leaked stays until
somebody takes it away.
somebody takes it away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdeploy.process import alive


class OutOfMemoryError(Exception):
    """A card cannot give what was asked; sizes in bytes, ``gpu`` as the process counts devices."""

    def __init__(self, *, gpu: int, asked: int, used: int, free: int) -> None:
        super().__init__(f"{asked} bytes on GPU {gpu}")
        self.gpu, self.asked, self.used, self.free = gpu, asked, used, free


class NoSuchGpuError(Exception):
    """No card has this number."""


@dataclass(frozen=True)
class Usage:
    """What a card holds now, in bytes."""

    total: int
    used: int

    @property
    def free(self) -> int:
        """What is left."""
        return max(0, self.total - self.used)


class Card:
    """One GPU, seen from one process."""

    def __init__(self, folder: str, index: int, local: int) -> None:
        self._folder, self._local = Path(folder), local
        self._path = self._folder / f"gpu{index}.json"
        if not folder or not self._path.exists():
            raise NoSuchGpuError(str(index))

    def usage(self) -> Usage:
        """Look at the card."""
        with self._locked() as state:
            return _usage(state)

    def take(self, amount: int) -> Usage:
        """Hold more memory in this process's name (or less, where negative).

        Raises:
            OutOfMemoryError: The card has not so much left; nothing was taken.
        """
        with self._locked(write=True) as state:
            usage = _usage(state)
            if amount > usage.free:
                raise OutOfMemoryError(gpu=self._local, asked=amount, used=usage.used, free=usage.free)
            mine = str(os.getpid())
            state["processes"][mine] = max(0, state["processes"].get(mine, 0) + amount)
            return _usage(state)

    def held_by(self, pid: int) -> int:
        """Bytes that a process holds, dead or not."""
        with self._locked() as state:
            return int(state["processes"].get(str(pid), 0))

    def leak(self, label: str, amount: int) -> None:
        """Let memory be used by nobody (0 gives it back)."""
        with self._locked(write=True) as state:
            if amount:
                state["leaked"][label] = amount
            else:
                state["leaked"].pop(label, None)

    @contextlib.contextmanager
    def _locked(self, *, write: bool = False) -> Iterator[dict[str, Any]]:
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(self._path.read_text())
            state.setdefault("processes", {})
            state.setdefault("leaked", {})
            yield state
            if write:
                _forget_the_dead(state)
                new = self._path.with_suffix(".new")
                new.write_text(json.dumps(state))
                new.replace(self._path)


def _usage(state: dict[str, Any]) -> Usage:
    used = sum(size for pid, size in state["processes"].items() if alive(int(pid)))
    return Usage(int(state["total_bytes"]), used + sum(state["leaked"].values()))


def _forget_the_dead(state: dict[str, Any]) -> None:
    state["processes"] = {pid: size for pid, size in state["processes"].items() if alive(int(pid))}
