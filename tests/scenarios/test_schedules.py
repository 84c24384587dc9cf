"""Random fault schedules against the mind: what must hold holds, whatever happens."""

from __future__ import annotations

import os
from copy import copy
from datetime import timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diagnose.model.incident import State as Stands
from diagnose.model.remedy import Budget, FlagSet, Mode, Remedy, Risk, Rung, ServerRestart
from diagnose.model.text import Duration
from diagnose.testing import both
from tests.scenarios import world_checks, world_lines
from tests.scenarios.world import SERVES, STARTS, Fault, World, fast

EXAMPLES = int(os.environ.get("DIAGNOSE_SCHEDULES", "1000"))

CURES = (
    None,
    None,
    ("--max-num-seqs", "64"),
    ("--gpu-memory-utilization", "0.8"),
    ("--max-model-len", "16384"),
    ("--graph-optimization-config", '{"use_cudagraph": false}'),
)
FAULTS = st.builds(
    Fault,
    kind=st.sampled_from(sorted({**STARTS, **SERVES})),
    times=st.sampled_from([1, 1, 2, 3, 99]),
    cure=st.sampled_from(CURES),
    after=st.sampled_from([2, 30, 90, 700]),
)
LINES = ("oom-weights", "oom-serving", "segfault", "illegal", "worker-died", "too-long", "prompt", "prompt-lines")
SKEWS = (0, 0, 0, -90, 90, -8 * 3600, 8 * 3600)
HAPPENINGS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([5, 20, 60, 180, 700])),
    st.tuples(st.just("fault"), FAULTS),
    st.tuples(st.just("line"), st.sampled_from(LINES)),
    st.tuples(st.just("stale"), st.sampled_from(LINES)),
    st.tuples(st.just("late"), st.sampled_from(LINES)),
    st.tuples(st.just("hands"), st.sampled_from(["stop", "start", "after", "slow"])),
    st.tuples(st.just("kill-daemon"), st.sampled_from([1, 6, 30, 200])),
    st.tuples(st.just("kill-server"), st.sampled_from([-9, -15, 0, None])),
    st.tuples(st.just("kill-worker"), st.sampled_from([-9, -11])),
    st.tuples(st.just("new-command"), st.just(0)),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("mode"), st.sampled_from(list(Mode))),
    st.tuples(st.just("order"), st.sampled_from(["approve", "apply", "reject", "rollback", "pause", "resume"])),
)
POLICIES = st.sampled_from(
    [
        fast(),
        fast(),
        fast(restarts=Budget(limit=1, per=Duration(minutes=10))),
        fast(remedies=Budget(limit=2, per=Duration(hours=2))),
        fast(restarts=Budget(limit=0, per=Duration(minutes=10))),
        fast(mode=Mode.APPROVE),
        fast(mode=Mode.SUGGEST),
    ]
)


def play(world: World, happenings) -> None:
    """Let it happen, then let it come to rest."""
    for name in world.servers:
        world.start(name)
    for place, (what, how) in enumerate(happenings):
        _happen(world, sorted(world.servers)[place % len(world.servers)], what, how)
        world.wait(5)
    world.policy = msgspec.structs.replace(world.policy, paused=False)
    world.bad_hands.clear()
    world.wait(300)
    world.wait(1200, tick=20)
    world.wait(3600, tick=120)
    while world.state.intents:
        world.wait(5)
    world_checks.check(world)
    world_checks.check_end(world)


def _happen(world: World, name: str, what: str, how) -> None:
    _DEEDS[what](world, world.servers[name], how)


def _fault(world: World, server, how) -> None:
    fault = copy(how)
    server.faults.append(fault)
    if server.serving and fault.kind in SERVES and fault.strikes(server.spec.argv):
        world.strike(server, fault, fault.after)


def _new_command(world: World, server, how) -> None:
    del how
    if not server.alive:
        world.kill_daemon(5, command=(*server.desired.argv, "--max-concurrency", "64"))


def _kill_worker(world: World, server, how) -> None:
    if server.workers:
        world.ends(server.name, how, worker=True)


def _policy(field: str):
    def put(world: World, server, how) -> None:
        del server
        world.policy = msgspec.structs.replace(world.policy, **{field: how})

    return put


def _order(world: World, server, how) -> None:
    live = [one for one in world.state.incidents.values() if one.target == server.name and one.plan]
    world.order(how, server.name, live[-1].id if live else "")


