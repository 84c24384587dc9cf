"""One rank: loads, profiles, takes the cache, captures, then beats its heart."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from fastdeploy import errors
from fastdeploy.gpu_state import Card, NoSuchGpuError, OutOfMemoryError
from fastdeploy.leak import leave_memory
from fastdeploy.logs import Logs
from fastdeploy.memory import (
    BLOCKS_CAP,
    GIB,
    MIB,
    Demand,
    Hidden,
    QuantizationError,
    Shape,
    blocks_report,
    capture_sizes,
    demand,
    draw_hidden,
    kv_bytes,
    read_shape,
    usage_report,
)
from fastdeploy.process import end_with
from fastdeploy.settings import Settings, read_settings
from fastdeploy.signals import Signal

Frames = tuple[tuple[str, int, str, str], ...]


class WorkerError(Exception):
    """The worker dies with this text and code 1."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the internal command line: here underscores are right."""
    parser = argparse.ArgumentParser("FastDeploy LLM Inference")
    for name in (
        "max_num_seqs",
        "max_model_len",
        "tensor_parallel_size",
        "block_size",
        "enc_dec_block_num",
    ):
        parser.add_argument(f"--{name}", type=int, default=1)
    parser.add_argument("--max_num_batched_tokens", type=int, default=8192)
    parser.add_argument("--num_gpu_blocks_override", type=int, default=None)
    parser.add_argument("--gpu_memory_utilization", type=float, default=0.9)
    parser.add_argument("--model", default="./output")
    parser.add_argument("--device_ids", default="0")
    parser.add_argument("--engine_worker_queue_port", type=lambda text: int(text.split(",")[0]))
    parser.add_argument("--quantization", type=json.loads, default=None)
    parser.add_argument("--graph_optimization_config", type=json.loads, default=None)
    parser.add_argument("--do_profile", action="store_true")
    return parser.parse_known_args(argv)[0]


