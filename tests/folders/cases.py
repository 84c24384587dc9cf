"""Which folders there are: what is done to the server, and what a good diagnosis says of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.folders.maker import GIB, Host, age, pad, split_at_midnight

Make = Callable[[Host], Any]
LARGE_BATCH = ("--max-num-batched-tokens", "65536", "--max-model-len", "32768")


@dataclass(frozen=True)
class Case:
    """One folder.

    Attributes:
        cause: Of the first incident; empty for a healthy one.
        proof: Words of the decisive line, the first evidence.
        file: Where that line stands.
        attempt: Which start it is of.
        history: Causes told of older starts.
    """

    name: str
    era: str
    make: Make
    cause: str = ""
    proof: str = ""
    file: str = ""
    attempt: int = 1
    history: tuple[str, ...] = ()
    host: Mapping[str, Any] = field(default_factory=dict)


def _both(name: str, make: Make, *rest: Any, eras: str = "2.4 2.6", **more: Any) -> list[Case]:
    return [Case(f"{name}-{era}", era, make, *rest, **more) for era in eras.split()]


def _fails(*flags: str, faults: str = "", padded: str = "") -> Make:
    """A start that fails, with much ordinary log between cause and last symptom."""

    def make(host: Host) -> None:
        host.start(*flags, faults=faults).ended()
        file = next((path for path in host.logs.rglob("*.log*") if padded and padded in _text(path)), None)
        if file is not None:
            pad(file, padded, host.era)

    return make


def _text(path: Any) -> str:
    return path.read_text(errors="replace") if path.is_file() and not path.is_symlink() else ""


SERVICE_EXIT = "service exit now!"
"""The last symptom of a failed start, in the main log."""


def _dies(fault: str, words: str, *, after: int = 0) -> Make:
    """A server under traffic whose worker dies; requests and health checks follow, and the operator's stop."""

    def make(host: Host) -> None:
        host.start(faults=f"{fault}@1.2", FD_WORKER_ALIVE_TIMEOUT="1").ready().traffic()
        host.says("launch_worker.log", words)
        if host.era == "2.4":  # nobody watches the workers there
            host.wait(lambda: host.get("/health") == 404)
            host.chat("are you there?", 0.3)
        else:
            host.ended()
        host.stop()
        _pad_last(host, after)

    return make


def _pad_last(host: Host, count: int) -> None:
    """Ordinary lines before the last line of the main log."""
    if count:
        file = max(host.logs.rglob("fastdeploy.log.*"))
        last = [line for line in file.read_text(errors="replace").split("\n") if line][-1]
        pad(file, last, host.era, count)


def _hang_in_capture(host: Host) -> None:
    host.start(faults="hang-capture").says("launch_worker.log", "Container failed").stop()
    _pad_last(host, 5000)


def _hangs(host: Host) -> None:
    """Loading stands still; half an hour later somebody gives up."""
    host.start(faults="hang-load").says("workerlog.0", "50%")
    age(host.logs, timedelta(minutes=30))
    host.stop()


def _stalls(host: Host) -> None:
    """No token any more, while health is 200 and requests come in; half an hour and more."""
    host.start(faults="stall@0.8").ready().traffic()
    host.wait(lambda: host.chat("anyone?", 0.3) is None)
    for number in range(3):
        host.chat(f"anyone? {number}", 0.3)
        age(host.logs, timedelta(minutes=15))
    assert host.get("/health") == 200
    host.stop()


def _loops(host: Host) -> None:
    host.start(faults="repetition", FD_LOG_REQUESTS_LEVEL="2").ready().many(2)
    for number in range(3):
        host.chat(f"{number} word " * 150, 10, max_tokens=400)
    host.stop()


def _overload(host: Host) -> None:
    host.start(faults="overload").ready().many(6)
    host.many(24, seconds=2.5, max_tokens=6).stop()


def _preempted_without_end(host: Host) -> None:
    """Far too few blocks for the load: requests push one another out again and again."""
    host.start("--num-gpu-blocks-override", "36", "--max-model-len", "2048").ready()
    for _ in range(3):
        host.many(8, text="word " * 150, max_tokens=500, seconds=10, ignore_eos=True)
    host.stop()
    assert host.text("fastdeploy.log.*").count("Preemption is triggered!") >= 10


def _intake(host: Host) -> None:
    host.start(faults="intake-dead@0.8").ready().traffic()
    host.wait(lambda: host.chat("anyone?", 0.3) is None)
    assert host.get("/health") == 200
    host.stop()