_DEEDS = {
    "wait": lambda world, _, how: world.wait(how),
    "fault": _fault,
    "line": lambda world, server, how: world.write(server.name, how),
    "stale": lambda world, server, how: world.write(server.name, how, fresh=False),
    "late": lambda world, server, how: world.write(server.name, how, attempt=max(server.generation - 1, 1)),
    "hands": lambda world, _, how: world.bad_hands.append(how),
    "kill-daemon": lambda world, _, how: world.kill_daemon(how),
    "new-command": _new_command,
    "kill-server": lambda world, server, how: world.ends(server.name, how),
    "kill-worker": _kill_worker,
    "pause": _policy("paused"),
    "mode": _policy("mode"),
    "order": _order,
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [pytest.param(EXAMPLES, id=f"{EXAMPLES}-schedules")])
@given(
    happenings=st.lists(HAPPENINGS, max_size=14),
    first=st.lists(FAULTS, max_size=2),
    policy=POLICIES,
    skew=st.sampled_from(SKEWS),
    two=st.booleans(),
)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_whatever_happens_acts_are_verified_failed_ones_undone_and_all_brakes_hold(
    happenings, first, policy, skew, two, number
):
    del number
    world = World(policy=policy, skew=timedelta(seconds=skew), targets=("a", "b") if two else ("a",))
    world.servers["a"].faults += map(copy, first)
    play(world, happenings)


# --- lives that went wrong once, and those that somebody might ask about


def lives(*faults: Fault, seconds: float = 1800, world: World | None = None, happens=()) -> World:
    """Live with these faults, and come to rest."""
    world = world or World(policy=fast())
    world.servers["t"].faults += faults
    world.start("t")
    for after, what, how in happens:
        world.wait(after)
        _happen(world, "t", what, how)
    world.wait(seconds)
    while world.state.intents:
        world.wait(5)
    world_checks.check(world)
    world_checks.check_end(world)
    return world


def remedy(name: str, mode: Mode, *values: str) -> Remedy:
    """Make a remedy that tries these values of --max-num-seqs, one a rung."""
    return Remedy(
        id=name,
        title=both(name),
        why=both(name),
        cures=("gpu_oom_load", "gpu_oom_runtime"),
        risk=Risk.DEGRADING,
        mode=mode,
        cooldown=Duration(seconds=10),
        ladder=tuple(
            Rung(rung=both(value), steps=(FlagSet(set={"--max-num-seqs": value}), ServerRestart())) for value in values
        ),
    )


def stepwise(**policy) -> World:
    """Make a world where memory is treated step by step: 64 sequences, then 32, then with leave 4."""
    shipped = world_lines.knowledge()
    others = {
        name: one for name, one in shipped.remedies.items() if not {"gpu_oom_load", "gpu_oom_runtime"} & {*one.cures}
    }
    ours = (remedy("fewer", Mode.AUTO, "64", "32"), remedy("with-leave", Mode.APPROVE, "4"))
    known = msgspec.structs.replace(shipped, remedies={**others, **{one.id: one for one in ours}}, digest="stepwise")
    return World(policy=fast(**policy), knowledge=known)


def troubles(world: World):
    return [one for one in world.incidents.values() if one.state is not Stands.HISTORY]


def kinds(incident) -> list[str]:
    return [entry.kind for entry in incident.timeline]


def outline(incident):
    return incident.cause, incident.state, [(one.remedy_id, one.rung, one.result, one.at) for one in incident.tries]


def ways_back(world: World):
    return [intent for _, intent in world.performs if intent.undo]


def test_a_failed_change_is_undone_at_once_while_a_person_is_waited_for():
    world = lives(Fault("oom-weights", 99, ("--max-num-seqs", "8")), world=stepwise())
    (incident,) = troubles(world)
    assert incident.held == "approve", "the next rung needs a yes"
    assert incident.tries[-1].result == "failed"
    assert [one.changes for one in incident.tries] == [("--max-num-seqs 128 -> 64",), ("--max-num-seqs 128 -> 32",)]
    assert not world.state.targets["t"].overlays
    assert not ways_back(world)[0].plan.steps, "what never worked is not started again"


def test_a_failed_change_of_a_server_that_served_is_undone_with_a_restart():
    world = stepwise(restarts=Budget(limit=1, per=Duration(hours=2)))
    lives(Fault("oom-serving", 2, after=30), world=world)
    undone = [intent for intent in ways_back(world) if intent.plan.remedy_id == "rollback"]
    assert undone
    assert world.servers["t"].spec == world.servers["t"].desired
    assert world_checks.serves(world)


