"""The daemon's clock never jumps, whatever is done to the host's."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.agent.clock import SteadyClock

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
HOUR = 3600.0


class Host:
    """A host whose clock can be put."""

    def __init__(self):
        self.steady, self.off = 1000.0, NOON.timestamp() - 1000.0

    def wall(self):
        return self.steady + self.off

    def clock(self, **options):
        return SteadyClock(wall=self.wall, steady=lambda: self.steady, **options)

    def behind(self, clock):
        return self.wall() - clock.now().timestamp()


def test_it_tells_the_hosts_time():
    host = Host()
    clock = host.clock()
    assert clock.now() == NOON
    host.steady += 90
    assert clock.now() == NOON + timedelta(seconds=90)


@given(
    st.lists(
        st.tuples(st.floats(0, 600), st.one_of(st.just(0.0), st.sampled_from([-8 * HOUR, 8 * HOUR, 2.0, -2.0, 1e9]))),
        max_size=30,
    )
)
def test_whatever_is_done_to_the_hosts_clock_lengths_of_time_stay_what_they_are(life):
    host = Host()
    clock = host.clock()
    before = clock.now()
    for passed, put in life:
        host.off += put
        host.steady += passed
        now = clock.now()
        assert passed * 0.9 - 1e-3 <= (now - before).total_seconds() <= passed * 1.1 + 1e-3
        before = now


@pytest.mark.parametrize("put", [-60.0, 60.0])
def test_it_catches_up_with_a_clock_that_was_put(put):
    host = Host()
    clock = host.clock()
    host.off += put
    for _ in range(700):
        host.steady += 1
        clock.now()
    assert abs(host.behind(clock)) < 1e-3


def test_a_new_daemon_begins_no_earlier_than_the_last_one_ended():
    host = Host()
    clock = host.clock(not_before=NOON + timedelta(hours=1))
    assert clock.now() == NOON + timedelta(hours=1)
    assert host.clock(not_before=NOON - timedelta(hours=1)).now() == NOON
