"""The cards as NVIDIA's management library shows them (nvidia-ml-py); it comes with the driver.

NVML needs no CUDA context and takes no memory of a card. Everything it may say instead of an answer is expected:
a field that a card does not have is asked once, a card that is lost stays in the list as lost, and a driver that
is gone is asked again later, for it may have been replaced meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any, Literal, cast

from diagnose.model.observation import GpuReading
from diagnose.ports import GpuUnavailableError, Xid
from diagnose.sources.gpu import fields, neighbours
from diagnose.sources.gpu.events import EventThread

SLOW_SECONDS = 30.0
"""Errors, links and limits change seldom: they are read so often. So often, too, a lost card is looked for again."""

_MOST_PATIENCE_SECONDS = 300.0
"""Beginning anew costs the driver work: for a card that stays away it is done ever more seldom."""

_AGAIN_SECONDS = 5.0
"""A driver that does not answer is asked again after so long."""

_XIDS_KEPT = 256

State = Literal["ok", "lost", "gone", "unreadable"]


class _Card:
    """One card, and what was learned of it."""

    def __init__(self, index: int, handle: fields.Handle, name: str, uuid: str, pci: str) -> None:
        self.index, self.handle, self.name, self.uuid, self.pci = index, handle, name, uuid, pci
        self.lacks: set[str] = set()
        self.slow: dict[str, Any] = {}
        self.slow_at: float | None = None
        self.state: State = "ok"
        self.error = ""
        self.total_bytes = 0
        self.nvlinks_most = 0
        self.parts: list[fields.Part] = []


class NvmlReader:
    """Reads all cards of the host. May be asked from several threads; one reader is enough for all servers.

    Args:
        monotonic: Tells seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._now = monotonic
        self._lock = threading.Lock()
        self._nvml: ModuleType | None = None
        self._cards: list[_Card] = []
        self._stale = True
        self._looked_at = 0.0
        self._patience = SLOW_SECONDS
        self._failed: tuple[float, GpuUnavailableError] | None = None
        self._listens = False
        self._events: EventThread | None = None
        self._events_at = 0.0
        self._xids: list[Xid] = []
        self._counted = 0

    # --- the cards

    def read(self, pids: Collection[int]) -> Sequence[GpuReading]:
        """Return one entry a card, by index.

        Raises:
            GpuUnavailableError: NVML is missing or fails as a whole.
        """
        with self._lock:
            nvml = self._open()
            try:
                self._look_for_cards(nvml)
                readings = [self._reading(nvml, card, pids) for card in self._cards]
            except nvml.NVMLError as error:
                raise self._fail(_unavailable(nvml, error)) from error
            if not readings:
                raise self._fail(_none_at_all("the driver shows no card"))
            if all(one.state == "unreadable" for one in readings):
                raise self._fail(_failing(readings[0].error))
            self._listen(nvml)
            return sorted(readings, key=lambda one: one.index)

    def _open(self) -> ModuleType:
        if self._nvml is not None:
            return self._nvml
        if self._failed and self._now() - self._failed[0] < _AGAIN_SECONDS:
            raise self._failed[1]
        try:
            import pynvml as nvml  # noqa: PLC0415 - only where there are cards
        except ImportError as error:
            raise GpuUnavailableError("NVML cannot be used. Install nvidia-ml-py.", kind="missing") from error
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise self._fail(_unavailable(nvml, error)) from error
        self._begun(nvml)
        return cast("ModuleType", nvml)

    def _begun(self, nvml: ModuleType) -> None:
        """Take a library that was just begun: handles of before mean nothing to it."""
        self._nvml, self._looked_at, self._stale = nvml, self._now(), True

    def _fail(self, error: GpuUnavailableError) -> GpuUnavailableError:
        self._failed = (self._now(), error)
        self._close()
        return error

    def _close(self) -> None:
        """Let the library go. Where the event thread hangs in it, it stays as it is."""
        nvml, self._nvml = self._nvml, None
        quiet = self._events is None or self._events.stop()
        self._events = None
        if nvml is not None and quiet:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def _look_for_cards(self, nvml: ModuleType) -> None:
        """Look anew where the number of cards changed; and begin anew for one that is not well: it may be back."""
        well = all(card.state == "ok" for card in self._cards)
        if well:
            self._patience = SLOW_SECONDS
        elif self._now() - self._looked_at >= self._patience:
            self._patience = min(self._patience * 2, _MOST_PATIENCE_SECONDS)
            self._close()
            nvml.nvmlInit()  # NVML sees a card that came back only after it was shut down and begun again
            self._begun(nvml)
        there = sum(card.state != "gone" for card in self._cards)
        if self._stale or nvml.nvmlDeviceGetCount() != there:
            self._enumerate(nvml)
            self._stale = False

    def _enumerate(self, nvml: ModuleType) -> None:
        known = {card.uuid: card for card in self._cards if card.uuid}
        found = [self._card_at(nvml, index, known) for index in range(nvml.nvmlDeviceGetCount())]
        uuids = {card.uuid for card in found}
        for card in self._cards:
            if card.uuid and card.uuid not in uuids:
                card.state, card.error = "gone", "the driver no longer lists it"
                found.append(card)
        self._cards = found
        if self._events is not None and self._events.stop():
            self._events = None

    def _card_at(self, nvml: ModuleType, index: int, known: dict[str, _Card]) -> _Card:
        """Return the card of this number; one that cannot be asked is the one that was there before, if any."""
        try:
            return self._card(nvml, index, known)
        except nvml.NVMLError as error:
            if error.value in fields.driver_codes(nvml):
                raise
            card = next((one for one in self._cards if one.index == index), None) or _Card(index, None, "", "", "")
            card.state, card.error = _state(nvml, error), str(error)
            return card

    @staticmethod
    def _card(nvml: ModuleType, index: int, known: dict[str, _Card]) -> _Card:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = fields.text(nvml.nvmlDeviceGetUUID(handle))
        card = known.get(uuid)
        if card is None:
            name = fields.text(nvml.nvmlDeviceGetName(handle))
            card = _Card(index, handle, name, uuid, _pci(nvml.nvmlDeviceGetPciInfo(handle)))
        if card.state != "ok":
            card.lacks, card.slow_at = set(), None
        card.index, card.handle, card.state, card.error = index, handle, "ok", ""
        return card

    # --- one card

    def _reading(self, nvml: ModuleType, card: _Card, pids: Collection[int]) -> GpuReading:
        if card.state == "ok":
            try:
                return self._read(nvml, card, pids)
            except nvml.NVMLError as error:
                if error.value in fields.driver_codes(nvml):
                    raise
                if _state(nvml, error) == "unreadable":
                    return _blank(card, "unreadable", str(error))
                card.state, card.error = "lost", str(error)
        return _blank(card, card.state, card.error)

    def _read(self, nvml: ModuleType, card: _Card, pids: Collection[int]) -> GpuReading:
        memory = fields.memory(nvml, card.handle, card.lacks)
        card.total_bytes = memory[0]
        now = self._now()
        if card.slow_at is None or now - card.slow_at >= SLOW_SECONDS:
            card.slow = fields.ask(nvml, card.handle, fields.SLOW, card.lacks)
            card.parts = fields.parts(nvml, card.handle, card.lacks)
            card.slow_at = now
            card.nvlinks_most = max(card.nvlinks_most, card.slow.get("nvlinks") or 0)
            if card.nvlinks_most:
                card.slow["nvlinks_most"] = card.nvlinks_most
        held = fields.processes(nvml, card.handle, card.lacks)
        return GpuReading(
            index=card.index,
            name=card.name,
            total_bytes=memory[0],
            used_bytes=memory[1],
            own_bytes=sum(size or 0 for pid, size in held if pid in pids),
            uuid=card.uuid,
            pci=card.pci,
            processes=neighbours.told(held, pids),
            slices=fields.slices(nvml, card.parts),
            **card.slow,
            **fields.ask(nvml, card.handle, fields.FAST, card.lacks),
        )

    # --- events

    def xids(self, after: int = 0) -> Sequence[Xid]:
        """Return what the driver reported since the event of this number; readings begin to listen from now on."""
        self._listens = True
        return [one for one in tuple(self._xids) if one.number > after]

    def _listen(self, nvml: ModuleType) -> None:
        """See to it that a thread waits for events; one that ended, as for a lost card, is begun again."""
        if not self._listens or (self._events is not None and (self._events.alive() or self._events.deaf)):
            return
        now = self._now()
        if self._events is not None and now - self._events_at < _AGAIN_SECONDS:
            return
        self._events_at = now
        cards = [(card.handle, card.index, card.pci) for card in self._cards if card.state == "ok"]
        self._events = EventThread(nvml, cards, self._heard)

    def _heard(self, index: int, pci: str, code: int, gpu_instance: int | None) -> None:
        self._counted += 1
        told = Xid(number=self._counted, index=index, pci=pci, xid=code, gpu_instance=gpu_instance)
        self._xids = [*self._xids[-_XIDS_KEPT:], told]


