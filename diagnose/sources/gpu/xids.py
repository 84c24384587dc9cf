"""Xid reports of NVML's events, as the kernel's log would write them: one report is told once, by whoever tells it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from diagnose.model.observation import LogLines, LogMatch
from diagnose.ports import Xid

SOURCE = "nvml"
WAIT = timedelta(milliseconds=400)
"""The kernel's line says more (the process, the engine): it is waited for, well within a second."""

_SAME = timedelta(seconds=5)
_KERNEL = re.compile(r"\bXid \((?:PCI:)?(?P<pci>[0-9a-fA-F]+:[0-9a-fA-F]+:[0-9a-fA-F]+)[^)]*\): (?P<xid>\d+)")


class XidLines:
    """Holds an event back for a moment; if the kernel's log told it, nothing more is said."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._waiting: list[tuple[datetime, Xid]] = []
        self._heard: dict[tuple[str, int], datetime] = {}
        self._line = 0

    def hear(self, match: LogMatch, now: datetime) -> None:
        """Note what the kernel's log told."""
        told = _KERNEL.search(match.text) if match.stream == "kernel" and match.source != SOURCE else None
        if told:
            self._heard[told["pci"].lower(), int(told["xid"])] = now

    def add(self, xid: Xid, now: datetime) -> None:
        """Take an event."""
        self._waiting.append((now, xid))

    def due(self, now: datetime) -> list[LogLines]:
        """Return the lines of events that the kernel's log did not tell in time."""
        self._heard = {key: at for key, at in self._heard.items() if now - at <= _SAME}
        late = [one for at, one in self._waiting if now - at >= WAIT]
        self._waiting = [(at, one) for at, one in self._waiting if now - at < WAIT]
        return [self._written(one, now) for one in late if (one.pci.lower(), one.xid) not in self._heard]

    def _written(self, xid: Xid, now: datetime) -> LogLines:
        self._line += 1
        part = "" if xid.gpu_instance is None else f" GPU-I:{xid.gpu_instance:02d}"
        text = f"NVRM: Xid (PCI:{xid.pci}{part}): {xid.xid}, told by NVML of GPU {xid.index}\n"
        return LogLines(
            target=self._target,
            source=SOURCE,
            stream="kernel",
            first_line=self._line,
            data=text.encode(),
            read_at=now,
        )
