"""Conditions about numbers: beyond a bound, for how long, each place for itself; senses that cannot see."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from diagnose.engine import targets, window
from diagnose.engine.policy import Policy
from diagnose.engine.signals import of_sample
from diagnose.engine.targets import Target
from diagnose.model import codec
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import (
    Numbers,
    Observation,
    ProbeResult,
    ProcessExit,
    ProcessSample,
    ServerStarted,
    SourceSees,
    SourceSilent,
)
from diagnose.model.rule import When
from diagnose.model.text import Duration
from diagnose.testing import NOON, knowledge, rule


def signals(*rows, name="host.load_per_cpu"):
    """Make signals of (second, value) or (second, value, place)."""
    return [
        of_sample(
            target="t",
            attempt=1,
            at=NOON + timedelta(seconds=second),
            name=name,
            value=value,
            labels={"place": place[0]} if place else {},
        )
        for second, value, *place in rows
    ]


def fired(when, heard, key=()):
    known = rule("host.test", when=when)
    known = msgspec.structs.replace(known, key=tuple(key))
    told = msgspec.structs.replace(knowledge(known), digest=repr(known))  # each state of knowledge is prepared once
    return window.feed(window.Windows(), told, heard)[1]


@pytest.mark.parametrize(
    ("bounds", "value", "holds"),
    [
        ({"above": 4}, 4.1, True),
        ({"above": 4}, 4.0, False),
        ({"below": 4}, 3.9, True),
        ({"below": 4}, 4.0, False),
        ({"above": 1, "below": 4}, 2.0, True),
        ({"above": 1, "below": 4}, 5.0, False),
        ({"above": 0}, 0.0, False),
    ],
)
def test_a_number_counts_while_it_is_beyond_its_bound(bounds, value, holds):
    found = fired(When(sample="host.load_per_cpu", **bounds), signals((0, value)))
    assert bool(found) is holds


TEN = When(sample="host.load_per_cpu", above=4, for_=Duration(seconds=10))


@pytest.mark.parametrize(
    ("rows", "holds"),
    [
        pytest.param([(0, 5), (9, 5)], False, id="not so long"),
        pytest.param([(0, 5), (5, 6), (10, 7)], True, id="so long"),
        pytest.param([(0, 5), (5, 1), (10, 5)], False, id="a pause between"),
        pytest.param([(0, 5), (5, 1), (8, 5), (18, 5)], True, id="so long after the pause"),
    ],
)
def test_a_number_must_last(rows, holds):
    assert bool(fired(TEN, signals(*rows))) is holds


def test_each_place_lasts_for_itself_where_the_rule_has_a_key():
    rows = [(0, 5, "logs"), (1, 1, "model"), (5, 5, "logs"), (6, 9, "model"), (11, 5, "logs")]
    found = fired(TEN, signals(*rows), key=["place"])
    assert [one.labels["place"] for one in found] == ["logs"]
    assert [proof.text for proof in found[0].evidence] == ["host.load_per_cpu (place logs): 5"]
    assert found[0].labels["value"] == "5"
    assert not fired(TEN, signals(*rows)), "without a key all must be beyond"


def test_where_names_the_places_that_count_and_others_end_nothing():
    when = msgspec.structs.replace(TEN, where={"place": ("logs",)})
    assert fired(when, signals((0, 5, "logs"), (5, 1, "model"), (10, 5, "logs")))
    assert not fired(when, signals((0, 5, "model"), (10, 5, "model")))


def test_what_must_hold_together_ends_when_one_of_it_ends():
    both = When(
        all=(When(sample="a.x", above=1), When(sample="a.y", above=1)),
        within=Duration(minutes=5),
    )
    x, y = signals((0, 2), (20, 0), name="a.x"), signals((30, 2), name="a.y")
    assert not fired(both, [*x, *y])
    assert fired(both, [*x[:1], *y])


@pytest.mark.parametrize(
    "plain",
    [
        pytest.param({"sample": "a.x"}, id="no bound"),
        pytest.param({"event": "process.exit", "above": 1}, id="a bound without a sample"),
        pytest.param({"sample": "a.x", "above": 1, "event": "process.exit"}, id="two kinds"),
    ],
)
def test_a_condition_about_a_number_that_makes_no_sense_is_refused(plain):
    with pytest.raises(msgspec.ValidationError):
        codec.convert(plain, When)


# --- what a target makes of it


def seen(*observations: Observation):
    target, told = Target(name="t"), []
    for observation in observations:
        step = targets.observe(target, observation, Policy())
        target = step.target
        told += step.signals
    return target, told


STARTED = ServerStarted(target="t", at=NOON, generation=1, pid=7, how="spawned", spec=LaunchSpec(argv=("python",)))


def test_numbers_are_told_as_signals_of_this_start_with_what_follows_from_them():
    numbers = Numbers(target="t", at=NOON, values={"host.load_per_cpu": 5.0})
    target, told = seen(STARTED, numbers)
    assert [(one.name, one.value, one.attempt, one.phase) for one in told] == [
        ("sample.host.load_per_cpu", 5.0, 1, "starting")
    ]
    assert target.meters.latest == {"host.load_per_cpu": 5.0}
    assert codec.decode(codec.encode(target), Target) == target


@pytest.mark.parametrize(("seconds", "proof"), [(15, False), (25, True)])
def test_a_server_that_stands_still_is_a_proof_without_any_log(seconds, proof):
    values = {"server.requests_running": 2.0, "server.generated_tokens_total": 9.0, "server.requests_done_total": 1.0}
    values["server.first_token_count_total"] = 3.0
    rows = [
        Numbers(target="t", at=NOON + timedelta(seconds=at), generation=1, values=values)
        for at in range(0, seconds + 1, 5)
    ]
    target, _ = seen(STARTED, *rows)
    assert ("stall" in target.seen) is proof


@pytest.mark.parametrize(("answer", "first"), [("ok", 0.25), ("ok", None), ("refused", None)])
def test_the_first_token_of_our_own_question_is_a_number(answer, first):
    asked = ProbeResult(
        target="t",
        at=NOON,
        generation=1,
        probe="completion",
        answer=answer,
        status=200,
        seconds=0.5,
        tokens=4,
        first_token_seconds=first,
    )
    target, told = seen(STARTED, asked)
    numbers = {one.name: (one.value, one.phase) for one in told if one.kind == "sample"}
    assert numbers == ({"sample.server.canary_first_token_seconds": (first, "ready")} if first else {})
    assert target.meters.latest == ({"server.canary_first_token_seconds": first} if first else {})


def test_a_sense_that_cannot_see_is_noted_until_it_sees_again():
    silent = SourceSilent(target="t", at=NOON, source="/srv/log", reason="gone")
    target, told = seen(STARTED, silent)
    assert target.blind == {"/srv/log": "gone"}
    assert (told[0].labels["source"], told[0].labels["sense"]) == ("/srv/log", "logs")
    target, _ = seen(STARTED, silent, SourceSees(target="t", at=NOON, source="/srv/log"))
    assert target.blind == {}


def test_an_exit_tells_how_far_the_server_had_come():
    exit_ = ProcessExit(target="t", at=NOON, generation=1, role="worker", pid=9, code=-9)
    _, told = seen(STARTED, exit_)
    assert told[0].evidence.text == "worker process 9 ended: signal 9, starting"
    assert told[0].labels["stage"] == ""


def test_a_clock_that_is_put_while_the_server_starts_is_no_hang():
    def sample(seconds):
        at = NOON + timedelta(seconds=seconds)
        return ProcessSample(
            target="t", at=at, generation=1, alive=True, workers=1, cpu_seconds=1, rss_bytes=1, log_bytes=1
        )

    _, told = seen(STARTED, sample(1), sample(2), sample(3602), sample(3603))
    assert told == []
    _, told = seen(STARTED, *(sample(second) for second in range(1, 400, 10)))
    assert [one.name for one in told] == ["process.stall"], "one that stands still is told all the same"