def _port(host: Host) -> None:
    host.start(faults="port-taken:seconds=3").ended()


def _second_fails(host: Host) -> None:
    """It served, was stopped, and does not come up with other settings; all in the same files."""
    host.start().ready().traffic().stop()
    time.sleep(1.1)  # stamps of one era have no parts of a second
    host.start("--gpu-memory-utilization", "0.3").ended()


def _three_fail_alike(host: Host) -> None:
    for _ in range(3):
        host.start("--quantization", "INT4").ended()
        time.sleep(1.1)


def _flood(host: Host) -> None:
    """A rank writes thousands of lines, then another fault ends it."""
    host.start(
        faults="log-flood@0:rate=6000;seconds=0.8,oom-serving@1.5", FD_WORKER_ALIVE_TIMEOUT="1"
    ).ready().traffic()
    host.says("launch_worker.log", "Container failed").stop()


FAILING: tuple[Case, ...] = tuple(
    case
    for cases in (
        _both(
            "oom-weights",
            _fails(padded=SERVICE_EXIT),
            "gpu_oom_load",
            "Out of memory error on GPU 0.",
            "workerlog.0",
            host={"gpu_bytes": GIB // 2},
        ),
        _both(
            "oom-load-fault", _fails(faults="oom-load"), "gpu_oom_load", "Out of memory error on GPU 0.", "workerlog.0"
        ),
        _both("oom-profile", _fails(*LARGE_BATCH), "gpu_oom_load", "Out of memory error on GPU 0.", "workerlog.0"),
        _both(
            "oom-capture",
            _fails(faults="oom-capture", padded=SERVICE_EXIT),
            "gpu_oom_load",
            "Out of memory",
            "workerlog.0",
        ),
        _both("oom-kv", _hang_in_capture, "gpu_oom_load", "Out of memory error on GPU 0.", "workerlog.0"),
        _both(
            "kv-negative",
            _fails("--gpu-memory-utilization", "0.3"),
            "kv_cache_insufficient",
            "cannot be less than zero bug got -",
            "workerlog.0",
        ),
        _both(
            "kv-few",
            _fails("--max-model-len", "131072"),
            "kv_cache_insufficient",
            "current device block num: ",
            "console.log",
            host={"gpu_bytes": 3 * GIB},
        ),
        _both(
            "kv-none",
            _fails(faults="kv-too-small:blocks=0"),
            "kv_cache_insufficient",
            "cannot be less than zero bug got 0",
            "workerlog.0",
        ),
        _both(
            "exit-zero", _fails(faults="exit-zero"), "model_not_found", "weight not found in state_dict", "workerlog.0"
        ),
        _both("port", _port, "port_in_use", "is already in use", "console.log"),
        _both(
            "no-model", _fails(faults="model-missing"), "model_not_found", "is not exist. Please check", "console.log"
        ),
        _both("driver", _fails(faults="cuda-mismatch"), "driver_too_old", "CUDA error(35)", "workerlog.0"),
        _both(
            "cudnn",
            _fails(faults="cuda-mismatch:kind=cudnn"),
            "cuda_version_mismatch",
            "CUDNN version in your machine is 8.9",
            "workerlog.0",
        ),
        _both(
            "quantization",
            _fails("--quantization", "INT4", padded=SERVICE_EXIT),
            "quantization_unsupported",
            "Invalid quantization method: INT4",
            "workerlog.0",
        ),
        _both("quantize", _fails("--quantize", "INT4"), "invalid_argument", "--quantize INT4", "console.log"),
        _both("underscore", _fails("--max_model_len", "4096"), "invalid_argument", "--max_model_len", "console.log"),
        _both(
            "many-seqs", _fails("--max-num-seqs", "300"), "invalid_argument", "not allowed to exceed 256", "console.log"
        ),
        _both(
            "small-batch",
            _fails("--max-num-batched-tokens", "100", "--max-num-seqs", "128"),
            "invalid_argument",
            "max_num_batched_tokens: 100 should be larger",
            "console.log",
        ),
        _both("killed", _dies("worker-killed", "code -9", after=5000), "host_oom", "code -9 log", "launch_worker.log"),
        _both(
            "segfault",
            _dies("worker-segv", "code -11", after=5000),
            "worker_crash",
            "`Segmentation fault` is detected",
            "workerlog.0",
        ),
        _both(
            "oom-serving",
            _dies("oom-serving", "Container failed", after=5000),
            "gpu_oom_runtime",
            "Out of memory error on GPU 0.",
            "workerlog.0",
        ),
        _both("flood", _flood, "gpu_oom_runtime", "Out of memory error on GPU 0.", "workerlog.0"),
        _both("overload", _overload, "overload_503", "Reach max request concurrency", ""),
        _both(
            "preempted",
            _preempted_without_end,
            "kv_cache_insufficient",
            "Preemption is triggered! Preempted request id",
            "fastdeploy.log",
        ),
        _both("hang", _hangs, "hang_on_load", "", ""),
        _both("stall", _stalls, "engine_stall", "anyone?", ""),
        _both("repetition", _loops, "repetition", "response: {", ""),
        _both("intake", _intake, "engine_stall", "Engine stops inserting zmq task", ""),
        _both(
            "second-start",
            _second_fails,
            "kv_cache_insufficient",
            "cannot be less than zero bug got -",
            "workerlog.0",
            2,
        ),
        _both(
            "three-starts",
            _three_fail_alike,
            "quantization_unsupported",
            "Invalid quantization method: INT4",
            "workerlog.0",
            3,
            ("quantization_unsupported", "quantization_unsupported"),
        ),
    )
    for case in cases
)


# --- healthy


def _normal(host: Host) -> None:
    host.start().ready().many(12, text="write a poem", max_tokens=40).stop()


def _wrong_requests(host: Host) -> None:
    host.start("--served-model-name", "ernie").ready().wrong()
    host.chat("x", model="gpt-4o")
    host.many(6).wrong().stop()


def _preempting(host: Host) -> None:
    """Few blocks for many: some requests are put back and end well."""
    host.start("--num-gpu-blocks-override", "40", "--max-model-len", "2048").ready()
    host.many(6, text="word " * 100, max_tokens=450, ignore_eos=True).stop()
    assert 1 <= host.text("fastdeploy.log.*").count("Preemption is triggered!") < 10


def _restarted(host: Host) -> None:
    for _ in range(2):
        host.start().ready().many(4).stop()
        time.sleep(1.1)


def _failed_long_ago(host: Host) -> None:
    host.start("--quantization", "INT4").ended()
    age(host.logs, timedelta(days=3))
    host.start().ready().many(4).stop()


def _crashed_before(host: Host) -> None:
    """The worker crashed; started again at once, as a supervisor does, and well since."""
    host.start(faults="worker-segv@0.5").ready().many(3)
    host.says("launch_worker.log", "code -11").stop()
    age(host.logs, timedelta(seconds=30))
    host.start().ready().many(4).stop()


def _full_before(host: Host) -> None:
    """The card was full under load; started again at once, and well since: only the rank's own words are left."""
    host.start(faults="oom-serving@0.8").ready().many(3)
    host.says("launch_worker.log", "Container failed").stop()
    age(host.logs, timedelta(seconds=30))
    host.start().ready().many(4).stop()


def _nearly_full(host: Host) -> None:
    host.start("--gpu-memory-utilization", "0.95").ready().many(8, max_tokens=30).stop()


def _slow(host: Host) -> None:
    host.start(FD_LAB_TOKENS_PER_SECOND="12").ready().many(4, max_tokens=10).stop()


def _hostile(host: Host) -> None:
    host.start().ready().traffic().traffic().stop()


def _midnight(host: Host) -> None:
    """The day changes while it serves: the links go to the new day's files."""
    host.start().ready().many(4)
    age(host.logs, timedelta(days=1))
    host.many(4).stop()
    split_at_midnight(host.logs)


def _debug(host: Host) -> None:
    host.start(FD_DEBUG="1", FD_LOG_REQUESTS_LEVEL="3").ready().traffic().stop()


HEALTHY: tuple[Case, ...] = tuple(
    case
    for cases in (
        _both("normal", _normal),
        _both("wrong-requests", _wrong_requests),
        _both("preempting", _preempting),
        _both("restarted", _restarted),
        _both("failed-long-ago", _failed_long_ago, history=("quantization_unsupported",)),
        _both("crashed-before", _crashed_before, history=("worker_crash",)),
        _both("full-before", _full_before, history=("gpu_oom_runtime",)),
        _both("nearly-full", _nearly_full),
        _both("slow", _slow),
        _both("hostile", _hostile),
        _both("midnight", _midnight),
        _both("debug", _debug),
    )
    for case in cases
)

ALL = {case.name: case for case in (*FAILING, *HEALTHY)}
assert len(ALL) == len(FAILING) + len(HEALTHY)
