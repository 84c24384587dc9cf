"""Conditions: counted, lasting, together, in order, absent."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from diagnose.engine import signals, window
from diagnose.engine.window import Windows
from diagnose.model import codec
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import Hit, LogMatch
from diagnose.model.rule import Rule

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
TEXT = {"en": "x", "zh": "x"}


def rule(when, **fields):
    plain = {
        "id": "a.rule",
        "cause": "unknown",
        "title": TEXT,
        "why": TEXT,
        "fix": TEXT,
        "when": when,
        "clears": {"quiet": "10m"},
        "tests": {"hits": [], "misses": []},
        **fields,
    }
    return codec.convert(plain, Rule)


def knowing(*rules):
    digest = codec.encode(rules).decode()
    return Knowledge(rules={one.id: one for one in rules}, remedies={}, marks={}, digest=digest)


def line(seconds, leaf=0, *, labels=None, attempt=1, rule_id="a.rule"):
    return LogMatch(
        target="t",
        source="log",
        stream="worker",
        line=int(seconds) + 1,
        at=NOON + timedelta(seconds=seconds),
        dated=True,
        attempt=attempt,
        text=f"line at {seconds}",
        level=None,
        hits=(Hit(rule_id, leaf, labels or {}),),
    )


def event(seconds, name="probe.health", **labels):
    return signals.of_event(
        target="t", attempt=1, at=NOON + timedelta(seconds=seconds), name=name, labels=labels, text=name
    )


def found(when, *observations, **fields):
    _, findings = window.feed(Windows(), knowing(rule(when, **fields)), observations)
    return findings


def test_one_line_is_a_finding_with_that_line_as_its_proof():
    (finding,) = found({"pattern": "x"}, line(0, labels={"gpu": "3"}))
    assert finding.evidence[0].text == "line at 0"
    assert finding.labels == {"gpu": "3"}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param([0, 200], 1, id="twice within the time"),
        pytest.param([0, 301], 0, id="too far apart"),
        pytest.param([0, 301, 302], 1, id="the last two count"),
    ],
)
def test_a_count_is_kept_within_its_time(seconds, expected):
    when = {"pattern": "x", "count": 2, "within": "5m"}
    assert len(found(when, *(line(one) for one in seconds))) == expected


def test_a_count_is_kept_apart_for_each_value_of_the_key():
    when = {"pattern": "x", "count": 2}
    apart = [line(0, labels={"gpu": "0"}), line(1, labels={"gpu": "1"})]
    assert not found(when, *apart, key=["gpu"])
    assert len(found(when, *apart, line(2, labels={"gpu": "0"}), key=["gpu"])) == 1


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        pytest.param([0, 1], True, id="both"),
        pytest.param([1, 0], True, id="in either order"),
        pytest.param([0, 0], False, id="one of them twice"),
    ],
)
def test_all_means_each_of_them(leaves, expected):
    when = {"all": [{"pattern": "x"}, {"pattern": "y"}]}
    assert bool(found(when, *(line(at, leaf) for at, leaf in enumerate(leaves)))) is expected


def test_context_that_stays_holds_for_the_rest_of_the_start():
    when = {"all": [{"pattern": "x", "stays": True}, {"pattern": "y"}], "within": "1m"}
    assert found(when, line(0, 0), line(3000, 1))
    assert not found(when, line(0, 0, attempt=1), line(3000, 1, attempt=2))
    assert not found({"all": [{"pattern": "x"}, {"pattern": "y"}], "within": "1m"}, line(0, 0), line(3000, 1))


def test_a_sequence_counts_only_in_its_order():
    when = {"sequence": [{"pattern": "x"}, {"pattern": "y"}]}
    assert found(when, line(0, 0), line(1, 1))
    assert not found(when, line(0, 1), line(1, 0))


def test_what_is_absent_must_not_have_come_before():
    when = {"pattern": "x", "absent": {"pattern": "y"}}
    assert found(when, line(0, 0))
    assert not found(when, line(0, 1), line(1, 0))


def test_starts_of_the_server_do_not_mix():
    when = {"all": [{"pattern": "x"}, {"pattern": "y"}]}
    assert not found(when, line(0, 0, attempt=1), line(1, 1, attempt=2))


def test_a_probe_must_last_and_one_good_answer_starts_it_anew():
    when = {"probe": "health", "where": {"answer": ["unhealthy"]}, "for": "30s"}
    bad = [event(one, answer="unhealthy") for one in (0, 10, 20)]
    assert not found(when, *bad)
    assert found(when, *bad, event(30, answer="unhealthy"))
    assert not found(when, *bad, event(25, answer="ok"), event(30, answer="unhealthy"))


def test_a_rule_bound_to_a_phase_needs_to_know_the_phase():
    ready = line(0, rule_id="@ready")
    when = {"pattern": "x"}
    assert not found(when, line(1), phase=["ready"])
    assert found(when, ready, line(1), phase=["ready"])
    assert not found(when, ready, line(1), phase=["starting"])


def test_memory_can_be_written_down_and_read_again_in_the_middle():
    knowledge = knowing(rule({"pattern": "x", "count": 2}))
    windows, _ = window.feed(Windows(), knowledge, [line(0)])
    again = codec.decode(codec.encode(windows), Windows)
    _, findings = window.feed(again, knowledge, [line(1)])
    assert len(findings) == 1


def test_a_flood_is_remembered_in_bounds():
    knowledge = knowing(rule({"pattern": "x", "count": 3}, key=["who"]))
    windows = Windows()
    for one in range(3000):
        windows, _ = window.feed(windows, knowledge, [line(one, labels={"who": str(one)})])
    assert len(windows.memories) <= window.MOST_MEMORIES


def test_a_changed_condition_forgets_what_its_leaves_saw_and_others_remember():
    changed, same = rule({"pattern": "x", "count": 2}), rule({"pattern": "x", "count": 2}, id="same.rule")
    before = knowing(changed, same)
    after = knowing(rule({"pattern": "y", "count": 2}), same)
    windows, _ = window.feed(Windows(), before, [line(0), line(0, rule_id="same.rule")])

    windows = window.forget_changed(windows, before, after)

    _, findings = window.feed(windows, after, [line(1), line(1, rule_id="same.rule")])
    assert [one.rule_id for one in findings] == ["same.rule"]
