"""Starts of a server, told by files that count differently."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from diagnose.engine import attempts
from diagnose.model.observation import Hit, LogMatch

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def line(source, seconds, own, *, start=False, dated=True):
    return LogMatch(
        target="t",
        source=source,
        stream="worker",
        line=1,
        at=NOON + timedelta(seconds=seconds),
        dated=dated,
        attempt=own,
        text="",
        level=None,
        hits=(Hit("@start", 0),) if start else (Hit("some.rule", 0),),
    )


def numbers(*lines):
    return [match.attempt for match in attempts.number(lines)]


def test_without_any_start_mark_all_is_one_start():
    assert numbers(line("a", 0, 1), line("b", 9, 1)) == [1, 1]


def test_one_file_appended_over_three_starts():
    worker = [
        line("workerlog.0", 0, 2, start=True),
        line("workerlog.0", 600, 3, start=True),
        line("workerlog.0", 610, 3),
        line("workerlog.0", 1200, 4, start=True),
        line("workerlog.0", 1210, 4),
    ]
    assert numbers(*worker) == [1, 2, 2, 3, 3]


def test_what_stands_above_the_first_mark_is_the_prelude_of_that_start():
    assert numbers(line("workerlog.0", 0, 1), line("workerlog.0", 5, 2, start=True)) == [1, 1]


def test_the_end_of_an_older_start_above_the_first_mark_is_a_start_of_its_own():
    assert numbers(line("workerlog.0", 0, 1), line("workerlog.0", 900, 2, start=True)) == [1, 2]


def test_marks_of_one_start_in_two_files_are_one():
    assert numbers(
        line("console.log", 0, 2, start=True),
        line("workerlog.0", 15, 2, start=True),
        line("console.log", 40, 3, start=True),
        line("workerlog.0", 55, 3, start=True),
    ) == [1, 1, 2, 2]


def test_a_file_without_marks_is_placed_by_its_times():
    marks = [line("workerlog.0", at, own, start=True) for own, at in ((2, 0), (3, 600))]
    assert numbers(*marks, line("api_server.log", 300, 1), line("api_server.log", 605, 1)) == [1, 2, 1, 2]


def test_a_file_without_marks_and_dates_belongs_to_the_newest_start():
    marks = [line("workerlog.0", at, own, start=True) for own, at in ((2, 0), (3, 600))]
    assert numbers(*marks, line("launch_worker.log", 0, 1, dated=False))[-1] == 2


def test_a_start_that_failed_before_its_mark_is_known_by_the_other_files():
    console = [line("console.log", at, own, start=True) for own, at in ((2, 0), (3, 600))]
    worker = [line("workerlog.0", 10, 2, start=True), line("workerlog.0", 615, 2)]
    assert numbers(*console, *worker) == [1, 2, 1, 2]


def last_words(*rows):
    """Make lines from file, kind, seconds, text and mark, and date them by who noticed."""
    made = [
        LogMatch(
            target="t",
            source=source,
            stream=stream,
            line=number,
            at=NOON + timedelta(seconds=seconds),
            dated=True,
            attempt=1,
            text=text,
            level=None,
            hits=(Hit("some.rule", 0), *(Hit(mark, 0) for mark in marks)),
        )
        for number, (source, stream, seconds, text, *marks) in enumerate(rows)
    ]
    return [(one.at - NOON).total_seconds() for one in attempts.settle(made)]


FAILED = ("launch_worker.log", "launch", 7200, "Container failed !!!")
STAMP = "[2026-01-01 12:00:05,000] [    INFO] file.py:1 - text"


def test_a_crash_without_a_date_is_dated_by_the_launcher():
    assert last_words(("workerlog.0", "worker", 5, "FatalError: it crashed"), FAILED) == [7199.999, 7200]


def test_a_line_with_its_own_date_keeps_it():
    assert last_words(("workerlog.0", "worker", 5, STAMP), FAILED) == [5, 7200]


def test_only_the_last_words_of_a_worker_are_dated_so():
    rows = [("workerlog.0", "worker", 5, "a warning"), ("workerlog.0", "worker", 9, "FatalError: it crashed"), FAILED]
    assert last_words(*rows) == [5, 7199.999, 7200]


def test_without_a_launcher_nothing_is_dated_anew():
    assert last_words(("workerlog.0", "worker", 5, "FatalError: it crashed")) == [5]


def test_other_files_keep_their_dates():
    assert last_words(("fastdeploy.log", "engine", 5, "a line"), FAILED) == [5, 7200]


CRASH = ("workerlog.0", "worker", 5, "FatalError: it crashed", "@fatal")
READY = ("console.log", "console", 60, "it serves", "@ready")
STOPPED = ("fastdeploy.log", "engine", 3600, "Engine shut down", "@stopping")


def test_without_a_launcher_a_rank_that_died_in_a_start_that_served_died_after_it_was_ready():
    assert last_words(CRASH, READY, STOPPED) == [3600, 60, 3600]


def test_a_start_that_never_served_dates_no_crash_anew():
    assert last_words(CRASH, STOPPED) == [5, 3600]


def test_what_stands_above_the_crash_keeps_its_date():
    assert last_words(("workerlog.0", "worker", 5, "loading"), CRASH, READY, STOPPED) == [5, 3600, 60, 3600]


def test_a_warning_of_a_rank_that_lives_is_not_dated_anew():
    assert last_words(("workerlog.0", "worker", 5, "a warning"), READY, STOPPED) == [5, 60, 3600]


def test_the_launcher_knows_better_when_a_rank_died():
    assert last_words(CRASH, READY, FAILED) == [7199.999, 60, 7200]
