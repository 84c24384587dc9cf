"""The texts of failures, as Python and Paddle print them."""

from __future__ import annotations

from pathlib import Path

_SITE = Path(__file__).resolve().parent
_RULE = "-" * 38
WORKER = str(_SITE / "worker" / "worker_process.py")


def size_text(size: int) -> str:
    """Write a size as Paddle does: ``716.750000MB``."""
    value = float(size)
    for unit in ("B", "KB", "MB"):
        if value < 1024:
            return f"{value:.6f}{unit}"
        value /= 1024
    return f"{value:.6f}GB"


def traceback_text(frames: list[tuple[str, int, str, str]], error: str) -> str:
    """Write a Python traceback: frames are (file, line, function, source); error is ``Type: text``."""
    lines = ["Traceback (most recent call last):"]
    for file, line, function, source in frames:
        path = file if file.startswith(("/", "<")) else str(_SITE / file)
        lines.append(f'  File "{path}", line {line}, in {function}')
        if source:
            lines.append(f"    {source}")
    return "\n".join([*lines, error]) + "\n"


def main_traceback(error: str, *inner: tuple[str, int, str, str]) -> str:
    """A traceback of the main process, as ``python -m`` prints it."""
    start = [
        ("<frozen runpy>", 198, "_run_module_as_main", ""),
        ("<frozen runpy>", 88, "_run_code", ""),
        ("entrypoints/openai/api_server.py", 571, "<module>", "main()"),
    ]
    return traceback_text([*start, *inner], error)


def worker_traceback(error: str, *inner: tuple[str, int, str, str]) -> str:
    """A traceback of a worker."""
    start = [
        (WORKER, 1212, "<module>", "run_worker_proc()"),
        (WORKER, 1187, "run_worker_proc", "worker_proc.init_device()"),
    ]
    return traceback_text([*start[: 1 if inner else 2], *inner], error)


LOAD = (
    (WORKER, 1190, "run_worker_proc", "worker_proc.load_model()"),
    (WORKER, 655, "load_model", "self.worker.load_model()"),
    ("worker/gpu_worker.py", 188, "load_model", "self.model_runner.load_model()"),
    (
        "worker/gpu_model_runner.py",
        1342,
        "load_model",
        "self.model = model_loader.load_model(fd_config=self.fd_config)",
    ),
)
PROFILE = (
    (WORKER, 1194, "run_worker_proc", "worker_proc.initialize_kv_cache()"),
    (
        WORKER,
        574,
        "initialize_kv_cache",
        "available_kv_cache_memory = self.worker.determine_available_memory()",
    ),
    ("worker/gpu_worker.py", 130, "determine_available_memory", "self.model_runner.profile_run()"),
)
KV_CACHE = (
    (WORKER, 1194, "run_worker_proc", "worker_proc.initialize_kv_cache()"),
    (WORKER, 619, "initialize_kv_cache", "self.worker.initialize_cache(num_gpu_blocks=num_blocks_local)"),
)
NO_BLOCKS = (
    (WORKER, 1194, "run_worker_proc", "worker_proc.initialize_kv_cache()"),
    (WORKER, 590, "initialize_kv_cache", "raise ValueError("),
)
CAPTURE = (
    (WORKER, 1197, "run_worker_proc", "worker_proc.graph_optimize_and_warm_up_model()"),
    ("worker/gpu_worker.py", 233, "graph_optimize_and_warm_up_model", "self.model_runner.capture_model()"),
    ("worker/gpu_model_runner.py", 2105, "capture_model", "self._dummy_run("),
)
SERVE = (
    (WORKER, 1203, "run_worker_proc", "worker_proc.event_loop_normal()"),
    (WORKER, 541, "event_loop_normal", "self.worker.execute_model(req_dicts, max_occupied_batch_index)"),
    (
        "worker/gpu_worker.py",
        210,
        "execute_model",
        "output = self.model_runner.execute_model(model_forward_batch)",
    ),
)


def out_of_memory(*, gpu: int, asked: int, used: int, free: int, frames: tuple[tuple[str, int, str, str], ...]) -> str:
    """Paddle's block for a failed allocation."""
    summary = (
        "ResourceExhaustedError: \n\n"
        f"Out of memory error on GPU {gpu}. Cannot allocate {size_text(asked)} memory on GPU {gpu}, "
        f"{size_text(used)} memory has been allocated and available memory is only {size_text(free)}.\n\n"
        f"Please check whether there is any other process using GPU {gpu}.\n"
        "1. If yes, please stop them, or start PaddlePaddle on another GPU.\n"
        "2. If no, please decrease the batch size of your model. \n"
    )
    where = " (at /paddle/paddle/phi/core/memory/allocation/cuda_allocator.cc:84)\n"
    stack = (
        "0   paddle::memory::allocation::AllocatorFacade::Alloc(phi::Place const&, unsigned long)\n"
        "1   paddle::memory::allocation::CUDAAllocator::AllocateImpl(unsigned long)\n"
        "2   common::enforce::GetCurrentTraceBackString[abi:cxx11](bool)\n"
    )
    head = f"\n{_RULE}\nC++ Traceback (most recent call last):\n{_RULE}\n{stack}\n"
    title = "----------------------\nError Message Summary:\n----------------------\n"
    return traceback_text([(WORKER, 1212, "<module>", "run_worker_proc()"), *frames], "MemoryError: ") + (
        head + title + summary + where
    )


