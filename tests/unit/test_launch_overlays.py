"""Overlays lie over the operator's command and come off again; the starts are remembered."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from diagnose.launch.history import KEPT, begin, last_known_good, seen_well
from diagnose.launch.overlays import drop, effective, lay
from diagnose.launch.spec import value
from diagnose.model.launch import LaunchSpec

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)
DESIRED = LaunchSpec(argv=("fastdeploy", "serve", "--model", "m", "--max-num-seqs", "32"), cwd="/srv")


def test_changes_lie_over_the_command_and_know_what_was_before():
    first = lay(DESIRED, (), {"--max-num-seqs": "16", "--model": "m"}, incident_id="a", at=NOON)
    both = lay(DESIRED, first, {"--max_num_seqs": "8", "--swap-space": "4"}, incident_id="b", at=NOON)

    assert [(one.flag, one.before, one.after) for one in both] == [
        ("--max-num-seqs", "32", "16"),
        ("--max-num-seqs", "16", "8"),
        ("--swap-space", None, "4"),
    ]
    assert value(effective(DESIRED, both), "--max-num-seqs") == "8"


def test_dropping_an_incidents_overlays_brings_back_what_lay_below():
    both = lay(DESIRED, (), {"--max-num-seqs": "16"}, incident_id="a", at=NOON)
    both = lay(DESIRED, both, {"--max-num-seqs": "8"}, incident_id="b", at=NOON)

    assert value(effective(DESIRED, drop(both, "b")), "--max-num-seqs") == "16"
    assert value(effective(DESIRED, drop(both, "a")), "--max-num-seqs") == "8"
    assert effective(DESIRED, drop(both)) == DESIRED


def test_only_a_start_that_stayed_well_is_known_good():
    history = begin((), DESIRED, (), now=NOON)
    history = seen_well(history, 1, now=NOON + MINUTE)
    assert last_known_good(history, 5 * MINUTE) is None

    history = seen_well(history, 1, now=NOON + 6 * MINUTE)
    history = seen_well(begin(history, DESIRED, (), now=NOON + 9 * MINUTE), 2, now=NOON + 10 * MINUTE)

    good = last_known_good(history, 5 * MINUTE)
    assert good is not None
    assert good.number == 1


def test_a_hundred_failed_starts_do_not_push_out_the_good_one():
    history = seen_well(begin((), DESIRED, (), now=NOON), 1, now=NOON)
    history = seen_well(history, 1, now=NOON + 6 * MINUTE)
    for _ in range(100):
        history = begin(history, DESIRED, (), now=NOON + 9 * MINUTE)

    assert len(history) == KEPT
    assert history[-1].number == 101
    assert last_known_good(history, 5 * MINUTE) == history[0]
