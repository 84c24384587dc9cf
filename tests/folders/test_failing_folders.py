"""A folder of a server that failed: the first incident names the cause and shows the decisive line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from diagnose.model.incident import State
from diagnose.model.rule import Severity
from tests.folders.cases import FAILING, Case


@pytest.mark.parametrize("case", FAILING, ids=lambda case: case.name)
def test_the_cause_leads_with_its_decisive_line(case: Case, folder_of, examined):
    folder = folder_of(case.name)
    incidents = examined(folder).incidents

    assert incidents, "nothing was found"
    first = incidents[0]
    told = [(one.cause, one.rule_id, one.attempt, one.state.value) for one in incidents]
    assert first.cause == case.cause, told
    proof = first.findings[0].evidence[0]
    assert case.proof in proof.text
    assert case.file in proof.source
    line = (folder / proof.source).read_bytes().decode(errors="replace").split("\n")[proof.line - 1]
    assert case.proof in line, "the evidence names another line than it shows"
    assert first.attempt == case.attempt
    assert first.state is State.OPEN
    others = [one for one in incidents[1:] if one.severity is not Severity.INFO and one.state is State.OPEN]
    assert not others, f"one trouble, told as several: {told}"
    history = [one.cause for one in incidents if one.state is State.HISTORY and one.severity is not Severity.INFO]
    assert tuple(history) == case.history, told


def test_the_command_line_says_the_same(folder_of):
    case = FAILING[0]
    done = subprocess.run(
        [sys.executable, "-m", "diagnose", "report", str(folder_of(case.name)), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["incidents"][0]["cause"] == case.cause
