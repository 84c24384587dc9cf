"""The mind's turns: from a first symptom to a proven cure, and what keeps it from acting."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnose.engine.policy import Policy
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.model import codec
from diagnose.model.effect import Perform, PhaseChanged, SaveIncident
from diagnose.model.incident import State as Stands
from diagnose.model.knowledge import Knowledge
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import (
    RECOVERED,
    Hit,
    LogMatch,
    Outcome,
    ProbeResult,
    ProcessExit,
    ProcessSample,
    ServerStarted,
    StepResult,
)
from diagnose.model.remedy import Mode, Remedy
from diagnose.model.rule import Rule
from diagnose.model.text import Duration

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
TEXT = {"en": "x", "zh": "x"}
SPEC = LaunchSpec(
    argv=(
        "python",
        "-m",
        "fastdeploy.entrypoints.openai.api_server",
        "--model",
        "m",
        "--max-num-seqs",
        "128",
    )
)


def rule(rule_id, cause, when, **fields):
    return codec.convert(
        {
            "id": rule_id,
            "cause": cause,
            "title": TEXT,
            "why": TEXT,
            "fix": TEXT,
            "when": when,
            "clears": {"ready": True},
            "tests": {"hits": [], "misses": []},
            **fields,
        },
        Rule,
    )


RULES = (
    rule("oom", "gpu_oom_load", {"pattern": "x"}, explains=["worker_launch_failed"], confidence=0.97),
    rule("exit", "worker_launch_failed", {"event": "process.exit", "where": {"role": ["main"]}}),
    rule("stall", "hang_on_load", {"event": "process.stall"}),
    rule("noisy", "queue_timeout", {"pattern": "x"}, severity="warning"),
    rule(
        "refused", "overload_503", {"pattern": "x"}, severity="warning", corroborate=["load"], clears={"quiet": "10m"}
    ),
)
REMEDY = codec.convert(
    {
        "id": "fewer-seqs",
        "title": TEXT,
        "why": TEXT,
        "cures": ["gpu_oom_load"],
        "risk": "degrading",
        "cooldown": "1s",
        "ladder": [
            {
                "rung": TEXT,
                "steps": [
                    {
                        "action": "flag.scale",
                        "flag": "--max-num-seqs",
                        "factor": 0.5,
                        "least": 2,
                        "most": 256,
                    },
                    {"action": "server.restart"},
                ],
            },
            {
                "rung": TEXT,
                "steps": [
                    {"action": "flag.set", "set": {"--gpu-memory-utilization": "0.8"}},
                    {"action": "server.restart"},
                ],
            },
        ],
        "verify": {"holds_for": "10s", "within": "60s"},
    },
    Remedy,
)
MORE_AT_ONCE = msgspec.structs.replace(
    REMEDY, id="more-at-once", cures=("overload_503",), ladder=(REMEDY.ladder[0],), mode=Mode.AUTO
)
KNOWLEDGE = Knowledge(
    rules={one.id: one for one in RULES},
    remedies={one.id: one for one in (REMEDY, MORE_AT_ONCE)},
    marks={},
    digest="step-tests",
)


class World:
    """Drives the mind by hand: tells it what is seen, and remembers what it wants."""

    def __init__(self, **policy):
        self.policy = Policy(**{"mode": Mode.AUTO, "settle": Duration(seconds=2), **policy})
        self.state, self.now, self.effects, self.turns = State(), NOON, [], []
        self.generation = 0

    def tell(self, *observations):
        before = self.state
        self.state, effects = step(self.state, observations, knowledge=KNOWLEDGE, policy=self.policy, now=self.now)
        if not observations and not effects:
            assert self.state == before, "a turn that says nothing changes nothing"
        self.turns.append((observations, self.now))
        self.effects += effects
        return effects

    def wait(self, seconds):
        for _ in range(int(seconds)):
            self.now += timedelta(seconds=1)
            self.tell()

    def start(self):
        self.generation += 1
        self.tell(
            ServerStarted(
                target="t",
                at=self.now,
                generation=self.generation,
                pid=100 + self.generation,
                how="spawned",
                spec=SPEC,
            )
        )

    def log(self, rule_id="oom", *, fresh=True, attempt=None, **labels):
        self.tell(
            LogMatch(
                target="t",
                source="workerlog.0",
                stream="worker",
                line=1,
                at=self.now,
                dated=True,
                attempt=attempt or self.generation,
                text="boom",
                level=None,
                hits=(Hit(rule_id, 0, labels),),
                fresh=fresh,
            )
        )

    def exit(self, code=1, *, expected=False):
        self.tell(
            ProcessExit(
                target="t",
                at=self.now,
                generation=self.generation,
                role="main",
                pid=100,
                code=code,
                expected=expected,
            )
        )

    def answer(self, probe="completion", answer="ok"):
        self.tell(
            ProbeResult(target="t", at=self.now, generation=self.generation, probe=probe, answer=answer, tokens=4)
        )

    def sample(self, **fields):
        plain = {"alive": True, "workers": 1, "cpu_seconds": 0.0, "rss_bytes": 0, "log_bytes": 0}
        self.tell(ProcessSample(target="t", at=self.now, generation=self.generation, **{**plain, **fields}))

    def outcome(self, intent, *, ok=True, action="server.restart"):
        result = StepResult(action=action, ok=ok, text="done")
        self.tell(Outcome(target="t", at=self.now, intent_id=intent.id, ok=ok, results=(result,)))

    def fail_start(self):
        self.start()
        self.log()
        self.exit()
        self.wait(4)

    @property
    def intents(self):
        return [effect.intent for effect in self.effects if isinstance(effect, Perform)]

    @property
    def incident(self):
        saved = [effect.incident for effect in self.effects if isinstance(effect, SaveIncident)]
        return self.state.incidents[saved[-1].id]


def test_what_a_start_printed_counts_for_it_though_its_end_was_seen_first():
    world = World()
    world.start()
    world.exit()
    world.log("@profiling")
    world.log("@measured", before_gib="13.5")
    (start,) = world.state.targets["t"].starts
    assert (start.stage, start.measured) == ("profiling", {"before_gib": "13.5"})
    world.start()
    world.answer()
    world.exit()
    world.log("@measured", before_gib="14")
    assert world.state.targets["t"].starts[-1].measured == {}, "it has served: that is no start any more"


def test_a_failed_start_is_cured_by_the_gentlest_rung_and_proven_by_a_completion_that_holds():
    world = World()
    world.fail_start()
    (intent,) = world.intents
    assert world.incident.cause == "gpu_oom_load"
    assert [(one.flag, one.before, one.after) for one in intent.plan.changes] == [("--max-num-seqs", "128", "64")]
    world.start()
    world.outcome(intent)
    assert world.incident.state is Stands.VERIFYING
    world.answer()
    world.wait(9)
    assert world.incident.state is Stands.VERIFYING, "well, but it has not held yet"
    world.wait(2)
    assert world.incident.state is Stands.RESOLVED
    assert world.incident.tries[0].result == "kept"
    assert world.state.targets["t"].good == intent.plan.overlays


def test_the_ladder_is_climbed_when_the_new_start_fails_too_and_then_a_person_is_called():
    world = World()
    world.fail_start()
    for _ in range(2):
        intent = world.intents[-1]
        world.start()
        world.outcome(intent)
        world.log()
        world.exit()
        world.wait(20)
    assert [one.plan.rung for one in world.intents if not one.undo] == [0, 1]
    second = world.intents[1].plan
    assert "64" not in second.after.argv, "a try that failed is not kept under the next one"
    assert world.incident.state is Stands.EXHAUSTED
    assert [one.result for one in world.incident.tries] == ["failed", "failed"]


def test_what_is_over_is_forgotten_in_the_end_but_not_the_incident_whose_change_is_in_force():
    world = World()
    world.fail_start()
    intent = world.intents[-1]
    world.start()
    world.outcome(intent)
    world.answer()
    world.wait(12)
    assert world.incident.state is Stands.RESOLVED
    owner = world.incident.id
    for _ in range(30):
        world.start()
        world.log("noisy")
        world.wait(3)
        world.answer()
        world.wait(1)
    assert {overlay.incident_id for overlay in world.state.targets["t"].overlays} == {owner}
    assert owner in world.state.incidents
    assert len(world.state.incidents) <= 22


@pytest.mark.parametrize("proven", [True, False])
def test_a_failed_change_is_undone_only_once_no_next_one_can_follow_in_a_moment(proven):
    world = World(settle_most=Duration(seconds=8))
    world.fail_start()
    first = world.intents[-1]
    world.start()
    world.outcome(first)
    world.answer()
    world.wait(3)
    world.log()
    world.wait(3)
    assert world.intents == [first], "the line is known, its proof is on its way: two restarts would help nobody"
    if proven:
        world.exit()
    world.wait(20)
    assert [one.undo for one in world.intents[1:]] == [not proven]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        pytest.param({"paused": True}, "paused", id="paused"),
        pytest.param({"mode": Mode.SUGGEST}, "suggest", id="site suggests only"),
        pytest.param({"mode": Mode.OBSERVE}, "observe", id="site observes"),
        pytest.param({"modes": {"fewer-seqs": Mode.APPROVE}}, "approve", id="this remedy needs a person"),
        pytest.param({"modes": {"target:t": Mode.SUGGEST}}, "suggest", id="this server is not to be touched"),
    ],
)
def test_what_is_not_allowed_is_planned_and_held_with_its_reason(policy, reason):
    world = World(**policy)
    world.fail_start()
    assert not world.intents
    assert world.incident.held == reason
    assert world.incident.plan.changes


def test_a_line_alone_never_restarts_a_server():
    world = World()
    world.start()
    world.answer()
    world.log()
    world.wait(30)
    assert not world.intents
    assert world.incident.held == "uncorroborated"


def overloaded():
    """Return a world whose server is being restarted, since it refuses requests and they wait."""
    world = World()
    world.start()
    world.answer()
    world.log("refused")
    world.wait(4)
    assert world.incident.held == "uncorroborated", "text alone"
    world.answer(answer="busy")
    world.start()
    world.outcome(world.intents[0])
    world.answer()
    return world


def test_a_warning_that_does_not_come_again_is_cured():
    world = overloaded()
    world.log("noisy")
    world.wait(12)
    assert world.incident.tries[0].result == "kept"


def test_a_warning_that_comes_again_was_not_cured_and_the_change_is_put_back():
    world = overloaded()
    world.log("refused")
    world.wait(4)
    assert world.incident.tries[0].result == "failed"
    assert world.incident.state is Stands.EXHAUSTED
    assert world.intents[-1].undo
    assert world.intents[-1].plan.after == SPEC


def test_old_news_is_never_acted_upon():
    world = World()
    world.start()
    world.log(fresh=False)
    world.exit()
    world.wait(5)
    assert not [one for one in world.intents if one.plan.remedy_id == "fewer-seqs"]


def test_the_root_cause_may_be_written_after_its_echo():
    world = World()
    world.start()
    world.exit()
    world.wait(1)
    world.log()
    world.wait(5)
    assert world.incident.cause == "gpu_oom_load"
    assert len({effect.incident.id for effect in world.effects if isinstance(effect, SaveIncident)}) == 1


def test_what_a_remedy_provokes_is_no_news():
    world = World()
    world.fail_start()
    count = len(world.state.incidents)
    world.log("noisy", attempt=1)
    world.exit(expected=True)
    assert len(world.state.incidents) == count


def test_a_step_that_fails_is_told_and_the_next_rung_is_tried():
    world = World()
    world.fail_start()
    world.outcome(world.intents[0], ok=False)
    world.wait(3)
    assert world.incident.tries[0].result == "failed"
    assert world.intents[1].plan.rung == 1


@pytest.mark.parametrize(
    ("action", "least", "most"),
    [
        pytest.param(RECOVERED, 0, 2, id="cut short: at once"),
        pytest.param("server.restart", 50, 62, id="failed: later"),
    ],
)
def test_a_way_back_that_did_not_come_to_its_end_is_taken_again(action, least, most):
    world = World()
    world.start()
    world.answer()
    world.wait(world.policy.stable_after.total_seconds() + 1)
    world.log()
    world.exit()
    world.wait(4)
    for _ in range(2):
        intent = world.intents[-1]
        world.start()
        world.outcome(intent)
        world.log()
        world.exit()
        world.wait(4)
    undo = world.intents[-1]
    assert undo.undo
    world.outcome(undo, ok=False, action=action)
    waited = 0
    while world.intents[-1] is undo:
        world.wait(1)
        waited += 1
        assert waited <= most
    assert waited >= least
    assert world.intents[-1].undo


def test_a_start_hangs_when_nothing_moves_and_not_before():
    world = World(stall_after=Duration(seconds=60))
    world.start()
    for second in range(0, 50, 10):
        world.now += timedelta(seconds=10)
        world.sample(log_bytes=second)
    for _ in range(5):
        world.now += timedelta(seconds=10)
        world.sample(log_bytes=40)
    assert not world.state.incidents, "it moved 50 seconds ago"
    world.now += timedelta(seconds=15)
    world.sample(log_bytes=40)
    assert world.incident.cause == "hang_on_load"


def test_workers_that_are_gone_while_the_main_process_waits_are_a_hang_at_once():
    world = World(stall_after=Duration(minutes=30))
    world.start()
    world.sample(workers=1, log_bytes=1)
    for second in range(0, 15, 5):
        world.now += timedelta(seconds=5)
        world.sample(workers=0, log_bytes=second)
    assert world.incident.cause == "hang_on_load"


def test_a_server_becomes_ready_by_a_completion_and_not_by_its_health_alone():
    world = World()
    world.start()
    world.answer("health")
    assert world.state.targets["t"].phase == "starting"
    world.answer("completion")
    assert world.state.targets["t"].phase == "ready"
    phases = [effect.phase for effect in world.effects if isinstance(effect, PhaseChanged)]
    assert phases == ["starting", "ready"]


def test_trouble_that_ends_by_itself_is_resolved_without_a_hand():
    world = World(mode=Mode.SUGGEST)
    world.fail_start()
    world.start()
    world.now += timedelta(seconds=5)
    world.answer()
    world.wait(2)
    assert world.incident.state is Stands.RESOLVED


def test_a_life_told_again_is_the_same_life():
    world = World()
    world.fail_start()
    world.start()
    world.outcome(world.intents[0])
    world.answer()
    world.wait(15)
    state, effects = State(), []
    for observations, now in world.turns:
        state, more = step(state, observations, knowledge=KNOWLEDGE, policy=world.policy, now=now)
        effects += more
        state = codec.decode(codec.encode(state), State)  # written down and read again at every turn
    assert effects == world.effects
    assert state == world.state


HAPPENINGS = st.lists(
    st.one_of(
        st.sampled_from(["oom", "noisy", "stale", "exit", "well", "unwell", "done", "undone", "start", "sample"]),
        st.integers(1, 400),
    ),
    max_size=60,
)


@given(HAPPENINGS)
@settings(max_examples=300, deadline=None)
def test_whatever_happens_the_brakes_hold(happenings):
    world = World()
    world.start()
    for happening in happenings:
        before = world.state.targets["t"].seen
        acted = len(world.intents)
        _happen(world, happening)
        new = [one for one in world.intents[acted:] if not one.undo]
        assert len(world.state.intents) <= 1, "one remedy at a time"
        if new and isinstance(happening, str):
            assert before or world.state.targets["t"].seen, "no action without a second kind of proof"
        for intent in new:
            incident = world.state.incidents[intent.incident_id]
            assert incident.findings[0].fresh
            recent = [one for one in world.intents if not one.undo and intent.at - one.at < timedelta(minutes=15)]
            assert len(recent) <= 3, "the budget is kept"
    for incident in world.state.incidents.values():
        kept = [one for one in incident.tries if one.result == "kept"]
        assert len(kept) == (incident.state is Stands.RESOLVED and bool(kept)), "kept only when proven"


def _happen(world, happening):
    if isinstance(happening, int):
        world.now += timedelta(seconds=happening)
        world.tell()
        return
    running = list(world.state.intents.values())
    actions = {
        "oom": world.log,
        "noisy": lambda: world.log("noisy"),
        "stale": lambda: world.log(fresh=False),
        "exit": world.exit,
        "well": world.answer,
        "unwell": lambda: world.answer(answer="timeout"),
        "start": world.start,
        "sample": world.sample,
        "done": lambda: running and (world.start(), world.outcome(running[0])),
        "undone": lambda: running and world.outcome(running[0], ok=False),
    }
    actions[happening]()
