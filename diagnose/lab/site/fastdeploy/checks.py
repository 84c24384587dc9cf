"""What the main process checks before it starts anything, with the texts of the original."""

from __future__ import annotations

import argparse
import json
import os
import socket
from pathlib import Path
from typing import Any


class ConfigError(Exception):
    """A check said no; ``text`` is the last line of the traceback."""

    def __init__(self, kind: str, message: str, frame: tuple[str, int, str, str]) -> None:
        super().__init__(message)
        self.text, self.frame = f"{kind}: {message}", frame


_CHECK = ("config.py", 1912, "check", "assert (")
_CACHE = ("config.py", 1388, "_verify_args", "raise ValueError(")
_STOP = ("config.py", 1130, "check_legality_parameters", "raise ValueError(")
_GRAPH = ("config.py", 868, "check_legality_parameters", "assert (")
_PORT = ("engine/args_utils.py", 640, "post_init_all_ports", "assert is_port_available(host_ip, port), (")
_MODEL = ("utils.py", 705, "retrive_model_from_server", "raise Exception(")
_SHARDS = ("utils.py", 760, "check_unified_ckpt", "raise Exception(")
_FILE = (
    "config.py",
    255,
    "__init__",
    "pretrained_config, _ = PretrainedConfig.get_config_dict(self.model)",
)
SERVER_PORT = ("entrypoints/openai/api_server.py", 498, "launch_api_server", "raise Exception(")
METRICS_PORT = ("entrypoints/openai/api_server.py", 540, "launch_metrics_server", "raise Exception(")
CONTROLLER_PORT = ("entrypoints/openai/api_server.py", 560, "launch_controller_server", "raise Exception(")


def port_free(port: int, host: str = "0.0.0.0") -> bool:  # noqa: S104  # asked for all addresses, as there
    """Whether one could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def check_port(name: str, port: int | None, host: str, frame: tuple[str, int, str, str]) -> None:
    """Refuse a taken server port."""
    if port is not None and port > 0 and not port_free(port, host):
        raise ConfigError("Exception", f"The parameter `{name}`:{port} is already in use.", frame)


def check_inner_port(name: str, port: int) -> None:
    """Refuse a taken engine port."""
    if not port_free(port):
        raise ConfigError("AssertionError", f"Parameter `{name}`:{port} is already in use.", _PORT)


def free_port() -> int:
    """Find a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def parse_quantization(text: str | None) -> Any:  # noqa: ANN401  # JSON of any kind or a name
    """Read ``--quantization``: JSON if it can be, else a name. Not checked here: the worker does."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def resolve_model(model: str, revision: str, *, missing: bool) -> str:
    """Find the model's folder. There is no hub here: what is no folder does not exist."""
    if missing or not Path(model).is_dir():
        message = f"The {revision} of {model} is not exist. Please check the model name or revision."
        raise ConfigError("Exception", message, _MODEL)
    return model


def check_model(folder: str, config_name: str) -> None:
    """Check that the configuration is readable and that no shard of the weights is missing."""
    config = Path(folder) / config_name
    if not config.exists():
        message = f"[Errno 2] No such file or directory: '{config}'"
        raise ConfigError("FileNotFoundError", message, _FILE)
    keys = json.loads(config.read_text(encoding="utf-8"))
    if "torch_dtype" not in keys and "dtype" not in keys:
        message = (
            "Unknown model format. Please ensure your config.json contains either 'torch_dtype' (for"
            f" Hugging Face models) or 'dtype' (for Paddle models) field. Config file path: {config}"
        )
        raise ConfigError("ValueError", message, _FILE)
    if "torch_dtype" in keys and "dtype" in keys:
        message = "Only one of 'torch_dtype' or 'dtype' should be present in config.json."
        raise ConfigError("ValueError", message, _FILE)
    index = Path(folder) / "model.safetensors.index.json"
    if index.exists():
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        there = {path.name for path in Path(folder).glob("*.safetensors")}
        if len(wanted) != len(there):
            message = f"Number of safetensor files should be {len(wanted)}, but now it's {len(there)}"
            raise ConfigError("Exception", message, _SHARDS)


def check_settings(args: argparse.Namespace) -> None:
    """Check the numbers of a launch, in the original's order; fills ``max_num_batched_tokens`` in."""
    v1 = os.environ.get("ENABLE_V1_KVCACHE_SCHEDULER", "1") != "0"
    chunked = args.enable_chunked_prefill or os.environ.get("FD_DISABLE_CHUNKED_PREFILL", "0") != "1"
    if args.max_num_batched_tokens is None:
        args.max_num_batched_tokens = 8192 if v1 else (2048 if chunked else args.max_model_len)
    _check_cache(args)
    _check_early_stop(args)
    _check_graph(args.graph_optimization_config)
    check_numbers(args, v1=v1, chunked=chunked)