def _blank(card: _Card, state: State, error: str) -> GpuReading:
    return GpuReading(
        index=card.index,
        name=card.name,
        total_bytes=card.total_bytes,
        used_bytes=0,
        own_bytes=0,
        uuid=card.uuid,
        pci=card.pci,
        state=state,
        error=error,
        slices=tuple(one.device for one in card.parts),
    )


def _pci(info: fields.Handle) -> str:
    """Write an address as the kernel's log does: ``0000:41:00``."""
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}"


def _state(nvml: ModuleType, error: fields.Error) -> Literal["lost", "unreadable"]:
    return "lost" if error.value in fields.lost_codes(nvml) else "unreadable"


def _unavailable(nvml: ModuleType, error: fields.Error) -> GpuUnavailableError:
    if error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return GpuUnavailableError(
            f"NVML fails: {error} The driver was replaced, and its old kernel module is still loaded. "
            "Drain the machine and reboot it (or reload the module, then restart diagnose).",
            kind="mismatch",
        )
    if error.value in {nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED}:
        return _none_at_all(f"no NVIDIA driver answers: {error}")
    return _failing(str(error))


def _none_at_all(what: str) -> GpuUnavailableError:
    return GpuUnavailableError(f"{what}. Run nvidia-smi; in a container use --gpus all.", kind="missing")


def _failing(error: str) -> GpuUnavailableError:
    return GpuUnavailableError(f"NVML fails: {error}. Run nvidia-smi; if it fails too, reload the driver or reboot.")
