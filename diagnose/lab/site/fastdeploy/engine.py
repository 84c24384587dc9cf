"""The main process's engine: starts the workers, waits for them, watches them, ends them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from fastdeploy import errors, signals
from fastdeploy.checks import check_inner_port, free_port, parse_quantization
from fastdeploy.logs import Logs, log_dir
from fastdeploy.memory import least_blocks
from fastdeploy.process import alive, unlink
from fastdeploy.settings import Settings
from fastdeploy.signals import Signal

_SHARDS = re.compile(r"Loading (?:safetensors )?checkpoint shards:\s*(\d+)")
_LAYER = re.compile(r"Start load layer (\d+)")


class EngineError(Exception):
    """The engine gives up with a traceback; the text is the whole of it."""


class Engine:
    """Owns the workers and everything in shared memory."""

    def __init__(self, args: argparse.Namespace, settings: Settings, record: Logs, layers: int) -> None:
        self.args, self.settings, self.record = args, settings, record
        self.layers = layers
        self.ranks = args.tensor_parallel_size * args.data_parallel_size
        self.port = self._inner_port("engine_worker_queue_port")
        self.cache_port = self._inner_port("cache_queue_port")
        self.blocks = 0
        self.stopping = False
        self._launcher: subprocess.Popen[bytes] | None = None
        self._manager = 0
        self._sockets: list[str] = []
        self._prom = f"{settings.tmp}/prom_main_{uuid.uuid4()}"
        self._progress = {"weights": 0, "layers": 0}
        self._alive = True

    def _inner_port(self, name: str) -> int:
        given = getattr(self.args, name)
        wanted = self.args.data_parallel_size
        if given and len(given) == wanted:
            for port in given:
                check_inner_port(name, port)
            return int(given[0])
        ports = [free_port() for _ in range(wanted)]
        if given:
            text = (
                f"Parameter `{name}` expects {wanted} ports, but got {len(given)}. Ignore them and assign"
                f" new ones: {ports}"
            )
            self.record.warning("console", text, "args_utils.py:655")
        else:
            text = f"Parameter `{name}` is not specified, found available ports for possible use: {ports}"
            self.record.info("console", text, "args_utils.py:663")
        setattr(self.args, name, ports)
        return ports[0]

    def _console(self, text: str, line: int, *, error: bool = False) -> None:
        (self.record.error if error else self.record.info)("console", text, f"engine.py:{line}")

    def start(self) -> bool:
        """Load. False where a worker died, as in the original: the process then ends with 0.

        Raises:
            EngineError: A check after the profile run failed, or a worker died in it.
        """
        began = time.monotonic()
        self._open_shared()
        self._launch()
        self._console("Waiting for worker processes to be ready...", 331)
        watcher = threading.Thread(target=self._check_workers, daemon=True)
        watcher.start()
        loaded = Signal(self.settings.shm, "loaded_model_signal", self.port)
        while sum(loaded) < self.ranks:
            if not watcher.is_alive():
                return False
            time.sleep(self.settings.poll)
        self._read_blocks()
        if self.args.enable_prefix_caching:
            self._wait_for_cache()
        self.record.info("llm", f"Start zmq server, api_server_pid: {os.getpid()}", "engine.py:372")
        watcher.join()
        if not self._alive:
            self._failed_to_launch()
            return False
        self._console(f"Worker processes are launched with {time.monotonic() - began} seconds.", 390)
        self._tell_capacity()
        return True

    def _failed_to_launch(self) -> None:
        text = "Failed to launch worker processes, check log/workerlog.* for more details."
        self._console(text, 211, error=True)

    def _tell_capacity(self) -> None:
        length, size = self.args.max_model_len, self.args.block_size
        running = min(self.blocks * size // length, self.args.max_num_seqs)
        self._console(f"Detected {self.blocks} gpu blocks and 0 cpu blocks in cache (block size: {size}).", 213)
        self._console(
            f"FastDeploy will be serving {running} running requests if each sequence reaches its maximum"
            f" length: {length}",
            217,
        )

    def _open_shared(self) -> None:
        shm = self.settings.shm
        Path(self._prom).mkdir(parents=True, exist_ok=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._prom
        warn = self.record.warning
        signals.create(shm, self.port, lambda text: warn("llm", text, "ipc_signal.py:112"))
        self._start_manager()
        self.record.info("llm", "EngineWorkerQueue server started.", "engine_worker_queue.py:260")
        names = [f"router_{self.args.port}.ipc", f"{self.args.port}.socket", *self._later_sockets()]
        for name in names:
            path = f"{shm}/{name}"
            unlink(path)
            with contextlib.suppress(OSError):
                receiver = socket.socket(socket.AF_UNIX)
                receiver.bind(path)
                receiver.close()  # the file stays
            self._sockets.append(path)
        if self.settings.modern:
            Path(f"{shm}/fd_lock_gpu_cache_lock.{self.port}").touch()

    def _later_sockets(self) -> list[str]:
        names = [f"response_{self.args.port}_w{os.getpid()}.pull"] if self.settings.modern else []
        if os.environ.get("FD_USE_GET_SAVE_OUTPUT_V1", "0") == "1":
            names += [f"get_save_output_rank{rank}.socket" for rank in range(self.ranks)]
        return names

    def _start_manager(self) -> None:
        """Fork the process that holds the engine's ports: it outlives a killed main process, as there."""
        listeners = []
        for port in (self.port, self.cache_port):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("0.0.0.0", port))  # noqa: S104  # as the original's manager
            listener.listen(8)
            listeners.append(listener)
        main_pid = os.getpid()
        self._manager = os.fork()
        if self._manager == 0:
            _hold(main_pid, self.settings.orphan_seconds)
        for listener in listeners:
            listener.close()

    def _launch(self) -> None:
        folder = log_dir() / "paddle" if self.settings.modern else log_dir()
        folder.mkdir(parents=True, exist_ok=True)
        if self.settings.modern:
            _link_paddle_logs(self.ranks)
        command = f"{self._environment()} {sys.executable} -u -m paddle.distributed.launch --log_dir {folder}"
        command += self._worker_arguments() + f" 2>{log_dir()}/launch_worker.log"
        self.record.info("llm", f"Launch worker service command: {command}", "engine.py:590")
        env = {**os.environ, "FD_LAB_MAIN_PID": str(os.getpid()), "FD_LAB_START": str(self.settings.start)}
        self._launcher = subprocess.Popen(  # noqa: S602  # through a shell, as there; every value is our own
            command, shell=True, stdout=subprocess.PIPE, start_new_session=True, env=env
        )
        threading.Thread(target=self._read_progress, daemon=True).start()

    def _environment(self) -> str:
        values = {
            "ENABLE_FASTDEPLOY_LOAD_MODEL_CONCURRENCY": 0,
            "LOAD_STATE_DICT_THREAD_NUM": self.ranks,
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
            "NCCL_ALGO": "Ring",
            "FLAGS_max_partition_size": os.environ.get("FLAGS_max_partition_size", "1024"),  # noqa: SIM112  # Paddle's name
            "OMP_NUM_THREADS": 3,
        }
        return " ".join(f"{name}={value}" for name, value in values.items())

    def _devices(self) -> str:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
        devices = visible.split(",") if visible else [str(n) for n in range(self.ranks)]
        if len(devices) < self.ranks:
            text = (
                "Failed to extract local devices or ports. Servers may not be able to start properly. "
                "list index out of range"
            )
            self.record.error("config", text, "config.py:2011")
            devices += [str(99 + n) for n in range(self.ranks - len(devices))]
        return ",".join(devices[: self.ranks])

    def _worker_arguments(self) -> str:
        args, devices = self.args, self._devices()
        quantization = json.dumps(parse_quantization(args.quantization))
        pairs = {
            "max_num_seqs": args.max_num_seqs,
            "max_model_len": args.max_model_len,
            "gpu_memory_utilization": args.gpu_memory_utilization,
            "model": args.model,
            "device_ids": devices,
            "tensor_parallel_size": args.tensor_parallel_size,
            "engine_worker_queue_port": self.port,
            "pod_ip": "0.0.0.0",  # noqa: S104  # as printed there
            "block_size": args.block_size,
            "enc_dec_block_num": 2,
            "eos_tokens_lens": 1,
            "pad_token_id": 0,
            "engine_pid": self.port,
            "max_num_batched_tokens": args.max_num_batched_tokens,
            "splitwise_role": args.splitwise_role,
            "kv_cache_ratio": args.kv_cache_ratio,
            "quantization": f"'{quantization}'",
            "ori_vocab_size": 103424,
            "graph_optimization_config": f"'{json.dumps(args.graph_optimization_config)}'",
            "guided_decoding_backend": args.guided_decoding_backend,
            "load_strategy": args.load_strategy,
            "load_choices": args.load_choices,
            "ips": "None",
        }
        text = f" --devices {devices} {errors.WORKER}" + "".join(f" --{name} {value}" for name, value in pairs.items())
        if args.enable_prefix_caching:
            text += " --enable_prefix_caching"
        if args.num_gpu_blocks_override:
            return f"{text} --num_gpu_blocks_override {args.num_gpu_blocks_override}"
        return f"{text} --do_profile"

    def _read_progress(self) -> None:
        assert self._launcher is not None  # noqa: S101  # just started
        assert self._launcher.stdout is not None  # noqa: S101  # asked for
        for raw in self._launcher.stdout:
            line = raw.decode("utf-8", "ignore")
            for shards in _SHARDS.findall(line):
                self._progress["weights"] = int(shards)
            layer = _LAYER.search(line)
            if layer:
                self._progress["layers"] = (int(layer[1]) + 1) * 100 // self.layers

    def _workers_ready(self) -> bool:
        return sum(Signal(self.settings.shm, "worker_ready_signal", self.port)) >= self.ranks

    def _check_workers(self) -> None:
        """Draw the two bars until all workers are ready; notice a launcher that ended."""
        for title, key in (("Loading Weights", "weights"), ("Loading Layers", "layers")):
            done = -1
            while done < 100:
                now = 100 if self._workers_ready() else self._progress[key]
                if key == "layers":
                    now = min(now, 99) if not self._workers_ready() else 100
                elif self._progress["layers"] > 0:
                    now = 100
                if now != done:
                    _bar(title, now)
                done = now
                if self._dead():
                    self._alive = False
                    sys.stderr.write("\n")
                    self._failed_to_launch()
                    return
                time.sleep(self.settings.poll / 2)

    def _dead(self) -> bool:
        return self._launcher is None or self._launcher.poll() is not None

    def _read_blocks(self) -> None:
        args = self.args
        if args.num_gpu_blocks_override:
            self.blocks = args.num_gpu_blocks_override
        else:
            self._wait_for_profile()
        need = least_blocks(args.max_model_len, args.block_size)
        if self.blocks < need:
            raise EngineError(errors.few_blocks(self.blocks, need, override=bool(args.num_gpu_blocks_override)))
        reset = f"Reset block num, the total_block_num:{self.blocks}, prefill_kvcache_block_num:{self.blocks}"
        self.record.info("config", reset, "config.py:1441")

    def _wait_for_profile(self) -> None:
        args = self.args
        first = least_blocks(args.max_model_len, args.block_size) * args.max_num_seqs
        self.record.info("config", f"Doing profile, the total_block_num:{first}", "config.py:1422")
        signal_ = Signal(self.settings.shm, "get_profile_block_num", self.port)
        while signal_[0] == 0:
            if self._dead():
                text = "RuntimeError: Worker process failed to start.Please check log/workerlog.* for details."
                frame = ("engine/engine.py", 698, "_stop_profile", "raise RuntimeError(")
                raise EngineError(errors.main_traceback(text, frame))
            time.sleep(self.settings.poll)
        self.blocks = signal_[0]

    def _wait_for_cache(self) -> None:
        """Wait for the workers' caches, for ever if need be: nobody looks whether they live."""
        text = "PrefixCacheManager is waiting for kv cache to be initialized."
        self.record.info("cache_manager", text, "prefix_cache_manager.py:255")
        ready = Signal(self.settings.shm, "cache_ready_signal", self.port)
        while sum(ready) < self.ranks:
            time.sleep(self.settings.poll)

    def watch_workers(self) -> None:
        """From 2.6 on: look every few seconds whether the launcher lives, else end by SIGINT."""
        while not self.stopping:
            time.sleep(self.settings.monitor_seconds)
            if self._dead() and not self.stopping:
                assert self._launcher is not None  # noqa: S101  # it was started
                code = self._launcher.returncode
                text = f"Worker process has died in the background (code={code}). API server is forced to stop."
                self._console(text, 830, error=True)
                os.kill(os.getpid(), signal.SIGINT)
                return

    def healthy(self) -> bool:
        """Whether every rank's heart beat within ``FD_WORKER_ALIVE_TIMEOUT``."""
        limit = float(os.environ.get("FD_WORKER_ALIVE_TIMEOUT", "30"))
        with contextlib.suppress(OSError):
            beats = [beat for beat in Signal(self.settings.shm, "worker_healthy_live_signal", self.port) if beat]
            return not beats or time.time() - min(beats) <= limit
        return False

    def steps(self) -> int:
        """A number that grows while all ranks work; -1 where shared memory is gone."""
        with contextlib.suppress(OSError):
            values = list(Signal(self.settings.shm, "exist_tasks_intra_signal", self.port))
            return min(values[: self.ranks])
        return -1

    def close(self) -> None:
        """End the workers and take everything out of shared memory, in the original's order."""
        if self.stopping:
            return
        self.stopping = True
        self.record.info("llm", "Engine shut down, exiting sub services...", "engine.py:455")
        if self._launcher is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._launcher.pid, signal.SIGTERM)
        signals.remove(self.settings.shm, self.port)
        for path in self._sockets:
            unlink(path)
        if self._manager:
            with contextlib.suppress(OSError):
                os.kill(self._manager, signal.SIGTERM)
        shutil.rmtree(self._prom, ignore_errors=True)


def _link_paddle_logs(ranks: int) -> None:
    for name in (*(f"workerlog.{rank}" for rank in range(ranks)), "backup_env.0.json"):
        link = log_dir() / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to(Path("paddle") / name)


def _bar(title: str, done: int) -> None:
    filled = "█" * (done // 10)
    end = "\n" if done == 100 else ""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"\r{title}: {done:3d}%|{filled:<10}| {done}/100 [00:{done % 60:02d}<00:00, 10.2it/s]{end}")
        sys.stderr.flush()


def _hold(main_pid: int, orphan_seconds: float) -> None:
    """Hold the ports, as the manager process, until told to end or the main process is long gone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gone = 0.0
    tick = min(1.0, orphan_seconds / 4)
    while gone < orphan_seconds:
        time.sleep(tick)
        gone = 0.0 if alive(main_pid) else gone + tick
    os._exit(0)