def _check_cache(args: argparse.Namespace) -> None:
    if args.gpu_memory_utilization > 1.0:
        message = f"GPU memory utilization must be less than 1.0. Got {args.gpu_memory_utilization}."
        raise ConfigError("ValueError", message, _CACHE)
    if args.kv_cache_ratio > 1.0:
        message = f"KV cache ratio must be less than 1.0. Got {args.kv_cache_ratio}."
        raise ConfigError("ValueError", message, _CACHE)


def check_numbers(args: argparse.Namespace, *, v1: bool, chunked: bool) -> None:
    """Refuse numbers that do not go together."""
    seqs, length, budget = args.max_num_seqs, args.max_model_len, args.max_num_batched_tokens
    checks = (
        (seqs <= 256, f"The parameter `max_num_seqs` is not allowed to exceed 256, but now it's {seqs}."),
        (length > 16, f"max_model_len: {length} should be larger than 16"),
        (seqs >= 1, f"max_num_seqs: {seqs} should be larger than 1"),
        (
            budget >= seqs,
            f"max_num_batched_tokens: {budget} should be larger than or equal to max_num_seqs: {seqs}",
        ),
        (
            budget <= seqs * length,
            (
                f"max_num_batched_tokens: {budget} should be less than or equal to "
                f"max_num_seqs: {seqs} * max_model_len: {length}"
            ),
        ),
        (
            args.max_num_partial_prefills >= 1,
            (f"max_num_partial_prefills: {args.max_num_partial_prefills} should be larger than or equal to 1"),
        ),
        (
            v1 or chunked or budget >= length,
            f"max_num_batched_tokens: {budget} should be larger than or equal to max_model_len: {length}",
        ),
        (
            budget >= args.block_size,
            (f"max_num_batched_tokens: {budget} should be larger than or equal to block_size: {args.block_size}"),
        ),
        (
            args.long_prefill_token_threshold < length,
            (
                f"long_prefill_token_threshold: {args.long_prefill_token_threshold} "
                f"should be less than max_model_len: {length}"
            ),
        ),
        (
            args.guided_decoding_backend in {"auto", "xgrammar", "guidance", "off"},
            (
                "Only support [auto, xgrammar, guidance, off] guided decoding backend, "
                f"but got {args.guided_decoding_backend}."
            ),
        ),
    )
    for fine, message in checks:
        if not fine:
            raise ConfigError("AssertionError", message, _CHECK)


def _check_early_stop(args: argparse.Namespace) -> None:
    config: dict[str, Any] = args.early_stop_config or {}
    if args.enable_early_stop and config.get("enable_early_stop") is False:
        message = (
            "Invalid parameter: Cannot set ---enable-early-stop and --early-stop-config "
            "'{\"enable_early_stop\":false}' simultaneously."
        )
        raise ConfigError("ValueError", message, ("engine/args_utils.py", 1201, "create_early_stop_config", "raise"))
    window, threshold = config.get("window_size", 3000), config.get("threshold", 0.99)
    checks = (
        (
            isinstance(config.get("enable_early_stop", True), bool),
            "type of enable_early_stop must is bool.",
        ),
        (isinstance(window, int), "type of window_size must be int."),
        (isinstance(threshold, float), "type of threshold must be float."),
    )
    for fine, message in checks:
        if not fine:
            raise ConfigError("AssertionError", f"In early stop config, {message}", _STOP)
    if window <= 0:
        raise ConfigError("AssertionError", "window_size must large than 0", _STOP)
    if not 0 <= threshold <= 1:
        raise ConfigError("AssertionError", "threshold must between 0 and 1", _STOP)


def _check_graph(config: dict[str, Any] | None) -> None:
    config = config or {}
    sizes = config.get("cudagraph_capture_sizes")
    checks = (
        (
            config.get("graph_opt_level", 0) in {0, 1, 2},
            "graph_opt_level can only take the values of 0, 1 and 2.",
        ),
        (isinstance(config.get("use_cudagraph", True), bool), "type of use_cudagraph must is bool."),
        (sizes is None or isinstance(sizes, list), "type of cudagraph_capture_sizes must is list."),
        (
            not config.get("use_cudagraph", True) or sizes is None or sizes,
            "When opening the CUDA graph, it is forbidden to set the capture sizes to an empty list.",
        ),
    )
    for fine, message in checks:
        if not fine:
            raise ConfigError("AssertionError", f"In graph optimization config, {message}", _GRAPH)
