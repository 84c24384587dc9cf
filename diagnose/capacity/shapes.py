"""The shapes of models: the shipped table, and what any ``config.json`` says.

Sources: the configuration classes of huggingface/transformers (``ernie4_5``, ``ernie4_5_moe``,
``ernie4_5_vl_moe``, ``paddleocr_vl``), whose defaults are the published models. What is not taken from
there stands in `Shape.unverified`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from diagnose.errors import InputError
from diagnose.model.launch import ModelShape


class Shape(ModelShape, frozen=True, kw_only=True):
    """A model's shape with what only some families have.

    Attributes:
        latent: Elements of the KV cache for one token and layer where attention keeps one latent for all
            heads (MLA); it is not split over ranks. 0 for ordinary attention.
        attention_params: Parameters of one attention layer where they are not those of plain q, k, v, o.
        tower_params: Parameters of a vision tower; kept in bf16, held by every rank (unverified).
        unverified: What in this shape no public source confirms; empty where all is confirmed.
    """

    latent: int = 0
    attention_params: int = 0
    tower_params: int = 0
    unverified: str = ""


_VOCAB = 103424

_SMALL = Shape(
    name="ERNIE-4.5-0.3B",
    layers=18,
    heads=16,
    kv_heads=2,
    head_dim=128,
    hidden=1024,
    intermediate=3072,
    vocab=_VOCAB,
    tied_embeddings=True,
)
_MIDDLE = Shape(
    name="ERNIE-4.5-21B-A3B",
    layers=28,
    heads=20,
    kv_heads=4,
    head_dim=128,
    hidden=2560,
    intermediate=12288,
    vocab=_VOCAB,
    tied_embeddings=True,
    experts=64,
    experts_active=6,
    experts_shared=2,
    moe_intermediate=1536,
    dense_layers=1,
)
_LARGE = Shape(
    name="ERNIE-4.5-300B-A47B",
    layers=54,
    heads=64,
    kv_heads=8,
    head_dim=128,
    hidden=8192,
    intermediate=28672,
    vocab=_VOCAB,
    experts=64,
    experts_active=8,
    moe_intermediate=3584,
    dense_layers=3,
    unverified="moe_intermediate_size and the three dense layers; they give the published 300 B parameters",
)

# The towers: 27 layers of 1152 and 4304 (SigLIP), 32 layers of 1280 and 5120; attention and a plain MLP.
_TOWER_SIGLIP = 27 * (4 * 1152 * 1152 + 2 * 1152 * 4304) + 4 * 1152 * (4 * 1152 + 1024)
_TOWER_ERNIE = 32 * (4 * 1280 * 1280 + 2 * 1280 * 5120)

SHAPES: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        _SMALL,
        _MIDDLE,
        _LARGE,
        # 64 experts for text and 64 smaller ones for vision: their widths are added, 1536 + 512.
        msgspec.structs.replace(
            _MIDDLE, name="ERNIE-4.5-VL-28B-A3B", moe_intermediate=1536 + 512, tower_params=_TOWER_ERNIE
        ),
        msgspec.structs.replace(
            _LARGE,
            name="ERNIE-4.5-VL-424B-A47B",
            moe_intermediate=3584 + 1536,
            tower_params=_TOWER_ERNIE,
            unverified="vision experts, dense layers, tower; they give the published 424 B parameters",
        ),
        msgspec.structs.replace(_SMALL, name="PaddleOCR-VL-0.9B", tower_params=_TOWER_SIGLIP),
    )
}


def known_shape(name: str) -> Shape | None:
    """Find a model of the table by any of its usual names.

    >>> known_shape("baidu/ERNIE-4.5-21B-A3B-Paddle").name
    'ERNIE-4.5-21B-A3B'
    >>> known_shape("/models/PaddleOCR-VL/").name
    'PaddleOCR-VL-0.9B'
    >>> known_shape("some/other-model") is None
    True
    """
    wanted = _plain(name.rstrip("/").rsplit("/", 1)[-1])
    if wanted.startswith("paddleocrvl"):
        return SHAPES["PaddleOCR-VL-0.9B"]
    found = [shape for shape in SHAPES.values() if wanted.startswith(_plain(shape.name))]
    return max(found, key=lambda shape: len(shape.name), default=None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def shape_from_config(name: str, config: Mapping[str, Any]) -> Shape:
    """Read the shape from a model's ``config.json``, decoded.

    Knows the keys of ERNIE, Qwen, Llama and models like DeepSeek (MLA, routed and shared experts); nested
    ``text_config`` and ``llm_config`` are looked into first.

    Args:
        name: What to call the model.
        config: ``config.json`` as a mapping.

    Raises:
        InputError: A key is missing or is no number; the message names it.
    """
    read = _Reader(name, config)
    hidden = read.need("hidden_size", "n_embd", "d_model")
    heads = read.need("num_attention_heads", "n_head")
    layers = read.need("num_hidden_layers", "n_layer", "num_layers")
    head_dim = read.maybe("head_dim", "kv_channels") or hidden // heads
    experts = read.maybe("moe_num_experts", "n_routed_experts", "num_experts", "num_local_experts")
    latent, attention = _latent_attention(read, hidden=hidden, heads=heads)
    return Shape(
        name=name,
        layers=layers,
        heads=heads,
        kv_heads=1 if latent else read.maybe("num_key_value_heads", "num_kv_heads") or heads,
        head_dim=head_dim,
        hidden=hidden,
        intermediate=read.need("intermediate_size", "ffn_hidden_size", "n_inner"),
        vocab=read.need("vocab_size"),
        max_positions=read.maybe("max_position_embeddings", "max_sequence_length") or 131072,
        tied_embeddings=bool(read.raw("tie_word_embeddings")),
        experts=experts,
        experts_active=(read.need("moe_k", "num_experts_per_tok", "moe_topk", "moe_top_k") if experts else 0),
        experts_shared=read.maybe("moe_num_shared_experts", "n_shared_experts") if experts else 0,
        moe_intermediate=_moe_width(read) if experts else 0,
        dense_layers=_dense_layers(read, layers) if experts else 0,
        latent=latent,
        attention_params=attention,
    )


class _Reader:
    """Looks keys up under the names that different families use."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        inner: Mapping[str, Any] = next(
            (config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), Mapping)),
            {},
        )
        self.name, self.layers = name, (inner, config)

    def raw(self, *keys: str) -> object:
        """Return the first value that is there, else ``None``."""
        for layer in self.layers:
            for key in keys:
                if layer.get(key) is not None:
                    return layer[key]
        return None

    def maybe(self, *keys: str) -> int:
        """Return a whole number, 0 where no key is there; of a list the first."""
        value = self.raw(*keys)
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            value = value[0]
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"config.json of {self.name}: {keys[0]} is {value!r}, no whole number. Correct that key.")
        return value

    def need(self, *keys: str) -> int:
        """Return a whole number above 0."""
        value = self.maybe(*keys)
        if not value:
            others = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
            raise InputError(
                f"config.json of {self.name} has no {keys[0]}{others}. "
                "Point --model to the folder of the model itself, or add that key."
            )
        return value