class Worker:
    """One rank's life."""

    def __init__(self, args: argparse.Namespace, settings: Settings) -> None:
        self.args, self.settings = args, settings
        self.rank = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
        self.device = args.device_ids.split(",")[self.rank]
        self.record = Logs(modern=settings.modern)
        self.shape: Shape
        self.card: Card
        self.hidden: Hidden
        self.demand: Demand
        self.reserved = 0
        self.blocks = 0
        self.ready_at = 0.0

    def signal(self, name: str) -> Signal:
        """Attach to one of the engine's arrays."""
        return Signal(self.settings.shm, name, self.args.engine_worker_queue_port)

    def wait(self, share: float) -> None:
        """Spend a share of the load time."""
        time.sleep(self.settings.load_seconds * share)

    def run(self) -> NoReturn:
        """Live until somebody ends it."""
        self._greet()
        self._init_device()
        self._load()
        self._size_cache()
        self._capture()
        self._loop()

    def _take(self, size: int, frames: Frames) -> None:
        try:
            self.card.take(size)
        except OutOfMemoryError as full:
            raise WorkerError(self._oom_text(full.asked, full.used, full.free, frames)) from None
        self.reserved += size

    def _oom_text(self, asked: int, used: int, free: int, frames: Frames) -> str:
        return errors.out_of_memory(gpu=self.rank, asked=asked, used=used, free=free, frames=frames)

    def _forced_oom(self, frames: Frames) -> NoReturn:
        usage = self.card.usage()
        free = min(usage.free, 311 * MIB)
        raise WorkerError(self._oom_text(free + 201 * MIB, usage.total - free, free, frames))

    def _greet(self) -> None:
        say(
            "/usr/local/lib/python3.10/dist-packages/paddle/utils/cpp_extension/extension_utils.py:715:"
            " UserWarning: No ccache found. Please be aware that recompiling all source files may be"
            " required. You can download and install ccache from:"
            " https://github.com/ccache/ccache/blob/master/doc/INSTALL.md\n  warnings.warn(warning_message)"
        )
        say(
            "None of PyTorch, TensorFlow >= 2.0, or Flax have been found. Models won't be available and"
            " only tokenizers, configuration and file/data utilities can be used."
        )
        say(
            "Found PROMETHEUS_MULTIPROC_DIR:"
            + os.environ.get("PROMETHEUS_MULTIPROC_DIR", "/tmp/prom_main")  # noqa: S108
            + " was set by user. you will find inaccurate metrics. Unset the variable will properly handle"
            " cleanup."
        )
        say("======================= Modified FLAGS detected =======================")
        say("FLAGS(name='FLAGS_max_partition_size', current_value=1024, default_value=1024)")
        say(f"FLAGS(name='FLAGS_selected_gpus', current_value='{self.device}', default_value='')")
        say("=======================================================================")
        say(f"[{stamp()}] [    INFO] distributed_strategy.py:335 - distributed strategy initialized")

    def _init_device(self) -> None:
        if self.settings.fault("cuda-mismatch"):
            self._mismatch()
        try:
            self.card = Card(self.settings.gpus, int(self.device), self.rank)
        except (NoSuchGpuError, ValueError):
            error = (
                "OSError: (External) CUDA error(101), invalid device ordinal. \n  [Hint:"
                " 'cudaErrorInvalidDevice'. This indicates that the device ordinal supplied by the user"
                " does not correspond to a valid CUDA device or that the action requested is invalid for"
                " the specified device. ] (at /paddle/paddle/phi/backends/gpu/cuda/cuda_info.cc:216)\n"
            )
            raise WorkerError(errors.worker_traceback(error)) from None
        say(
            glog(
                f"gpu_resources.cc:114] Please NOTE: device: {self.rank}, GPU Compute Capability: 8.0, "
                "Driver API Version: 12.6, Runtime API Version: 12.6"
            )
        )
        total = self.card.usage().total
        self.hidden = draw_hidden(self.settings.seed, total)
        if self.hidden.neighbour:
            self.card.leak("neighbour", self.hidden.neighbour)
        self._take(self.hidden.context, ((errors.WORKER, 1187, "run_worker_proc", "worker_proc.init_device()"),))
        self.shape = read_shape(self.args.model)
        try:
            self.demand = demand(
                self.shape,
                quantization=self.args.quantization,
                ranks=self.args.tensor_parallel_size,
                batched_tokens=self.args.max_num_batched_tokens,
                sequences=self.args.max_num_seqs,
                block_size=self.args.block_size,
                graphs=capture_sizes(self.args.max_num_seqs, self.args.graph_optimization_config),
            )
        except QuantizationError as problem:
            frame = (
                errors.WORKER,
                1178,
                "run_worker_proc",
                "fd_config = initialize_fd_config(args, ranks, local_rank)",
            )
            raise WorkerError(errors.worker_traceback(f"ValueError: {problem}", frame)) from None

    def _mismatch(self) -> NoReturn:
        fault = self.settings.fault("cuda-mismatch")
        if fault is not None and fault.params.get("kind") == "cudnn":
            say(glog("gpu_resources.cc:164] device: 0, cuDNN Version: 8.9."))
            say(
                glog(
                    "gpu_resources.cc:196] WARNING: device: 0. The installed Paddle is compiled with CUDNN"
                    " 9.5, but CUDNN version in your machine is 8.9, which may cause serious incompatible"
                    " bug. Please recompile or reinstall Paddle with compatible CUDNN version."
                )
            )
            error = (
                "OSError: (External) CUDNN error(1), CUDNN_STATUS_NOT_INITIALIZED. \n  [Hint: "
                "'CUDNN_STATUS_NOT_INITIALIZED'. The cuDNN library was not initialized properly. ] "
                "(at /paddle/paddle/phi/backends/gpu/gpu_resources.cc:321)\n"
            )
        else:
            error = (
                "OSError: (External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime"
                " version. \n  [Hint: 'cudaErrorInsufficientDriver'. This indicates that the installed"
                " NVIDIA CUDA driver is older than the CUDA runtime library. This is not a supported"
                " configuration. Users should install an updated NVIDIA display driver to allow the"
                " application to run.] (at /paddle/paddle/phi/backends/gpu/cuda/cuda_info.cc:66)\n"
            )
        raise WorkerError(errors.worker_traceback(error))

    def _load(self) -> None:
        self._find_weights()
        parts = self.hidden.shards(self.demand)
        shards = len(parts)
        for shard, part in enumerate(parts):
            bar("Loading safetensors checkpoint shards", shard, shards)
            self.wait(0.35 / shards)
            if 2 * shard >= shards:
                self._load_faults()
            self._take(part, errors.LOAD)
        bar("Loading safetensors checkpoint shards", shards, shards)
        for layer in range(self.shape.layers):
            say(f"Start load layer {layer}")
            self.wait(0.1 / self.shape.layers)
        say(f"Model loading took {self.settings.load_seconds * 0.45:.3f} seconds")
        self.signal("loaded_model_signal")[self.rank] = 1

    def _find_weights(self) -> None:
        names = [path.name for path in Path(self.args.model).iterdir()]
        if not any(name.endswith((".safetensors", ".pdparams")) for name in names):
            index = f"{self.args.model}/model.safetensors.index.json"
            error = f"FileNotFoundError: [Errno 2] No such file or directory: '{index}'"
            raise WorkerError(errors.worker_traceback(error, *errors.LOAD))

    def _load_faults(self) -> None:
        if self.settings.fault("hang-load"):
            threading.Event().wait()
        if self.settings.fault("oom-load"):
            self._forced_oom(errors.LOAD)
        if self.settings.fault("exit-zero"):
            raise WorkerError(errors.worker_traceback("RuntimeError: weight not found in state_dict !", *errors.LOAD))
        said = self.settings.fault("worker-error")
        if said and said.at is None:
            raise WorkerError(errors.spoken(said.params.get("kind", ""), errors.LOAD))

    def _size_cache(self) -> None:
        if self.args.do_profile:
            available = self._profile()
            self.blocks = self._count_blocks(available)
            self.wait(0.05)
            if self.rank == 0:
                self.signal("get_profile_block_num")[0] = self.blocks
        else:
            self.blocks = self.args.num_gpu_blocks_override
        self.record.info(
            "worker_process", f"------- num_blocks_global: {self.blocks} --------", "worker_process.py:614"
        )
        forced = self.settings.fault("hang-capture")
        if forced:
            self.wait(0.1)
            self._forced_oom(errors.KV_CACHE)
        self.record.info("gpu_model_runner", "Initializing kv cache for all layers. ", "gpu_model_runner.py:1502")
        self._take(self.blocks * self.demand.block, errors.KV_CACHE)
        kv = max(1, self.shape.kv_heads // self.args.tensor_parallel_size)
        block_shape = [self.blocks, kv, self.args.block_size, self.shape.head_dim]
        for layer in range(self.shape.layers):
            text = f"..creating kv cache for layer {layer}: {block_shape}"
            self.record.info("gpu_model_runner", text, "gpu_model_runner.py:1531")
        self.wait(0.05)
        self.signal("cache_ready_signal")[self.rank] = 1

    def _profile(self) -> int:
        began = time.monotonic()
        self._report("Before running the profile, the memory usage info is as follows:", ())
        self.wait(0.1)
        self._take(self.hidden.peak(self.demand), errors.PROFILE)
        usage = self.card.usage()
        available = kv_bytes(usage.total, usage.used, self.args.gpu_memory_utilization)
        tail = (
            f"\nAvailable KV Cache meomory: {available / GIB}",
            f"Profile time: {time.monotonic() - began}",
        )
        self._report("After running the profile, the memory usage info is as follows:", tail)
        return available

    def _report(self, title: str, tail: tuple[str, ...]) -> None:
        usage = self.card.usage()
        text = usage_report(
            title,
            total=usage.total,
            used=usage.used,
            reserved=self.reserved,
            context=self.hidden.context,
            tail=tail,
        )
        self.record.info("gpu_worker", text, "gpu_worker.py:121")

    def _count_blocks(self, available: int) -> int:
        blocks = min(available // self.demand.block, BLOCKS_CAP)
        forced = self.settings.fault("kv-too-small")
        if forced:
            blocks = min(blocks, int(forced.number("blocks", 20)))
        for text, place in blocks_report(available, self.demand.block, blocks):
            self.record.info("worker_process", text, place)
        if blocks <= 0:
            raise WorkerError(errors.no_blocks(blocks))
        return blocks

    def _capture(self) -> None:
        sizes = capture_sizes(self.args.max_num_seqs, self.args.graph_optimization_config)
        if not sizes:
            text = "Skipping CUDA graph capture. Please check GraphOptimizationConfig"
            self.record.info("gpu_model_runner", text, "gpu_model_runner.py:2088")
        try:
            self._take(self.hidden.workspace, errors.CAPTURE)
            part = self.hidden.graph(self.demand, sizes)
            for size in reversed(sizes):
                if self.settings.fault("oom-capture") and size == sizes[len(sizes) // 2]:
                    self._forced_oom(errors.CAPTURE)
                self._take(part, errors.CAPTURE)
                text = f"Warm up the model with the batch size:{size}, num tokens:1"
                self.record.info("gpu_model_runner", text, "gpu_model_runner.py:2110")
                self.wait(0.2 / len(sizes))
        except WorkerError as full:
            text = errors.capture_failed(str(full), sizes) if self.settings.modern else str(full)
            raise WorkerError(text) from None
        if sizes:
            text = f"Cuda Graph capturing took {self.settings.load_seconds * 0.2:.3f} seconds"
            self.record.info("gpu_model_runner", text, "gpu_model_runner.py:2131")

    def _loop(self) -> NoReturn:
        live, steps = self.signal("worker_healthy_live_signal"), self.signal("exist_tasks_intra_signal")
        live[self.rank] = int(time.time())
        self.signal("worker_ready_signal")[self.rank] = 1
        self.record.info("worker_process", "connect task queue address", "worker_process.py:660")
        self.ready_at = time.monotonic()
        flooded = False
        while True:
            live[self.rank] = int(time.time())
            steps[self.rank] = (steps[self.rank] + 1) & 0x7FFFFFFF
            self._serving_faults()
            flood = self.settings.fault("log-flood")
            if flood and not flooded and self._due("log-flood"):
                flooded = True
                threading.Thread(target=self._flood, daemon=True).start()
            time.sleep(0.05)

    def _due(self, name: str) -> bool:
        fault = self.settings.fault(name)
        if fault is None or int(fault.number("rank", 0)) != self.rank:
            return False
        due = time.monotonic() - self.ready_at >= (fault.at if fault.at is not None else 1.0)
        if due:
            self.settings.struck(name)
        return due

    def _serving_faults(self) -> None:
        if self._due("worker-killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._due("worker-segv"):
            say(errors.segfault(os.getpid(), int(time.time())))
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._due("oom-serving"):
            self._forced_oom(errors.SERVE)
        said = self.settings.fault("worker-error")
        if said and said.at is not None and self._due("worker-error"):
            raise WorkerError(errors.spoken(said.params.get("kind", ""), errors.SERVE))

    def _flood(self) -> None:
        fault = self.settings.fault("log-flood")
        assert fault is not None  # noqa: S101  # asked for just before
        rate, until = fault.number("rate", 20000), time.monotonic() + fault.number("seconds", 5)
        number = 0
        while time.monotonic() < until:
            lines = [
                f"[{stamp()}] [ WARNING] token_processor.py:412 - current tokens need to accumulate,"
                f" req_id: {number + n}"
                for n in range(max(1, int(rate / 20)))
            ]
            number += len(lines)
            say("\n".join(lines))
            time.sleep(0.05)


def say(text: str) -> None:
    """Write to ``workerlog.N``."""
    with contextlib.suppress(OSError):
        os.write(1, (text + "\n").encode())


def stamp() -> str:
    """Time as Paddle's Python logger writes it."""
    now = time.time()
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f",{int(now * 1000) % 1000:03d}"


def glog(text: str) -> str:
    """A warning as glog writes it: month and day, no year."""
    now = time.time()
    micros = int(now * 1e6) % 1_000_000
    return f"W{time.strftime('%m%d %H:%M:%S', time.localtime(now))}.{micros:06d} {os.getpid()} {text}"


def bar(title: str, done: int, total: int) -> None:
    """One frame of a progress bar; ends with a line break only when full."""
    filled = "█" * (done * 10 // total)
    text = (
        f"\r{title}: {done * 100 // total:3d}%|{filled:<10}| {done}/{total}"
        f" [00:{done:02d}<00:{total - done:02d},  1.02s/it]"
    )
    with contextlib.suppress(OSError):
        os.write(2, (text + ("\n" if done == total else "")).encode())


def main() -> int:
    """Run one rank."""
    settings = read_settings()
    if settings.main_pid:
        end_with(settings.main_pid, settings.orphan_seconds)
    worker = Worker(parse(sys.argv[1:]), settings)
    leave_memory(settings, worker.device)
    try:
        worker.run()
    except WorkerError as failure:
        say(str(failure).rstrip("\n"))
        return 1


if __name__ == "__main__":
    sys.exit(main())