def test_an_undo_that_slips_is_tried_again_and_more_seldom():
    world = stepwise(restarts=Budget(limit=1, per=Duration(hours=2)))
    world.bad_hands += ["", "start", "start", "start"]
    lives(Fault("oom-serving", 2, after=30), world=world, seconds=7200)
    at = [intent.at for intent in ways_back(world)]
    gaps = [after - before for before, after in pairwise(at)]
    assert len(at) >= 3
    assert gaps == sorted(gaps)
    assert world_checks.serves(world)


@pytest.mark.parametrize("kind", ["exit-unknown", "exit-77", "exit-term", "exit-0", "exit-1"])
def test_a_start_that_ends_without_a_word_is_told_and_tried_again(kind):
    world = lives(Fault(kind, 1))
    assert [one.cause for one in troubles(world)] == ["worker_launch_failed"]
    assert world_checks.serves(world)


@pytest.mark.parametrize("kind", ["disk-full", "silent-end", "term", "killed"])
def test_a_server_that_served_and_ended_is_started_again_whatever_its_cause(kind):
    assert world_checks.serves(lives(Fault(kind, 1)))


def test_what_never_served_and_no_restart_can_cure_is_left_to_a_person():
    world = lives(Fault("no-weight", 99))
    assert [one.held for one in troubles(world)] == ["advice"]
    assert not world.performs


def test_a_server_that_keeps_crashing_is_started_ever_more_seldom_and_within_its_budget():
    world = lives(Fault("crash", 99, after=10), seconds=6 * 3600)
    starts = [turn.at for turn, intent in world.performs if world_checks.restarts(intent)]
    for at in starts:
        assert len([one for one in starts if timedelta(0) <= at - one < timedelta(minutes=15)]) <= 3
    assert timedelta(minutes=59) <= starts[-1] - starts[-2] <= timedelta(minutes=62)


def test_a_server_that_keeps_crashing_comes_back_when_it_can():
    assert world_checks.serves(lives(Fault("crash", 6, after=10), seconds=4 * 3600))


@pytest.mark.parametrize("hours", [-8, 8, 0])
@pytest.mark.parametrize("kind", ["crash", "oom-capture", "illegal"])
def test_clocks_of_logs_that_are_off_change_nothing(kind, hours):
    fault = Fault(kind, 2, ("--gpu-memory-utilization", "0.8") if kind == "oom-capture" else None)
    told = lives(fault, world=World(policy=fast(), skew=timedelta(hours=hours)))
    plain = lives(Fault(fault.kind, 2, fault.cure))
    assert [outline(one) for one in troubles(told)] == [outline(one) for one in troubles(plain)]
    assert world_checks.serves(told)


def test_a_budget_of_nothing_means_nothing_and_breaks_nothing():
    world = lives(Fault("crash", 1), world=World(policy=fast(restarts=Budget(limit=0))))
    assert not world.performs
    assert [one.held for one in troubles(world)] == ["budget-restarts"]


@pytest.mark.parametrize("what", ["oom-weights", "segfault", "illegal", "prompt", "prompt-lines", "too-long"])
def test_old_news_and_text_of_users_neither_lead_nor_keep_a_crash_from_being_cured(what):
    world = World(policy=fast())
    world.start("t")
    world.wait(120)
    world.write("t", what, fresh=False)
    world.write("t", "prompt")
    world.wait(5)
    world.ends("t", -9)
    world.wait(900)
    world_checks.check(world)
    assert [intent.plan.remedy_id for _, intent in world.performs] == ["server.clean-restart"]
    assert world_checks.serves(world)


@pytest.mark.parametrize("slip", ["stop", "start", "after", "slow"])
@pytest.mark.parametrize("times", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["crash", "unhealthy"])
def test_hands_that_slip_leave_no_server_down(kind, times, slip):
    world = World(policy=fast())
    world.bad_hands += [slip] * times
    lives(Fault(kind, 1), world=world, seconds=3 * 3600)
    assert world_checks.serves(world) or (kind, slip) == ("unhealthy", "stop"), "it could not be ended"


@pytest.mark.parametrize("seconds", range(12))
@pytest.mark.parametrize("kind", ["crash", "oom-capture"])
def test_a_daemon_killed_at_any_second_of_an_act_finds_its_way(kind, seconds):
    world = World(policy=fast())
    cure = ("--gpu-memory-utilization", "0.8") if kind == "oom-capture" else None
    world.servers["t"].faults.append(Fault(kind, 1 if kind == "crash" else 99, cure, after=60))
    world.start("t")
    while not world.performs:
        world.wait(1, tick=1)
    world.wait(seconds, tick=1)
    world.kill_daemon(7)
    world.wait(1200)
    world_checks.check(world)
    world_checks.check_end(world)
    assert world_checks.serves(world)


