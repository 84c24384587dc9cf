"""How much memory a model takes on one card, counted and uncounted.

Written from the shapes of the model alone. The last group, the hidden overheads, is drawn from
``FD_LAB_SEED``, so that a planner which knows only the arithmetic is wrong by a few percent, as on a real
card.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
GIB = 1 << 30
BLOCKS_CAP = 40000
# Bytes of one weight: (dense layers, experts). Embeddings stay in bfloat16.
_WEIGHT_BYTES = {
    None: (2.0, 2.0),
    "wint8": (1.0, 1.0),
    "weight_only": (1.0, 1.0),
    "wint4": (0.5, 0.5),
    "wint2": (1.0, 0.25),
    "block_wise_fp8": (1.0, 1.0),
    "tensor_wise_fp8": (1.0, 1.0),
    "wfp8afp8": (1.0, 1.0),
    "w8a8": (1.0, 1.0),
    "w4a8": (1.0, 0.5),
    "w4afp8": (1.0, 0.5),
    "kvcache": (2.0, 2.0),
}


class QuantizationError(ValueError):
    """The worker does not know this method."""


@dataclass(frozen=True)
class Shape:
    """What matters of a ``config.json``."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    experts: int = 0
    active: int = 0
    shared: int = 0
    expert_intermediate: int = 0
    dense_layers: int = 0

    @property
    def ernie(self) -> bool:
        """Whether ERNIE's rule for wint4 holds: dense layers in 8 bits, experts in 4."""
        return self.architecture.startswith("Ernie")


def read_shape(folder: str, name: str = "config.json") -> Shape:
    """Read the shape from a model's folder."""
    return shape_of(json.loads((Path(folder) / name).read_text(encoding="utf-8")))


def shape_of(config: dict[str, Any]) -> Shape:
    """Read the shape from a decoded ``config.json``."""
    heads = int(config["num_attention_heads"])
    experts = _first_int(config, "moe_num_experts", "n_routed_experts", "num_experts")
    layers = int(config["num_hidden_layers"])
    start = _first_int(config, "moe_layer_start_index", "first_k_dense_replace")
    return Shape(
        architecture=str((config.get("architectures") or [""])[0]),
        layers=layers,
        hidden=int(config["hidden_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads", heads)),
        head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
        intermediate=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        tied=bool(config.get("tie_word_embeddings", False)),
        experts=experts,
        active=_first_int(config, "moe_k", "num_experts_per_tok"),
        shared=_first_int(config, "moe_num_shared_experts", "n_shared_experts"),
        expert_intermediate=_first_int(config, "moe_intermediate_size"),
        dense_layers=start if experts else layers,
    )


