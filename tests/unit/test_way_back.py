"""Once others have given back the memory, the operator's own settings are offered, and in quiet hours taken, again."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from diagnose.capacity.shapes import known_shape
from diagnose.engine.policy import Policy, WayBack
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.launch.flags import accepted
from diagnose.model import codec
from diagnose.model.effect import Perform
from diagnose.model.hours import Hours
from diagnose.model.incident import State as Stands
from diagnose.model.knowledge import Knowledge
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import (
    GpuSample,
    Hit,
    LogMatch,
    Outcome,
    ProbeResult,
    ProcessExit,
    ServerFacts,
    ServerStarted,
)
from diagnose.model.remedy import Mode, Remedy
from diagnose.model.text import Duration
from tests.unit.test_step import TEXT, rule

GIB = 1 << 30
NIGHT = datetime(2026, 1, 1, 23, tzinfo=timezone.utc)
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
OWN = ("--max-model-len", "8192", "--max-num-seqs", "64", "--gpu-memory-utilization", "0.9")
SPEC = LaunchSpec(argv=("python", "-m", "fastdeploy.entrypoints.openai.api_server", "--model", "m", *OWN))
FIT = codec.convert(
    {
        "id": "fit", "title": TEXT, "why": TEXT, "cures": ["gpu_oom_load"], "risk": "degrading", "cooldown": "1s",
        "ladder": [
            {
                "rung": TEXT,
                "steps": [
                    {"action": "flag.fit", "allow": ["--max-num-seqs", "--max-num-batched-tokens", "--max-model-len"]},
                    {"action": "server.restart"},
                ],
            }
        ],
        "verify": {"holds_for": "10s", "within": "10m"},
    },
    Remedy,
)  # fmt: skip
OOM = rule("oom", "gpu_oom_load", {"pattern": "x"}, confidence=0.97)
KNOWN = Knowledge(rules={"oom": OOM}, remedies={"fit": FIT}, marks={}, digest="way-back")
AUTO = WayBack(mode=Mode.AUTO, after=Duration(minutes=30))


FACTS = ServerFacts(
    target="t", at=NIGHT, version="2.4", flags=accepted("2.4"), flags_from="table", model=known_shape("ERNIE-4.5-0.3B")
)  # fmt: skip


class Host:
    """A card that a neighbour shares."""

    def __init__(self, *, now=NIGHT, **policy):
        self.policy = Policy(**{"mode": Mode.AUTO, "settle": Duration(seconds=1), **policy})
        self.state, self.now, self.generation, self.foreign, self.effects = State(), now, 0, 5, []

    def tell(self, *seen):
        self.state, effects = step(self.state, seen, knowledge=KNOWN, policy=self.policy, now=self.now)
        self.effects += effects

    def wait(self, seconds):
        for _ in range(seconds):
            self.now += timedelta(seconds=1)
            self.tell()

    def card(self, own=0):
        self.tell(
            GpuSample(
                target="t", at=self.now, index=0, name="x", total_bytes=8 * GIB,
                used_bytes=int((self.foreign + own) * GIB), own_bytes=int(own * GIB),
            )
        )  # fmt: skip

    def start(self, spec=SPEC):
        self.card()
        self.generation += 1
        self.tell(
            ServerStarted(
                target="t", at=self.now, generation=self.generation, pid=self.generation, how="spawned", spec=spec,
                desired=SPEC,
            )
        )  # fmt: skip

    def fails(self):
        self.tell(
            LogMatch(
                target="t", source="workerlog.0", stream="worker", line=1, at=self.now, dated=True,
                attempt=self.generation, text="boom", level=None, hits=(Hit("oom", 0),),
            ),
            ProcessExit(target="t", at=self.now, generation=self.generation, role="main", pid=1, code=1),
        )  # fmt: skip

    def serves(self, seconds):
        self.card(own=1.5)
        for _ in range(seconds // 10):
            self.tell(
                ProbeResult(
                    target="t", at=self.now, generation=self.generation, probe="completion", answer="ok", tokens=4
                )
            )
            self.now += timedelta(seconds=10)
            self.tell()

    def done(self, intent):
        self.start(intent.plan.after)
        self.tell(Outcome(target="t", at=self.now, intent_id=intent.id, ok=True, results=()))

    @property
    def intents(self):
        return [effect.intent for effect in self.effects if isinstance(effect, Perform)]

    @property
    def target(self):
        return self.state.targets["t"]

    def kinds(self):
        return [entry.kind for one in self.state.incidents.values() for entry in one.timeline]


def shrunk(**options):
    """Give a host whose server was made small because a neighbour took the card, and serves."""
    host = Host(**options)
    host.start()
    host.tell(FACTS)
    host.fails()
    host.wait(5)
    (intent,) = host.intents
    host.done(intent)
    host.serves(60)
    assert host.target.overlays
    assert all(one.state is Stands.RESOLVED for one in host.state.incidents.values())
    return host


def taken(**options):
    """Give a host whose first start failed since a neighbour holds nearly all of the card: nothing can help."""
    host = Host(**options)
    host.foreign = 7.5
    host.start()
    host.tell(FACTS)
    host.fails()
    host.wait(120)
    assert not host.intents
    return host


def test_a_first_start_that_failed_for_a_neighbours_memory_is_made_again_once_it_is_given_back():
    host = taken()
    host.foreign = 0
    host.card()
    (intent,) = host.intents
    assert intent.plan.after == SPEC
    assert "room" in host.kinds()
    host.done(intent)
    host.serves(60)
    assert [one.state for one in host.state.incidents.values()] == [Stands.RESOLVED]


def test_a_start_that_fails_with_that_room_too_is_not_made_again():
    host = taken()
    host.foreign = 0
    host.card()
    host.done(host.intents[0])
    host.fails()
    host.wait(3600)
    assert not [one for one in host.intents[1:] if one.undo]


def test_where_a_person_is_to_be_asked_it_is_not_started_again_unasked():
    host = taken(mode=Mode.SUGGEST)
    host.foreign = 0
    host.card()
    host.wait(60)
    assert not host.intents


def test_while_the_neighbour_stays_nothing_is_offered():
    host = shrunk()
    host.serves(600)
    assert host.target.offered is None
    assert "way-back" not in host.kinds()


def test_when_the_neighbour_has_gone_the_way_back_is_offered_once_and_not_taken_unasked():
    host = shrunk()
    host.foreign = 0
    host.serves(7200)
    assert host.kinds().count("way-back") == 1
    assert len(host.intents) == 1


def test_where_it_is_allowed_the_way_back_is_taken_and_proven():
    host = shrunk(way_back=AUTO)
    host.foreign = 0
    host.serves(1780)
    assert len(host.intents) == 1, "not before it has fitted for a while"
    host.serves(60)
    intent = host.intents[1]
    assert intent.plan.after.argv == SPEC.argv
    host.done(intent)
    host.serves(300)
    assert (host.target.overlays, host.target.trial) == ((), None)
    assert host.kinds()[-1] == "trial-held"


def test_it_is_not_taken_in_working_hours_nor_while_paused_by_policy():
    host = shrunk(now=NOON, way_back=AUTO)
    host.foreign = 0
    host.serves(7200)
    assert len(host.intents) == 1
    assert host.target.offered


def test_a_neighbour_who_comes_back_takes_the_offer_away():
    host = shrunk(way_back=AUTO)
    host.foreign = 0
    host.serves(600)
    assert host.target.offered
    host.foreign = 5
    host.serves(60)
    assert host.target.offered is None


@pytest.mark.parametrize(
    ("hours", "hour", "allowed"),
    [
        pytest.param({}, 23, True, id="before midnight"),
        pytest.param({}, 3, True, id="after midnight"),
        pytest.param({}, 12, False, id="at noon"),
        pytest.param({"hours": Hours(from_="01:00", to="05:00")}, 3, True, id="within one day"),
        pytest.param({"hours": Hours(from_="01:00", to="05:00")}, 5, False, id="the end is no more within"),
        pytest.param({"utc_offset": "+08:00"}, 15, True, id="23 o'clock in Beijing"),
        pytest.param({"utc_offset": "-05:00"}, 23, False, id="18 o'clock in New York"),
        pytest.param({"mode": Mode.SUGGEST}, 23, False, id="only offered"),
    ],
)
def test_hours_are_those_of_the_site(hours, hour, allowed):
    rules = WayBack(**{"mode": Mode.AUTO, **hours})
    assert rules.allows(datetime(2026, 1, 1, hour, tzinfo=timezone.utc)) is allowed


@pytest.mark.parametrize(
    "field", [{"hours": {"from": "25:00"}}, {"hours": {"to": "6"}}, {"utc_offset": "08:00"}, {"utc_offset": "+8h"}]
)
def test_hours_that_are_none_are_refused_with_the_way_to_write_them(field):
    with pytest.raises(ValueError, match="write it like"):
        codec.convert(field, WayBack)
