"""Waits for the driver's reports (Xid) in a thread of its own: they are there at once, not at the next reading."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Sequence
from types import ModuleType

from diagnose.sources.gpu.fields import Handle

WAIT_MILLISECONDS = 250
"""How long one wait lasts: a thread that is told to stop does so within this time."""

_STOP_SECONDS = 1.5
_NO_INSTANCE = 0xFFFFFFFF

Heard = Callable[[int, str, int, "int | None"], None]


class EventThread:
    """One set of events for all cards; it ends when told, or where NVML fails.

    Args:
        nvml: The library, begun already.
        cards: Handle, index and PCI address of each.
        heard: Called in this thread with index, PCI address, code and GPU instance (of a split card).
    """

    def __init__(self, nvml: ModuleType, cards: Sequence[tuple[Handle, int, str]], heard: Heard) -> None:
        self._nvml, self._cards, self._heard = nvml, cards, heard
        self._stopping = threading.Event()
        self.deaf = False
        """No card tells events: there is nothing to wait for."""
        self._thread = threading.Thread(target=self._run, name="gpu-events", daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Say whether it still waits for events."""
        return self._thread.is_alive()

    def stop(self) -> bool:
        """End it, and say whether it has ended: where it hangs in the driver it does not."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        nvml = self._nvml
        with contextlib.suppress(nvml.NVMLError):
            events = nvml.nvmlEventSetCreate()
            try:
                if not self._register(events):
                    self.deaf = True
                    return
                self._wait(events)
            finally:
                nvml.nvmlEventSetFree(events)

    def _register(self, events: Handle) -> int:
        """Ask for the reports of each card that has them; return of how many."""
        nvml, xid = self._nvml, self._nvml.nvmlEventTypeXidCriticalError
        count = 0
        for handle, _, _ in self._cards:
            with contextlib.suppress(nvml.NVMLError):
                if nvml.nvmlDeviceGetSupportedEventTypes(handle) & xid:
                    nvml.nvmlDeviceRegisterEvents(handle, xid, events)
                    count += 1
        return count

    def _wait(self, events: Handle) -> None:
        nvml = self._nvml
        where = {_address(handle): (index, pci) for handle, index, pci in self._cards}
        while not self._stopping.is_set():
            try:
                told = nvml.nvmlEventSetWait_v2(events, WAIT_MILLISECONDS)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_TIMEOUT:
                    continue
                raise  # as for a lost card: the next reading sees to it
            place = where.get(_address(told.device))
            if place and told.eventType & nvml.nvmlEventTypeXidCriticalError:
                part = None if told.gpuInstanceId == _NO_INSTANCE else int(told.gpuInstanceId)
                self._heard(*place, int(told.eventData), part)


def _address(handle: Handle) -> int:
    """Tell handles apart: each call of the binding makes new objects for the same one."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
