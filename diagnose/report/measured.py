"""What the senses measured around an incident, gathered for charts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from diagnose.model.incident import Incident
from diagnose.model.observation import GpuSample, Numbers, Observation
from diagnose.model.text import Lang, Text
from diagnose.report.charts import Chart

BEFORE, AFTER = timedelta(minutes=10), timedelta(minutes=10)
"""How much is shown before the first symptom and after the last event."""

_LEAST_POINTS = 3
_MARKED = {
    "opened": Text("symptom", "首次症状"),
    "acting": Text("remedy", "处置"),
    "rolled-back": Text("rollback", "回滚"),
    "resolved": Text("resolved", "解决"),
}
_CACHE = "server.cache_usage_ratio"
_QUEUE = {"server.requests_running": Text("running", "运行中"), "server.requests_waiting": Text("waiting", "排队")}


def span(incident: Incident) -> tuple[datetime, datetime]:
    """Return the time that is worth showing."""
    moments = [incident.first_seen, incident.last_seen, *(entry.at for entry in incident.timeline)]
    return min(moments) - BEFORE, max(moments) + AFTER


def around(incident: Incident, seen: Iterable[Observation], lang: Lang) -> tuple[Chart, ...]:
    """Make the charts of one incident: memory of the cards, their work, the queue, the KV cache.

    Args:
        seen: What was observed in its `span`, oldest first; of other targets, too.
        lang: Of the names of lines and marks.
    """
    own = [one for one in seen if one.target == incident.target]
    cards = [one for one in own if isinstance(one, GpuSample) and one.total_bytes]
    numbers = [one for one in own if isinstance(one, Numbers)]
    memory = _lines((f"GPU {one.label}", one.at, one.used_bytes / 2**30) for one in cards)
    work = _lines((f"GPU {one.label}", one.at, one.busy_ratio * 100) for one in cards if one.busy_ratio is not None)
    queue = _lines(
        (text.in_(lang), one.at, one.values[name])
        for one in numbers
        for name, text in _QUEUE.items()
        if name in one.values
    )
    cache = _lines(("KV cache", one.at, one.values[_CACHE] * 100) for one in numbers if _CACHE in one.values)
    most = max((one.total_bytes / 2**30 for one in cards), default=None)
    marks = tuple((entry.at, _MARKED[entry.kind].in_(lang)) for entry in incident.timeline if entry.kind in _MARKED)
    charts = (
        Chart(title=Text("GPU memory", "显存占用"), unit="GiB", lines=memory, most=most, marks=marks),
        Chart(title=Text("GPU work", "GPU 利用率"), unit="%", lines=work, most=100, marks=marks),
        Chart(title=Text("Requests", "请求数"), unit="", lines=queue, marks=marks),
        Chart(title=Text("KV cache in use", "KV Cache 占用"), unit="%", lines=cache, most=100, marks=marks),
    )
    return tuple(chart for chart in charts if any(len(line) >= _LEAST_POINTS for line in chart.lines.values()))


def _lines(points: Iterable[tuple[str, datetime, float]]) -> dict[str, list[tuple[datetime, float]]]:
    lines: dict[str, list[tuple[datetime, float]]] = {}
    for name, at, value in points:
        lines.setdefault(name, []).append((at, value))
    return lines
