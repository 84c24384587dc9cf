"""The GPU sense: memory of each card, from NVML or the lab's files. It holds no CUDA context."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType

import msgspec

from diagnose.model.observation import GpuSample, SourceSilent
from diagnose.ports import GpuMemory, GpuReader, GpuUnavailableError

LAB_VARIABLE = "DIAGNOSE_LAB_GPUS"


class NvmlReader:
    """Reads NVIDIA's management library (nvidia-ml-py); it comes with the driver.

    A driver that fails is asked again at the next call: it may have been replaced meanwhile.
    """

    def __init__(self) -> None:
        self._nvml: ModuleType | None = None

    def read(self, pids: Collection[int]) -> Sequence[GpuMemory]:
        """Return one entry a card.

        Raises:
            GpuUnavailableError: NVML is missing or fails.
        """
        nvml = self._library()
        try:
            cards = range(nvml.nvmlDeviceGetCount())
            return [_card(nvml, index, frozenset(pids)) for index in cards]
        except nvml.NVMLError as error:
            self._close()
            raise GpuUnavailableError(
                f"NVML fails: {error}. Run nvidia-smi; if it fails too, reload the driver or reboot."
            ) from error

    def _library(self) -> ModuleType:
        if self._nvml is None:
            try:
                import pynvml  # noqa: PLC0415 - only where there are cards
            except ImportError as error:
                raise GpuUnavailableError("NVML cannot be used. Install nvidia-ml-py.") from error
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                raise GpuUnavailableError(
                    f"no NVIDIA driver answers: {error}. Run nvidia-smi; in a container use --gpus all."
                ) from error
            self._nvml = pynvml
        return self._nvml

    def _close(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def _card(nvml: ModuleType, index: int, pids: frozenset[int]) -> GpuMemory:
    card = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(card)
    name = nvml.nvmlDeviceGetName(card)
    running = nvml.nvmlDeviceGetComputeRunningProcesses(card)
    return GpuMemory(
        index=index,
        name=name.decode() if isinstance(name, bytes) else str(name),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        own_bytes=sum(int(one.usedGpuMemory or 0) for one in running if one.pid in pids),
    )


class _LabCard(msgspec.Struct, frozen=True):
    """One file of the lab: pids and labels to bytes."""

    index: int
    name: str
    total_bytes: int
    processes: dict[str, int] = {}
    leaked: dict[str, int] = {}


class LabReader:
    """Reads the pretended cards of the lab: ``gpu0.json``, ``gpu1.json`` ... in a folder.

    Args:
        alive: Whether a process lives: what the dead held is free again, as on a real card.
    """

    def __init__(self, folder: Path, alive: Callable[[int], bool] | None = None) -> None:
        self._folder, self._alive = folder, alive or _lives

    def read(self, pids: Collection[int]) -> Sequence[GpuMemory]:
        """Return one entry a file, by index.

        Raises:
            GpuUnavailableError: There is no such file, or one cannot be read.
        """
        paths = sorted(self._folder.glob("gpu*.json"))
        if not paths:
            raise GpuUnavailableError(f"no gpu*.json in {self._folder}. Start the lab, or unset {LAB_VARIABLE}.")
        try:
            cards = [msgspec.json.decode(path.read_bytes(), type=_LabCard) for path in paths]
        except (OSError, msgspec.DecodeError) as error:
            raise GpuUnavailableError(f"a card of the lab cannot be read: {error}. Start the lab anew.") from error
        return sorted((self._memory(card, frozenset(pids)) for card in cards), key=lambda one: one.index)

    def _memory(self, card: _LabCard, pids: frozenset[int]) -> GpuMemory:
        held = {int(pid): size for pid, size in card.processes.items() if pid.isdigit() and self._alive(int(pid))}
        return GpuMemory(
            index=card.index,
            name=card.name,
            total_bytes=card.total_bytes,
            used_bytes=sum(held.values()) + sum(card.leaked.values()),
            own_bytes=sum(size for pid, size in held.items() if pid in pids),
        )


def _lives(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZXx"


def reader_for(environ: Mapping[str, str] = os.environ) -> GpuReader:
    """Return the lab's reader where ``DIAGNOSE_LAB_GPUS`` names a folder, else NVML's."""
    folder = environ.get(LAB_VARIABLE)
    return LabReader(Path(folder)) if folder else NvmlReader()


class GpuSense:
    """Makes observations of what a reader reads; silence is told once, until it can see again.

    Args:
        indices: The cards to look at; ``None`` for all.
    """

    def __init__(self, target: str, reader: GpuReader, indices: Collection[int] | None = None) -> None:
        self._target, self._reader, self._indices = target, reader, indices
        self._silent = False

    def poll(self, pids: Collection[int], now: datetime) -> list[GpuSample | SourceSilent]:
        """Return one sample a card, or why there is none.

        Args:
            pids: The processes of the target.
        """
        try:
            cards = self._reader.read(pids)
        except GpuUnavailableError as error:
            told, self._silent = self._silent, True
            silent = SourceSilent(target=self._target, at=now, source="gpu", reason=str(error))
            return [] if told else [silent]
        self._silent = False
        return [
            GpuSample(target=self._target, at=now, **msgspec.structs.asdict(card))
            for card in cards
            if self._indices is None or card.index in self._indices
        ]


def own_bytes(reader: GpuReader, pids: Collection[int]) -> int | None:
    """Return what these processes hold on all cards; ``None`` where it cannot be told."""
    try:
        return sum(card.own_bytes for card in reader.read(pids))
    except GpuUnavailableError:
        return None
