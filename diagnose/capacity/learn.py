"""What earlier starts taught: estimates give way to numbers, and every failure without one proves something, too."""

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
    capture_sizes,
    min_blocks,
    weight_bytes,
)
from diagnose.capacity.settings import MOST_BLOCKS, Card, Failed, Measured, Phase, Settings
from diagnose.model.launch import ModelShape

_STEP = 0.05
"""A failure without numbers proves at least this share of the card; the next one twice that."""

_MOST_SLOPE = 4.0

_HOPE = 0.75
"""Share of the estimated activations that a first try counts on: how much an expert layer copies differs by version."""


class Amount(msgspec.Struct, frozen=True):
    """Bytes, how far they may be exceeded, and whether they were measured."""

    size: int
    margin: int = 0
    measured: bool = False


class Point(msgspec.Struct, frozen=True):
    """Bytes that were seen with certain settings."""

    at: Settings
    size: int


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The model's memory on this card as far as it is known.

    Attributes:
        weights: Measured weights.
        context: Measured CUDA context, without foreign memory.
        base: What was in use on the card before the activations: foreign, context, weights.
        peaks: Activations of earlier starts, the newest last.
        floor: Activations that were too much for the card: at least so many.
        anchor: What was in use before the KV cache, where `base` is not known.
        slope: Measured activations over estimated ones, from two anchors; ``None`` for unknown.
        scale: Activations over the estimate, from a measured peak or a failed profile run.
        early: Bytes above all estimates that a failed load proved.
        late: What came after the KV cache in a start that had too little for it.
        graphs: Measured bytes of CUDA graphs over the estimate.
        more_blocks: Blocks that a start needs above one full sequence, where the server said so.
        block_scale: Measured over computed size of a block.
        failed: Settings that did not start, and the phase in which they ended.
        caution: How much of the margins counts, 0 to 1.
    """

    shape: ModelShape
    card: Card
    weights: Point | None = None
    context: int | None = None
    base: Point | None = None
    peaks: tuple[Point, ...] = ()
    floor: Point | None = None
    anchor: Point | None = None
    slope: float | None = None
    scale: float = 1.0
    scale_measured: bool = False
    early: int = 0
    late: Point | None = None
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
        if _same_weights(at, self.weights.at):
            return Amount(self.weights.size, 0, measured=True)
        there = weight_bytes(self.shape, self.weights.at.quantization, self.weights.at.tensor_parallel)
        scale = max(self.weights.size / max(there, 1), 1.0)
        return Amount(int(estimate * scale), int(estimate * 0.03 * self.caution))

    def contexts(self) -> Amount:
        """Return the CUDA context and libraries."""
        if self.context is not None:
            return Amount(self.context, 0, measured=True)
        return Amount(CONTEXT_BYTES, int(CONTEXT_MARGIN * self.caution))

    def activation(self, at: Settings) -> Amount:
        """Return the peak of the activations."""
        if self.peaks:
            return self._from_peaks(at)
        estimate = activation_bytes(self.shape, at)
        size, share = int(estimate * self.scale), 0.1 if self.scale_measured else 0.25
        if self.caution < 0.5 and not self.scale_measured:
            size = int(size * _HOPE)
        if self.floor is not None:
            proven = int(self.floor.size * self._ratio(self.floor.at, at))
            size, share = max(size, proven) if self.caution >= 0.5 else proven, 0.1
        return Amount(size, int(size * share * self.caution), measured=self.scale_measured)

    def _from_peaks(self, at: Settings) -> Amount:
        """Step from what was measured: by the estimate's own proportions, or along two measured points."""
        estimate = activation_bytes(self.shape, at)
        near = min(self.peaks, key=lambda one: abs(activation_bytes(self.shape, one.at) - estimate))
        there = activation_bytes(self.shape, near.at)
        size = near.size * self._ratio(near.at, at)
        share = 0.1  # the estimate's proportions are not exact
        # What was too much for the card was at least so much: savings from there are rather more than that.
        points = self.peaks if self.floor is None else (self.floor, *self.peaks)
        far = [one for one in points if abs(activation_bytes(self.shape, one.at) - there) > 32 * MIB]
        if far:
            other = far[-1]
            slope = (near.size - other.size) / (there - activation_bytes(self.shape, other.at))
            size = near.size + (estimate - there) * min(max(slope, 0.0), _MOST_SLOPE)
            share = 0.03
        size = max(int(size), 0)
        step = abs(size - near.size)
        return Amount(size, int((min(size, step) * share + step // 100) * self.caution), measured=True)

    def _ratio(self, there: Settings, at: Settings) -> float:
        """Return by what factor activations change; with less caution what does not grow with tokens is little."""
        full = activation_bytes(self.shape, at) / activation_bytes(self.shape, there)
        least = activation_bytes(self.shape, at, lean=True) / activation_bytes(self.shape, there, lean=True)
        if full > 1:
            return max(full, least)  # more than was ever tried is not to be had by hope
        return max(full, least) * self.caution + min(full, least) * (1 - self.caution)

    def other(self) -> Amount:
        """Return what is in no estimate: proven by failures, or a share of the card to be safe."""
        return Amount(self.early, int(self.card.total_bytes // 50 * self.caution))

    def used(self, at: Settings) -> Amount:
        """Return everything on the card when the KV cache is about to be allocated."""
        if self.base and self.base.at.tensor_parallel == at.tensor_parallel:
            return self._from_base(self.base, at)
        if self.anchor and self.anchor.at.tensor_parallel == at.tensor_parallel:
            return self._from_anchor(self.anchor, at)
        parts = (self.weight(at), self.contexts(), self.activation(at), self.other())
        size = self.card.foreign_bytes + sum(part.size for part in parts)
        return Amount(size, sum(part.margin for part in parts))

    def _from_base(self, base: Point, at: Settings) -> Amount:
        peak = self.activation(at)
        size = base.size + peak.size + self._heavier(base.at, at)
        seen = self.peaks or self.floor
        margin = (self.card.total_bytes // 400 if seen else self.card.total_bytes // 100) + 16 * MIB
        return Amount(size, peak.margin + int(margin * self.caution), measured=True)

    def _from_anchor(self, anchor: Point, at: Settings) -> Amount:
        """Step from a measured start: savings are believed by three quarters, costs by five."""
        step = activation_bytes(self.shape, at) - activation_bytes(self.shape, anchor.at)
        slope = self.slope
        if slope is None:
            slope = self._excess(anchor) * (0.75 if step < 0 else 1.25)
        size = anchor.size + int(step * slope) + self._heavier(anchor.at, at)
        margin = max(self.card.total_bytes // 200, 32 * MIB)
        return Amount(size, int(margin * self.caution), measured=True)

    def _heavier(self, there: Settings, at: Settings) -> int:
        """Return by how much the weights weigh more than there: savings count a little less, costs more."""
        if _same_weights(there, at):
            return 0
        more = self.weight(at).size - self.weight(there).size
        return int(more * (0.95 if more < 0 else 1.05))

    def _excess(self, anchor: Point) -> float:
        """Return activations over the estimate, where a start used much more than all estimates say.

        What is neither weights nor context grows with the tokens of a step, but for a fixed part: that is
        taken to be at most 15 % of the card.
        """
        fixed = self.card.foreign_bytes + self.weight(anchor.at).size + self.contexts().size
        grows = anchor.size - fixed - self.card.total_bytes * 15 // 100
        return max(grows / activation_bytes(self.shape, anchor.at), 1.0)

    def after(self, at: Settings) -> Amount:
        """Return what comes after the KV cache: CUDA graphs, workspaces, buffers."""
        size, margin = self._after_estimate(at)
        if self.late and (proven := self._late_at(self.late, at)) > size:
            size, margin = proven, proven // 20 + self.card.total_bytes // 400
        known = self.graphs is not None or self.late is not None
        # At the second try this is what is still unknown, where no start came so far.
        return Amount(size, int(margin * (self.caution if known else min(2 * self.caution, 1.0))), known)

    def _after_estimate(self, at: Settings) -> tuple[int, int]:
        graphs = capture_bytes(self.shape, at)
        base = LATE_BYTES + (NCCL_BYTES if at.tensor_parallel > 1 else 0)
        if self.graphs is not None:
            size = base + int(graphs * self.graphs)
            return size, size // 5 + self.card.total_bytes // 50
        return base + graphs, graphs // 2 + self.card.total_bytes // 50

    def _late_at(self, late: Point, at: Settings) -> int:
        """Step from what a start lacked: only the graphs become less with fewer sequences."""
        graphs = capture_bytes(self.shape, late.at)
        saved = max(graphs - capture_bytes(self.shape, at), 0)
        return max(late.size - saved, late.size // 4)

    def kv(self, at: Settings, used: Amount | None = None) -> int:
        """Return the bytes that the server gives the KV cache; may be negative.

        Args:
            at: The settings.
            used: What `used` says of them, where that is known already.
        """
        if at.num_gpu_blocks_override is not None:
            return at.num_gpu_blocks_override * self.block(at)
        room = int(self.card.total_bytes * at.gpu_memory_utilization) - (used or self.used(at)).size
        return min(room, MOST_BLOCKS * self.block(at))

    def elsewhere(self, card: Card) -> Known:
        """Return the same for another card, or this one with other neighbours: a failure here is none there."""
        more = card.foreign_bytes - self.card.foreign_bytes

        def moved(point: Point | None) -> Point | None:
            return point and msgspec.structs.replace(point, size=point.size + more)

        return msgspec.structs.replace(self, card=card, failed=(), base=moved(self.base), anchor=moved(self.anchor))


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
        change["weights"] = Point(at, start.weights_bytes)
    if start.context_bytes is not None:
        change["context"] = start.context_bytes
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
    if before := _before(start, at):
        change["base"] = Point(at, before)
    known = msgspec.structs.replace(known, **change)
    return _anchored(known, start, at)


def _before(start: Measured, at: Settings) -> int | None:
    """Return what was in use before the activations: as printed, or all there was where no profile is run."""
    if start.before_bytes:
        return start.before_bytes
    failed = start.failed
    if failed and failed.phase == "kv" and at.num_gpu_blocks_override is not None:
        return failed.allocated_bytes
    return None


def _anchored(known: Known, start: Measured, at: Settings) -> Known:
    if at.num_gpu_blocks_override is not None:
        return known
    room = start.available_kv_bytes
    if room is None and start.blocks_got is not None and start.blocks_got < MOST_BLOCKS:
        room = start.blocks_got * known.block(at)
    if room is None:
        return known
    anchor = Point(at, int(known.card.total_bytes * at.gpu_memory_utilization) - room)
    if start.before_bytes and anchor.size > start.before_bytes:
        peak = Point(at, anchor.size - start.before_bytes)
        return msgspec.structs.replace(known, anchor=anchor, peaks=(*known.peaks, peak))
    slope = known.slope
    if known.anchor and _same_weights(known.anchor.at, at):
        step = activation_bytes(known.shape, at) - activation_bytes(known.shape, known.anchor.at)
        if abs(step) > 32 * MIB:
            slope = min(max((anchor.size - known.anchor.size) / step, 0.0), _MOST_SLOPE)
    return msgspec.structs.replace(known, anchor=anchor, slope=slope)


def _same_weights(one: Settings, other: Settings) -> bool:
    return (one.quantization, one.tensor_parallel) == (other.quantization, other.tensor_parallel)


def _phase_of(known: Known, start: Measured) -> Phase | None:
    """Return the phase in which a start failed; ``None`` where it did not."""
    if start.failed is not None:
        return start.failed.phase or _guess(known, start, start.failed)
    return None


def _guess(known: Known, start: Measured, failed: Failed) -> Phase:
    """Tell the phase by what was in use already, else by what cannot fit; empty for unknown."""
    at = start.at
    if at is None:
        return ""
    heavy, outside = known.weight(at).size, known.contexts().size + known.card.foreign_bytes
    if failed.allocated_bytes is None:
        room = known.card.total_bytes - outside
        if heavy > room:
            return "load"
        return "profile" if heavy + known.activation(at).size > room else ""
    if start.available_kv_bytes is not None or start.blocks_got is not None:
        return "capture"
    if failed.allocated_bytes + (failed.requested_bytes or 0) < 0.97 * (heavy + outside):
        return "load"
    share = known.card.total_bytes * at.gpu_memory_utilization
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
    if phase == "kv" and known.base is not None and at.num_gpu_blocks_override is not None:
        return known  # the sums say so themselves
    if phase in {"profile", ""}:
        known = _profile_failed(known, start, start.failed, share=share)
    return known if phase == "profile" else _late_failed(known, start, start.failed, step)


def _load_failed(known: Known, failed: Failed, at: Settings, step: int) -> Known:
    asked = (failed.allocated_bytes or 0) + (failed.requested_bytes or 0)
    proven = max(asked, known.card.total_bytes) - known.card.foreign_bytes - known.contexts().size
    extra = max(proven - known.weight(at).size, 0)
    return msgspec.structs.replace(known, early=max(known.early, extra + step // 5))


def _profile_failed(known: Known, start: Measured, failed: Failed, *, share: float) -> Known:
    """The activations were at least what did not fit, and are taken for a little more, or much more ..."""
    at = start.at or Settings()
    asked = (failed.allocated_bytes or 0) + (failed.requested_bytes or 0)
    asked = max(asked, known.card.total_bytes)
    if start.before_bytes:
        told = failed.requested_bytes is not None
        proven = (asked - start.before_bytes) * (1 + (2 * (share - _STEP) if told else 5 * share))
        floor = Point(at, int(proven))
        lower = known.floor is not None and activation_bytes(known.shape, at) > activation_bytes(
            known.shape, known.floor.at
        )
        return known if lower else msgspec.structs.replace(known, floor=floor)
    before = known.card.foreign_bytes + known.weight(at).size + known.contexts().size + known.early
    scale = max(asked - before, 0) * (1 + 5 * share) / activation_bytes(known.shape, at)
    return msgspec.structs.replace(known, scale=max(known.scale, scale))


def _late_failed(known: Known, start: Measured, failed: Failed, step: int) -> Known:
    """What came after the KV cache was all that was left, and what was wanted still."""
    at = start.at or Settings()
    free = max(known.card.total_bytes - known.used(at).size - max(known.kv(at), 0), 0)
    wanted = _still_wanted(known, start, failed)
    missing = max(wanted - (failed.available_bytes or 0), step // 5) if wanted else step
    need = free + missing
    if known.late is not None and need <= known.late.size:
        return known
    return msgspec.structs.replace(known, late=Point(at, need))


def _still_wanted(known: Known, start: Measured, failed: Failed) -> int:
    """Return what was asked for when it ended, and for the graphs that were to come; 0 for unknown."""
    asked = failed.requested_bytes
    if asked is None:
        return 0
    at = start.at or Settings()
    sizes = capture_sizes(at)
    if not sizes or failed.phase == "kv":
        return asked
    left = len(sizes) if start.captured is None else sum(size < start.captured for size in sizes)
    rest = capture_bytes(known.shape, at) * left // len(sizes)
    if start.captured is None:
        return asked + rest
    return max(min(asked * left, rest * 5 // 2), rest // 2, asked)
