"""The daemon's own numbers for Prometheus: names and units as its conventions have them, all with ``diagnose_``.

Only what is there now has a series: of incidents those that are not over, of senses those that are blind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from diagnose import __version__
from diagnose.engine import brakes
from diagnose.engine.incidents import LIVE
from diagnose.notices.book import Face, face_of
from diagnose.web.house import House

PHASES = ("stopped", "starting", "ready", "degraded", "failed")


def exposition(house: House, accept: str) -> tuple[bytes, str]:
    """Spell all numbers as who asks takes them: OpenMetrics, or Prometheus's older text.

    Returns:
        The text and its media type.
    """
    registry = CollectorRegistry()
    registry.register(_Numbers(house))
    ProcessCollector(registry=registry)
    encode, kind = choose_encoder(accept)
    return encode(registry), kind


class _Numbers(Collector):
    def __init__(self, house: House) -> None:
        self.house = house

    def describe(self) -> list[Metric]:
        """Describe nothing beforehand: to register costs no look at the daemon then."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all numbers of this moment."""
        yield InfoMetricFamily("diagnose_build", "Version of the daemon.", value={"version": __version__})
        yield from self._incidents()
        yield from self._servers()
        yield from self._flows()
        yield from self._alerts()
        yield from self._turns()

    def _incidents(self) -> Iterator[Metric]:
        state, vitals = self.house.state, self.house.vitals()
        live = [one for one in state.incidents.values() if one.state in LIVE]
        found = GaugeMetricFamily(
            "diagnose_incidents",
            "Incidents that are not over.",
            labels=("target", "cause", "severity", "state"),
        )
        standing = Counter((one.target, one.cause, one.severity.value, one.state.value) for one in live)
        for labels, count in standing.items():
            found.add_metric(labels, count)
        yield found
        asked = GaugeMetricFamily(
            "diagnose_incidents_waiting_for_person",
            "Incidents that wait for a person: for a yes, or since nothing is left to try.",
            labels=("target",),
        )
        waiting = Counter(one.target for one in live if face_of(one) is Face.PERSON)
        for name in self.house.targets:
            asked.add_metric((name,), waiting[name])
        yield asked
        opened = CounterMetricFamily(
            "diagnose_incidents_opened", "Incidents found.", labels=("target", "cause", "severity")
        )
        for which, count in vitals.opened.items():
            opened.add_metric(which, count)
        yield opened
        remedies = CounterMetricFamily(
            "diagnose_remedies", "Remedies carried out, by how they ended.", labels=("target", "remedy", "outcome")
        )
        for which, count in vitals.remedies.items():
            remedies.add_metric(which, count)
        yield remedies

    def _servers(self) -> Iterator[Metric]:
        now, policy = datetime.now(timezone.utc), self.house.policy
        targets = self.house.state.targets
        phase = GaugeMetricFamily("diagnose_server_phase", "1 for the phase it is in.", labels=("target", "phase"))
        for name, target in targets.items():
            for one in PHASES:
                phase.add_metric((name, one), float(target.phase == one))
        yield phase
        blind = GaugeMetricFamily(
            "diagnose_sense_blind", "1 for each sense that cannot see.", labels=("target", "sense")
        )
        for name, target in targets.items():
            for sense in target.blind:
                blind.add_metric((name, sense), 1)
        yield blind
        yield self._each(
            "diagnose_server_generation",
            "Which launch this is, from 1.",
            {name: one.generation for name, one in targets.items()},
        )
        yield self._each(
            "diagnose_server_overlays",
            "Changes that remedies laid over its command.",
            {name: len(one.overlays) for name, one in targets.items()},
        )
        yield self._each(
            "diagnose_restarts_left",
            "Automatic restarts that its budget still allows.",
            {name: brakes.restarts_left(one, policy, now) for name, one in targets.items()},
        )
        yield self._each(
            "diagnose_paused",
            "1 while a person or the configuration keeps remedies from being carried out.",
            {name: int(brakes.paused(policy, one, now) is not None) for name, one in targets.items()},
        )

    def _flows(self) -> Iterator[Metric]:
        flows = self.house.vitals().flows
        lines = CounterMetricFamily("diagnose_log_lines", "Lines of logs read.", labels=("target",))
        size = CounterMetricFamily("diagnose_log_bytes", "Bytes of logs read.", labels=("target",))
        for target, flow in flows.items():
            lines.add_metric((target,), flow.lines)
            size.add_metric((target,), flow.bytes)
        yield from (lines, size)
        behind = {name: one.behind_bytes for name, one in flows.items()}
        yield self._each("diagnose_log_behind_bytes", "Bytes of logs on disk and not yet read.", behind)

    def _alerts(self) -> Iterator[Metric]:
        told = self.house.told()
        names = sorted({*told.health, *told.waiting, *told.dead})
        messages = GaugeMetricFamily(
            "diagnose_outbox_messages", "Messages that wait, or were put aside.", labels=("receiver", "state")
        )
        sent = CounterMetricFamily("diagnose_outbox_sent", "Messages taken.", labels=("receiver",))
        failing = GaugeMetricFamily(
            "diagnose_receiver_failing", "1 while a receiver takes nothing.", labels=("receiver",)
        )
        for name in names:
            health = told.health.get(name)
            messages.add_metric((name, "waiting"), told.waiting.get(name, 0))
            messages.add_metric((name, "dead"), told.dead.get(name, 0))
            sent.add_metric((name,), health.sent if health else 0)
            failing.add_metric((name,), float(bool(health and health.since)))
        yield from (messages, sent, failing)
        yield GaugeMetricFamily("diagnose_silences", "Silences that hold.", value=len(told.book.silences))

    def _turns(self) -> Iterator[Metric]:
        turns = self.house.vitals().turns
        took = HistogramMetricFamily("diagnose_turn_seconds", "How long the turns of the daemon's loop took.")
        buckets = [("+Inf" if most == float("inf") else str(most), float(count)) for most, count in turns.counts]
        took.add_metric((), buckets=buckets, sum_value=turns.seconds)
        yield took
        yield GaugeMetricFamily(
            "diagnose_turn_age_seconds", "Since the last turn of the daemon's loop.", value=turns.ago or 0.0
        )
        yield GaugeMetricFamily("diagnose_rules", "Rules in force.", value=len(self.house.knowledge.rules))

    @staticmethod
    def _each(name: str, about: str, values: dict[str, int]) -> Metric:
        family = GaugeMetricFamily(name, about, labels=("target",))
        for target, value in values.items():
            family.add_metric((target,), value)
        return family