def _first_int(config: dict[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, list):
            value = value[0] if value else 0
        if value is not None:
            return int(value)
    return 0


@dataclass(frozen=True)
class Hidden:
    """What this card and driver take beyond the arithmetic; together at most some 15 % of the card."""

    context: int
    fragmentation: float
    activation: float
    capture: float
    workspace: int
    neighbour: int

    def shards(self, need: Demand) -> tuple[int, ...]:
        """Bytes of the weights, in the parts in which they are loaded."""
        total = int(need.weights * (1 + self.fragmentation))
        count = max(2, min(12, total // GIB + 1))
        return (total - total // count * (count - 1), *[total // count] * (count - 1))

    def peak(self, need: Demand) -> int:
        """Activations of a whole step."""
        return int(need.activations * self.activation)

    def graph(self, need: Demand, sizes: tuple[int, ...]) -> int:
        """Bytes of each CUDA graph."""
        return int(need.capture * self.capture) // max(1, len(sizes))


def draw_hidden(seed: int, total: int, *, share: float | None = None) -> Hidden:
    """Draw the overheads of one card: the same seed, the same card.

    Args:
        seed: Which card.
        total: Its bytes.
        share: What the overheads together may take of it, 0 to 1; the usual sizes of a driver where not given.
    """
    dice = random.Random(seed)
    if share is not None:
        return _drawn_share(dice, total, share)
    return Hidden(
        context=min(int(total * dice.uniform(0.02, 0.04)), 600 * MIB),
        fragmentation=dice.uniform(0.005, 0.04),
        activation=dice.uniform(0.9, 1.5),
        capture=dice.uniform(0.8, 1.6),
        workspace=min(int(total * dice.uniform(0.005, 0.015)), 500 * MIB),
        neighbour=int(total * dice.uniform(0.005, 0.04)) if dice.random() < 0.3 else 0,
    )


def _drawn_share(dice: random.Random, total: int, share: float) -> Hidden:
    """Split a share of the card; weights that fill it lose ``fragmentation``, so that counts in full."""
    fragmentation = min(dice.uniform(0.005, 0.04), share / 2)
    fixed = total * (share - fragmentation)
    context, workspace, neighbour = dice.uniform(0.3, 0.6), dice.uniform(0.1, 0.4), dice.random()
    whole = context + workspace + (neighbour if dice.random() < 0.4 else 0.0)
    return Hidden(
        context=int(fixed * context / whole),
        fragmentation=fragmentation,
        activation=dice.uniform(0.9, 1.5),
        capture=dice.uniform(0.8, 1.6),
        workspace=int(fixed * workspace / whole),
        neighbour=max(int(fixed * (whole - context - workspace) / whole), 0),
    )


def parse_quantization(value: object, shape: Shape) -> tuple[float, float, float]:
    """Say how many bytes a dense weight, an expert's weight and a cached number take.

    Raises:
        QuantizationError: No such method; the text is the worker's own.
    """
    cache = 2.0
    if isinstance(value, dict):
        if "quantization" not in value:
            raise QuantizationError(
                "quantization_config should have a key named 'quantization' for specify quant config."
            )
        if "int8" in str(value.get("kv_cache_quant_type", "")) or "fp8" in str(value.get("kv_cache_quant_type", "")):
            cache = 1.0
        if value["quantization"] == "mix_quant":
            dense = parse_quantization(value.get("dense_quant_type"), shape)[0]
            return dense, parse_quantization(value.get("moe_quant_type"), shape)[1], cache
        value = value["quantization"]
    if value is not None and value not in _WEIGHT_BYTES:
        raise QuantizationError(f"Invalid quantization method: {value}")
    dense, expert = _WEIGHT_BYTES[value if value is None else str(value)]
    if value == "wint4" and shape.ernie:
        dense = 1.0
    return dense, expert, cache


@dataclass(frozen=True)
class Demand:
    """What one rank of a launch takes, in bytes."""

    weights: int
    activations: int
    block: int
    capture: int


def demand(
    shape: Shape,
    *,
    quantization: object,
    ranks: int,
    batched_tokens: int,
    sequences: int,
    block_size: int,
    graphs: tuple[int, ...],
) -> Demand:
    """Work out the sizes of one rank."""
    dense, expert, cache = parse_quantization(quantization, shape)
    kv_heads = max(1, shape.kv_heads // ranks)
    return Demand(
        weights=_weights(shape, dense, expert) // ranks,
        activations=_activations(shape, ranks, batched_tokens, sequences),
        block=int(cache * 2 * block_size * shape.head_dim * kv_heads * shape.layers),
        capture=_capture(shape, graphs),
    )


def _weights(shape: Shape, dense: float, expert: float) -> int:
    """Embeddings and norms in bfloat16, the rest as quantized, with a 2-byte scale for each 256 numbers."""
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    moe_layers = shape.layers - shape.dense_layers
    dense_numbers = shape.layers * attention + shape.dense_layers * 3 * shape.hidden * shape.intermediate
    one_expert = 3 * shape.hidden * shape.expert_intermediate
    dense_numbers += moe_layers * shape.shared * one_expert
    expert_numbers = moe_layers * shape.experts * one_expert
    scales = (2 / 256) * ((dense_numbers if dense < 2 else 0) + (expert_numbers if expert < 2 else 0))
    outer = 2 * shape.vocab * shape.hidden * (1 if shape.tied else 2) + 4 * shape.layers * shape.hidden
    return int(dense_numbers * dense + expert_numbers * expert + scales + outer)


def _activations(shape: Shape, ranks: int, tokens: int, sequences: int) -> int:
    """Peak of one forward over all tokens of a step, and the logits of the rows that are sampled."""
    inner = max(shape.intermediate, shape.active * shape.expert_intermediate) // ranks
    wide = 6 * shape.hidden + 3 * inner + (shape.heads + 2 * shape.kv_heads) * shape.head_dim // ranks
    rows = max(sequences, tokens // 16)
    return tokens * 2 * wide + rows * shape.vocab * 8 // ranks


def _capture(shape: Shape, graphs: tuple[int, ...]) -> int:
    """Graph pools: a part for each size captured, a part for the largest."""
    if not graphs:
        return 0
    return int(len(graphs) * shape.layers * 0.4 * MIB) + max(graphs) * (shape.hidden * 24 + shape.vocab * 4)


def kv_bytes(total: int, used: int, utilization: float) -> int:
    """What the profile run leaves for the KV cache; may be negative."""
    return int(total * utilization) - used


def least_blocks(length: int, block_size: int) -> int:
    """Blocks without which a start is refused: one sequence of full length, and ``enc_dec_block_num``."""
    return length // block_size + 2


def usage_report(title: str, *, total: int, used: int, reserved: int, context: int, tail: tuple[str, ...] = ()) -> str:
    """What is logged around the profile run: a tuple, as in the original."""
    lines = (
        title,
        f"\nDevice Total memory: {total / GIB}",
        f"\nDevice used memory: {used / GIB}",
        f"\nDevice free memory: {(total - used) / GIB}",
        f"\nPaddle reserved memory: {reserved / GIB}",
        f"\nPaddle allocated memory: {(reserved - context) / GIB}",
        *tail,
    )
    return str(lines)


def blocks_report(available: int, block: int, blocks: int) -> tuple[tuple[str, str], ...]:
    """What the worker logs of its blocks, each with its place: ``blocks`` are those that count."""
    counted = available // block
    reset = f"------- Reset num_blocks_local {counted} to {BLOCKS_CAP}"
    return (
        (f"------- available_kv_cache_memory:{available / GIB} GB --------", "worker_process.py:577"),
        *([(reset, "worker_process.py:582")] if counted > BLOCKS_CAP else []),
        (f"------- model_block_memory_used:{block / GIB} GB --------", "worker_process.py:585"),
        (f"------- num_blocks_local:{blocks} --------", "worker_process.py:586"),
    )


def capture_sizes(sequences: int, config: dict[str, Any] | None) -> tuple[int, ...]:
    """Batch sizes that are captured; none where CUDA graphs are off."""
    config = config or {}
    if not config.get("use_cudagraph", True):
        return ()
    given = config.get("cudagraph_capture_sizes")
    usual = [1, 2, 4, *range(8, 129, 8), *range(144, 257, 16), min(sequences, 256)]
    return tuple(sorted({int(size) for size in given or usual if int(size) <= sequences}))
