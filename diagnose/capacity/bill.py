"""The bill: what a server takes of its card, item by item, and whether that goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from diagnose.capacity.learn import Amount, Known, learn
from diagnose.capacity.memory import GIB, MIB
from diagnose.capacity.settings import MOST_BLOCKS, Card, Measured, Phase, Settings
from diagnose.model.launch import ModelShape
from diagnose.model.text import Text

Verdict = Literal["fits", "weights", "profile", "blocks-negative", "blocks-few", "capture"]

NAMES = {
    "foreign": Text("other processes", "其他进程"),
    "weights": Text("weights", "权重"),
    "context": Text("CUDA context", "CUDA 上下文"),
    "activations": Text("activations", "激活"),
    "other": Text("reserve", "预留"),
    "rest": Text("activations and CUDA context", "激活与 CUDA 上下文"),
    "kv": Text("KV cache", "KV Cache"),
    "after": Text("CUDA graphs and workspaces", "CUDA Graph 与工作区"),
}


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the bill: bytes, by how many they may be exceeded, measured or estimated."""

    name: str
    size: int
    margin: int = 0
    measured: bool = False


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """What a server takes of its card.

    Attributes:
        items: Before the KV cache, in the order of the start.
        kv_room_bytes: What is left for the KV cache, all margins taken off; negative where nothing is.
        kv_bytes: What the server gives the KV cache, margins left aside.
        blocks: Blocks that surely fit in `kv_room_bytes`; those of the override where one is set.
        after: What comes after the KV cache.
        spare_bytes: How much more would fit at the narrowest place; negative where something is missing.
        concurrency: Requests of full length that the KV cache can hold at once.
    """

    settings: Settings
    card: Card
    items: tuple[Item, ...]
    kv_room_bytes: int
    kv_bytes: int
    block_bytes: int
    blocks: int
    needed_blocks: int
    after: Item
    verdict: Verdict
    spare_bytes: int
    concurrency: int

    @property
    def fits(self) -> bool:
        """Whether the server starts, as far as can be told."""
        return self.verdict == "fits"

    def lines(self) -> tuple[Text, ...]:
        """Return the arithmetic, a sentence a line."""
        if self.verdict in {"weights", "profile"}:  # the start does not come as far as the rest
            return (_kv_line(self), _verdict_line(self))
        return (_kv_line(self), _blocks_line(self), _after_line(self), _verdict_line(self))


def bill(
    shape: ModelShape,
    settings: Settings,
    card: Card,
    measured: Measured | None = None,
    failures: Sequence[Measured] = (),
) -> Bill:
    """Work out what the server takes.

    Args:
        shape: The model.
        settings: The flags in force.
        card: One GPU; with tensor parallel the one with the least free memory.
        measured: What the latest start told; without ``at`` it was a start with `settings`.
        failures: What earlier starts told, oldest first.
    """
    return write(known_of(shape, settings, card, measured, failures), settings)


def again(shape: ModelShape, settings: Settings, card: Card, failures: Sequence[Measured], *, before: Card) -> Bill:
    """Work out whether settings that failed fit now, after others have given back memory of the card.

    What the failures taught of sizes counts; that they failed does not.

    Args:
        shape: The model.
        settings: The flags that failed.
        card: One GPU, as it is now.
        failures: What those starts told, oldest first, each with its settings.
        before: The card as it was then.
    """
    return write(learn(shape, before, failures).elsewhere(card), settings)


def known_of(
    shape: ModelShape,
    settings: Settings,
    card: Card,
    measured: Measured | None,
    failures: Sequence[Measured],
) -> Known:
    """Gather all that was measured."""
    latest = measured or Measured()
    if latest.at is None:
        latest = msgspec.structs.replace(latest, at=settings)
    return learn(shape, card, [*failures, latest])


class _Sums(msgspec.Struct, frozen=True):
    """What the settings come to; `spare` tells for each place how much more would fit."""

    used: Amount
    after: Amount
    kv: int
    room: int
    blocks: int
    spare: dict[str, int]


