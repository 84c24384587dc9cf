"""What may change: each flag's values, nearest to the present first, with coupled limits kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

import msgspec

from diagnose.capacity.settings import (
    BLOCKS,
    GRAPH,
    LEAST_LENGTH,
    LEAST_SEQS,
    LEAST_UTILIZATION,
    LENGTH,
    MOST_SEQS,
    MOST_UTILIZATION,
    QUANTIZATION,
    SEQS,
    TOKENS,
    UTILIZATION,
    Settings,
    problems,
)

_USEFUL_LENGTH = 1024
"""A server of shorter sequences helps nobody: never go below, unless the operator is there already."""
_USEFUL_TOKENS, _MILD_TOKENS = 256, 2048

TWO_SIDED = frozenset({UTILIZATION})
"""Flags where both less and more can help, so that no value tells about the next."""


def values(flag: str, present: Settings, *, keep: int = 0, mild: bool = False) -> Sequence[object]:
    """Return the values that `flag` may take instead, nearest to the present first.

    Args:
        keep: Tokens of one step that sequences times length must not fall below.
        mild: Only values with which the server is nearly as good as before.

    Empty for a flag that cannot be fitted. For all but `TWO_SIDED` each value takes less memory than the
    one before it.

    >>> values("--max-num-seqs", Settings(max_num_seqs=5))
    range(4, 1, -1)
    """
    s = present
    if flag == UTILIZATION:
        return _utilizations(s.gpu_memory_utilization)
    if flag == TOKENS:
        least = max(_MILD_TOKENS if mild else _USEFUL_TOKENS, s.block_size)
        return range(_below(s.tokens, s.block_size), least - 1, -s.block_size)
    if flag == SEQS:
        least = max(s.max_num_seqs // 4 if mild else 0, LEAST_SEQS, -(-keep // s.max_model_len))
        return range(min(s.max_num_seqs - 1, MOST_SEQS), least - 1, -1)
    if flag == LENGTH:
        least = max(s.max_model_len // 4 if mild else 0, _USEFUL_LENGTH, LEAST_LENGTH, -(-keep // s.max_num_seqs))
        return range(_below(s.max_model_len, s.block_size), least - 1, -s.block_size)
    if flag == QUANTIZATION:
        steps = (None, "wint8", "wint4")
        return steps[steps.index(s.quantization) + 1 :] if s.quantization in steps else ()
    if flag == GRAPH:
        return (without_graphs(s.graph_config),) if s.cudagraph else ()
    if flag == BLOCKS and s.num_gpu_blocks_override is not None:
        return (None,)  # the server counts for itself again
    return ()


def _below(number: int, step: int) -> int:
    return (number - 1) // step * step


def _utilizations(present: float) -> Sequence[float]:
    """Return hundredths on both sides; the lower one first where both are as near."""
    least, most = round(LEAST_UTILIZATION * 100), round(MOST_UTILIZATION * 100)
    hundredths = [number for number in range(least, most + 1) if abs(number / 100 - present) > 0.001]
    return [number / 100 for number in sorted(hundredths, key=lambda one: (abs(one - present * 100), one))]


def without_graphs(text: str | None) -> str:
    """Return the graph configuration with CUDA graphs off and all else as it was.

    >>> without_graphs(None)
    '{"use_cudagraph": false}'
    """
    try:
        config = json.loads(text) if text else {}
    except ValueError:
        config = {}
    return json.dumps({**config, "use_cudagraph": False} if isinstance(config, dict) else {})


def change(settings: Settings, flag: str, value: object) -> Settings:
    """Return the settings with one flag changed and nothing else looked at."""
    fields: dict[str, dict[str, object]] = {
        UTILIZATION: {"gpu_memory_utilization": value},
        TOKENS: {"max_num_batched_tokens": value},
        SEQS: {"max_num_seqs": value},
        LENGTH: {"max_model_len": value},
        QUANTIZATION: {"quantization": value},
        GRAPH: {"graph_config": value, "cudagraph": False},
        BLOCKS: {"num_gpu_blocks_override": value},
    }
    return msgspec.structs.replace(settings, **fields[flag])


def coupled(settings: Settings, accepted: Collection[str], *, follow: bool = True) -> Settings | None:
    """Bring the trio of lengths together again; ``None`` where the server would refuse it all the same.

    ``max_num_seqs <= max_num_batched_tokens <= max_num_seqs * max_model_len``: what was lowered may have
    broken it, and the server's own default of the middle one may too.

    Args:
        accepted: Flags that the server knows.
        follow: The tokens may be lowered to what is left for them; else that is refused.
    """
    most = settings.max_num_seqs * settings.max_model_len
    whole = not (settings.v1_scheduler or settings.chunked_prefill)  # a prompt is taken in one step
    least = settings.max_model_len if whole else 0
    tokens = min(max(settings.tokens, least), most)
    if tokens < settings.tokens and not follow:
        return None
    if tokens != settings.tokens:
        if TOKENS not in accepted:
            return None
        settings = msgspec.structs.replace(settings, max_num_batched_tokens=tokens)
    return None if problems(settings) else settings


def nearest(values: Sequence[object], good: Callable[[object], bool], *, ordered: bool) -> object | None:
    """Return the first good value; by halving where each value is at least as good as the one before."""
    if not values:
        return None
    if not ordered:
        return next((value for value in values if good(value)), None)
    if not good(values[-1]):
        return None
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(values[middle]) else (middle + 1, high)
    return values[low]
