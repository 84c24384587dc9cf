"""What a start tells: the command that runs, the operator's wish, and whether a cut-short try counts."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from diagnose.engine import planner, targets
from diagnose.engine.policy import Policy
from diagnose.engine.targets import Target
from diagnose.model.incident import Try
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.observation import ServerStarted
from diagnose.model.remedy import Rung, ServerRestart
from diagnose.testing import NOON, both, incident, knowledge, remedy, rule

WISH = LaunchSpec(argv=("python", "-m", "server", "--max-num-seqs", "128"))
SMALLER = LaunchSpec(argv=("python", "-m", "server", "--max-num-seqs", "16"))
OTHER = LaunchSpec(argv=("python", "-m", "server", "--port", "9"))
OVERLAY = Overlay(flag="--max-num-seqs", before="128", after="16", incident_id="a1b2c3d4", at=NOON)


def started(target, generation, spec, desired=None, how="spawned"):
    told = ServerStarted(
        target="t", at=NOON, generation=generation, pid=100 + generation, how=how, spec=spec, desired=desired
    )
    return targets.observe(target, told, Policy()).target


def test_a_start_is_known_by_the_command_that_ran_and_the_wish_stays():
    target = started(Target(name="t"), 1, WISH, WISH)
    target = started(msgspec.structs.replace(target, overlays=(OVERLAY,)), 2, SMALLER, WISH)
    assert [one.spec for one in target.starts] == [WISH, SMALLER]
    assert target.desired == WISH
    assert target.overlays == (OVERLAY,)


def test_another_wish_drops_what_was_laid_over_the_old_one():
    before = msgspec.structs.replace(started(Target(name="t"), 1, WISH, WISH), overlays=(OVERLAY,), good=(OVERLAY,))
    target = started(before, 2, OTHER, OTHER)
    assert target.desired == OTHER
    assert target.overlays == ()
    assert target.good is None


def test_a_server_that_is_taken_over_keeps_its_record():
    before = msgspec.structs.replace(started(Target(name="t"), 1, WISH, WISH), overlays=(OVERLAY,), phase="ready")
    assert started(before, 1, SMALLER, WISH, how="adopted") == before


def test_a_journal_that_names_no_wish_is_understood():
    target = started(started(Target(name="t"), 1, WISH), 2, SMALLER)
    assert target.desired == WISH
    assert started(target, 3, OTHER, how="attached").desired == OTHER


@pytest.mark.parametrize(
    ("result", "rungs"),
    [
        pytest.param("interrupted", [0, 1], id="cut short: not tried yet"),
        pytest.param("failed", [1], id="tried in vain: the next one"),
    ],
)
def test_which_rungs_are_left_after_a_try(result, rungs):
    steps = (ServerRestart(),)
    known = knowledge(
        rule(), remedy(ladder=[Rung(rung=both("first"), steps=steps), Rung(rung=both("second"), steps=steps)])
    )
    tried = Try(intent_id="a1b2c3d4-1", remedy_id="server.lower-memory-use", rung=0, at=NOON, result=result)
    target = started(Target(name="default"), 1, WISH, WISH)
    left = planner.possible(incident(tries=[tried]), target, known, NOON + timedelta(minutes=9))
    assert [rung for _, rung, _ in left] == rungs
