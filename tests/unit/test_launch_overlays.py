"""Overlays lie over the operator's command and come off again; the starts are remembered."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

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
