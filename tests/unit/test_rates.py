"""What follows from numbers: rates, stand-stills, how long until something is full."""

from __future__ import annotations

from datetime import timedelta

import pytest

from diagnose.engine.rates import NEVER, Meters, begun_anew, take
from diagnose.model import codec
from diagnose.model.observation import Numbers
from diagnose.testing import NOON

BUSY = {
    "server.requests_running": 2.0,
    "server.requests_waiting": 0.0,
    "server.generated_tokens_total": 100.0,
    "server.requests_done_total": 5.0,
    "server.first_token_count_total": 7.0,
    "server.canary_seconds": 0.0,
}


def run(*rows, every=5.0, labels=None):
    """Take one measurement every some seconds; return what the last one says, and the memory."""
    meters, told = Meters(), None
    for place, row in enumerate(rows):
        at = NOON + timedelta(seconds=place * every)
        meters, told = take(meters, Numbers(target="t", at=at, values=row, labels=labels or {}))
        meters = codec.decode(codec.encode(meters), Meters)
    return told.values, meters


def server(**changed):
    return BUSY | {f"server.{name}": float(value) for name, value in changed.items()}


@pytest.mark.parametrize(
    ("rows", "stalled", "prefill"),
    [
        pytest.param([server()] * 6, 25, 0, id="nothing moves while two are answered"),
        pytest.param([server(generated_tokens_total=100 + n) for n in range(6)], 0, 0, id="tokens come"),
        pytest.param(
            [server(), server(), server(requests_done_total=6), server(requests_done_total=6)], 5, 0, id="one ended"
        ),
        pytest.param([server(requests_running=0)] * 6, 0, 0, id="a drained queue at night"),
        pytest.param([server(requests_running=0, requests_waiting=3)] * 6, 25, 0, id="all wait and none runs"),
        pytest.param(
            [server(requests_running=0, first_token_count_total=5)]
            + [server(requests_running=1, first_token_count_total=5)] * 20,
            0,
            95,
            id="a long prompt is read",
        ),
        pytest.param(
            [server(requests_running=0, first_token_count_total=5)]
            + [server(requests_running=1, first_token_count_total=5, canary_seconds=5 * n) for n in range(6)],
            25,
            0,
            id="our own short question is all that is asked",
        ),
        pytest.param(
            [server(requests_running=0, first_token_count_total=9)]
            + [server(requests_running=2, first_token_count_total=9, requests_done_total=5)] * 5,
            0,
            20,
            id="requests that were given up are not being answered",
        ),
        pytest.param([server(), server(generated_tokens_total=3)], 0, 0, id="another process counts"),
        pytest.param([{**server(), "server.first_token_count_total": 0.0}] * 6, 0, 25, id="none had its first token"),
    ],
)
def test_a_server_stands_still_when_what_is_being_answered_gets_no_token(rows, stalled, prefill):
    values, _ = run(*rows)
    assert (values["server.stalled_seconds"], values["server.prefill_seconds"]) == (stalled, prefill)


def test_nothing_is_said_of_a_time_in_which_nobody_looked_or_the_clock_was_put():
    values, _ = run(server(), server(), every=3600)
    assert values["server.stalled_seconds"] == 0
    assert "server.tokens_per_second" not in values


@pytest.mark.parametrize(
    ("row", "ignored"),
    [
        pytest.param(server(requests_running=0, canary_seconds=12), 12, id="it waits, and the engine knows of nothing"),
        pytest.param(server(requests_running=1, canary_seconds=12), 0, id="it is being worked on"),
        pytest.param(server(requests_running=0, requests_waiting=1, canary_seconds=12), 0, id="it is in the queue"),
        pytest.param(server(requests_running=0), 0, id="nothing is asked"),
        pytest.param(server(requests_running=0, canary_seconds=12, generated_tokens_total=101), 0, id="tokens came"),
    ],
)
def test_a_question_that_the_engine_does_not_know_of_is_ignored(row, ignored):
    values, _ = run(server(requests_running=0), row)
    assert values["server.ignored_seconds"] == ignored


def test_rates_are_of_the_time_since_the_last_look():
    counted = {"first_token_count_total": 10, "first_token_sum_total": 4, "queue_count_total": 0, "queue_sum_total": 0}
    later = {"first_token_count_total": 14, "first_token_sum_total": 6, "queue_count_total": 0, "queue_sum_total": 0}
    values, meters = run(server(**counted), server(generated_tokens_total=600, **later))
    assert values["server.tokens_per_second"] == 100
    assert values["server.first_token_seconds"] == 0.5
    assert "server.queue_seconds" not in values, "no request says"
    assert meters.latest["server.tokens_per_second"] == 100


