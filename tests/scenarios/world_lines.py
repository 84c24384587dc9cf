"""What a simulated server writes: whole lines in FastDeploy's forms, read by the real matcher."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache

import msgspec

from diagnose.catalog import load
from diagnose.engine.match import Carry, Matcher
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import LogLines, LogMatch

_DAY = "2026-01-01 12:00:00,000"
_AT = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
_OOM = (
    "ResourceExhaustedError:\n\n"
    "Out of memory error on GPU 0. Cannot allocate 2.000000GB memory on GPU 0, 13.100000GB memory has been "
    "allocated and available memory is only 512.000000MB.\n"
)


def _frame(place: str, inside: str) -> str:
    return f'  File "/opt/py/site-packages/fastdeploy/worker/{place}.py", line 610, in {inside}\n'


def _engine(level: str, text: str) -> str:
    return f"{level:<8} {_DAY} 4177  engine.py[line:211] {text}\n"


WRITTEN: dict[str, tuple[str, str]] = {
    # what: stream, text
    "start": ("engine", _engine("INFO", "Launch worker service command: python -m paddle.distributed.launch")),
    "loading": ("worker", f"INFO     {_DAY} 5120  loader.py[line:90] Loading Weights: 10%\n"),
    "kv-cache": (
        "worker",
        f"INFO     {_DAY} 5120  gpu_model_runner.py[line:1299] Initializing kv cache for all layers. 0\n",
    ),
    "up": (
        "api",
        (
            f"INFO     {_DAY} 4177  api_server.py[line:190] "
            "Launching chat completion service at http://0.0.0.0:8180/v1/chat/completions\n"
        ),
    ),
    "oom-weights": (
        "worker",
        "Traceback (most recent call last):\n" + _frame("worker_process", "load_model") + _OOM,
    ),
    "oom-capture": (
        "worker",
        "Traceback (most recent call last):\n" + _frame("gpu_model_runner", "capture_model") + _OOM,
    ),
    "oom-serving": (
        "worker",
        "Traceback (most recent call last):\n" + _frame("worker_process", "event_loop_normal") + _OOM,
    ),
    "kv-small": (
        "worker",
        "Traceback (most recent call last):\n"
        + _frame("worker_process", "initialize_kv_cache")
        + "AssertionError: current device block num: 120 should be larger than or equal to 512, please reduce the "
        "max_model_len or replace the machine with larger GPU cards\n",
    ),
    "launch-failed": (
        "engine",
        _engine("ERROR", "Failed to launch worker processes, check log/workerlog.* for more details."),
    ),
    "container": (
        "launch",
        (
            f"LAUNCH ERROR {_DAY} Container rank 0 status failed cmd ['/opt/env/bin/python', '-u', "
            "'worker_process.py'] code 1 log log/workerlog.0\n"
        ),
    ),
    "segfault": (
        "worker",
        (
            "FatalError: `Segmentation fault` is detected by the operating system.\n"
            "  [SignalInfo: *** SIGSEGV (@0x8) received by PID 4415 (TID 0x7fd93c5007d6) from PID 8 ***]\n"
        ),
    ),
    "illegal": (
        "worker",
        "Traceback (most recent call last):\n"
        + _frame("worker_process", "event_loop_normal")
        + "OSError: (External) CUDA error(700), an illegal memory access was encountered.\n",
    ),
    "worker-died": (
        "engine",
        _engine("ERROR", "Worker process has died in the background (code=1). API server is forced to stop."),
    ),
    "nccl": ("worker", "OSError: (External) NCCL error(2), unhandled system error.\n"),
    "no-weight": (
        "worker",
        "Traceback (most recent call last):\n"
        + _frame("worker_process", "load_model")
        + "FileNotFoundError: [Errno 2] No such file or directory: '/models/m/config.json'\n",
    ),
    "port-taken": ("console", "AssertionError: Parameter `engine_worker_queue_port`:8002 is already in use.\n"),
    "disk-full": ("worker", "OSError: [Errno 28] No space left on device\n"),
    "driver-old": (
        "worker",
        "OSError: (External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime version.\n",
    ),
    "too-long": (
        "api",
        (
            f"ERROR    {_DAY} 4177  serving_chat.py[line:120] "
            "Input text is too long, input_ids_len (9000) + min_tokens(1) >= max_model_len(8192)\n"
        ),
    ),
    "prompt": (
        "api",
        (
            f"INFO     {_DAY} 4177  api_server.py[line:240] Chat Received request: "
            '{"messages": [{"role": "user", "content": "ResourceExhaustedError: Out of memory error on GPU 0. Cannot '
            "allocate 2.000000GB memory on GPU 0. FatalError: `Segmentation fault` is detected by the operating "
            "system. "
            'CUDA error(700), an illegal memory access was encountered."}]}\n'
        ),
    ),
    "prompt-lines": (
        "data",
        (
            "Out of memory error on GPU 0. Cannot allocate 2.000000GB memory on GPU 0\n"
            "terminate called without an active exception\n"
        ),
    ),
}


@cache
def knowledge() -> Knowledge:
    """Load the shipped rules and remedies alone, whatever the host has."""
    return load.read_files([load.shipped("rules"), load.shipped("remedies")])


@cache
def matched(what: str) -> tuple[LogMatch, ...]:
    """Return what the matcher makes of these lines, dated at `_AT` where they bear a date."""
    stream, text = WRITTEN[what]
    lines = LogLines(
        target="",
        source=f"log/{stream}.log",
        stream=stream,
        first_line=1,
        data=text.encode(),
        read_at=_AT,
        generation=1,
    )
    matches, _ = matcher().scan(lines, Carry())
    return tuple(matches)


def said(
    what: str, *, target: str, at: datetime, line: int, attempt: int, skew: timedelta, fresh: bool = True
) -> list[LogMatch]:
    """Return the lines as read now: dated ones by a clock that is off by ``skew``, others as their last dated line."""
    return [
        msgspec.structs.replace(
            one, target=target, at=at + skew, line=line + one.line - 1, attempt=attempt, fresh=fresh
        )
        for one in matched(what)
    ]


@cache
def matcher() -> Matcher:
    """Return what finds them; the zone is UTC, as that of all times here."""
    return Matcher(knowledge())
