"""What decides the memory of a server: its settings, its card, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import msgspec

from diagnose.errors import InputError

UTILIZATION = "--gpu-memory-utilization"
TOKENS = "--max-num-batched-tokens"
SEQS = "--max-num-seqs"
LENGTH = "--max-model-len"
QUANTIZATION = "--quantization"
TENSOR_PARALLEL = "--tensor-parallel-size"
BLOCKS = "--num-gpu-blocks-override"
GRAPH = "--graph-optimization-config"
BLOCK_SIZE = "--block-size"

LEAST_SEQS, MOST_SEQS = 2, 256
LEAST_LENGTH = 17
LEAST_UTILIZATION, MOST_UTILIZATION = 0.5, 0.95
MOST_BLOCKS = 40000
_DEFAULT_LENGTH = 2048

Phase = Literal["", "load", "profile", "kv", "capture", "serving"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The flags that cost memory, with the server's defaults.

    Attributes:
        max_num_batched_tokens: ``None`` where not given; `tokens` has the version's default rule.
        kv_bytes: Bytes of one element of the KV cache: 2 for bf16, 1 for int8 and fp8.
        capture_sizes: Batch sizes of the CUDA graphs, where the configuration names them.
        num_gpu_blocks_override: Skips the profile run and takes this many blocks.
        enc_dec_blocks: Blocks above one full sequence that a start needs (``FD_ENC_DEC_BLOCK_NUM``).
        v1_scheduler: ``ENABLE_V1_KVCACHE_SCHEDULER``, the default from about 2.1.
        chunked_prefill: On by default from about 2.2.
        graph_config: The text of ``--graph-optimization-config``, where given.
        given: Flags that stand in the command, as spelled there; the others have defaults.
    """

    max_model_len: int = _DEFAULT_LENGTH
    max_num_seqs: int = 8
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float = 0.9
    block_size: int = 64
    quantization: str | None = None
    tensor_parallel: int = 1
    kv_bytes: int = 2
    cudagraph: bool = True
    capture_sizes: tuple[int, ...] = ()
    num_gpu_blocks_override: int | None = None
    enc_dec_blocks: int = 2
    v1_scheduler: bool = True
    chunked_prefill: bool = True
    graph_config: str | None = None
    given: frozenset[str] = frozenset()

    @property
    def tokens(self) -> int:
        """Tokens of one step: as given, else the default (V1 8192; V0 2048 if chunked, else all)."""
        if self.max_num_batched_tokens is not None:
            return self.max_num_batched_tokens
        if self.v1_scheduler:
            return 8192
        return 2048 if self.chunked_prefill else self.max_model_len

    @classmethod
    def from_flags(cls, flags: Mapping[str, str], *, v1: bool = True, chunked: bool = True) -> Settings:
        """Read the settings of a command.

        Args:
            flags: The effective flags with their values, as the server spells them (``--max-model-len``).
            v1: The V1 scheduler is on.
            chunked: Chunked prefill is on.

        Raises:
            InputError: A value is no number of the right kind.

        >>> Settings.from_flags({"--max-model-len": "32768"}).max_model_len
        32768
        """
        graph = flags.get(GRAPH)
        cudagraph, sizes = _graph(graph)
        known = {
            UTILIZATION,
            TOKENS,
            SEQS,
            LENGTH,
            QUANTIZATION,
            TENSOR_PARALLEL,
            BLOCKS,
            GRAPH,
            BLOCK_SIZE,
        }
        quantization = flags.get(QUANTIZATION) or None
        return cls(
            max_model_len=_whole(flags, LENGTH) or _DEFAULT_LENGTH,
            max_num_seqs=_whole(flags, SEQS) or 8,
            max_num_batched_tokens=_whole(flags, TOKENS),
            gpu_memory_utilization=_ratio(flags, UTILIZATION),
            block_size=_whole(flags, BLOCK_SIZE) or 64,
            quantization=quantization,
            tensor_parallel=_whole(flags, TENSOR_PARALLEL) or 1,
            kv_bytes=1 if quantization and "kv_cache_quant_type" in quantization else 2,
            cudagraph=cudagraph,
            capture_sizes=sizes,
            num_gpu_blocks_override=_whole(flags, BLOCKS),
            v1_scheduler=v1,
            chunked_prefill=chunked,
            graph_config=graph,
            given=frozenset(known & flags.keys()),
        )

    def value(self, flag: str) -> str | None:
        """Return the flag's text as the command has it, ``None`` where it is not given."""
        if flag not in self.given:
            return None
        return self.text(flag)

    def text(self, flag: str) -> str | None:
        """Return the value in force as the server would read it, ``None`` where there is none.

        >>> Settings().text("--gpu-memory-utilization")
        '0.9'
        """
        values: dict[str, object] = {
            UTILIZATION: f"{self.gpu_memory_utilization:.4g}",
            TOKENS: self.tokens,
            SEQS: self.max_num_seqs,
            LENGTH: self.max_model_len,
            QUANTIZATION: self.quantization,
            TENSOR_PARALLEL: self.tensor_parallel,
            BLOCKS: self.num_gpu_blocks_override,
            GRAPH: self.graph_config,
        }
        value = values.get(flag)
        return None if value is None else str(value)


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU.

    Attributes:
        total_bytes: As NVML says.
        foreign_bytes: Used by processes that are not this server.
    """

    total_bytes: int
    foreign_bytes: int = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """An allocation that failed.

    Attributes:
        phase: In which part of the start; empty where unknown.
        requested_bytes: What was asked for.
        allocated_bytes: What was in use on the card, by whomever (Paddle's ``RecordedGpuMemGetInfo``: total
            minus free).
        available_bytes: What was free on the card.
    """

    phase: Phase = ""
    requested_bytes: int | None = None
    allocated_bytes: int | None = None
    available_bytes: int | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the logs and NVML told about one start; all of it may be missing.

    Attributes:
        at: The settings of that start; ``None`` for the settings that are asked about.
        before_bytes: In use on the card when the weights are loaded and the profile run is about to begin:
            foreign, context and weights, with whatever the allocator lost.
        weights_bytes: Memory after loading, of one rank.
        context_bytes: CUDA context and libraries.
        profile_peak_bytes: Peak of the activations in the profile run.
        available_kv_bytes: What the profile left for the KV cache (may be negative).
        block_bytes: Size of one block, of one rank.
        capture_bytes: What the CUDA graphs took.
        captured: The batch size that was captured last; they go down.
        failed: The allocation that ended the start.
        blocks_got: Number of blocks that the server computed.
        blocks_needed: Number of blocks that it wanted.
    """

    at: Settings | None = None
    before_bytes: int | None = None
    weights_bytes: int | None = None
    context_bytes: int | None = None
    profile_peak_bytes: int | None = None
    available_kv_bytes: int | None = None
    block_bytes: int | None = None
    capture_bytes: int | None = None
    captured: int | None = None
    failed: Failed | None = None
    blocks_got: int | None = None
    blocks_needed: int | None = None


