"""Pretend GPUs: a folder with a JSON file for each card.

The lab server and the lab's GPU source read and write them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def make_gpus(folder: Path, count: int = 1, total_bytes: int = 4 << 30, name: str = "Lab GPU 4GiB") -> Path:
    """Write ``gpu0.json`` and so on (what was there is replaced), and the ``lock`` that guards them.

    Returns:
        The folder, for ``DIAGNOSE_LAB_GPUS``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lock").touch()
    for index in range(count):
        card = {"index": index, "name": name, "total_bytes": total_bytes, "processes": {}, "leaked": {}}
        (folder / f"gpu{index}.json").write_text(json.dumps(card))
    return folder


def set_reading(folder: Path, index: int, **fields: object) -> None:
    """Let a card tell more of itself: fields of `diagnose.model.observation.GpuReading`; ``None`` takes one back."""
    with _changed(folder, index) as card:
        reading = {**card.get("reading", {}), **fields}
        card["reading"] = {name: value for name, value in reading.items() if value is not None}


def report_xid(folder: Path, index: int, xid: int) -> None:
    """Let the driver report an error of a card."""
    with _changed(folder, index) as card:
        card["xids"] = [*card.get("xids", ()), xid]


@contextlib.contextmanager
def _changed(folder: Path, index: int) -> Iterator[dict[str, Any]]:
    """Change a card while nobody else does, all at once for those who read."""
    path = folder / f"gpu{index}.json"
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        card: dict[str, Any] = json.loads(path.read_text())
        yield card
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(card))
        fresh.replace(path)
