"""Prometheus metrics under the original's names."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable

_LATENCY = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
    1920.0,
    7680.0,
)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0)
_NEXT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
_SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0)
GAUGES = {
    "num_requests_running": "Number of requests currently running",
    "num_requests_waiting": "Number of requests currently waiting",
    "gpu_cache_usage_perc": "GPU KV-cache usage. 1 means 100 percent usage",
    "batch_size": "Real batch size during inference",
    "max_batch_size": "Maximum batch size determined when service started",
    "available_batch_size": "Number of requests that can still be inserted during the Decode phase",
    "available_gpu_block_num": "Number of available gpu blocks in cache",
    "free_gpu_block_num": "Number of free blocks in cache",
    "max_gpu_block_num": "Number of total blocks determined when service started",
    "available_gpu_resource": ("Available blocks percentage, i.e. available_gpu_block_num / max_gpu_block_num"),
    "first_token_latency": "Latest time to first token in seconds",
    "infer_latency": "Latest time to generate one token in seconds",
    "hit_req_rate": "Request-level prefix cache hit rate",
    "hit_token_rate": "Token-level prefix cache hit rate",
    "cpu_hit_token_rate": "Token-level CPU prefix cache hit rate",
    "gpu_hit_token_rate": "Token-level GPU prefix cache hit rate",
}
COUNTERS = {
    "prompt_tokens_total": "Total number of prompt tokens processed",
    "generation_tokens_total": "Total number of generation tokens processed",
    "request_success_total": "Total number of successfully processed requests",
    "requests_number_total": "Total number of requests received",
    "prefix_cache_token_num_total": "Total number of cached tokens",
    "prefix_gpu_cache_token_num_total": "Total number of cached tokens on GPU",
    "prefix_cpu_cache_token_num_total": "Total number of cached tokens on CPU",
    "prefix_ssd_cache_token_num_total": "Total number of cached tokens on SSD",
    "send_cache_failed_num_total": "Total number of failures of sending cache",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": ("Time to first token in seconds", _FIRST),
    "time_per_output_token_seconds": ("Time per output token in seconds", _NEXT),
    "e2e_request_latency_seconds": ("End-to-end request latency", _LATENCY),
    "request_inference_time_seconds": ("Time spent in inference phase", _LATENCY),
    "request_queue_time_seconds": ("Time spent in waiting queue", _LATENCY),
    "request_prefill_time_seconds": ("Time spent in prefill phase", _LATENCY),
    "request_decode_time_seconds": ("Time spent in decode phase", _LATENCY),
    "request_prompt_tokens": ("Number of prompt tokens processed.", _SIZES),
    "request_generation_tokens": ("Number of generation tokens processed.", _SIZES),
    "request_params_max_tokens": ("Value of max_tokens in the request.", _SIZES),
}


class Metrics:
    """Values behind ``/metrics``; safe to use from any thread."""

    def __init__(self, cache_config: dict[str, object]) -> None:
        self._lock = threading.Lock()
        self._gauges = dict.fromkeys(GAUGES, 0.0)
        self._counters = dict.fromkeys(COUNTERS, 0.0)
        self._counts = {name: [0] * (len(buckets) + 1) for name, (_, buckets) in HISTOGRAMS.items()}
        self._sums = dict.fromkeys(HISTOGRAMS, 0.0)
        self._http: dict[tuple[str, str, int], int] = {}
        self._config = ",".join(f'{key}="{value}"' for key, value in cache_config.items())

    def set(self, **values: float) -> None:
        """Set gauges."""
        with self._lock:
            self._gauges.update(values)

    def add(self, name: str, amount: float = 1) -> None:
        """Count."""
        with self._lock:
            self._counters[name] += amount

    def observe(self, name: str, value: float) -> None:
        """Put a value into a histogram."""
        with self._lock:
            self._counts[name][bisect.bisect_left(HISTOGRAMS[name][1], value)] += 1
            self._sums[name] += value

    def answered(self, method: str, path: str, status: int) -> None:
        """Count an answer of the HTTP server."""
        with self._lock:
            key = (method, path, status)
            self._http[key] = self._http.get(key, 0) + 1

    def render(self, *, with_http: bool) -> str:
        """Write all in the text format."""
        with self._lock:
            lines = list(self._lines())
            if with_http:
                lines += [
                    "# HELP http_requests_total Total number of HTTP requests",
                    "# TYPE http_requests_total counter",
                ]
                for (method, path, status), count in self._http.items():
                    labels = f'method="{method}",path="{path}",status_code="{status}"'
                    lines.append(f"http_requests_total{{{labels}}} {float(count)}")
        return "\n".join(lines) + "\n"

    def _lines(self) -> Iterable[str]:
        for name, text in GAUGES.items():
            yield from (f"# HELP fastdeploy:{name} {text}", f"# TYPE fastdeploy:{name} gauge")
            yield f"fastdeploy:{name} {float(self._gauges[name])}"
        for name, text in COUNTERS.items():
            yield from (f"# HELP fastdeploy:{name} {text}", f"# TYPE fastdeploy:{name} counter")
            yield f"fastdeploy:{name} {float(self._counters[name])}"
        yield "# HELP fastdeploy:cache_config_info Information of the engine's CacheConfig"
        yield "# TYPE fastdeploy:cache_config_info gauge"
        yield f"fastdeploy:cache_config_info{{{self._config}}} 1.0"
        for name, (text, buckets) in HISTOGRAMS.items():
            yield from (f"# HELP fastdeploy:{name} {text}", f"# TYPE fastdeploy:{name} histogram")
            total = 0
            for bound, count in zip((*buckets, "+Inf"), self._counts[name], strict=True):
                total += count
                yield f'fastdeploy:{name}_bucket{{le="{bound}"}} {float(total)}'
            yield f"fastdeploy:{name}_count {float(total)}"
            yield f"fastdeploy:{name}_sum {self._sums[name]}"
