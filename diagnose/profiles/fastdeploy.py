"""FastDeploy 2.x: its log files in both eras, and the lines that tell how far a start has come.

Source: FastDeploy's logger and engine code and docs/usage/log.md; up to about 2.5 a file a logger, from
2.6 a few channels. Paddle's launcher writes ``workerlog.N`` and appends to it over restarts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from diagnose.model.knowledge import Mark
from diagnose.model.observation import Stream

CANARY_PROMPT = "Name three colours of the rainbow."
"""What a server is asked, if nobody wishes otherwise, to prove that it answers."""

_STREAMS: tuple[tuple[str, Stream], ...] = (
    (r"workerlog\.\d+", "worker"),
    (r"launch_worker\.log", "launch"),
    (
        r"(console|server|nohup|stdout|stderr|terminal)\.(log|out|err|txt)|nohup\.out|stdout|stderr",
        "console",
    ),
    (r"\w*_error\.log|(current_)?error\.log|error_\d{4}-\d\d-\d\d-\d\d\.log", "error"),
    (r"(api_server|request|trace|multi_api_server|router)\.log", "api"),
    (r"data_processor\.log", "data"),
    (r"(\w*access\w*)\.log", "access"),
    (r"(launch_)?cache_\w+\.log|prefix_cache_manager\.log|splitwise_connector\w*\.log", "cache"),
    (
        (
            r"(fastdeploy|scheduler|config|worker_process|gpu_worker|gpu_model_runner|speculate|zmq_client|comm"
            r"|cudagraph_piecewise_backend|default|current_default|obj)\w*\.log|default_\d{4}-\d\d-\d\d-\d\d\.log"
        ),
        "engine",
    ),
    (r"(dmesg|kern|kernel|messages|syslog|journal)(\.log|\.txt)?", "kernel"),
    (r"pip\w*\.(log|txt)|install\w*\.(log|txt)", "install"),
)
_ROTATED = r"(\.\d{4}-\d\d-\d\d(-\d\d)?|[-.]\d{1,8}|_\d{4}-\d\d-\d\d(-\d\d)?)?(\.log)?(\.gz)?"
_KINDS = tuple((re.compile(rf"(?:{name}){_ROTATED}"), stream) for name, stream in _STREAMS)


def stream_of(path: str) -> Stream:
    """Tell the kind of a log from its name; ``unknown`` where the name says nothing.

    >>> stream_of("log/paddle/workerlog.0"), stream_of("fastdeploy.log.2025-09-02"), stream_of("my.log")
    ('worker', 'engine', 'unknown')
    """
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    return next((stream for pattern, stream in _KINDS if pattern.fullmatch(name)), "unknown")


def is_log(path: str) -> bool:
    """Say whether this is the name of a log that FastDeploy or its launcher writes."""
    return stream_of(path) != "unknown"


MARKS: Mapping[str, Mark] = {
    # Each stands once in each start, in its own kind of file; two kinds may meet in one file of 2.6.
    "@start.terminal": Mark(
        pattern=r"Number of api-server workers: \d|^usage: api_server\.py", streams=("console", "api")
    ),
    "@start.engine": Mark(pattern=r"Launch worker service command:", streams=("engine",)),
    "@start.worker": Mark(pattern=r"Modified FLAGS detected", streams=("worker", "unknown")),
    "@launching": Mark(pattern=r"Waiting for worker processes to be ready"),
    "@loading": Mark(
        pattern=r"Loading (?:fast)?(?:safetensors|pdparams) checkpoint shards|Loading Weights:|Start load layer \d"
    ),
    "@profiling": Mark(pattern=r"Before running the profile|Doing profile, the total_block_num"),
    "@kv-cache": Mark(pattern=r"Initializing kv cache for all layers|creating kv cache for layer \d"),
    "@capturing": Mark(pattern=r"Warm up the model with the batch size|CUDAGraph with the capture sizes"),
    "@engine-ready": Mark(pattern=r"FastDeploy LLM engine initialized!"),
    "@ready": Mark(
        pattern=r"Launching chat completion service at http|Application startup complete"
        r'|Uvicorn running on |Listening at: https?:|GET /health HTTP/1\.1"? 200'
    ),
    "@stopping": Mark(pattern=r"Engine shut down, exiting sub services|Exit sub services"),
    # Numbers that the arithmetic of memory can use; groups as in diagnose/capacity/parse.py.
    "@measured.kv": Mark(pattern=r"available_kv_cache_memory: ?(?P<kv>-?[\d.]+ ?\w?i?B)"),
    "@measured.block": Mark(pattern=r"model_block_memory_used: ?(?P<block_bytes>[\d.]+ ?\w?i?B)"),
    "@measured.before": Mark(
        pattern=r"Before running the profile, the memory usage info.{1,99}"
        r"Device used memory: (?P<before_gib>\d+(?:\.\d+)?)"
    ),
    "@measured.captured": Mark(pattern=r"Warm up the model with the batch size: ?(?P<captured>\d+)"),
    "@measured.blocks": Mark(pattern=r"num_blocks_global: ?(?P<blocks>-?\d+)"),
}
"""Lines that tell where a server is. Names as `diagnose.engine.targets.STAGES` and the engine know them."""

ASKED = re.compile(r"Cache task with request_id \(|(?:Chat|Completion) Received request: ")
STEP = re.compile(r"(?:Prefill|Decode) batch, ")
MADE = re.compile(
    rf"{STEP.pattern}|finished, number of generated tokens: |, OutputToken=\d"
    r"|(?:Chat|Completion) (?:Streaming )?response\b[^:]{0,40}: "
)
"""Requests that came in; steps of the engine; steps and answers (``token_processor.py``, ``serving_chat.py``)."""

ANSWER = b" response: {"
"""Marks the lines that keep a whole answer (``api_server.log``; from 2.6 ``request.log``, at level 2)."""
