"""Stacks of a server's processes: kept where py-spy is there, and never waited for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from diagnose.actuators import stacks


@pytest.fixture
def spy(tmp_path: Path):
    """Give a maker of programs that stand in for py-spy."""

    def make(body: str) -> str:
        program = tmp_path / "py-spy"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        return str(program)

    return make


def test_each_process_is_asked_without_being_paused_and_its_words_are_kept(spy):
    told = stacks.dump([11, 12], program=spy('echo "$@"'))
    assert told == "=== process 11\ndump --nonblocking --pid 11\n\n=== process 12\ndump --nonblocking --pid 12\n"


def test_what_py_spy_complains_of_is_kept_too(spy):
    told = stacks.dump([11], program=spy("echo Permission Denied >&2; exit 1"))
    assert "Permission Denied" in told


def test_a_process_that_gives_no_stack_in_time_is_passed_over(spy):
    began = time.monotonic()
    told = stacks.dump([11, 12], program=spy("exec sleep 30"), each_seconds=0.2, all_seconds=0.3)
    assert time.monotonic() - began < 10
    assert "no answer within 0.2 s" in told
    assert "process 12" in told


def test_a_program_that_cannot_be_run_is_told(tmp_path):
    assert "cannot be run" in stacks.dump([11], program=str(tmp_path / "gone"))


def test_without_py_spy_the_cure_is_told():
    assert "pip install py-spy" in stacks.dump([11], program="")


def test_long_words_are_cut(spy):
    told = stacks.dump([11], program=spy("head -c 300000 /dev/zero | tr '\\0' x"))
    assert len(told) < stacks.MOST_BYTES + 100