def fits(known: Known, settings: Settings) -> bool:
    """Tell whether the server starts, as `write` would say, and no more."""
    return min(_sum(known, settings).spare.values()) >= 0


def _sum(known: Known, at: Settings) -> _Sums:
    total, used, after = known.card.total_bytes, known.used(at), known.after(at)
    each, needed, override = known.block(at), known.needed(at), at.num_gpu_blocks_override
    room = int(total * at.gpu_memory_utilization) - used.size - used.margin
    blocks = min(max(room // each, 0), MOST_BLOCKS) if override is None else override
    kv = max(known.kv(at, used), 0)
    weight = known.weight(at)
    load = weight.size + weight.margin + known.contexts().size + known.card.foreign_bytes + known.early
    # Where the use before the profile run was measured, the weights are in it.
    spare = {
        "weights": total - (used.size if used.measured else load),
        "profile": total - used.size - used.margin,
        "blocks": (blocks - needed) * each if override is not None else room - needed * each,
        "capture": total - used.size - (used.margin if override is not None else 0) - kv - after.size - after.margin,
    }
    for phase, failed in known.failed:
        place = _PLACE[phase]
        if spare[place] >= 0 and _asks_as_much(known, at, failed, phase):
            spare[place] = -MIB  # what asks as much as a failed start fails as well
    return _Sums(used, after, kv, room, blocks, spare)


def write(known: Known, settings: Settings) -> Bill:
    """Write the bill from what is known."""
    sums = _sum(known, settings)
    override = settings.num_gpu_blocks_override
    return Bill(
        settings=settings,
        card=known.card,
        items=_items(known, settings),
        kv_room_bytes=sums.room,
        kv_bytes=sums.kv,
        block_bytes=known.block(settings),
        blocks=sums.blocks,
        needed_blocks=known.needed(settings),
        after=Item(name="after", size=sums.after.size, margin=sums.after.margin, measured=sums.after.measured),
        verdict=_verdict(sums.spare, sums.room if override is None else sums.blocks),
        spare_bytes=min(sums.spare.values()),
        concurrency=min(sums.blocks * settings.block_size // settings.max_model_len, settings.max_num_seqs),
    )


_PLACE: dict[Phase, str] = {
    "": "blocks",
    "load": "weights",
    "profile": "profile",
    "kv": "capture",
    "capture": "capture",
    "serving": "capture",
}


def _asks_as_much(known: Known, at: Settings, failed: Settings, phase: Phase) -> bool:
    heavy = known.weight(at).size >= known.weight(failed).size
    busy = at.tokens >= failed.tokens and at.max_num_seqs >= failed.max_num_seqs
    if phase == "load":
        return heavy
    if phase == "profile":
        return heavy and busy
    if phase:
        return known.kv(at) >= known.kv(failed) and known.after(at).size >= known.after(failed).size and heavy
    if at.num_gpu_blocks_override != failed.num_gpu_blocks_override:
        return False
    tight = at.gpu_memory_utilization <= failed.gpu_memory_utilization
    return heavy and busy and tight and at.max_model_len >= failed.max_model_len


def _verdict(spare: dict[str, int], room: int) -> Verdict:
    if spare["weights"] < 0:
        return "weights"
    if spare["profile"] < 0:
        return "profile"
    if spare["blocks"] < 0:
        return "blocks-negative" if room <= 0 else "blocks-few"
    return "capture" if spare["capture"] < 0 else "fits"


def _items(known: Known, at: Settings) -> tuple[Item, ...]:
    used, weights = known.used(at), known.weight(at)
    foreign = Item(name="foreign", size=known.card.foreign_bytes, measured=True)
    if used.measured:
        rest = used.size - foreign.size - weights.size
        if rest < 0:  # the weights are less than the estimate
            weights, rest = msgspec.structs.replace(weights, size=weights.size + rest), 0
        last: tuple[Item, ...] = (Item(name="rest", size=rest, margin=used.margin, measured=True),)
        heavy = Item(name="weights", size=weights.size, measured=weights.measured)
    else:
        parts = {"context": known.contexts(), "activations": known.activation(at), "other": known.other()}
        last = tuple(
            Item(name=name, size=part.size, margin=part.margin, measured=part.measured) for name, part in parts.items()
        )
        heavy = Item(name="weights", size=weights.size, margin=weights.margin, measured=weights.measured)
    return (*((foreign,) if foreign.size else ()), heavy, *last)


def size(number: float) -> str:
    """Spell bytes as people read them.

    >>> size(4 * GIB), size(1179648)
    ('4.00 GiB', '1.125 MiB')
    """
    if abs(number) >= GIB / 10:
        return f"{number / GIB:.2f} GiB"
    return f"{number / MIB:.4g} MiB"


def _kv_line(bill: Bill) -> Text:
    s = bill.settings
    if s.num_gpu_blocks_override is not None:
        took = size(bill.kv_bytes)
        return Text(
            f"KV cache: {s.num_gpu_blocks_override} blocks of {size(bill.block_bytes)} as set = {took}",
            f"KV Cache：按设定 {s.num_gpu_blocks_override} 块 x {size(bill.block_bytes)} = {took}",
        )
    minus = [(NAMES[item.name], item.size) for item in bill.items if item.size]
    minus.append((Text("margin", "余量"), sum(item.margin for item in bill.items)))
    start = f"{size(bill.card.total_bytes)} x {s.gpu_memory_utilization:.2f}"
    en = "".join(f" - {number / GIB:.2f} {name.en}" for name, number in minus)
    zh = "".join(f" - {number / GIB:.2f} {name.zh}" for name, number in minus)
    end = size(bill.kv_room_bytes)
    return Text(f"KV cache: {start}{en} = {end}", f"KV Cache：{start}{zh} = {end}")


def _blocks_line(bill: Bill) -> Text:
    length, each = bill.settings.max_model_len, size(bill.block_bytes)
    return Text(
        f"{bill.blocks} blocks of {each}; needed {bill.needed_blocks} for max-model-len {length}; "
        f"{bill.concurrency} requests of full length at once",
        f"可用 {bill.blocks} 块，每块 {each}；max-model-len {length} 需要 {bill.needed_blocks} 块；"
        f"最多同时容纳 {bill.concurrency} 个满长请求",
    )


def _after_line(bill: Bill) -> Text:
    left = bill.card.total_bytes - sum(item.size for item in bill.items) - bill.kv_bytes
    need = f"{size(bill.after.size)} + {size(bill.after.margin)}"
    return Text(
        f"After the KV cache {size(left)} are free; CUDA graphs and workspaces take {need} margin",
        f"分配 KV Cache 后剩余 {size(left)}；CUDA Graph 与工作区需要 {need} 余量",
    )


def _verdict_line(bill: Bill) -> Text:
    short = size(-bill.spare_bytes)
    texts = {
        "fits": Text(f"Fits, with {size(bill.spare_bytes)} to spare", f"可以运行，尚余 {size(bill.spare_bytes)}"),
        "weights": Text(f"The weights do not fit: {short} missing", f"权重放不下：缺 {short}"),
        "profile": Text(f"The activations of one step do not fit: {short} missing", f"单步激活放不下：缺 {short}"),
        "blocks-negative": Text(
            f"Nothing is left for the KV cache: {short} missing", f"没有显存留给 KV Cache：缺 {short}"
        ),
        "blocks-few": Text(
            f"The KV cache cannot hold one full sequence: {short} missing",
            f"KV Cache 容不下一个满长序列：缺 {short}",
        ),
        "capture": Text(
            f"Too little is left for CUDA graphs and workspaces: {short} missing",
            f"留给 CUDA Graph 与工作区的显存不足：缺 {short}",
        ),
    }
    return texts[bill.verdict]
