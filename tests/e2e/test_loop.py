"""Diagnose, change, prove, keep: the closed loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diagnose.agent import wiring
from diagnose.agent.config import Config
from diagnose.catalog.load import read_config
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.launch.spec import occurrences
from diagnose.model.finding import Evidence
from tests.e2e.conftest import FITS, TOO_LARGE, intents

pytestmark = pytest.mark.timeout(100)


def proofs(incident) -> list[Evidence]:
    return [one for finding in incident.findings for one in finding.evidence]


def flags(argv):
    """Return a command's flags without the internal ports, which the daemon chooses."""
    found = {one.name: one.value for one in occurrences(tuple(argv))}
    return {name: value for name, value in found.items() if not name.endswith("-queue-port")}


# --- one life of a server that does not fit its card, told by all who tell of it


def test_a_server_that_does_not_fit_is_cured_within_two_restarts_and_proven(cured):
    incident = cured.wait_incident("resolved")
    assert incident.cause == "gpu_oom_load"
    assert [one.result for one in incident.tries] in (["kept"], ["failed", "kept"])
    assert {entry.kind for entry in incident.timeline} >= {"opened", "settled", "acting", "ready", "resolved"}
    ready = next(entry for entry in incident.timeline if entry.kind == "ready")
    assert int(ready.params["tokens"]) > 0, "proven by a completion"
    assert cured.starts() == 1 + len(incident.tries)
    assert cured.answers()


def test_only_the_named_flags_are_changed_and_exactly_that_command_runs(cured):
    status, words = cured.diagnose("status", "--state-dir", str(cured.state), "--json")
    told = json.loads(words)["targets"][0]
    assert (status, told["phase"], told["incidents"]) == (0, "ready", [])
    changed = {one["flag"]: one["after"] for one in told["overlays"]}
    assert changed
    assert changed.keys() <= {"--gpu-memory-utilization", "--max-num-batched-tokens", "--max-num-seqs"}
    assert flags(told["command"]) == {**flags(cured.command(*TOO_LARGE)), **changed}
    running = Path(f"/proc/{told['pid']}/cmdline").read_bytes().decode().split("\0")[:-1]
    assert running == told["command"]
    assert list(cured.target().starts[-1].spec.argv) == running, "what a start taught is laid to its own settings"
    assert flags(cured.target().starts[0].spec.argv) == flags(cured.command(*TOO_LARGE))


def test_the_report_names_the_root_cause_first_with_its_proof(cured):
    status, words = cured.diagnose("report", "--state-dir", str(cured.state), "--format", "json")
    first = json.loads(words)["incidents"][0]
    assert (status, first["cause"], first["state"]) == (1, "gpu_oom_load", "resolved")
    proof = first["evidence"][0]
    assert "Out of memory error on GPU 0" in proof["text"]
    lines = (cured.folder / "log" / Path(proof["source"]).name).read_bytes().decode(errors="replace").split("\n")
    assert "Out of memory error on GPU 0" in lines[proof["line"] - 1]
    assert cured.diagnose("incidents", "--state-dir", str(cured.state))[0] == 0, "none is open"


def test_the_journal_lived_again_gives_the_same_decisions_and_the_same_end(cured):
    config = read_config(cured.config, Config)
    knowledge = wiring.knowledge_of(config)
    state = State()
    for turn in cured.turns():
        state, effects = step(state, turn.observations, knowledge=knowledge, policy=config.policy, now=turn.at)
        assert effects == turn.effects
    assert state == cured.snapshot().state


# --- starts that fail in other ways


def test_a_start_that_fails_with_exit_code_0_is_a_failure_and_named_by_its_first_error(site):
    here = site(faults=["exit-zero#1"])
    here.daemon(*FITS)
    seen = here.wait(lambda seen: any(one.held for one in seen.incidents), "a decision")
    incident = seen.incidents[0]
    assert here.target().phase == "failed"
    assert "worker_launch_failed" in {finding.cause for finding in incident.findings[1:]}, "a consequence"
    assert any("exit code 0" in one.text for one in proofs(incident))
    assert "weight not found" in incident.findings[0].evidence[0].text, "the worker's own words lead"


def test_a_start_that_hangs_without_a_line_is_found_by_what_does_not_move_and_started_again(site):
    here = site(faults=["hang-load#1"])
    here.daemon(*FITS)
    incident = here.wait_incident("resolved")
    assert any(finding.cause == "hang_on_load" for finding in incident.findings)
    assert any("no progress for" in one.text for one in proofs(incident))
    assert (here.starts(), here.target().generation) == (2, 2)


def test_a_start_whose_worker_died_while_the_main_process_waits_for_ever_is_found_and_started_again(site):
    here = site(faults=["hang-capture#1"], load_seconds=1.5)
    here.daemon(*FITS)
    incident = here.wait_incident("resolved")
    assert not any("no progress for" in one.text for one in proofs(incident)), "sooner than by standing still"
    assert here.starts() == 2


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_a_worker_that_is_killed_while_serving_is_found_and_the_server_started_again(site, era):
    here = site(era=era, gpu_gib=8, faults=["worker-killed@1#1", "zombie-memory:seconds=3#1"])
    here.daemon(*FITS)
    incident = here.wait_incident("resolved", seconds=60)
    assert [one.result for one in incident.tries] == ["kept"], "not started into memory that is still held"
    assert here.answers()
    assert (here.starts(), here.target().generation) == (2, 2)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        pytest.param("model-missing", "model_not_found", id="model missing"),
        pytest.param("cuda-mismatch", "driver_too_old", id="driver too old"),
    ],
)
def test_what_no_restart_can_cure_is_named_and_left_to_a_person(site, fault, cause):
    here = site(faults=[fault])
    here.daemon(*FITS)
    seen = here.wait(lambda seen: any(one.held == "advice" for one in seen.incidents), "advice")
    assert [one.cause for one in seen.incidents if one.held] == [cause]
    assert here.starts() == 1
    assert here.diagnose("report", "--state-dir", str(here.state))[0] == 1


def test_without_leave_the_plan_is_shown_and_nothing_is_done(site):
    here = site(mode="suggest")
    daemon = here.daemon(*TOO_LARGE)
    seen = here.wait(lambda seen: any(one.held for one in seen.incidents), "a held incident")
    assert seen.incidents[0].held == "suggest"
    state = ("--state-dir", str(here.state))
    status, words = here.diagnose("remedies", "plan", *state)
    assert status == 0
    assert "--max-num-batched-tokens 32768 ->" in words
    assert here.diagnose("status", *state)[0] == 1
    assert here.diagnose("incidents", *state)[0] == 1
    here.stop(daemon)
    assert not intents(here.turns())
    assert (here.starts(), here.target().generation) == (1, 1)