def _moe_width(read: _Reader) -> int:
    value = read.raw("moe_intermediate_size")
    if isinstance(value, Sequence) and not isinstance(value, str):
        # ERNIE-VL gives one width for text and one for vision experts; others give one a layer.
        widths = [width for width in value if isinstance(width, int)]
        return sum(widths) if len(widths) == 2 else max(widths, default=0)
    return read.need("moe_intermediate_size", "intermediate_size")


def _dense_layers(read: _Reader, layers: int) -> int:
    kinds = read.raw("mlp_layer_types")
    if isinstance(kinds, Sequence) and not isinstance(kinds, str):
        return sum(1 for kind in kinds if kind == "dense")
    first = read.maybe("moe_layer_start_index", "first_k_dense_replace")
    step = max(read.maybe("moe_layer_interval", "decoder_sparse_step", "moe_layer_freq"), 1)
    sparse = len(range(first, layers, step))
    return layers - sparse


def _latent_attention(read: _Reader, *, hidden: int, heads: int) -> tuple[int, int]:
    """Return KV elements a token and parameters a layer of MLA, or zeros."""
    rank = read.maybe("kv_lora_rank")
    if not rank:
        return 0, 0
    rope = read.need("qk_rope_head_dim")
    nope = read.need("qk_nope_head_dim")
    value = read.need("v_head_dim")
    query = read.maybe("q_lora_rank")
    wide = heads * (nope + rope)
    ask = hidden * query + query * wide if query else hidden * wide
    keep = hidden * (rank + rope) + rank * heads * (nope + value)
    return rank + rope, ask + keep + heads * value * hidden
