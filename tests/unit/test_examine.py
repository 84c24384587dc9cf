"""Logs of the past: which start each trouble belongs to, what was overcome, and what nobody knows."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from diagnose.engine.examine import UNKNOWN, examine
from diagnose.model.incident import State
from diagnose.model.observation import Hit, LogLines, LogMatch
from diagnose.model.rule import Clears, Severity, When
from diagnose.testing import knowledge, rule

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
REPETITION = rule(
    "answers.repeat",
    cause="repetition",
    when=When(event="text.answer", where={"repetitive": ("true",)}),
    severity=Severity.WARNING,
)
KNOWN = knowledge(
    rule("oom", cause="gpu_oom_load", explains=["worker_launch_failed"]),
    rule("launch", cause="worker_launch_failed", pattern="Failed to launch", confidence=0.8),
    rule("path", cause="model_not_found", pattern="no such model"),
    rule("runtime", cause="gpu_oom_runtime", pattern="later", clears=Clears(probe="health")),
    rule("late", cause="queue_timeout", pattern="slow", severity=Severity.INFO),
    REPETITION,
)


def line(rule_id, minute, own=1, *, source="workerlog.0", number=None, text="", block=(), second=0):
    """Make one matched line, in its file's own count of starts."""
    return LogMatch(
        target="default",
        source=source,
        stream="worker",
        line=number or 10 * minute + second + 1,
        at=NOON + timedelta(minutes=minute, seconds=second),
        dated=True,
        attempt=own,
        text=text or f"a line of {rule_id}",
        level=None,
        hits=(Hit(rule_id, 0),),
        block=block,
    )


def causes(seen):
    return [(one.cause, one.state, one.attempt) for one in seen.incidents]


def test_the_newest_start_leads_and_older_ones_are_history():
    seen = examine(
        [
            line("@start", 0, 1),
            line("oom", 1, 1),
            line("@start", 10, 2),
            line("path", 11, 2),
        ],
        KNOWN,
    )
    assert causes(seen) == [("model_not_found", State.OPEN, 2), ("gpu_oom_load", State.HISTORY, 1)]
    assert [one.findings[0].evidence[0].line for one in seen.incidents] == [111, 11]


def test_a_healthy_newest_start_leaves_only_history():
    matches = [line("@start", 0, 1), line("oom", 1, 1), line("@start", 10, 2), line("@ready", 11, 2)]
    assert causes(examine(matches, KNOWN)) == [("gpu_oom_load", State.HISTORY, 1)]


def test_a_start_that_became_ready_has_overcome_what_ready_ends():
    matches = [line("@start", 0, 1), line("oom", 1, 1), line("@ready", 2, 1)]
    assert not examine(matches, KNOWN).incidents


def test_trouble_after_ready_stands():
    matches = [line("@start", 0, 1), line("@ready", 1, 1), line("oom", 2, 1)]
    assert causes(examine(matches, KNOWN)) == [("gpu_oom_load", State.OPEN, 1)]


def test_what_ready_does_not_end_stands_also_before_it():
    matches = [line("@start", 0, 1), line("runtime", 1, 1), line("@ready", 2, 1)]
    assert causes(examine(matches, KNOWN)) == [("gpu_oom_runtime", State.OPEN, 1)]


def test_ready_of_one_start_says_nothing_of_another():
    matches = [line("@start", 0, 1), line("@ready", 1, 1), line("@start", 10, 2), line("oom", 11, 2)]
    assert causes(examine(matches, KNOWN)) == [("gpu_oom_load", State.OPEN, 2)]


def test_an_echo_written_first_and_in_another_file_belongs_to_its_cause():
    matches = [
        line("@start", 0, 1),
        line("oom", 1, 1, second=5),
        line("launch", 1, 1, source="console.log", second=2),
    ]
    seen = examine(matches, KNOWN)
    assert causes(seen) == [("gpu_oom_load", State.OPEN, 1)]
    assert [finding.cause for finding in seen.incidents[0].findings] == ["gpu_oom_load", "worker_launch_failed"]


def test_what_was_found_is_not_acted_upon():
    (incident,) = examine([line("oom", 1)], KNOWN).incidents
    assert (incident.tries, incident.plan) == ((), None)


def test_an_empty_log_is_healthy():
    seen = examine([], KNOWN)
    assert (seen.incidents, seen.unexplained) == ((), ())


# --- what no rule knows

TRACE = ("Traceback (most recent call last):", "ValueError: never seen before")


def test_an_exception_that_no_rule_knows_is_an_unknown_trouble():
    seen = examine([line("@start", 0, 1), line("@error", 1, 1, text=TRACE[-1], block=TRACE)], KNOWN)
    assert causes(seen) == [(UNKNOWN, State.OPEN, 1)]
    proof = seen.incidents[0].findings[0].evidence[0]
    assert (proof.text, proof.source, proof.line) == (TRACE[-1], "workerlog.0", 11)
    assert [one.text for one in seen.unexplained] == [TRACE[-1]]


def test_the_last_unknown_exception_is_the_one_that_ended_it():
    lines = [line("@error", minute, text=f"E{minute}", block=TRACE) for minute in (1, 2)]
    (incident,) = examine(lines, KNOWN).incidents
    assert incident.findings[0].evidence[0].text == "E2"


@pytest.mark.parametrize(
    ("matches", "left"),
    [
        pytest.param([line("@error", 1)], 1, id="an error line without a traceback ends nothing"),
        pytest.param([line("@error", 1, block=TRACE), line("@ready", 2)], 1, id="the server became ready after it"),
        pytest.param([line("@ready", 1), line("@error", 2, block=TRACE)], 1, id="a request failed, the server serves"),
        pytest.param([line("@warning", 1, block=TRACE)], 0, id="a warning is no error"),
    ],
)
def test_what_did_not_end_the_server_is_unexplained_at_most(matches, left):
    seen = examine(matches, KNOWN)
    assert not seen.incidents
    assert len(seen.unexplained) == left


def test_a_known_cause_leads_and_the_unknown_line_is_only_told():
    seen = examine([line("oom", 1), line("@error", 2, block=TRACE)], KNOWN)
    assert causes(seen) == [("gpu_oom_load", State.OPEN, 1)]
    assert len(seen.unexplained) == 1


def test_a_note_does_not_hide_an_unknown_failure():
    seen = examine([line("late", 1), line("@error", 2, block=TRACE)], KNOWN)
    assert [one.cause for one in seen.incidents] == [UNKNOWN, "queue_timeout"]


def test_an_unknown_failure_of_an_older_start_is_history():
    matches = [line("@start", 0, 1), line("@error", 1, 1, block=TRACE), line("@start", 10, 2), line("@ready", 11, 2)]
    assert causes(examine(matches, KNOWN)) == [(UNKNOWN, State.HISTORY, 1)]


# --- a file that is no log but a model's answer


def text(words, source="answer.txt"):
    return LogLines(target="default", source=source, stream="unknown", first_line=1, data=words.encode(), read_at=NOON)


def test_an_answer_that_goes_round_in_circles_is_found_in_its_file():
    (incident,) = examine([], KNOWN, [text("The answer is in the text above. " * 60)]).incidents
    assert incident.cause == "repetition"
    assert incident.findings[0].evidence[0].source == "answer.txt"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("", id="empty"),
        pytest.param("Paris is the capital of France, and has been for most of its history.", id="plain prose"),
        pytest.param("INFO     2026-01-01 12:00:00,000 1 engine.py[line:1] a loop\n" * 200, id="a logger wrote it"),
    ],
)
def test_other_texts_are_no_repetition(words):
    assert not examine([], KNOWN, [text(words)]).incidents
