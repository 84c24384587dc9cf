"""What earlier starts teach about the next: how long it may be silent, how long it may take."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from diagnose.engine import pace
from diagnose.engine.pace import Start
from diagnose.engine.policy import Policy
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.model.knowledge import Knowledge
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import Hit, LogMatch, ProbeResult, ProcessSample, ServerStarted

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
FLOOR = timedelta(minutes=3)
NOTHING = Knowledge(rules={}, remedies={}, marks={}, digest="pace")


def spec(model="m"):
    return LaunchSpec(argv=("python", "-m", "fastdeploy.entrypoints.openai.api_server", "--model", model))


def start(generation=1, *, model="m", stage="", quiet=None, took=None):
    ready_at = NOON + timedelta(seconds=took) if took else None
    return Start(generation=generation, spec=spec(model), at=NOON, stage=stage, quiet=quiet or {}, ready_at=ready_at)


@pytest.mark.parametrize(
    ("earlier", "seconds"),
    [
        pytest.param([], 180, id="the first start has the floor"),
        pytest.param([start(quiet={"loading": 40}, took=60)], 180, id="fast ones leave the floor"),
        pytest.param([start(quiet={"loading": 300}, took=400)], 900, id="slow ones stretch it"),
        pytest.param([start(quiet={"loading": 300})], 180, id="a start that never was ready teaches nothing"),
        pytest.param([start(quiet={"capturing": 300}, took=400)], 180, id="each stage for itself"),
        pytest.param(
            [start(model="other", quiet={"loading": 300}, took=400)], 180, id="another model is another matter"
        ),
        pytest.param(
            [start(quiet={"loading": 300}, took=400), start(quiet={"loading": 100}, took=200)],
            900,
            id="the slowest counts",
        ),
    ],
)
def test_a_start_may_be_silent_three_times_as_long_as_ever_before_and_never_less_than_the_floor(earlier, seconds):
    assert pace.patience(start(9, stage="loading"), earlier, FLOOR) == timedelta(seconds=seconds)


def test_a_start_may_take_three_times_as_long_as_ever_before():
    assert pace.within(spec(), [start(took=600)], timedelta(minutes=20)) == timedelta(minutes=30)
    assert pace.within(spec(), [start(took=60)], timedelta(minutes=20)) == timedelta(minutes=20)


class Server:
    """A server whose starts are slow in one place."""

    def __init__(self):
        self.state, self.now, self.generation, self.bytes = State(), NOON, 0, 0

    def tell(self, seen):
        self.state, effects = step(self.state, [seen], knowledge=NOTHING, policy=Policy(), now=self.now)
        return effects

    def begin(self):
        self.generation += 1
        self.tell(
            ServerStarted(
                target="t", at=self.now, generation=self.generation, pid=self.generation, how="spawned", spec=spec()
            )
        )

    def mark(self, name):
        self.tell(
            LogMatch(
                target="t", source="workerlog.0", stream="worker", line=1, at=self.now, dated=True,
                attempt=self.generation, text=name, level=None, hits=(Hit(f"@{name}", 0),),
            )
        )  # fmt: skip

    def silent(self, seconds):
        for _ in range(seconds):
            self.now += timedelta(seconds=1)
            self.tell(
                ProcessSample(
                    target="t", at=self.now, generation=self.generation, alive=True, workers=1, cpu_seconds=0.0,
                    rss_bytes=0, log_bytes=self.bytes,
                )
            )  # fmt: skip

    def line(self):
        self.bytes += 100
        self.silent(1)

    def answer(self):
        self.tell(
            ProbeResult(target="t", at=self.now, generation=self.generation, probe="completion", answer="ok", tokens=4)
        )

    @property
    def target(self):
        return self.state.targets["t"]


def test_a_slow_start_that_became_ready_teaches_the_next_one_patience():
    server = Server()
    server.begin()
    server.line()
    server.mark("loading")
    server.silent(170)
    server.line()
    server.answer()
    assert server.target.starts[-1].quiet == {"loading": 171.0}
    assert server.target.starts[-1].reached["ready"] == 172.0
    server.begin()
    server.line()
    server.mark("loading")
    server.silent(400)
    assert not server.target.stalled
    server.silent(120)
    assert server.target.stalled


def test_a_first_start_that_stands_still_is_found_by_the_floor():
    server = Server()
    server.begin()
    server.line()
    server.mark("loading")
    server.silent(182)
    assert server.target.stalled
