"""Bytes of a model on a card: weights, blocks, activations, CUDA graphs.

The weights and blocks are arithmetic (docs/features/kv_cache_block_calculation.md of FastDeploy); the rest
are estimates, each with the margin that it is known to. What was measured replaces them: ``learn.py``.
"""

from __future__ import annotations

import json

from diagnose.capacity.settings import MOST_BLOCKS, MOST_SEQS, Card, Failed, Measured, Settings
from diagnose.capacity.shapes import Shape
from diagnose.model.launch import ModelShape

__all__ = [
    "MOST_BLOCKS",
    "Card",
    "Failed",
    "Measured",
    "Settings",
    "activation_bytes",
    "block_bytes",
    "capture_bytes",
    "capture_sizes",
    "min_blocks",
    "weight_bytes",
]

GIB, MIB = 1024**3, 1024**2
CONTEXT_BYTES = 550 * MIB
"""CUDA context, cuBLAS and Paddle's own code; 400 to 800 MiB by driver and card (estimate)."""
CONTEXT_MARGIN = 250 * MIB
LATE_BYTES = 128 * MIB
"""cuBLAS workspaces and buffers that come after the profile run (estimate)."""
NCCL_BYTES = 256 * MIB
"""Buffers for communication of one rank (estimate)."""

_ONE_BYTE = {"wint8", "weight_only", "block_wise_fp8", "w8a8", "wfp8afp8", "tensor_wise_fp8"}
_HALF_BYTE = {"wint4", "w4a8", "w4afp8"}


def weight_bytes(shape: ModelShape, quantization: str | None, tp: int) -> int:
    """Return the weights of one rank.

    Embeddings and head stay in bf16; scales of quantized weights are ignored (below 1 %). What a checkpoint
    has above the parameters of the shape counts as bf16.

    Args:
        shape: The model.
        quantization: As ``--quantization`` takes it, a name or JSON; ``None`` for bf16.
        tp: Ranks that share the weights.

    >>> from diagnose.capacity.shapes import SHAPES
    >>> round(weight_bytes(SHAPES["ERNIE-4.5-21B-A3B"], "wint4", 1) / GIB, 1)
    11.1
    """
    dense, experts = _bytes_each(shape, quantization)
    table = shape.vocab * shape.hidden * (1 if shape.tied_embeddings else 2)
    tower = shape.tower_params if isinstance(shape, Shape) else 0
    split = _dense_params(shape) * dense + _expert_params(shape) * experts + 2 * table
    unknown = max((shape.checkpoint_bytes or 0) - 2 * parameters(shape), 0)
    return int((split + unknown) / tp + 2 * tower)


def parameters(shape: ModelShape) -> int:
    """Return how many parameters the shape has, its tower included."""
    table = shape.vocab * shape.hidden * (1 if shape.tied_embeddings else 2)
    tower = shape.tower_params if isinstance(shape, Shape) else 0
    return _dense_params(shape) + _expert_params(shape) + table + tower


def _dense_params(shape: ModelShape) -> int:
    """Attention, dense layers, shared experts and routers."""
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    if isinstance(shape, Shape) and shape.attention_params:
        attention = shape.attention_params
    dense = shape.layers if not shape.experts else shape.dense_layers
    sparse = shape.layers - dense
    shared = shape.experts_shared * 3 * shape.hidden * shape.moe_intermediate
    router = shape.hidden * shape.experts
    mlp = dense * 3 * shape.hidden * shape.intermediate
    return shape.layers * attention + mlp + sparse * (shared + router)


def _expert_params(shape: ModelShape) -> int:
    if not shape.experts:
        return 0
    return (shape.layers - shape.dense_layers) * shape.experts * 3 * shape.hidden * shape.moe_intermediate


