"""Makes observations of what a reader reads. A reading is taken aside: a driver that hangs holds nobody up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent import futures
from datetime import datetime, timedelta

import msgspec

from diagnose.model.observation import (
    GpuReading,
    GpuSample,
    LogLines,
    LogMatch,
    SourceSees,
    SourceSilent,
    XidEvent,
)
from diagnose.ports import GpuReader, GpuUnavailableError
from diagnose.sources.gpu.patience import aside
from diagnose.sources.gpu.visible import chosen
from diagnose.sources.gpu.xids import XidLines

SOURCE = "gpu"
LOOK_EVERY = timedelta(seconds=2)
"""How often cards are looked at: it costs a millisecond or two, and what is wrong is told at once."""

_NOTHING = timedelta(0)
Told = GpuSample | SourceSilent | SourceSees


class GpuSense:
    """The cards that one server may use; silence is told once, until it can see again.

    Args:
        visible: The entries of ``CUDA_VISIBLE_DEVICES``; ``None`` for all cards.
    """

    def __init__(self, target: str, reader: GpuReader, visible: Sequence[str] | None = None) -> None:
        self._target, self._reader, self._visible = target, reader, visible
        self._asked: futures.Future[Sequence[GpuReading]] | None = None
        self._asked_at: datetime | None = None
        self._told_at: datetime | None = None
        self._health: object = None
        self.latest: tuple[GpuSample, ...] = ()
        """What was read last, told or not; empty while nothing can be read."""
        self._silent = ""
        self._pcis: set[str] | None = None
        self._lines = XidLines(target)
        self._after = max((one.number for one in reader.xids()), default=0)

    def due(self, now: datetime) -> bool:
        """Say whether it is time to look again."""
        return self._asked_at is None or not _NOTHING <= now - self._asked_at < LOOK_EVERY

    def ask(self, pids: Collection[int], now: datetime) -> None:
        """Begin to read, unless a reading is under way.

        Args:
            pids: The processes of the target.
        """
        self._asked_at = now
        if self._asked is None:
            wanted = frozenset(pids)
            self._asked = aside(lambda: self._reader.read(wanted))

    @property
    def asking(self) -> bool:
        """Whether a reading is under way."""
        return self._asked is not None

    def told(self, now: datetime, every: timedelta = _NOTHING, wait: float = 0.0) -> list[Told]:
        """Return what the reading gave: one sample a card, or why there is none; nothing while it is under way.

        Args:
            every: Cards that are as well, or unwell, as before are told no more often than this.
            wait: Seconds to wait for the reading.
        """
        if self._asked is None or not futures.wait([self._asked], wait).done:
            return []
        asked, self._asked = self._asked, None
        try:
            cards = chosen(asked.result(), self._visible)
        except GpuUnavailableError as error:
            return self._blind(str(error), error.kind, now)
        except Exception as error:  # noqa: BLE001 - a fault of ours must end neither the sense nor the daemon
            reason = f"{type(error).__name__}: {error}. A fault of diagnose: report it; nvidia-smi shows the cards."
            return self._blind(reason, "failed", now)
        sees = [SourceSees(target=self._target, at=now, source=SOURCE)] if self._silent else []
        self._silent = ""
        self._pin(cards)
        self.latest = tuple(GpuSample(target=self._target, at=now, **msgspec.structs.asdict(card)) for card in cards)
        health = [_health(card) for card in cards]
        old_news = health == self._health and self._told_at is not None and _NOTHING <= now - self._told_at < every
        if old_news and not sees:
            return []
        self._health, self._told_at = health, now
        return [*sees, *self.latest]

    def poll(self, pids: Collection[int], now: datetime, wait: float = 10.0) -> list[Told]:
        """Read now, and wait for it."""
        self.ask(pids, now)
        return self.told(now, wait=wait)

    def _pin(self, cards: Sequence[GpuReading]) -> None:
        """Remember which cards are meant, by UUIDs: where one is gone, the numbers of those behind it change."""
        self._pcis = {card.pci for card in cards}
        names = [card.mig or card.uuid for card in cards]
        if self._visible is not None and all(names) and all(card.state != "absent" for card in cards):
            self._visible = names

    def xids(self, now: datetime) -> list[XidEvent]:
        """Return what the driver reported of these cards since the last call; `lines` tells it to the rules."""
        news = self._reader.xids(self._after)
        self._after = max((one.number for one in news), default=self._after)
        news = [one for one in news if self._pcis is None or one.pci in self._pcis]
        for one in news:
            self._lines.add(one, now)
        return [XidEvent(target=self._target, at=now, index=one.index, pci=one.pci, xid=one.xid) for one in news]

    def hear(self, match: LogMatch, now: datetime) -> None:
        """Note what the kernel's log told: that is not told again."""
        self._lines.hear(match, now)

    def lines(self, now: datetime) -> list[LogLines]:
        """Return, as lines of the kernel's log, what that log did not tell in time."""
        return self._lines.due(now)

    def _blind(self, reason: str, kind: str, now: datetime) -> list[Told]:
        self.latest = ()
        if self._silent == kind:
            return []
        self._silent = kind
        return [SourceSilent(target=self._target, at=now, source=SOURCE, reason=reason, kind=kind)]


def _health(card: GpuReading) -> tuple[object, ...]:
    """Return all of a card that is told at once where it changes."""
    return (
        (card.uuid, card.index, card.mig, card.state),
        tuple(reason for reason in card.slowed or () if reason != "power_cap"),
        (card.ecc_uncorrected, card.retired_pages, card.retired_pending, card.remapped_rows),
        (card.remap_pending, card.remap_failed, card.nvlinks, card.pcie_width),
        frozenset(one.pid for one in card.processes if one.whose != "own"),
    )
