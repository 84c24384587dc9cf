"""The flags of ``api_server``, per era, and the small YAML of ``--config``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def optional_type(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Read a value that may be written ``None``."""

    def read(text: str) -> Any:  # noqa: ANN401  # whatever the flag holds
        return None if text in {"None", "none", ""} else kind(text)

    read.__name__ = kind.__name__
    return read


_YES: dict[str, Any] = {"action": "store_true", "default": False}
_BOTH: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": True}
_TEXT: dict[str, Any] = {"type": str, "default": None}
_JSON: dict[str, Any] = {"type": json.loads, "default": None}
_PORTS: dict[str, Any] = {"type": lambda text: [int(one) for one in text.split(",")], "default": None}
_PORTS["type"].__name__ = "int list"


def _int(default: int | None) -> dict[str, Any]:
    return {"type": int, "default": default}


def _str(default: str | None, *choices: str) -> dict[str, Any]:
    return {"type": str, "default": default, **({"choices": list(choices)} if choices else {})}


def _float(default: float | None) -> dict[str, Any]:
    return {"type": float, "default": default}


SERVER: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("--host", _str("0.0.0.0"), "host to the http server"),  # noqa: S104  # the original's default
    ("--port", _int(8000), "port to the http server"),
    ("--workers", _int(1), "number of workers"),
    ("--metrics-port", _int(None), "port for metrics server"),
    ("--controller-port", _int(-1), "port for controller server"),
    ("--max-concurrency", _int(512), "max concurrency"),
    ("--max-waiting-time", _int(-1), "max waiting time for connection, -1 means no waiting time limit"),
    ("--timeout-graceful-shutdown", _int(0), "timeout for graceful shutdown in seconds"),
    ("--timeout", _int(0), "worker timeout in seconds"),
    ("--api-key", {"action": "append", "type": str, "default": None}, "API key; may be repeated"),
    ("--enable-mm-output", _YES, "enable 'multimodal_content' in the response"),
    ("--config", _TEXT, "read arguments from a YAML file"),
)
MODEL: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("--model", _str("baidu/ernie-45-turbo"), "model name or path to be used"),
    ("--served-model-name", _TEXT, "served model name"),
    ("--revision", _str("master"), "revision for downloading models"),
    ("--model-config-name", _str("config.json"), "the model configuration file name"),
    ("--tokenizer", _TEXT, "tokenizer name or path"),
    ("--tokenizer-base-url", _TEXT, "tokenizer service URL"),
    ("--max-model-len", _int(2048), "maximum context length supported by the model"),
    ("--block-size", _int(64), "number of tokens processed in one block"),
    ("--task", _str("generate"), "task to be executed by the model"),
    ("--runner", _str("auto", "auto", "generate", "pooling"), "the type of model runner to use"),
    ("--convert", _str("auto", "auto", "none", "embed", "reward"), "convert the model using adapters"),
    ("--override-pooler-config", _JSON, "override the pooler config"),
    ("--use-warmup", _int(0), "whether to use warm-up requests"),
    ("--limit-mm-per-prompt", _JSON, "limit of multimodal data per prompt"),
    ("--mm-processor-kwargs", _JSON, "additional arguments for the multimodal processor"),
    ("--max-encoder-cache", _int(-1), "maximum encoder cache tokens"),
    ("--max-processor-cache", _float(-1), "maximum processor cache, GiB"),
    ("--enable-mm", _YES, "flag to enable multi-modal model (deprecated)"),
    ("--reasoning-parser", _TEXT, "reasoning parser"),
    ("--tool-call-parser", _TEXT, "tool call parser"),
    ("--tool-parser-plugin", _TEXT, "tool parser plugin path"),
    ("--chat-template", _TEXT, "chat template"),
    ("--speculative-config", _JSON, "configuration for speculative execution"),
    ("--dynamic-load-weight", _YES, "flag to indicate whether to load weight dynamically"),
    (
        "--load-strategy",
        _str("normal", "ipc", "ipc_snapshot", "meta", "normal", "rsync"),
        "weight loading method",
    ),
    ("--rsync-config", _JSON, "rsync weights config"),
    ("--quantization", _TEXT, "quantization name or JSON"),
    ("--graph-optimization-config", _JSON, "configuration for graph optimization"),
    ("--plas-attention-config", _JSON, "configuration for plas attention"),
    ("--guided-decoding-backend", _str("off"), "guided decoding backend"),
    ("--guided-decoding-disable-any-whitespace", _YES, "disable any whitespace in guided decoding"),
    ("--enable-logprob", _YES, "enable output of token-level log probabilities"),
    ("--max-logprobs", _int(20), "maximum number of log probabilities"),
    ("--logprobs-mode", _str("raw_logprobs"), "content returned in the logprobs"),
    ("--lm_head-fp32", _YES, "flag to specify the data type of lm_head as FP32"),
    ("--logits-processors", {"type": str, "nargs": "+", "default": None}, "FQCNs of logits processors"),
    ("--seed", _int(0), "random seed for initialization"),
    ("--enable-early-stop", _YES, "enable early stopping during generation"),
    ("--early-stop-config", _JSON, "the config for early stop"),
    ("--load-choices", _str("default_v1", "default", "default_v1", "dummy"), "loader of the weights"),
)
CACHE: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("--gpu-memory-utilization", _float(0.9), "utilization of GPU memory"),
    ("--num-gpu-blocks-override", _int(None), "override of the number of GPU blocks"),
    ("--kv-cache-ratio", _float(0.75), "ratio of KV cache blocks for prompts"),
    ("--max-num-seqs", _int(8), "maximum number of sequences per iteration"),
    ("--max-num-batched-tokens", _int(None), "maximum number of tokens to batch together"),
    ("--enable-prefix-caching", _BOTH, "flag to enable prefix caching"),
    ("--enable-chunked-prefill", _YES, "flag to enable chunked prefill"),
    ("--max-num-partial-prefills", _int(1), "maximum number of concurrent partial prefills"),
    ("--max-long-partial-prefills", _int(1), "maximum number of long partial prefills"),
    ("--long-prefill-token-threshold", _int(0), "prompts longer than this count as long"),
    ("--disable-chunked-mm-input", _YES, "disable chunked multimodal input"),
    ("--swap-space", _float(None), "CPU memory for KV cache swap, GiB"),
    ("--prealloc-dec-block-slot-num-threshold", _int(12), "threshold of pre-allocated decode slots"),
    ("--static-decode-blocks", _int(2), "static decoding blocks"),
    ("--cache-queue-port", _PORTS, "port for the cache queue"),
    ("--engine-worker-queue-port", _PORTS, "port for the engine worker queue"),
    ("--scheduler-name", _str("local", "local", "global", "splitwise", "dp"), "scheduler name"),
    ("--scheduler-max-size", _int(-1), "size of the scheduler's queue"),
    ("--scheduler-ttl", _int(900), "time-to-live of requests, seconds"),
    ("--scheduler-host", _str("127.0.0.1"), "host of the global scheduler's Redis"),
    ("--scheduler-port", _int(6379), "port of the global scheduler's Redis"),
    ("--scheduler-db", _int(0), "database of the global scheduler's Redis"),
    ("--scheduler-password", _TEXT, "password of the global scheduler's Redis"),
    ("--scheduler-topic", _str("default"), "topic of the global scheduler"),
    ("--scheduler-min-load-score", _float(3), "minimum load score for task assignment"),
    ("--scheduler-load-shards-num", _int(1), "number of shards for load balancing"),
    ("--scheduler-sync-period", _int(5), "synchronization period, ms"),
    ("--scheduler-expire-period", _int(3000), "expiration period, ms"),
    ("--scheduler-release-load-expire-period", _int(600), "load release period, seconds"),
    ("--scheduler-reader-parallel", _int(4), "parallel readers"),
    ("--scheduler-writer-parallel", _int(4), "parallel writers"),
    ("--scheduler-reader-batch-size", _int(200), "batch size of readers"),
    ("--scheduler-writer-batch-size", _int(200), "batch size of writers"),
)
PARALLEL: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("--tensor-parallel-size", _int(1), "degree of tensor parallelism"),
    ("--data-parallel-size", _int(1), "degree of data parallelism"),
    ("--local-data-parallel-id", _int(0), "the rank of local data parallel"),
    ("--enable-expert-parallel", _YES, "enable expert parallelism"),
    ("--enable-eplb", _YES, "enable expert load balancing"),
    ("--eplb-config", _JSON, "configuration for expert load balancing"),
    ("--disable-custom-all-reduce", _YES, "flag to disable custom all-reduce"),
    ("--use-internode-ll-two-stage", _YES, "use two-stage internode communication"),
    ("--disable-sequence-parallel-moe", _YES, "disable sequence parallel MoE"),
    ("--ips", {"type": lambda text: text.split(","), "default": None}, "IP addresses of all nodes"),
    ("--splitwise-role", _str("mixed", "mixed", "prefill", "decode"), "role of splitwise"),
    ("--cache-transfer-protocol", _str("ipc,rdma"), "protocol of cache transfer"),
    ("--pd-comm-port", _PORTS, "port for splitwise communication"),
    ("--rdma-comm-ports", _PORTS, "ports for RDMA communication"),
    ("--router", _TEXT, "URL of the router"),
)
LATER: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("--output-fallback", _TEXT, "output fallback strategy"),
    ("--output-fallback-plugin", _TEXT, "output fallback plugin path"),
    ("--output-fallback-config", _JSON, "output fallback configuration"),
    ("--deploy-modality", _str("mixed", "text", "mixed"), "deployment modality"),
    ("--model-impl", _str("auto", "auto", "fastdeploy", "paddleformers"), "model implementation"),
    ("--enable-keep-sampling-mask", _YES, "keep the sampling mask"),
    ("--enable-entropy", _YES, "enable output of token-level entropy"),
    ("--enable-output-caching", _BOTH, "flag to cache answers as prefixes"),
    (
        "--kvcache-storage-backend",
        _str(None, "mooncake", "attention_store", "file"),
        "KV cache storage backend",
    ),
    ("--write-policy", _str("write_through"), "KV cache write policy"),
    ("--enable-overlap-schedule", _YES, "enable overlapping schedule"),
    ("--enable-chunked-moe", _YES, "use chunked MoE"),
    ("--chunked-moe-size", _int(256), "chunk size of MoE"),
    ("--enable-flashinfer-allreduce-fusion", _YES, "fuse all-reduce"),
    ("--routing-replay-config", _JSON, "flag to rollout routing replay"),
    (
        "--shutdown-comm-group-if-worker-idle",
        {"action": argparse.BooleanOptionalAction, "default": None},
        "whether to shut down the communication group when a worker is idle",
    ),
)