def _bytes_each(shape: ModelShape, quantization: str | None) -> tuple[float, float]:
    """Return bytes of a dense and of an expert parameter."""
    if not quantization:
        return 2.0, 2.0
    if quantization.lstrip().startswith("{"):
        try:
            parts = json.loads(quantization)
        except ValueError:
            return 2.0, 2.0
        whole = parts.get("quantization")
        dense = parts.get("dense_quant_type", whole)
        return _bytes(dense), _bytes(parts.get("moe_quant_type", whole))
    if quantization in {"wint4", "wint2"} and _is_ernie(shape):
        return 1.0, _bytes(quantization)  # ERNIE: dense layers stay at 8 bits
    return _bytes(quantization), _bytes(quantization)


def _bytes(name: object) -> float:
    if name in _ONE_BYTE:
        return 1.0
    if name in _HALF_BYTE:
        return 0.5
    return 0.25 if name == "wint2" else 2.0


def _is_ernie(shape: ModelShape) -> bool:
    return "ernie" in shape.name.lower() or "paddleocr" in shape.name.lower()


def block_bytes(shape: ModelShape, settings: Settings) -> int:
    """Return the bytes of one block of the KV cache on one rank.

    >>> from diagnose.capacity.shapes import SHAPES
    >>> block_bytes(SHAPES["ERNIE-4.5-0.3B"], Settings())
    1179648
    """
    if isinstance(shape, Shape) and shape.latent:
        each = shape.latent
    else:
        each = 2 * shape.head_dim * max(shape.kv_heads // settings.tensor_parallel, 1)
    return settings.kv_bytes * settings.block_size * each * shape.layers


def min_blocks(settings: Settings) -> int:
    """Return how many blocks a start needs: one sequence of full length, and a few more.

    >>> min_blocks(Settings(max_model_len=32768))
    514
    """
    return settings.max_model_len // settings.block_size + settings.enc_dec_blocks


def activation_bytes(shape: ModelShape, settings: Settings, *, lean: bool = False) -> int:
    """Estimate the peak of activations in the profile run, on one rank; good to about a quarter.

    Grows with the tokens of one step, and with the sequences whose logits are sampled at once.

    Args:
        shape: The model.
        settings: The flags in force.
        lean: Of what does not grow with the tokens, the least that is possible: logits and probabilities alone.
    """
    tp = settings.tensor_parallel
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim // tp
    wide = 3 * shape.intermediate // tp
    if shape.experts:
        routed = shape.experts_active * (2 * shape.hidden + 3 * shape.moe_intermediate // tp)
        shared = shape.experts_shared * 3 * shape.moe_intermediate // tp
        wide = max(wide, routed + shared)
    each = 2 * (8 * shape.hidden + heads + wide)
    sampled = settings.max_num_seqs * shape.vocab * 8  # logits and probabilities in float32
    if lean:
        return settings.tokens * each + sampled
    return 64 * MIB + settings.tokens * each + 2 * sampled  # sorted copies of both


def capture_sizes(settings: Settings) -> tuple[int, ...]:
    """Return the batch sizes that are captured as CUDA graphs.

    Source: ``GraphOptimizationConfig`` of FastDeploy: 1, 2, 4, 8 to 128 by 8, 144 to 256 by 16.

    >>> capture_sizes(Settings(max_num_seqs=16))
    (1, 2, 4, 8, 16)
    """
    if not settings.cudagraph:
        return ()
    usual = (1, 2, 4, *range(8, 129, 8), *range(144, MOST_SEQS + 1, 16))
    return tuple(size for size in settings.capture_sizes or usual if size <= settings.max_num_seqs)


def capture_bytes(shape: ModelShape, settings: Settings) -> int:
    """Estimate what the CUDA graphs take; good to about a half. 0 without graphs."""
    sizes = capture_sizes(settings)
    if not sizes:
        return 0
    graphs = len(sizes) * shape.layers * MIB // 2
    widest = 2 * max(sizes) * (8 * shape.hidden + 3 * max(shape.intermediate, shape.moe_intermediate))
    return 32 * MIB + graphs + widest + max(sizes) * shape.vocab * 4