def no_blocks(blocks: int) -> str:
    """A worker's traceback where nothing is left for the KV cache."""
    error = (
        f"ValueError: The total number of blocks cannot be less than zero bug got {blocks}. Please"
        " increase gpu_memory_utilization Or decrease max_num_batched_tokens(max model length)."
    )
    return worker_traceback(error, *NO_BLOCKS)


def few_blocks(blocks: int, need: int, *, override: bool) -> str:
    """The main process's traceback where the KV cache cannot hold one sequence."""
    name = "prefill_kvcache_block_num" if override else "current device block num"
    cure = "increase num_gpu_blocks_override" if override else "replace the machine with larger GPU cards"
    text = f"{name}: {blocks} should be larger than or equal to {need}, please reduce the max_model_len or {cure}"
    frames = (
        ("entrypoints/openai/api_server.py", 112, "load_engine", "if not engine.start(api_server_pid=os.getpid()):"),
        ("engine/engine.py", 355, "start", "self._stop_profile()"),
        ("engine/engine.py", 702, "_stop_profile", "self.cfg.cache_config.reset(num_gpu_blocks)"),
        ("config.py", 1444, "reset", "assert ("),
    )
    return main_traceback(f"AssertionError: {text}", *frames)


def capture_failed(full: str, sizes: tuple[int, ...]) -> str:
    """What the modern worker adds to a failed allocation while it captures."""
    error = (
        "RuntimeError: CUDA out of memory occurred when warming up CUDAGraph with the capture sizes"
        f" {list(sizes)}. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when"
        " initializing the engine."
    )
    more = "\nThe above exception was the direct cause of the following exception:\n\n"
    return full + more + worker_traceback(error, *CAPTURE[:2])


def segfault(pid: int, unix: int) -> str:
    """What Paddle's signal handler prints."""
    return (
        f"\n\n{_RULE}\nC++ Traceback (most recent call last):\n{_RULE}\n"
        "No stack trace in paddle, may be caused by external reasons.\n\n"
        "----------------------\nError Message Summary:\n----------------------\n"
        "FatalError: `Segmentation fault` is detected by the operating system.\n"
        f'  [TimeInfo: *** Aborted at {unix} (unix time) try "date -d @{unix}" if you are using GNU date'
        " ***]\n"
        f"  [SignalInfo: *** SIGSEGV (@0x0) received by PID {pid} (TID 0x7f{unix:x}) from PID 0 ***]\n\n"
    )


_CUDA = "(at /paddle/paddle/phi/backends/gpu/cuda/cuda_info.cc:{line})"
SPOKEN = {
    "bug": "TypeError: unsupported operand type(s) for +: 'NoneType' and 'int'",
    "disk": "OSError: [Errno 28] No space left on device",
    "host-memory": "MemoryError: Unable to allocate 3.05 GiB for an array with shape (51712, 8, 3840)",
    "illegal-access": (
        "OSError: (External) CUDA error(700), an illegal memory access was encountered. \n  [Hint:"
        " 'cudaErrorIllegalAddress'. The device encountered a load or store instruction on an invalid memory address."
        f" ] {_CUDA.format(line=267)}"
    ),
    "library": "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
    "nccl": (
        "OSError: (External) NCCL error(2), unhandled system error. \n  [Hint: 'ncclSystemError'. System call (e.g."
        " socket, malloc) or external library call failed and device error. ] (at"
        " /paddle/paddle/phi/core/distributed/nccl_comm_context.cc:61)"
    ),
    "no-kernel": (
        "OSError: (External) CUDA error(209), no kernel image is available for execution on the device. \n  [Hint:"
        " 'cudaErrorNoKernelImageForDevice'. This indicates that there is no kernel image available that is suitable"
        f" for the device. ] {_CUDA.format(line=274)}"
    ),
    "shm": "OSError: [Errno 28] No space left on device: '/dev/shm/paddle_4711_0'",
}
"""Last words of a worker: the fault ``worker-error``, one line a kind."""


def spoken(kind: str, frames: tuple[tuple[str, int, str, str], ...]) -> str:
    """A worker's traceback that ends in the words of one kind; ``silent`` has none."""
    return worker_traceback(SPOKEN[kind], *frames) if kind in SPOKEN else ""
