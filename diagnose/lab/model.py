"""Model folders without models: real shapes, weights that are holes in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """One model: its ``config.json`` and the size of its checkpoint (bfloat16), in bytes."""

    config: dict[str, object]
    weight_bytes: int


def _config(architecture: str, kind: str, **numbers: object) -> dict[str, object]:
    common: dict[str, object] = {
        "architectures": [architecture],
        "model_type": kind,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "torch_dtype": "bfloat16",
        "use_bias": False,
        "vocab_size": 103424,
    }
    return common | numbers


MODELS = {
    "ERNIE-4.5-0.3B": Kind(
        _config(
            "Ernie4_5_ForCausalLM",
            "ernie4_5",
            num_hidden_layers=18,
            hidden_size=1024,
            intermediate_size=3072,
            num_attention_heads=16,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        721_519_616,
    ),
    "ERNIE-4.5-21B-A3B": Kind(
        _config(
            "Ernie4_5_MoeForCausalLM",
            "ernie4_5_moe",
            num_hidden_layers=28,
            hidden_size=2560,
            intermediate_size=12288,
            num_attention_heads=20,
            num_key_value_heads=4,
            moe_num_experts=64,
            moe_k=6,
            moe_num_shared_experts=2,
            moe_intermediate_size=1536,
            moe_layer_start_index=1,
            tie_word_embeddings=True,
        ),
        43_670_000_000,
    ),
    "ERNIE-4.5-300B-A47B": Kind(
        _config(
            "Ernie4_5_MoeForCausalLM",
            "ernie4_5_moe",
            num_hidden_layers=54,
            hidden_size=8192,
            intermediate_size=28672,
            num_attention_heads=64,
            num_key_value_heads=8,
            moe_num_experts=64,
            moe_k=8,
            moe_num_shared_experts=0,
            moe_intermediate_size=3584,
            moe_layer_start_index=3,
            tie_word_embeddings=False,
        ),
        598_900_000_000,
    ),
}


def make_model(folder: Path, name: str = "ERNIE-4.5-0.3B") -> Path:
    """Write ``folder/name``: configuration, tokenizer stubs and weights of the right apparent size.

    The weight files are sparse: they take no disk.

    Returns:
        The model's folder, for ``--model``.

    Raises:
        KeyError: The lab has no such model; ``MODELS`` names those it has.
    """
    kind = MODELS[name]
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.json").write_text(json.dumps(kind.config, indent=2))
    (home / "generation_config.json").write_text(json.dumps({"temperature": 0.8, "top_p": 0.8}))
    (home / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Ernie4_5_Tokenizer"}))
    (home / "tokenizer.model").write_bytes(b"")
    _weights(home, kind.weight_bytes)
    return home


def _weights(home: Path, size: int) -> None:
    count = -(-size // _SHARD_BYTES)
    names = ["model.safetensors"]
    if count > 1:
        names = [f"model-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)]
        index = {
            "metadata": {"total_size": size},
            "weight_map": {f"part.{n}": name for n, name in enumerate(names)},
        }
        (home / "model.safetensors.index.json").write_text(json.dumps(index))
    for number, name in enumerate(names):
        with (home / name).open("wb") as file:
            file.truncate(min(_SHARD_BYTES, size - number * _SHARD_BYTES))  # a hole: it takes no disk