@pytest.mark.parametrize(
    ("made", "share"),
    [pytest.param(2000, 1.0, id="all ran to the limit"), pytest.param(500, 0.25, id="a quarter of what was allowed")],
)
def test_how_much_of_what_was_allowed_is_made(made, share):
    none = dict.fromkeys(("made_count_total", "made_sum_total", "allowed_count_total", "allowed_sum_total"), 0)
    four = {"made_count_total": 4, "made_sum_total": made, "allowed_count_total": 4, "allowed_sum_total": 2000}
    assert run(server(**none), server(**four))[0]["server.limit_share_ratio"] == share
    one = {"made_count_total": 1, "made_sum_total": 16, "allowed_count_total": 1, "allowed_sum_total": 16}
    assert "server.limit_share_ratio" not in run(server(**none), server(**one))[0], "it may be our own question"


# --- what fills up


def disk(used, free):
    return {"host.disk_used_bytes": float(used), "host.disk_free_bytes": float(free)}


def test_what_has_grown_for_ten_minutes_is_full_in_the_time_that_its_rest_lasts():
    rows = [disk(1000 + 60 * minute, 6000 - 60 * minute) for minute in range(12)]
    values, meters = run(*rows, every=60, labels={"place": "logs"})
    assert values["host.disk_full_in_seconds"] == pytest.approx(6000 - 660)
    assert meters.latest["host.disk_full_in_seconds{place=logs}"] == values["host.disk_full_in_seconds"]
    values, _ = run(*rows, *[rows[-1]] * 20, every=60)
    assert values["host.disk_full_in_seconds"] == NEVER, "it has ended"


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([disk(1000 + 60 * minute, 5000) for minute in range(9)], id="not for long yet"),
        pytest.param([disk(1000 + 600 * (minute % 2), 5000) for minute in range(14)], id="up and down"),
        pytest.param([disk(1000, 5000)] * 6 + [disk(9000, 5000)] * 8, id="one step"),
        pytest.param([disk(9000 - 60 * minute, 5000) for minute in range(14)], id="it empties"),
    ],
)
def test_what_does_not_grow_steadily_is_no_trend(rows):
    assert "host.disk_full_in_seconds" not in run(*rows, every=60)[0]


def test_memory_of_the_processes_fills_what_the_host_has_left():
    meters = Meters()
    for minute in range(12):
        at = NOON + timedelta(minutes=minute)
        meters, _ = take(meters, Numbers(target="t", at=at, values={"host.memory_available_bytes": 6000.0}))
        grown = {"process.rss_bytes": 1000.0 + 60 * minute}
        meters, told = take(meters, Numbers(target="t", at=at, values=grown, generation=1))
    assert told.values["process.memory_full_in_seconds"] == pytest.approx(6000)
    fresh = begun_anew(meters)
    assert "process.rss_bytes" not in fresh.tracks
    assert fresh.latest == {"host.memory_available_bytes": 6000.0}, "what is of the host stays"


@pytest.mark.parametrize("of", ["host.", "process.container_"])
def test_a_kill_for_want_of_memory_has_an_age(of):
    def age(*counts):
        return run(*({f"{of}oom_kills_total": float(count)} for count in counts))[0].get(f"{of}oom_kill_age_seconds")

    assert age(7) is None, "when those were, nobody knows"
    assert age(7, 7) == NEVER
    assert age(7, 8) == 0
    assert age(7, 9, 9, 9) == 10
    assert age(7, 9, 9, 10) == 0
    assert age(7, 0, 0) == NEVER, "another container"


def test_a_new_launch_remembers_what_was_killed_on_the_host_and_not_in_the_container_of_before():
    names = ("host.oom_kills_total", "process.container_oom_kills_total")
    _, meters = run(*({name: float(count) for name in names} for count in (7, 8)))
    at = NOON + timedelta(seconds=20)
    _, told = take(begun_anew(meters), Numbers(target="t", at=at, values=dict.fromkeys(names, 8.0)))
    assert told.values["host.oom_kill_age_seconds"] == 15
    assert "process.container_oom_kill_age_seconds" not in told.values


def test_a_container_is_held_back_by_the_share_of_its_periods():
    names = ("process.container_periods_total", "process.container_throttled_total")
    values, _ = run(
        dict(zip(names, (100.0, 10.0), strict=True)), dict(zip(names, (200.0, 85.0), strict=True)), every=10
    )
    assert values["process.container_throttled_ratio"] == 0.75
