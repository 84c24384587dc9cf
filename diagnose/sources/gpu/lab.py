"""The pretended cards of the lab: one JSON file a card, with what a real one would tell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from diagnose.model.observation import GpuReading
from diagnose.ports import GpuUnavailableError, Xid
from diagnose.sources.gpu import neighbours

LAB_VARIABLE = "DIAGNOSE_LAB_GPUS"


class _LabCard(msgspec.Struct, frozen=True):
    """One file of the lab.

    Attributes:
        processes, leaked: Pids, and labels of what nobody holds any more, to bytes.
        reading: More fields of `GpuReading`, as they are.
        xids: All errors so far, oldest first.
    """

    index: int
    name: str
    total_bytes: int
    processes: dict[str, int] = {}
    leaked: dict[str, int] = {}
    reading: dict[str, Any] = {}
    xids: list[int] = []


class LabReader:
    """Reads ``gpu0.json``, ``gpu1.json`` ... in a folder.

    Args:
        alive: Whether a process lives: what the dead held is free again, as on a real card.
    """

    def __init__(self, folder: Path, alive: Callable[[int], bool] | None = None) -> None:
        self._folder, self._alive = folder, alive or _lives
        self._told: list[Xid] = []
        self._counted: dict[int, int] = {}

    def read(self, pids: Collection[int]) -> Sequence[GpuReading]:
        """Return one entry a file, by index.

        Raises:
            GpuUnavailableError: There is no such file, or one cannot be read.
        """
        own = frozenset(pids)
        try:
            return [self._reading(card, own) for card in self._cards()]
        except msgspec.ValidationError as error:
            raise GpuUnavailableError(f"a card of the lab tells nonsense: {error}. Start the lab anew.") from error

    def xids(self, after: int = 0) -> Sequence[Xid]:
        """Return the errors behind this number; those that stood in a file at the first call are history."""
        try:
            cards = self._cards()
        except GpuUnavailableError:
            cards = []
        for card in cards:
            known = self._counted.get(card.index, len(card.xids))
            for code in card.xids[known:]:
                number = len(self._told) + 1
                self._told.append(Xid(number=number, index=card.index, pci=_pci(card), xid=code))
            self._counted[card.index] = len(card.xids)
        return self._told[after:]

    def _cards(self) -> list[_LabCard]:
        paths = sorted(self._folder.glob("gpu*.json"))
        if not paths:
            raise GpuUnavailableError(
                f"no gpu*.json in {self._folder}. Start the lab, or unset {LAB_VARIABLE}.", kind="missing"
            )
        try:
            cards = [msgspec.json.decode(path.read_bytes(), type=_LabCard) for path in paths]
        except (OSError, msgspec.DecodeError) as error:
            raise GpuUnavailableError(f"a card of the lab cannot be read: {error}. Start the lab anew.") from error
        return sorted(cards, key=lambda card: card.index)

    def _reading(self, card: _LabCard, own: frozenset[int]) -> GpuReading:
        held = {int(pid): size for pid, size in card.processes.items() if pid.isdigit() and self._alive(int(pid))}
        fields = {
            "index": card.index,
            "name": card.name,
            "total_bytes": card.total_bytes,
            "used_bytes": sum(held.values()) + sum(card.leaked.values()),
            "own_bytes": sum(size for pid, size in held.items() if pid in own),
            "pci": _pci(card),
            "processes": neighbours.told(held.items(), own),
            **card.reading,
        }
        return msgspec.convert(fields, GpuReading)


def _pci(card: _LabCard) -> str:
    return str(card.reading.get("pci", f"0000:{card.index + 1:02x}:00"))


def _lives(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZXx"
