"""A part of the daemon that breaks is told of once, tried again ever more seldom, and told of when it works again."""

from __future__ import annotations

import errno
import os
from datetime import datetime, timedelta, timezone

import anyio
import pytest

from diagnose.agent.guard import Guard, reason_of
from diagnose.model.observation import SourceSees, SourceSilent

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
FULL = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Hands:
    """A clock that is put by hand."""

    def __init__(self, at):
        self.at = at

    def now(self):
        return self.at


class Sense:
    """A sense that breaks while ``error`` is set."""

    def __init__(self, error=None):
        self.error, self.asked = error, 0

    def __call__(self):
        self.asked += 1
        if self.error:
            raise self.error
        return [SourceSees(target="t", at=NOON, source="asked")]


def silent(told):
    return [(one.source, one.kind) for one in told if isinstance(one, SourceSilent)]


def sees(told):
    return [one.source for one in told if isinstance(one, SourceSees) and one.source != "asked"]


def test_a_sense_that_works_is_passed_through():
    sense = Sense()
    assert Guard(["t"], Hands(NOON)).ask("gpu", NOON, sense) == sense()


def test_what_breaks_is_told_once_for_each_target_and_tried_again_ever_more_seldom(caplog):
    guard, sense = Guard(["a", "b"], Hands(NOON)), Sense(FULL)
    told, asked_at = [], []
    for tenths in range(6000):
        before = sense.asked
        told += guard.ask("gpu", NOON + timedelta(seconds=tenths / 10), sense)
        if sense.asked > before:
            asked_at.append(tenths / 10)
    assert silent(told) == [("gpu", "broken")] * 2
    assert asked_at[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert asked_at[-1] - asked_at[-2] == 60
    assert len(caplog.records) == 1


def test_what_works_again_is_told_and_a_relapse_waits_longer(caplog):
    guard, sense = Guard(["t"], Hands(NOON)), Sense(ValueError("odd"))
    at = [NOON + timedelta(seconds=one) for one in (0, 0.5, 1, 2, 3.5, 4)]
    assert silent(guard.ask("gpu", at[0], sense))
    sense.error = None
    assert guard.ask("gpu", at[1], sense) == [], "it is left alone for a second"
    assert sees(guard.ask("gpu", at[2], sense)) == ["gpu"]
    sense.error = ValueError("odd")
    assert silent(guard.ask("gpu", at[3], sense)) == [("gpu", "broken")]
    sense.error = None
    assert guard.ask("gpu", at[4], sense) == [], "and now for two"
    assert sees(guard.ask("gpu", at[5], sense)) == ["gpu"]
    assert all(record.exc_info for record in caplog.records), "a fault of ours leaves its trace for who mends it"


@pytest.mark.timeout(20)
def test_a_task_that_ends_is_told_started_again_and_told_of_when_it_stays(caplog):
    clock = Hands(NOON)
    guard, begun, third = Guard(["t"], clock), [], anyio.Event()

    async def work():
        begun.append(anyio.current_time())
        if len(begun) == 1:
            raise FULL
        if len(begun) > 2:
            third.set()
            await anyio.sleep_forever()

    async def life():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guard.keep, "api", work)
            await third.wait()
            told = guard.news(clock.now())
            clock.at += timedelta(seconds=4)
            early = guard.news(clock.now())
            clock.at += timedelta(seconds=2)
            late = guard.news(clock.now())
            tasks.cancel_scope.cancel()
            return told, early, late

    told, early, late = anyio.run(life)
    assert silent(told) == [("api", "broken")], "once, though it ended twice"
    assert (early, sees(late)) == ([], ["api"])
    assert begun[1] - begun[0] >= 1
    assert begun[2] - begun[1] >= 2
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(FULL, "OSError: [Errno 24] Too many open files. Check ulimit -n", id="of the host"),
        pytest.param(KeyError("x"), "KeyError: 'x'. A fault of diagnose", id="of ours"),
        pytest.param(ValueError("a\nb" + "c" * 999), "ValueError: a bccc", id="long and broken"),
    ],
)
def test_the_reason_is_one_line_and_ends_in_what_helps(error, said):
    told = reason_of(error)
    assert told.startswith(said)
    assert "\n" not in told
    assert told.endswith("it is tried again by itself.")
    assert len(told) < 450
