"""The engine's shared memory: small int32 arrays in ``/dev/shm/<name>.<engine worker queue port>``."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

ENGINE_SIGNALS = (
    "worker_ready_signal",
    "launched_cache_manager_signal",
    "loaded_model_signal",
    "get_profile_block_num",
    "exist_task_signal",
    "exist_tasks_intra_signal",
    "exist_swapped_task_signal",
    "exist_prefill_task_signal",
    "worker_healthy_live_signal",
    "cache_ready_signal",
    "swap_space_ready_signal",
    "model_weights_status",
    "prefix_tree_status",
    "kv_cache_status",
)
_SLOTS = 8  # as many ranks as one host has


class Signal:
    """One array of int32, shared between processes by its name."""

    def __init__(self, folder: str, name: str, port: int) -> None:
        self.path = str(Path(folder) / f"{name}.{port}")
        with Path(self.path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 4 * _SLOTS)

    def __getitem__(self, index: int) -> int:
        """Read one slot."""
        return int(struct.unpack_from("<i", self._map, 4 * index)[0])

    def __setitem__(self, index: int, value: int) -> None:
        """Write one slot."""
        struct.pack_into("<i", self._map, 4 * index, value)

    def __iter__(self) -> Iterator[int]:
        """Read all slots."""
        return iter(struct.unpack_from(f"<{_SLOTS}i", self._map))


def create(folder: str, port: int, warn: Callable[[str], None]) -> None:
    """Make all arrays anew; one that is there already is reported and replaced."""
    for name in ENGINE_SIGNALS:
        path = Path(folder) / f"{name}.{port}"
        if path.exists():
            warn(f"ShareMemory: {name}.{port} already exists, delete it")
            path.unlink()
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o600)
        os.write(handle, bytes(4 * _SLOTS))
        os.close(handle)


def remove(folder: str, port: int) -> None:
    """Remove all arrays; what is gone is gone."""
    for name in ENGINE_SIGNALS:
        with contextlib.suppress(OSError):
            (Path(folder) / f"{name}.{port}").unlink()