def problems(settings: Settings) -> tuple[str, ...]:
    """Return what the server would refuse, as sentences; empty where it would accept all.

    Source: fastdeploy/config.py, ``FDConfig.check``.

    >>> problems(Settings(max_num_seqs=2, max_model_len=1024))
    ('max_num_batched_tokens 8192 is above max_num_seqs x max_model_len 2048',)
    """
    s, wrong = settings, []
    if not LEAST_SEQS <= s.max_num_seqs <= MOST_SEQS:
        wrong.append(f"max_num_seqs {s.max_num_seqs} is not within {LEAST_SEQS} to {MOST_SEQS}")
    if s.max_model_len < LEAST_LENGTH:
        wrong.append(f"max_model_len {s.max_model_len} is not above 16")
    if not 0 < s.gpu_memory_utilization <= 1:
        wrong.append(f"gpu_memory_utilization {s.gpu_memory_utilization} is not above 0 and at most 1")
    if s.tokens < s.max_num_seqs:
        wrong.append(f"max_num_batched_tokens {s.tokens} is below max_num_seqs {s.max_num_seqs}")
    most = s.max_num_seqs * s.max_model_len
    if s.tokens > most:
        wrong.append(f"max_num_batched_tokens {s.tokens} is above max_num_seqs x max_model_len {most}")
    if s.tokens < s.block_size:
        wrong.append(f"max_num_batched_tokens {s.tokens} is below block_size {s.block_size}")
    if not (s.v1_scheduler or s.chunked_prefill) and s.tokens < s.max_model_len:
        wrong.append(f"max_num_batched_tokens {s.tokens} is below max_model_len {s.max_model_len}")
    return tuple(wrong)


def _whole(flags: Mapping[str, str], flag: str) -> int | None:
    text = flags.get(flag)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{flag} is {text!r}, no whole number. Write it like 8.") from None


def _ratio(flags: Mapping[str, str], flag: str) -> float:
    text = flags.get(flag) or "0.9"
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{flag} is {text!r}, no number. Write it like 0.9.") from None


def _graph(text: str | None) -> tuple[bool, tuple[int, ...]]:
    """Read ``use_cudagraph`` and the capture sizes; text that is no JSON leaves the defaults."""
    try:
        config = json.loads(text) if text else {}
    except ValueError:
        config = {}
    if not isinstance(config, dict):
        return True, ()
    sizes = config.get("cudagraph_capture_sizes") or ()
    whole = tuple(size for size in sizes if isinstance(size, int)) if isinstance(sizes, list) else ()
    return config.get("use_cudagraph", True) is not False, whole
