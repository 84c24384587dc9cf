"""NVML may hang, for minutes or for ever, where a driver has lost a card: whoever asks must not hang with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from diagnose.model.observation import GpuReading
from diagnose.ports import GpuReader, GpuUnavailableError, Xid

T = TypeVar("T")

PATIENCE_SECONDS = 5.0
"""A reading of eight cards takes tens of milliseconds; one that takes so long will hardly end well."""


def aside(call: Callable[[], T]) -> Future[T]:
    """Make one call in a thread of its own that does not keep the program from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="gpu", daemon=True).start()
    return future


class PatientReader:
    """Reads in a thread aside, and gives up waiting. While a reading hangs, no other one is begun."""

    def __init__(self, reader: GpuReader, patience: float = PATIENCE_SECONDS) -> None:
        self._reader, self._patience = reader, patience
        self._lock = threading.Lock()
        self._hanging: Future[Sequence[GpuReading]] | None = None

    def read(self, pids: Collection[int]) -> Sequence[GpuReading]:
        """Return one entry a card, by index.

        Raises:
            GpuUnavailableError: Nothing can be read, or NVML does not answer in time.
        """
        wanted = frozenset(pids)
        with self._lock:
            if self._hanging is not None and not self._hanging.done():
                raise self._hangs()
            self._hanging = None
            reading = aside(lambda: self._reader.read(wanted))
            if not wait([reading], self._patience).done:
                self._hanging = reading
                raise self._hangs()
        return reading.result()

    def xids(self, after: int = 0) -> Sequence[Xid]:
        """Return what the driver reported since the event of this number. Never waits."""
        return self._reader.xids(after)

    def _hangs(self) -> GpuUnavailableError:
        return GpuUnavailableError(
            f"NVML has not answered for {self._patience:.0f} s: the driver hangs. Look for Xid lines with "
            "dmesg -T | grep -i xid; if nvidia-smi hangs too, drain the machine and reboot it.",
            kind="hangs",
        )
