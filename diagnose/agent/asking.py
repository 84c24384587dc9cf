"""What one server is asked over HTTP: whether it is well, a few tokens, and what it counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime

from diagnose.agent.config import Probes
from diagnose.launch import settings
from diagnose.launch.config import lookup
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import Observation, ProbeResult
from diagnose.ports import Clock
from diagnose.sources.facts import config_values
from diagnose.sources.http import CompletionProbe, HealthProbe
from diagnose.sources.metrics import MetricsSense, urls_of


class Asking:
    """Asks; until `point` says where, nothing is asked.

    Args:
        generation: Gives the start that runs now.
    """

    def __init__(self, target: str, probes: Probes, clock: Clock, *, generation: Callable[[], int]) -> None:
        self._target, self._probes, self._clock, self._generation = target, probes, clock, generation
        self._health: HealthProbe | None = None
        self._completion: CompletionProbe | None = None
        self._metrics: MetricsSense | None = None
        self._asked_at: datetime | None = None

    def point(self, spec: LaunchSpec) -> None:
        """Ask where this command listens."""
        flags = config_values(spec)
        base = settings.base_url(spec, flags)
        timeout = self._probes.timeout
        self._health = HealthProbe(target=self._target, base_url=base, timeout=timeout / 3)
        self._completion = CompletionProbe(
            target=self._target,
            base_url=base,
            prompt=self._probes.prompt,
            api_key=settings.api_key(spec, flags, os.environ),
            timeout=timeout,
        )
        named = lookup(spec, "--metrics-port", flags) is not None
        port = settings.metrics_port(spec, config=flags)
        self._metrics = MetricsSense(target=self._target, urls=urls_of(base, port, given=named))

    async def health(self) -> ProbeResult | None:
        """Ask whether the server's heartbeats are fresh."""
        return await self._health.ask(self._clock.now(), self._generation()) if self._health else None

    async def completion(self) -> ProbeResult | None:
        """Ask for a few tokens."""
        if self._completion is None:
            return None
        self._asked_at = self._clock.now()
        try:
            return await self._completion.ask(self._asked_at, self._generation())
        finally:
            self._asked_at = None

    async def metrics(self) -> Sequence[Observation]:
        """Ask for what the server counts of itself; how long our own question waits belongs to it."""
        if self._metrics is None:
            return ()
        now = self._clock.now()
        waits = (now - self._asked_at).total_seconds() if self._asked_at else 0.0
        return await self._metrics.ask(now, self._generation(), more={"server.canary_seconds": waits})
