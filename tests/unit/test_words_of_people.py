"""Orders in the mind's turns: what a yes is good for, when it ends, and what no order can do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from diagnose.engine import orders
from diagnose.engine.policy import Policy
from diagnose.engine.targets import Pause, Target
from diagnose.launch import overlays
from diagnose.model.effect import Answered, Perform
from diagnose.model.incident import State as Stands
from diagnose.model.launch import Overlay
from diagnose.model.observation import Order
from diagnose.model.remedy import Mode
from diagnose.model.text import Duration
from diagnose.report import texts
from diagnose.testing import incident, knowledge, plan
from tests.unit.test_step import KNOWLEDGE, NOON, SPEC, World


def say(world, kind, *, name=None, **fields):
    """Give an order, and return its answer."""
    name = name if name is not None else world.incident.id if kind in {"approve", "reject", "apply"} else ""
    order = Order(target="t", at=world.now, id="o1", kind=kind, by="li", incident=name, **fields)
    world.tell(order)
    answers = [effect for effect in world.effects if isinstance(effect, Answered)]
    assert texts.answer_text(answers[-1], "en")
    assert texts.answer_text(answers[-1], "zh")
    return answers[-1]


def asking(**policy):
    world = World(**{"mode": Mode.APPROVE, **policy})
    world.fail_start()
    assert world.incident.held == "approve"
    return world


def test_what_is_approved_is_carried_out_in_the_same_turn():
    world = asking()
    answer = say(world, "approve")
    assert (answer.ok, answer.reason) == (True, "approve")
    assert [one.plan.changes[0].after for one in world.intents] == ["64"]
    assert world.incident.state is Stands.ACTING


def test_an_approval_of_one_rung_is_none_of_the_next():
    world = asking()
    say(world, "approve")
    world.start()
    world.outcome(world.intents[0])
    world.log()
    world.exit()
    world.wait(30)
    assert world.incident.tries[0].result == "failed"
    assert len([one for one in world.intents if not one.undo]) == 1
    assert world.incident.held == "approve"
    assert "--gpu-memory-utilization" in world.incident.plan.changes[0].flag


def test_an_approval_waits_for_the_other_brakes_and_ends_by_itself():
    world = asking(approval_for=Duration(minutes=5))
    say(world, "pause")
    answer = say(world, "approve")
    assert (answer.ok, answer.reason, answer.params["held"]) == (True, "approve-waits", "paused")
    world.wait(400)
    assert say(world, "resume").ok
    world.wait(5)
    assert world.incident.held == "approve", "asked again"
    assert not world.intents


def test_an_approved_plan_starts_when_the_last_brake_is_off():
    world = asking()
    say(world, "pause")
    say(world, "approve")
    world.wait(5)
    assert not world.intents
    say(world, "resume")
    world.wait(5)
    assert len(world.intents) == 1


def test_a_person_who_has_seen_the_line_needs_no_second_proof():
    world = World(mode=Mode.APPROVE)
    world.start()
    world.answer()
    world.log()
    world.wait(5)
    assert say(world, "approve").reason == "approve"
    assert len(world.intents) == 1


def test_an_order_sets_caution_and_budgets_aside_but_no_pause_and_no_observing():
    world = World(mode=Mode.SUGGEST)
    world.start()
    world.answer()
    world.log()
    world.wait(5)
    assert say(world, "pause").ok
    assert say(world, "apply").reason == "held-paused"
    assert say(world, "resume").ok
    assert say(world, "apply").ok
    assert len(world.intents) == 1
    observing = World(mode=Mode.OBSERVE)
    observing.fail_start()
    assert say(observing, "apply").reason == "held-observe"
    assert not observing.intents


def test_a_rejected_remedy_is_not_asked_for_again():
    world = asking()
    assert say(world, "reject").ok
    world.wait(60)
    assert (world.incident.held, world.incident.plan) == ("rejected", None)
    assert say(world, "approve").reason == "no-plan"
    assert not world.intents


def test_a_pause_ends_by_itself_and_is_told_with_who_and_why():
    world = World()
    say(world, "pause", until=NOON + timedelta(seconds=30), why="upgrade")
    world.fail_start()
    assert world.incident.held == "paused"
    assert not world.intents
    world.wait(30)
    assert len(world.intents) == 1


def cured():
    world = World()
    world.fail_start()
    world.start()
    world.outcome(world.intents[0])
    world.answer()
    world.wait(12)
    assert world.incident.state is Stands.RESOLVED
    return world


def test_settings_put_back_are_proven_and_then_are_the_good_ones():
    world = cured()
    answer = say(world, "rollback")
    assert (answer.ok, answer.params["change"]) == (True, "--max-num-seqs 64 -> 128")
    intent = world.intents[-1]
    assert intent.plan.after.argv == SPEC.argv
    assert say(world, "rollback").reason == "held-busy"
    world.start()
    world.outcome(intent)
    world.answer()
    world.wait(140)
    target = world.state.targets["t"]
    assert (target.trial, target.overlays, target.good) == (None, (), ())
    assert world.incident.timeline[-1].kind == "trial-held"
    assert world.incident.state is Stands.RESOLVED


def test_settings_put_back_that_do_not_work_are_changed_again_and_nothing_else_acts_meanwhile():
    world = cured()
    laid = world.state.targets["t"].overlays
    say(world, "rollback")
    world.start()
    world.outcome(world.intents[-1])
    world.log()
    world.exit()
    world.wait(20)
    undo = world.intents[-1]
    assert (undo.undo, undo.plan.overlays, len(world.intents)) == (True, laid, 3)
    world.start()
    world.outcome(undo)
    world.answer()
    world.wait(30)
    assert world.state.targets["t"].overlays == laid
    assert len(world.intents) == 3
    assert all(one.state not in {Stands.OPEN, Stands.PENDING} for one in world.state.incidents.values())


def test_nothing_is_put_back_while_the_change_is_being_proven():
    world = World()
    world.fail_start()
    world.start()
    world.outcome(world.intents[0])
    assert world.incident.state is Stands.VERIFYING
    assert say(world, "rollback").reason == "held-busy"
    assert len(world.intents) == 1


def test_hands_that_fail_while_putting_back_lay_the_changes_again_at_once():
    world = cured()
    say(world, "rollback")
    world.outcome(world.intents[-1], ok=False)
    assert world.intents[-1].plan.overlays == world.intents[0].plan.overlays
    assert world.state.targets["t"].trial is None


LAID = overlays.lay(SPEC, (), {"--max-num-seqs": "64"}, incident_id="a1b2c3d4", at=NOON)
HERE = Target(name="default", desired=SPEC, overlays=LAID, generation=1)


@pytest.mark.parametrize(
    ("kind", "found", "target", "reason"),
    [
        pytest.param("approve", None, HERE, "no-incident", id="an incident that is forgotten"),
        pytest.param("approve", incident(state=Stands.VERIFYING), HERE, "not-waiting", id="under way"),
        pytest.param("reject", incident(), HERE, "no-plan", id="nothing planned"),
        pytest.param("apply", incident(plan=plan(remedy_id="gone")), HERE, "no-plan", id="a remedy that is gone"),
        pytest.param("resume", None, HERE, "not-paused", id="not paused"),
        pytest.param("rollback", None, Target(name="default", desired=SPEC), "nothing-to-undo", id="nothing laid"),
        pytest.param("rollback", None, Target(name="default", overlays=LAID), "nothing-to-undo", id="no command"),
        pytest.param("restart", None, Target(name="default"), "no-command", id="no command to restart"),
        pytest.param(
            "restart",
            None,
            Target(name="default", desired=SPEC, pause=Pause(by="mei", at=NOON)),
            "held-paused",
            id="paused",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason_and_changes_nothing(kind, found, target, reason):
    name = found.id if found else "a1b2c3d4"
    order = Order(target="default", at=NOON, id="o", kind=kind, by="li", incident="" if kind == "rollback" else name)
    done = orders.obey(order, found, target, knowledge(), Policy(), busy=False, now=NOON)
    assert (done.answer.ok, done.answer.reason) == (False, reason)
    assert (done.target, done.incident, done.intent) == (target, None, None)
    assert "{" not in texts.answer_text(done.answer, "en") + texts.answer_text(done.answer, "zh")


@pytest.mark.parametrize("found", [None, incident()])
def test_a_restart_keeps_all_settings_and_is_no_try_at_a_cure(found):
    order = Order(target="default", at=NOON, id="o", kind="restart", by="li")
    done = orders.obey(order, found, HERE, KNOWLEDGE, Policy(), busy=False, now=NOON)
    assert done.answer.ok
    assert done.intent.undo
    assert done.intent.plan.restarts
    assert (done.intent.plan.overlays, done.intent.plan.before) == (LAID, done.intent.plan.after)
    assert done.target == HERE
    assert [one.timeline[-1].kind for one in (done.incident,) if one] == ["restart"] * (found is not None)
    busy = orders.obey(order, found, HERE, KNOWLEDGE, Policy(), busy=True, now=NOON)
    assert busy.answer.reason == "held-busy"


def test_only_what_one_incident_changed_is_put_back_if_so_wished():
    other = Overlay(flag="--max-concurrency", before=None, after="64", incident_id="other", at=NOON)
    target = Target(name="default", desired=SPEC, overlays=(*LAID, other), generation=1)
    order = Order(target="default", at=NOON, id="o", kind="rollback", by="li", incident="a1b2c3d4")
    done = orders.obey(order, incident(), target, KNOWLEDGE, Policy(), busy=False, now=NOON)
    assert done.intent.plan.overlays == (other,)
    assert done.target.trial.back == target.overlays


def test_each_answer_of_the_mind_is_a_perform_at_most():
    world = asking()
    say(world, "approve")
    assert sum(isinstance(effect, Perform) for effect in world.effects) == 1
    say(world, "approve")
    assert sum(isinstance(effect, Perform) for effect in world.effects) == 1
