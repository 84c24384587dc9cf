"""Which cards a server may use: the entries of ``CUDA_VISIBLE_DEVICES``, read as CUDA reads them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from diagnose.model.observation import GpuReading, MigDevice


def chosen(cards: Sequence[GpuReading], wanted: Sequence[str] | None) -> list[GpuReading]:
    """Return the cards that are meant, each with the number by which the server knows it.

    An entry is a number as ``nvidia-smi`` counts (CUDA counts so, too, where all cards are alike or
    ``CUDA_DEVICE_ORDER=PCI_BUS_ID``), the beginning of a card's UUID, or the UUID of a slice. Behind a number below
    0 CUDA sees nothing more. An entry that names no card comes back as ``absent``: CUDA sees neither it nor what
    stands behind it. Of a slice the memory is told. Source: CUDA C Programming Guide, "CUDA Environment Variables".

    Args:
        wanted: The entries; ``None``, not set, means all.
    """
    if wanted is None:
        return [msgspec.structs.replace(card, ordinal=place) for place, card in enumerate(cards)]
    found: list[GpuReading] = []
    for place, entry in enumerate(wanted):
        if entry.startswith("-") or entry.lower() in {"none", "void", "nodevfiles"}:
            break
        card = _named(cards, entry)
        if card is None:
            absent = GpuReading(
                index=int(entry) if entry.isdigit() else -1,
                name="",
                total_bytes=0,
                used_bytes=0,
                own_bytes=0,
                uuid="" if entry.isdigit() else entry,
                state="absent",
                error=f"CUDA_VISIBLE_DEVICES names {entry}, and there is no such card",
            )
            return [*found, absent]
        found.append(msgspec.structs.replace(card, ordinal=place))
    return found


def _named(cards: Sequence[GpuReading], entry: str) -> GpuReading | None:
    if entry.isdigit():
        return next((card for card in cards if card.index == int(entry)), None)
    if entry.startswith("MIG-"):
        return next((_sliced(card, one) for card in cards for one in card.slices if _is(card, one, entry)), None)
    alike = [card for card in cards if card.uuid == entry or (entry.startswith("GPU-") and card.uuid.startswith(entry))]
    return alike[0] if len(alike) == 1 else None


def _is(card: GpuReading, one: MigDevice, entry: str) -> bool:
    """Drivers up to 460 named slices ``MIG-GPU-<uuid>/<GPU instance>/<compute instance>``."""
    older = f"MIG-{card.uuid}/{one.gpu_instance}/{one.compute_instance}"
    return one.uuid.startswith(entry) or older == entry


def _sliced(card: GpuReading, one: MigDevice) -> GpuReading:
    return msgspec.structs.replace(card, mig=one.uuid, total_bytes=one.total_bytes, used_bytes=one.used_bytes)
