"""The metrics sense: what the server counts of itself, from its Prometheus endpoint.

Names are FastDeploy's (``fastdeploy/metrics/metrics.py``, docs/online_serving/metrics.md of 2.x). With several
processes gauges carry a ``pid``; those of processes that have gone stay in the answer and count no more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from diagnose.model.observation import Numbers, SourceSees, SourceSilent
from diagnose.sources.http import plain_client

SOURCE = "metrics"
_SUMS = {
    "num_requests_running": "server.requests_running",
    "num_requests_waiting": "server.requests_waiting",
}
_LARGEST = {
    "gpu_cache_usage_perc": "server.cache_usage_ratio",
    "max_batch_size": "server.slots",
}
_COUNTERS = {
    "generation_tokens_total": "server.generated_tokens_total",
    "prompt_tokens_total": "server.prompt_tokens_total",
    "request_success_total": "server.requests_done_total",
    "requests_number_total": "server.requests_total",
}
_HISTOGRAMS = {
    "time_to_first_token_seconds": "server.first_token",
    "request_queue_time_seconds": "server.queue",
    "e2e_request_latency_seconds": "server.request",
    "request_generation_tokens": "server.made",
    "request_params_max_tokens": "server.allowed",
}
_TOTALS = _COUNTERS | {
    f"{name}_{part}": f"{ours}_{part}_total" for name, ours in _HISTOGRAMS.items() for part in ("count", "sum")
}
_PREFIX = "fastdeploy:"
_ASKED = re.compile(rf"{_PREFIX}(?:{'|'.join([*_SUMS, *_LARGEST, *_TOTALS])})[ {{]")
"""The lines that are read. Most of an answer are buckets, which nobody here asks for."""

_PATIENCE = 3
"""Failures in a row, while the server answers otherwise, before it is said that nothing can be seen."""

_MOST_BYTES = 8 << 20

Row = tuple[str, Mapping[str, str], float]


class MetricsSense:
    """Asks ``/metrics``; silence is told once, until it can see again.

    Args:
        urls: Where the endpoint may be, likelier first; the one that answers is kept.
    """

    def __init__(
        self,
        *,
        target: str,
        urls: Sequence[str],
        timeout: timedelta = timedelta(seconds=5),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._target, self._urls = target, list(urls)
        self._client = plain_client(timeout=timeout.total_seconds(), transport=transport)
        self._failed = 0
        self._silent = False

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def ask(
        self, now: datetime, generation: int, *, more: Mapping[str, float] | None = None
    ) -> list[Numbers | SourceSilent | SourceSees]:
        """Ask once a server that is up; nothing is raised for what it or the network can do.

        Args:
            more: Numbers of the same moment that belong to these.
        """
        reason = ""
        for url in self._urls:
            reason = reason or f"{url}: "
            try:
                answer = await self._client.get(url)
                answer.raise_for_status()
                values = numbers(answer.text[:_MOST_BYTES])
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                reason += " ".join(str(error).split())[:200] or type(error).__name__
                continue
            values = {**values, **(more or {})}
            told = Numbers(target=self._target, at=now, generation=generation, values=values)
            sees = [SourceSees(target=self._target, at=now, source=SOURCE)] if self._silent else []
            self._urls, self._failed, self._silent = [url], 0, False
            return [*sees, told]
        return self._failing(now, f"{reason}. Give the server --metrics-port, and open it to this host.")

    def _failing(self, now: datetime, reason: str) -> list[Numbers | SourceSilent | SourceSees]:
        self._failed += 1
        if self._silent or self._failed < _PATIENCE:
            return []
        self._silent = True
        return [SourceSilent(target=self._target, at=now, source=SOURCE, reason=reason)]


def numbers(text: str) -> dict[str, float]:
    """Read an answer in the text format.

    Raises:
        ValueError: It is none, or not of a FastDeploy server.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - only for a ready server

    asked = "\n".join(line for line in text.splitlines() if _ASKED.match(line))
    rows: list[Row] = [
        (sample.name.removeprefix(_PREFIX), sample.labels, float(sample.value))
        for family in text_string_to_metric_families(asked)
        for sample in family.samples
    ]
    rows = _of_the_living(rows)
    found: dict[str, float] = {}
    for name, _, value in rows:
        if math.isnan(value):
            continue
        if ours := _SUMS.get(name) or _TOTALS.get(name):
            found[ours] = found.get(ours, 0.0) + value
        elif ours := _LARGEST.get(name):
            found[ours] = max(found.get(ours, value), value)
    if "server.requests_running" not in found:
        raise ValueError(f"no {_PREFIX}num_requests_running in the answer: these are no metrics of FastDeploy")
    return found


def _of_the_living(rows: Iterable[Row]) -> list[Row]:
    """Leave out what processes told that have gone; all stays where none is seen: another container's numbers."""
    rows = list(rows)
    pids = {labels["pid"] for _, labels, _ in rows if labels.get("pid", "").isdigit()}
    living = {pid for pid in pids if Path("/proc", pid).exists()}
    return [row for row in rows if not living or row[1].get("pid", "") in {"", *living}]


def urls_of(base_url: str, metrics_port: int, *, given: bool) -> list[str]:
    """Return where a server's metrics may be: at the port that its command names, else at the main one or 8001.

    >>> urls_of("http://127.0.0.1:8000", 8000, given=False)
    ['http://127.0.0.1:8000/metrics', 'http://127.0.0.1:8001/metrics']
    """
    host = base_url.rpartition(":")[0]
    ports = [metrics_port] if given else [metrics_port, int(base_url.rpartition(":")[2]), 8001]
    return [f"{host}:{port}/metrics" for port in dict.fromkeys(ports)]
