"""One start of the lab server on paper: its own arithmetic, checks and texts, but no process and no time.

The lab's modules are loaded by their path, under other names: the package `fastdeploy` is never imported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, cached_property, lru_cache
from types import ModuleType
from typing import Any

from diagnose.lab.environment import SITE
from diagnose.launch.spec import fastdeploy_part

GIB = 1 << 30
MOST_UTILIZATION = 0.95


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"grid_lab_{name}", SITE / "fastdeploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


memory, errors, lab_args, checks = _load("memory"), _load("errors"), _load("args"), _load("checks")


@dataclass(frozen=True)
class Flags:
    """What of a command decides its memory, as the lab server reads it."""

    utilization: float
    tokens: int
    seqs: int
    length: int
    quantization: str | None = None
    graphs: str | None = None
    override: int | None = None
    ranks: int = 1
    block: int = 64
    whole: bool = False

    def refused(self) -> bool:
        """Whether the main process would end at once: the numbers do not go together."""
        return (
            (self.whole and self.tokens < self.length)
            or not self.seqs <= self.tokens <= self.seqs * self.length
            or self.seqs > 256
            or self.tokens < self.block
            or self.utilization > 1
        )


@dataclass(frozen=True)
class Host:
    """A model on cards of one size, and what is hidden there."""

    config: Mapping[str, Any]
    total: int
    hidden: Any

    @cached_property
    def key(self) -> str:
        """The model, for caches."""
        return json.dumps(dict(self.config), sort_keys=True)

    def ends(self, flags: Flags) -> str:
        """Say in which part a start fails; empty where it serves."""
        return _walk(self, flags).end


@dataclass
class Walk:
    """A start, step by step; sizes in bytes."""

    end: str = ""
    used: int = 0
    reserved: int = 0
    asked: int = 0
    before_profile: int = 0
    peak: int = 0
    available: int = 0
    blocks: int = 0
    captured: list[int] = field(default_factory=list)
    need: Any = None
    sizes: tuple[int, ...] = ()


@cache
def _shape(config: str) -> Any:
    return memory.shape_of(json.loads(config))


@lru_cache(4096)
def _demand(
    config: str, tokens: int, seqs: int, quantization: str | None, graphs: str | None, ranks: int, block: int
) -> tuple[Any, tuple[int, ...]]:
    sizes = memory.capture_sizes(seqs, json.loads(graphs) if graphs else None)
    need = memory.demand(
        _shape(config),
        quantization=checks.parse_quantization(quantization),
        ranks=ranks,
        batched_tokens=tokens,
        sequences=seqs,
        block_size=block,
        graphs=sizes,
    )
    return need, sizes


def _walk(host: Host, flags: Flags) -> Walk:  # noqa: C901  # one start, step by step, as the worker takes them
    """Take what `worker_process.Worker` takes, in its order."""
    batch = (flags.tokens, flags.seqs, flags.quantization, flags.graphs, flags.ranks, flags.block)
    need, sizes = _demand(host.key, *batch)
    walk = Walk(used=host.hidden.neighbour, need=need, sizes=sizes)

    def take(size: int) -> bool:
        if walk.used + size > host.total:
            walk.asked = size
            return False
        walk.used += size
        walk.reserved += size
        return True

    if not take(host.hidden.context):
        walk.end = "context"
        return walk
    weights = int(need.weights * (1 + host.hidden.fragmentation))
    shards = max(2, min(12, weights // GIB + 1))
    parts = [weights - weights // shards * (shards - 1)] + [weights // shards] * (shards - 1)
    if not (take(weights) if walk.used + weights <= host.total else all(take(part) for part in parts)):
        walk.end = "load"
        return walk
    if flags.override:
        walk.blocks = flags.override
    else:
        walk.before_profile = walk.used
        walk.peak = int(need.activations * host.hidden.activation)
        if not take(walk.peak):
            walk.end = "profile"
            return walk
        walk.available = int(host.total * flags.utilization) - walk.used
        walk.blocks = min(walk.available // need.block, memory.BLOCKS_CAP)
        if walk.blocks <= 0:
            walk.end = "blocks-negative"
            return walk
    if walk.blocks < flags.length // flags.block + 2:
        walk.end = "blocks-few"
        return walk
    if not take(walk.blocks * need.block):
        walk.end = "kv"
        return walk
    if not take(host.hidden.workspace):
        walk.end = "capture"
        return walk
    part = int(need.capture * host.hidden.capture) // max(1, len(sizes))
    for size in reversed(sizes):
        if not take(part):
            walk.end = "capture"
            return walk
        walk.captured.append(size)
    peak = int(need.activations * host.hidden.activation)
    if flags.override and walk.used + peak > host.total:
        walk.asked, walk.end = peak, "serving"  # without a profile run nobody kept room for the first long prompt
    return walk


@cache
def _parser(modern: bool) -> argparse.ArgumentParser:  # noqa: FBT001  # a key of the cache
    return lab_args.build_parser(modern=modern)


def read_flags(argv: Sequence[str], env: Mapping[str, str], version: str) -> Flags:
    """Read a command with the lab's own parser and checks; defaults that changed are those of the version.

    Raises:
        SystemExit: The parser does not know a flag.
        ConfigError: The main process would refuse the numbers.
    """
    args: argparse.Namespace = _parser(version == "2.6.0").parse_args(list(argv[fastdeploy_part(argv) :]))
    v1 = env.get("ENABLE_V1_KVCACHE_SCHEDULER", "0" if version < "2.1" else "1") != "0"
    chunked = args.enable_chunked_prefill or version >= "2.2"
    if args.max_num_batched_tokens is None and not v1:
        args.max_num_batched_tokens = 2048 if chunked else args.max_model_len
    checks.check_settings(args)
    return Flags(
        utilization=args.gpu_memory_utilization,
        tokens=args.max_num_batched_tokens,
        seqs=args.max_num_seqs,
        length=args.max_model_len,
        quantization=args.quantization,
        graphs=json.dumps(args.graph_optimization_config) if args.graph_optimization_config else None,
        override=args.num_gpu_blocks_override,
        ranks=args.tensor_parallel_size,
        block=args.block_size,
        whole=not (v1 or chunked),
    )


class Start:
    """One start: how it ends, and what it leaves in its log files."""

    def __init__(self, host: Host, flags: Flags, *, at: datetime, modern: bool) -> None:
        self._host, self._flags, self._at, self._modern = host, flags, at, modern
        self.walk = _walk(host, flags)
        self.files: dict[str, list[str]] = {}
        self._ticks = 0
        self._write()

    @property
    def serves(self) -> bool:
        """Whether it became ready."""
        return not self.walk.end

    def _stamp(self) -> str:
        self._ticks += 1
        now = self._at + timedelta(milliseconds=200 * self._ticks)
        text = now.strftime("%Y-%m-%d %H:%M:%S")
        return text if self._modern else f"{text},{now.microsecond // 1000:03d}"

    def _log(self, name: str, text: str, at: str, level: str = "INFO") -> None:
        if self._modern:
            name = {"gpu_worker": "worker_process", "gpu_model_runner": "worker_process", "config": "fastdeploy"}.get(
                name, name
            )
        file, _, line = at.partition(":")
        record = f"{level:<8} {self._stamp()} 4711  {file}[line:{line}] {text}"
        self.files.setdefault(f"log/{name}.log", []).append(record)

    def _worker(self, text: str) -> None:
        for rank in range(self._flags.ranks):
            own = text.replace("GPU 0", f"GPU {rank}")
            self.files.setdefault(f"log/workerlog.{rank}", []).append(own.rstrip("\n"))

    def _console(self, text: str) -> None:
        self.files.setdefault("log/console.log", []).append(text.rstrip("\n"))

    def _write(self) -> None:
        walk, flags = self.walk, self._flags
        self._log(
            "fastdeploy", "Launch worker service command: python -u -m paddle.distributed.launch", "engine.py:590"
        )
        self._console(f"INFO     {self._stamp()} 4700  engine.py[line:331] Waiting for worker processes to be ready...")
        self._worker("======================= Modified FLAGS detected =======================")
        self._worker("\rLoading safetensors checkpoint shards:   0%|          | 0/2 [00:00<00:02,  1.02s/it]")
        if walk.end in {"context", "load"}:
            frames = (
                errors.LOAD
                if walk.end == "load"
                else ((errors.WORKER, 1187, "run_worker_proc", "worker_proc.init_device()"),)
            )
            return self._dies(frames)
        self._worker("\rLoading safetensors checkpoint shards: 100%|██████████| 2/2 [00:02<00:00,  1.02s/it]")
        if not flags.override:
            self._profile()
            if walk.end in {"profile", "blocks-negative"}:
                return None
        where = f"------- num_blocks_global: {walk.blocks} --------"
        self._log("worker_process", where, "worker_process.py:614")
        if walk.end == "blocks-few":
            return self._too_few()
        self._log("gpu_model_runner", "Initializing kv cache for all layers. ", "gpu_model_runner.py:1502")
        if walk.end == "kv":
            return self._dies(errors.KV_CACHE)
        for size in walk.captured:
            text = f"Warm up the model with the batch size:{size}, num tokens:1"
            self._log("gpu_model_runner", text, "gpu_model_runner.py:2110")
        if walk.end:
            return self._dies(errors.CAPTURE if walk.end == "capture" else errors.SERVE)
        self._console(
            f"INFO     {self._stamp()} 4700  engine.py[line:390] Worker processes are launched with 60.0 seconds."
        )
        return None

    def _profile(self) -> None:
        walk, flags, total = self.walk, self._flags, self._host.total
        first = (flags.length // flags.block + 2) * flags.seqs
        self._log("config", f"Doing profile, the total_block_num:{first}", "config.py:1422")
        self._report("Before running the profile, the memory usage info is as follows:", walk.before_profile)
        if walk.end == "profile":
            return self._dies(errors.PROFILE)
        used = walk.before_profile + walk.peak
        tail = (f"\nAvailable KV Cache meomory: {walk.available / GIB}", "Profile time: 12.5")
        self._report("After running the profile, the memory usage info is as follows:", used, tail)
        say = f"------- available_kv_cache_memory:{walk.available / GIB} GB --------"
        self._log("worker_process", say, "worker_process.py:577")
        counted = walk.available // walk.need.block
        if counted > walk.blocks:
            self._log(
                "worker_process", f"------- Reset num_blocks_local {counted} to {walk.blocks}", "worker_process.py:582"
            )
        block = f"------- model_block_memory_used:{walk.need.block / GIB} GB --------"
        self._log("worker_process", block, "worker_process.py:585")
        self._log("worker_process", f"------- num_blocks_local:{walk.blocks} --------", "worker_process.py:586")
        assert used <= total
        if walk.end == "blocks-negative":
            error = (
                f"ValueError: The total number of blocks cannot be less than zero bug got {walk.blocks}. Please"
                " increase gpu_memory_utilization Or decrease max_num_batched_tokens(max model length)."
            )
            self._worker(errors.worker_traceback(error, *errors.NO_BLOCKS))
            self._launch_failed()
        return None

    def _report(self, title: str, used: int, tail: tuple[str, ...] = ()) -> None:
        total, reserved = self._host.total, used - self._host.hidden.neighbour
        lines = (
            title,
            f"\nDevice Total memory: {total / GIB}",
            f"\nDevice used memory: {used / GIB}",
            f"\nDevice free memory: {(total - used) / GIB}",
            f"\nPaddle reserved memory: {reserved / GIB}",
            f"\nPaddle allocated memory: {(reserved - self._host.hidden.context) / GIB}",
            *tail,
        )
        self._log("gpu_worker", str(lines), "gpu_worker.py:121")

    def _dies(self, frames: Any) -> None:
        walk = self.walk
        free = self._host.total - walk.used
        text = errors.out_of_memory(gpu=0, asked=walk.asked, used=walk.used, free=free, frames=frames)
        if frames is errors.CAPTURE and self._modern:
            error = (
                "RuntimeError: CUDA out of memory occurred when warming up CUDAGraph with the capture sizes"
                f" {list(walk.sizes)}. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when"
                " initializing the engine."
            )
            text += "\nThe above exception was the direct cause of the following exception:\n\n"
            text += errors.worker_traceback(error, *errors.CAPTURE[:2])
        self._worker(text)
        self._launch_failed()

    def _launch_failed(self) -> None:
        text = "Failed to launch worker processes, check log/workerlog.* for more details."
        self._console(f"ERROR    {self._stamp()} 4700  engine.py[line:211] {text}")

    def _too_few(self) -> None:
        need = self._flags.length // self._flags.block + 2
        if self._flags.override:
            text = (
                f"prefill_kvcache_block_num: {self.walk.blocks} should be larger than or equal to {need},"
                " please reduce the max_model_len or increase num_gpu_blocks_override"
            )
        else:
            text = (
                f"current device block num: {self.walk.blocks} should be larger than or equal to {need},"
                " please reduce the max_model_len or replace the machine with larger GPU cards"
            )
        frame = ("config.py", 1444, "reset", "assert (")
        self._console(errors.main_traceback(f"AssertionError: {text}", frame))

    def pieces(self) -> Iterator[tuple[str, bytes]]:
        """Yield each file with what was written to it."""
        for name, lines in self.files.items():
            yield name, ("\n".join(lines) + "\n").encode()
