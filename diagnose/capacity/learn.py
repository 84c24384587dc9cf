"""What earlier starts taught: estimates are corrected by every number, and by every failure without one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from diagnose.capacity.memory import (
    CONTEXT_BYTES,
    CONTEXT_MARGIN,
    LATE_BYTES,
    MIB,
    NCCL_BYTES,
    activation_bytes,
    block_bytes,
    capture_bytes,
    min_blocks,
    weight_bytes,
)
from diagnose.capacity.settings import MOST_BLOCKS, Card, Failed, Measured, Phase, Settings
from diagnose.model.launch import ModelShape

_STEP = 0.05
"""A failure without numbers proves at least this share of the card; the next one twice that."""


class Amount(msgspec.Struct, frozen=True):
    """Bytes, how far they may be exceeded, and whether they were measured."""

    size: int
    margin: int = 0
    measured: bool = False


class Anchor(msgspec.Struct, frozen=True):
    """A start whose use before the KV cache is known: everything on the card, foreign included."""

    at: Settings
    used: int


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The model's memory on this card as far as it is known.

    Attributes:
        weights: Measured weights and the settings that they were measured at.
        context: Measured CUDA context, without foreign memory.
        anchor: The latest start with a measured KV cache.
        slope: Measured activations over estimated ones, from two anchors; ``None`` for unknown.
        scale: Activations over the estimate, from a measured peak or a failed profile run.
        early: Bytes above all estimates that a failed load proved.
        late: Bytes above the estimate that a failure after the KV cache proved, at `late_at`.
        graphs: Measured bytes of CUDA graphs over the estimate.
        more_blocks: Blocks that a start needs above one full sequence, where the server said so.
        block_scale: Measured over computed size of a block.
        failed: Settings that did not start, and the phase in which they ended.
        caution: How much of the margins counts, 0 to 1.
    """

    shape: ModelShape
    card: Card
    weights: tuple[int, Settings] | None = None
    context: int | None = None
    anchor: Anchor | None = None
    slope: float | None = None
    scale: float = 1.0
    scale_measured: bool = False
    early: int = 0
    late: int = 0
    late_at: Settings | None = None
    graphs: float | None = None
    more_blocks: int | None = None
    block_scale: float = 1.0
    failed: tuple[tuple[Phase, Settings], ...] = ()
    caution: float = 1.0

    def block(self, at: Settings) -> int:
        """Return the size of one block."""
        return int(block_bytes(self.shape, at) * self.block_scale)

    def needed(self, at: Settings) -> int:
        """Return the least number of blocks."""
        if self.more_blocks is None:
            return min_blocks(at)
        return at.max_model_len // at.block_size + self.more_blocks

    def weight(self, at: Settings) -> Amount:
        """Return the weights of one rank."""
        estimate = weight_bytes(self.shape, at.quantization, at.tensor_parallel)
        if self.weights is None:
            return Amount(estimate, int(estimate * 0.03 * self.caution))
        size, measured_at = self.weights
        if (at.quantization, at.tensor_parallel) == (measured_at.quantization, measured_at.tensor_parallel):
            return Amount(size, 0, measured=True)
        there = weight_bytes(self.shape, measured_at.quantization, measured_at.tensor_parallel)
        scale = max(size / max(there, 1), 1.0)
        return Amount(int(estimate * scale), int(estimate * 0.03 * self.caution))

    def contexts(self) -> Amount:
        """Return the CUDA context and libraries."""
        if self.context is not None:
            return Amount(self.context, 0, measured=True)
        return Amount(CONTEXT_BYTES, int(CONTEXT_MARGIN * self.caution))

    def activation(self, at: Settings) -> Amount:
        """Return the peak of the activations."""
        size = int(activation_bytes(self.shape, at) * self.scale)
        share = 0.1 if self.scale_measured else 0.25
        return Amount(size, int(size * share * self.caution), measured=self.scale_measured)

    def other(self) -> Amount:
        """Return what is in no estimate: proven by failures, or a share of the card to be safe."""
        return Amount(self.early, int(self.card.total_bytes // 50 * self.caution))

    def used(self, at: Settings) -> Amount:
        """Return everything on the card when the KV cache is about to be allocated."""
        if self.anchor and self.anchor.at.tensor_parallel == at.tensor_parallel:
            return self._from_anchor(self.anchor, at)
        parts = (self.weight(at), self.contexts(), self.activation(at), self.other())
        size = self.card.foreign_bytes + sum(part.size for part in parts)
        return Amount(size, sum(part.margin for part in parts))

    def _from_anchor(self, anchor: Anchor, at: Settings) -> Amount:
        """Step from a measured start: savings are believed by three quarters, costs by five."""
        step = activation_bytes(self.shape, at) - activation_bytes(self.shape, anchor.at)
        slope = self.slope
        if slope is None:
            slope = self._excess(anchor) * (0.75 if step < 0 else 1.25)
        heavier = self.weight(at).size - self.weight(anchor.at).size
        size = anchor.used + int(step * slope) + int(heavier * (0.95 if heavier < 0 else 1.05))
        margin = max(self.card.total_bytes // 200, 32 * MIB)
        return Amount(size, int(margin * self.caution), measured=True)

    def _excess(self, anchor: Anchor) -> float:
        """Return activations over the estimate, where a start used much more than all estimates say.

        What is neither weights nor context grows with the tokens of a step, but for a fixed part: that is
        taken to be at most 15 % of the card.
        """
        fixed = self.card.foreign_bytes + self.weight(anchor.at).size + self.contexts().size
        grows = anchor.used - fixed - self.card.total_bytes * 15 // 100
        return max(grows / activation_bytes(self.shape, anchor.at), 1.0)

    def after(self, at: Settings) -> Amount:
        """Return what comes after the KV cache: CUDA graphs, workspaces, buffers."""
        graphs = capture_bytes(self.shape, at)
        base = LATE_BYTES + (NCCL_BYTES if at.tensor_parallel > 1 else 0)
        if self.graphs is not None:
            size = base + int(graphs * self.graphs)
            margin = size // 5
        else:
            size, margin = base + graphs, graphs // 2
        margin = int((margin + self.card.total_bytes // 50) * self.caution)
        return Amount(size + self.late_extra(at), margin, self.graphs is not None)

    def late_extra(self, at: Settings) -> int:
        """Half of what a failure proved is taken for fixed, half for growing with the graphs."""
        if not self.late or self.late_at is None:
            return 0
        there = capture_bytes(self.shape, self.late_at)
        share = capture_bytes(self.shape, at) / there if there else 1.0
        return int(self.late * (0.5 + 0.5 * min(share, 1.0)))

    def kv(self, at: Settings) -> int:
        """Return the bytes that the server gives the KV cache; may be negative."""
        if at.num_gpu_blocks_override is not None:
            return at.num_gpu_blocks_override * self.block(at)
        room = int(self.card.total_bytes * at.gpu_memory_utilization) - self.used(at).size
        return min(room, MOST_BLOCKS * self.block(at))


def learn(shape: ModelShape, card: Card, starts: Sequence[Measured]) -> Known:
    """Gather what starts told, oldest first; each has its settings in ``at``.

    After that every start that failed would fail by these numbers as well.
    """
    known = Known(shape=shape, card=card)
    for start in starts:
        if start.at is not None:
            known = _numbers(known, start, start.at)
    for index, start in enumerate(starts):
        if start.at is not None:
            earlier = sum(_phase_of(known, one) == _phase_of(known, start) for one in starts[:index])
            known = _failure(known, start, start.at, share=_STEP * 2**earlier)
    return known


def _numbers(known: Known, start: Measured, at: Settings) -> Known:
    change: dict[str, object] = {}
    if start.weights_bytes:
        change["weights"] = (start.weights_bytes, at)
    context = start.context_bytes or _outside(known.card, start.failed)
    if context is not None:
        change["context"] = context
    if start.profile_peak_bytes:
        estimate = activation_bytes(known.shape, at)
        change |= {"scale": start.profile_peak_bytes / estimate, "scale_measured": True}
    if start.capture_bytes:
        change["graphs"] = start.capture_bytes / max(capture_bytes(known.shape, at), 1)
    if start.blocks_needed is not None:
        more = start.blocks_needed - at.max_model_len // at.block_size
        if 0 <= more <= 64:
            change["more_blocks"] = more
    if start.block_bytes:
        scale = start.block_bytes / block_bytes(known.shape, at)
        # Logs print few digits: what is within a twentieth is the same number.
        change["block_scale"] = scale if abs(scale - 1) > 0.05 else 1.0
    known = msgspec.structs.replace(known, **change)
    return _anchored(known, start, at)


def _outside(card: Card, failed: Failed | None) -> int | None:
    """Return the context, from a failed allocation: neither free, nor allocated here, nor foreign."""
    if failed is None or failed.allocated_bytes is None or failed.available_bytes is None:
        return None
    outside = card.total_bytes - failed.available_bytes - failed.allocated_bytes - card.foreign_bytes
    return outside if 0 <= outside <= card.total_bytes // 2 else None


def _anchored(known: Known, start: Measured, at: Settings) -> Known:
    if at.num_gpu_blocks_override is not None:
        return known
    room = start.available_kv_bytes
    if room is None and start.blocks_got is not None and start.blocks_got < MOST_BLOCKS:
        room = start.blocks_got * known.block(at)
    if room is None:
        return known
    anchor = Anchor(at, int(known.card.total_bytes * at.gpu_memory_utilization) - room)
    slope = known.slope
    if known.anchor and _same_weights(known.anchor.at, at):
        step = activation_bytes(known.shape, at) - activation_bytes(known.shape, known.anchor.at)
        if abs(step) > 32 * MIB:
            slope = min(max((anchor.used - known.anchor.used) / step, 0.0), 4.0)
    return msgspec.structs.replace(known, anchor=anchor, slope=slope)


def _same_weights(one: Settings, other: Settings) -> bool:
    return (one.quantization, one.tensor_parallel) == (other.quantization, other.tensor_parallel)


def _phase_of(known: Known, start: Measured) -> Phase | None:
    """Return the phase in which a start failed; ``None`` where it did not."""
    if start.failed is not None:
        return start.failed.phase or _guess(known, start.failed, start.at)
    return None


def _guess(known: Known, failed: Failed, at: Settings | None) -> Phase:
    """Tell the phase by what was allocated already, else by what cannot fit; empty for unknown."""
    if at is None:
        return ""
    if failed.allocated_bytes is None:
        room = known.card.total_bytes - known.card.foreign_bytes - known.contexts().size
        if known.weight(at).size > room:
            return "load"
        return "profile" if known.weight(at).size + known.activation(at).size > room else ""
    if failed.allocated_bytes + (failed.requested_bytes or 0) < 0.97 * known.weight(at).size:
        return "load"
    outside = known.contexts().size + known.card.foreign_bytes
    share = known.card.total_bytes * at.gpu_memory_utilization - outside
    return "capture" if failed.allocated_bytes > 0.85 * share else "profile"


def _failure(known: Known, start: Measured, at: Settings, *, share: float) -> Known:
    phase = _phase_of(known, start)
    if phase is None or start.failed is None:
        if start.blocks_got is not None and start.blocks_got < known.needed(at):
            return msgspec.structs.replace(known, failed=(*known.failed, ("", at)))
        return known
    known = msgspec.structs.replace(known, failed=(*known.failed, (phase, at)))
    step = int(known.card.total_bytes * share)
    if phase == "load":
        return _load_failed(known, start.failed, at, step)
    if phase in {"profile", ""}:
        known = _profile_failed(known, start.failed, at, share)
    return known if phase == "profile" else _late_failed(known, start.failed, at, step)


def _load_failed(known: Known, failed: Failed, at: Settings, step: int) -> Known:
    asked = (failed.allocated_bytes or 0) + (failed.requested_bytes or 0)
    rest = known.card.foreign_bytes + known.contexts().size
    proven = max(asked - known.weight(at).size, known.card.total_bytes - rest - known.weight(at).size, 0)
    return msgspec.structs.replace(known, early=max(known.early, proven + step // 5))


def _profile_failed(known: Known, failed: Failed, at: Settings, share: float) -> Known:
    """The activations were at least what did not fit, and are taken for a quarter more, or a half ..."""
    before = known.card.foreign_bytes + known.weight(at).size + known.contexts().size + known.early
    room = max(known.card.total_bytes - before, 0)
    asked = (failed.allocated_bytes or 0) + (failed.requested_bytes or 0) - known.weight(at).size
    proven = max(room, asked) * (1 + 5 * share)
    scale = proven / activation_bytes(known.shape, at)
    return msgspec.structs.replace(known, scale=max(known.scale, scale))


def _late_failed(known: Known, failed: Failed, at: Settings, step: int) -> Known:
    """More was wanted after the KV cache than was free then."""
    free = known.card.total_bytes - known.used(at).size - max(known.kv(at), 0)
    missing = max((failed.requested_bytes or 0) - (failed.available_bytes or 0), 0)
    expected = known.after(at).size - known.late_extra(at)
    extra = max(free, 0) + max(missing * 5 // 4, step) - expected
    if extra <= known.late:
        return known
    return msgspec.structs.replace(known, late=extra, late_at=at)
