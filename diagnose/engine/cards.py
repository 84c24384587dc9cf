"""What a GPU's reading says in numbers that rules can ask for, and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from diagnose.engine import signals
from diagnose.engine.signals import Signal
from diagnose.model.observation import GpuProcess, GpuReading, GpuSample, XidEvent
from diagnose.model.text import Lang, Text
from diagnose.profiles import xid

_GIB = 1 << 30
_FULL_RATIO = 0.98
"""What is used of a card on which an allocation may well have failed; a healthy server leaves more."""

_NO_PROOF = frozenset({"ignore", "look_before"})
"""What an Xid asks for that does not mean trouble by itself."""

SLOWED: Mapping[str, Text] = {
    "thermal": Text("slowed down by heat", "因过热降频"),
    "power_brake": Text("slowed down by the power supply", "因供电限制降频"),
    "hardware": Text("slowed down by its hardware", "被硬件降频"),
    "power_cap": Text("at its power limit", "达到功耗上限"),
}

_AS_THEY_ARE = ("celsius", "busy_ratio", "retired_pending", "remap_pending", "remap_failed")
_COUNTERS = (
    "ecc_corrected",
    "ecc_uncorrected",
    "ecc_uncorrected_ever",
    "retired_pages",
    "remapped_rows",
    "pcie_replays",
)
"""Fields of a reading that rules ask for; what counts up is told as growth, too."""

STATES: Mapping[str, Text] = {
    "lost": Text("lost: the driver cannot reach it", "掉卡：驱动无法访问"),
    "gone": Text("gone: the driver no longer lists it", "已消失：驱动不再列出"),
    "absent": Text("not there, but CUDA_VISIBLE_DEVICES names it", "不存在，但 CUDA_VISIBLE_DEVICES 指定了它"),
    "unreadable": Text("cannot be read now", "暂时无法读取"),
}


def numbers(card: GpuReading, before: GpuReading | None = None) -> dict[str, float]:
    """Return what the card tells now, by the names that rules use; what it does not tell is left out.

    Args:
        before: Its last reading: what only counts up is told as growth, too.
    """
    told = {f"gpu.{state}": float(card.state == state) for state in ("absent", "unreadable")}
    told["gpu.lost"] = float(card.state in {"lost", "gone"})
    if card.state != "ok":
        return told
    told |= {f"gpu.{name}": float(value) for name, value in _states(card) if value is not None}
    told |= _ratios(card)
    told |= {f"gpu.slowed_{reason}": float(reason in card.slowed) for reason in SLOWED if card.slowed is not None}
    for name in _COUNTERS:
        now, then = getattr(card, name), getattr(before, name, None)
        if now is not None:
            told[f"gpu.{name}"] = now
            if then is not None:
                told[f"gpu.{name}_new"] = max(now - then, 0)
    return told


def _states(card: GpuReading) -> Iterator[tuple[str, float | None]]:
    yield from ((name, getattr(card, name)) for name in _AS_THEY_ARE)
    yield "below_slowdown_celsius", _difference(card.slowdown_celsius, card.celsius)
    yield "nvlinks_down", _difference(card.nvlinks_most, card.nvlinks)


def _ratios(card: GpuReading) -> Iterator[tuple[str, float]]:
    if card.watts is not None and card.limit_watts:
        yield "gpu.power_ratio", card.watts / card.limit_watts
    if card.pcie_width and card.pcie_most_width:
        yield "gpu.pcie_width_ratio", card.pcie_width / card.pcie_most_width
    if card.total_bytes:
        yield "gpu.memory_used_ratio", card.used_bytes / card.total_bytes
        for whose in ("other", "leftover"):
            held = sum(one.used_bytes or 0 for one in card.processes if one.whose == whose)
            yield f"gpu.memory_{whose}_ratio", held / card.total_bytes


def _difference(most: int | None, now: int | None) -> int | None:
    return None if most is None or now is None else most - now


_EVERYTHING = {one.name: 1 for one in msgspec.structs.fields(GpuReading) if one.default is None} | {"slowed": ()}
_EXAMPLE = msgspec.structs.replace(
    GpuReading(index=0, name="", total_bytes=1, used_bytes=0, own_bytes=0), **_EVERYTHING
)
NAMES = frozenset(numbers(_EXAMPLE, _EXAMPLE))
"""All that rules may ask for."""


def of_card(card: GpuSample, before: GpuReading | None, attempt: int, phase: str) -> tuple[Signal, ...]:
    """Say each number of a card as a signal of its own; the evidence is the whole card in words."""
    text, base = described(card), {"gpu": card.label, "pci": card.pci, "card": card.name}
    return tuple(
        signals.of_sample(
            target=card.target,
            attempt=attempt,
            at=card.at,
            name=name,
            value=value,
            labels={**base, **_whose(card, name)},
            phase=phase,
            text=text,
        )
        for name, value in numbers(card, before).items()
    )


def _whose(card: GpuReading, name: str) -> dict[str, str]:
    """Name the largest process that a number speaks of."""
    whose = name.removeprefix("gpu.memory_").removesuffix("_ratio")
    found = next((one for one in card.processes if one.whose == whose), None)
    return {"process": found.name or "?", "pid": str(found.pid)} if found else {}


def proves(card: GpuReading, before: GpuReading | None = None) -> bool:
    """Say whether a card shows, beside any log line, that what runs on it is not well: lost, hit, or full."""
    told = numbers(card, before)
    return bool(
        told["gpu.lost"] or told.get("gpu.ecc_uncorrected_new") or told.get("gpu.memory_used_ratio", 0) >= _FULL_RATIO
    )


def xid_proves(event: XidEvent) -> bool:
    """Say whether an error that the driver reported means trouble by itself."""
    known = xid.explain(event.xid)
    return known is None or known.action not in _NO_PROOF


def described(card: GpuReading) -> str:
    """Put a reading into one line.

    >>> described(GpuReading(index=3, name="L20", total_bytes=48 << 30, used_bytes=45 << 30, own_bytes=0, celsius=91,
    ...                      busy_ratio=0.98, slowed=("thermal",)))
    'GPU 3 L20: 45.00 / 48.00 GiB, 98 % busy, 91 °C; slowed down by heat'
    """
    facts = ", ".join(shown(card, "en"))
    return "; ".join([f"{named(card)}: {facts}".rstrip(": "), *(one.en for one in troubles(card))])


def named(card: GpuReading) -> str:
    """Name a card; where the server counts it by another number, as its own log lines do, by that too.

    >>> named(GpuReading(index=3, name="L20", total_bytes=0, used_bytes=0, own_bytes=0, ordinal=0))
    'GPU 3 (cuda:0) L20'
    """
    other = card.ordinal is not None and str(card.ordinal) != card.label
    return f"GPU {card.label}" + (f" (cuda:{card.ordinal})" if other else "") + (f" {card.name}" if card.name else "")


def shown(card: GpuReading, lang: Lang) -> Iterator[str]:
    """Yield the numbers that people look at first."""
    if card.state != "ok":
        return
    if card.total_bytes:
        yield f"{card.used_bytes / _GIB:.2f} / {card.total_bytes / _GIB:.2f} GiB"
    if card.busy_ratio is not None:
        yield f"利用率 {card.busy_ratio:.0%}" if lang == "zh" else f"{card.busy_ratio * 100:.0f} % busy"
    if card.celsius is not None:
        yield f"{card.celsius} °C"
    if card.watts is not None:
        yield f"{card.watts:.0f} W"


def troubles(card: GpuReading) -> Iterator[Text]:
    """Yield what is wrong with a card, or unusual."""
    if card.state != "ok":
        name = STATES[card.state]
        yield Text(f"{name.en} ({card.error})", f"{name.zh}（{card.error}）") if card.error else name
        return
    yield from (SLOWED[reason] for reason in card.slowed or () if reason != "power_cap")
    if card.ecc_uncorrected:
        count = card.ecc_uncorrected
        yield Text(f"{count} uncorrectable memory errors", f"{count} 个不可纠正的显存错误")
    if card.remap_failed:
        yield Text("a bad memory row could not be replaced", "显存坏行替换失败")
    if card.remap_pending or card.retired_pending:
        yield Text("needs a reset to replace bad memory", "需重置以替换显存坏区")
    if card.pcie_width and card.pcie_most_width and card.pcie_width < card.pcie_most_width:
        lanes = f"x{card.pcie_width} / x{card.pcie_most_width}"
        yield Text(f"PCIe {lanes}", f"PCIe {lanes}")
    if card.nvlinks_most and (down := card.nvlinks_most - (card.nvlinks or 0)):
        yield Text(f"{down} NVLinks down", f"{down} 条 NVLink 断开")
    yield from map(_held, (one for one in card.processes if one.whose != "own"))


def _held(one: GpuProcess) -> Text:
    size = "? GiB" if one.used_bytes is None else f"{one.used_bytes / _GIB:.2f} GiB"
    name = f"{one.name or '?'} ({one.pid})"
    if one.whose == "leftover":
        return Text(f"{size} held by {name}, left by an earlier server", f"{size} 被先前服务的残留进程 {name} 占用")
    return Text(f"{size} held by {name}", f"{size} 被 {name} 占用")
