"""Pretend GPUs: a folder with a JSON file for each card.

The lab server and the lab's GPU source read and write them.
"""

from __future__ import annotations

import json
from pathlib import Path


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