def build_parser(*, modern: bool) -> argparse.ArgumentParser:
    """Build the parser of one era."""
    parser = argparse.ArgumentParser(prog="api_server.py")
    groups: list[tuple[str | None, tuple[tuple[str, dict[str, Any], str], ...]]] = [
        (None, SERVER),
        ("Model Configuration", MODEL),
        ("Cache and Scheduler Configuration", CACHE),
        ("Parallel Configuration", PARALLEL),
    ]
    if modern:
        groups.append(("Additional Configuration", LATER))
    for title, flags in groups:
        group = parser.add_argument_group(title) if title else parser
        for flag, how, text in flags:
            names = [flag, "-tp"] if flag == "--tensor-parallel-size" else [flag]
            group.add_argument(*names, **how, help=text)
    if modern:
        many = {"workers": 4, "max_concurrency": 2048}
        parser.set_defaults(**many)
    return parser


def parse_args(
    argv: Sequence[str], *, modern: bool, error: Callable[[str], None], warning: Callable[[str], None]
) -> argparse.Namespace:
    """Read the command line; ``--config`` gives defaults that the command line overrides."""
    parser = build_parser(modern=modern)
    first, _ = _config_only().parse_known_args(list(argv))
    if first.config:
        parser.set_defaults(**_from_yaml(parser, first.config, error))
    args = parser.parse_args(list(argv))
    if args.enable_mm:
        warning("Deprecated option is detected: --enable-mm, which may be removed later")
    return args


