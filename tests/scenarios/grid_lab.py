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


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"grid_lab_{name}", SITE / "fastdeploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


memory, errors, logs = _load("memory"), _load("errors"), _load("logs")
lab_args, checks = _load("args"), _load("checks")


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

    @property
    def least_blocks(self) -> int:
        """Without so many blocks of the KV cache a start is refused."""
        least: int = memory.least_blocks(self.length, self.block)
        return least

    def refused(self) -> bool:
        """Whether the main process would end at once: the numbers do not go together."""
        numbers = {
            "max_num_seqs": self.seqs,
            "max_model_len": self.length,
            "max_num_batched_tokens": self.tokens,
            "block_size": self.block,
        }
        chosen = argparse.Namespace(**{**_defaults(), **numbers})
        try:
            checks.check_numbers(chosen, v1=not self.whole, chunked=not self.whole)
        except checks.ConfigError:
            return True
        return self.utilization > 1


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
    asked: int = 0
    before_profile: int = 0
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
    hidden, total = host.hidden, host.total
    walk = Walk(used=hidden.neighbour + hidden.context, need=need, sizes=sizes)

    def take(phase: str, *parts: int) -> bool:
        """Take all parts; the first that does not fit ends the start in this phase."""
        for size in parts:
            if walk.used + size > total:
                walk.end, walk.asked = phase, size
                return False
            walk.used += size
        return True

    if not take("load", *hidden.shards(need)):
        return walk
    if flags.override:
        walk.blocks = flags.override
    else:
        walk.before_profile = walk.used
        if not take("profile", hidden.peak(need)):
            return walk
        walk.available = memory.kv_bytes(total, walk.used, flags.utilization)
        walk.blocks = min(walk.available // need.block, memory.BLOCKS_CAP)
        if walk.blocks <= 0:
            walk.end = "blocks-negative"
            return walk
    if walk.blocks < flags.least_blocks:
        walk.end = "blocks-few"
        return walk
    if not (take("kv", walk.blocks * need.block) and take("capture", hidden.workspace)):
        return walk
    for size in reversed(sizes):
        if not take("capture", hidden.graph(need, sizes)):
            return walk
        walk.captured.append(size)
    if flags.override and walk.used + hidden.peak(need) > total:
        walk.end, walk.asked = "serving", hidden.peak(need)  # without a profile run nobody kept room for that
    return walk


@cache
def _parser(*, modern: bool) -> argparse.ArgumentParser:
    return lab_args.build_parser(modern=modern)


@cache
def _defaults() -> Mapping[str, Any]:
    return vars(_parser(modern=True).parse_args([]))


def read_flags(argv: Sequence[str], env: Mapping[str, str], version: str) -> Flags:
    """Read a command with the lab's own parser and checks; defaults that changed are those of the version.

    Raises:
        SystemExit: The parser does not know a flag.
        ConfigError: The main process would refuse the numbers.
    """
    args: argparse.Namespace = _parser(modern=version == "2.6.0").parse_args(list(argv[fastdeploy_part(argv) :]))
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
        file, _, line = at.partition(":")
        record = f"{level:<8} {self._stamp()} 4711  {file}[line:{line}] {text}"
        self.files.setdefault(f"log/{logs.file_of(name, modern=self._modern)}.log", []).append(record)

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
        if walk.end == "load":
            return self._dies(errors.LOAD)
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
        first = flags.least_blocks * flags.seqs
        self._log("config", f"Doing profile, the total_block_num:{first}", "config.py:1422")
        self._report("Before running the profile, the memory usage info is as follows:", walk.before_profile)
        if walk.end == "profile":
            return self._dies(errors.PROFILE)
        used = walk.before_profile + self._host.hidden.peak(walk.need)
        tail = (f"\nAvailable KV Cache meomory: {walk.available / GIB}", "Profile time: 12.5")
        self._report("After running the profile, the memory usage info is as follows:", used, tail)
        for text, place in memory.blocks_report(walk.available, walk.need.block, walk.blocks):
            self._log("worker_process", text, place)
        assert used <= total
        if walk.end == "blocks-negative":
            self._worker(errors.no_blocks(walk.blocks))
            self._launch_failed()
        return None

    def _report(self, title: str, used: int, tail: tuple[str, ...] = ()) -> None:
        hidden = self._host.hidden
        text = memory.usage_report(
            title,
            total=self._host.total,
            used=used,
            reserved=used - hidden.neighbour,
            context=hidden.context,
            tail=tail,
        )
        self._log("gpu_worker", text, "gpu_worker.py:121")

    def _dies(self, frames: Any) -> None:
        walk = self.walk
        free = self._host.total - walk.used
        text = errors.out_of_memory(gpu=0, asked=walk.asked, used=walk.used, free=free, frames=frames)
        if frames is errors.CAPTURE and self._modern:
            text = errors.capture_failed(text, walk.sizes)
        self._worker(text)
        self._launch_failed()

    def _launch_failed(self) -> None:
        text = "Failed to launch worker processes, check log/workerlog.* for more details."
        self._console(f"ERROR    {self._stamp()} 4700  engine.py[line:211] {text}")

    def _too_few(self) -> None:
        flags = self._flags
        self._console(errors.few_blocks(self.walk.blocks, flags.least_blocks, override=bool(flags.override)))

    def pieces(self) -> Iterator[tuple[str, bytes]]:
        """Yield each file with what was written to it."""
        for name, lines in self.files.items():
            yield name, ("\n".join(lines) + "\n").encode()