def test_a_line_of_an_ended_start_leaves_no_trouble_behind():
    world = lives(Fault("crash", 1), seconds=3600, happens=[(300, "late", "oom-serving"), (5, "late", "segfault")])
    assert not [one for one in world.state.incidents.values() if one.state in world_checks.LIVE]


def test_a_trouble_that_shows_again_and_again_is_one():
    world = World(policy=fast())
    world.start("t")
    for _ in range(20):
        world.wait(900, tick=60)
        world.write("t", "oom-serving")
    world.wait(60)
    world_checks.check(world)
    assert len(world.incidents) == 1, "a line alone, every quarter of an hour"
    assert not world.performs


def test_a_trouble_that_comes_back_after_its_end_is_another():
    world = lives(Fault("crash", 1), Fault("crash", 1), seconds=3600)
    assert [one.state for one in troubles(world)] == [Stands.RESOLVED] * 2


def test_a_remedy_s_budget_is_kept_over_all_incidents():
    world = lives(Fault("crash", 99, after=120), seconds=840, world=World(policy=fast(restarts=Budget(limit=99))))
    own = [intent for _, intent in world.performs if intent.plan.remedy_id == "server.clean-restart"]
    assert len(own) == 3


def test_a_cause_that_comes_after_all_was_tried_has_its_own_cure():
    world = World(policy=fast(restarts=Budget(limit=9)))
    world.servers["t"].faults += [Fault("unhealthy", 3, after=2), Fault("illegal", 1)]
    world.start("t")
    world.wait(600)
    exhausted = [one for one in world.incidents.values() if "escalated" in kinds(one)]
    assert exhausted
    world.write("t", "illegal")
    world.ends("t", 1)
    world.wait(900)
    assert "server.without-cuda-graphs" in [intent.plan.remedy_id for _, intent in world.performs]


def test_while_paused_nothing_is_undone_and_afterwards_it_is():
    world = stepwise()
    world.servers["t"].faults.append(Fault("oom-weights", 99, ("--max-num-seqs", "8")))
    world.start("t")
    while len(world.performs) < 2:
        world.wait(1, tick=1)
    world.policy = msgspec.structs.replace(world.policy, paused=True)
    world.wait(600)
    assert len(world.performs) == 2
    assert world.state.targets["t"].overlays
    world.policy = msgspec.structs.replace(world.policy, paused=False)
    world.wait(30)
    assert not world.state.targets["t"].overlays
    world_checks.check(world)


def test_an_operator_s_new_command_is_never_changed_by_what_was_laid_over_the_old_one():
    world = World(policy=fast())
    world.servers["t"].faults.append(Fault("oom-capture", 99, ("--gpu-memory-utilization", "0.8")))
    world.start("t")
    while not world.performs:
        world.wait(1, tick=1)
    world.wait(4, tick=1)
    new = (*world.servers["t"].desired.argv, "--max-concurrency", "64")
    world.kill_daemon(5, command=new)
    assert world.servers["t"].spec.argv == new
    world.wait(1200)
    world_checks.check(world)
    assert world_checks.serves(world)


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        pytest.param({"untrusted": True}, "untrusted", id="users may write the line"),
        pytest.param({"status": "experimental"}, "experimental", id="the rule is on trial"),
    ],
)
def test_what_is_not_to_be_acted_upon_is_shown_and_held(changes, held):
    world = stepwise()
    rules = {
        name: msgspec.structs.replace(one, **changes) if one.cause == "gpu_oom_load" else one
        for name, one in world.knowledge.rules.items()
    }
    world.knowledge = msgspec.structs.replace(world.knowledge, rules=rules, digest=held)
    lives(Fault("oom-weights", 1), world=world)
    assert [one.held for one in troubles(world)] == [held]
    assert not world.performs


def test_one_bad_answer_at_the_last_moment_puts_the_proof_off():
    world = World(policy=fast())
    world.servers["t"].faults.append(Fault("crash", 1))
    world.start("t")
    while not any("ready" in kinds(one) for one in world.incidents.values()):
        world.wait(1, tick=1)
    world.wait(58, tick=1)
    world.servers["t"].sick = "timeout"
    world.wait(4, tick=4)
    assert [one.state for one in troubles(world)] == [Stands.VERIFYING]
    world.servers["t"].sick = ""
    world.wait(5)
    assert [one.state for one in troubles(world)] == [Stands.RESOLVED]
    world_checks.check(world)