def _config_only() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser


def _from_yaml(parser: argparse.ArgumentParser, path: str, error: Callable[[str], None]) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as problem:
        print(f"FileNotFoundError: {problem}", file=sys.stderr)
        sys.exit(1)
    kinds = {action.dest: action for action in parser._actions}  # noqa: SLF001  # argparse offers no other way
    found: dict[str, Any] = {}
    for key, value in flat_yaml(text).items():
        action = kinds.get(key)
        if action is None or key in {"help", "config"}:
            continue
        try:
            found[key] = _convert(action, value)
        except (TypeError, ValueError) as problem:
            error(f"Error converting '{key}' with value '{value}': {problem}")
    return found


def _convert(action: argparse.Action, value: str) -> Any:  # noqa: ANN401  # whatever the flag holds
    if value.lower() in {"true", "false"} and not callable(action.type):
        return value.lower() == "true"
    if value in {"", "null", "~"}:
        return None
    return action.type(value) if callable(action.type) else value


def flat_yaml(text: str) -> dict[str, str]:
    """Read ``key: value`` lines; comments, quotes and a list in brackets are understood, nesting is not."""
    found: dict[str, str] = {}
    for raw in text.splitlines():
        line = raw.split(" #")[0].rstrip()
        if not line or line.startswith(("#", " ", "-", "---")) or ":" not in line:
            continue
        key, _, value = line.partition(":")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        elif value.startswith("[") and value.endswith("]"):
            value = value[1:-1].replace(" ", "")
        found[key.strip()] = value
    return found
