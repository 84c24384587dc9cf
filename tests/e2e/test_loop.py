"""Diagnose, change, prove, keep: the closed loop, and what must not break it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from datetime import timedelta

import pytest

from diagnose.agent import wiring
from diagnose.agent.config import Config
from diagnose.catalog.load import read_config
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.journal import Journal
from diagnose.model.effect import Perform
from tests.e2e.conftest import FITS, TOO_LARGE

pytestmark = pytest.mark.timeout(100)


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_a_server_that_does_not_fit_is_cured_and_proven_and_the_journal_lives_it_again(site, era):
    here = site(era=era)
    daemon = here.daemon(*TOO_LARGE)
    incident = here.wait_incident("resolved")
    assert incident.cause == "gpu_oom_load"
    assert [one.result for one in incident.tries][-1] == "kept"
    assert len(incident.tries) <= 2, "serving again within two restarts"
    assert {entry.kind for entry in incident.timeline} >= {"opened", "settled", "acting", "ready", "resolved"}
    assert here.answers()
    status, words = here.diagnose("status", "--state-dir", str(here.state), "--json")
    told = json.loads(words)["targets"][0]
    changed = {one["flag"] for one in told["overlays"]}
    assert status == 0
    assert told["phase"] == "ready"
    assert changed <= {"--gpu-memory-utilization", "--max-num-batched-tokens", "--max-num-seqs"}
    _, words = here.diagnose("report", "--state-dir", str(here.state), "--format", "json")
    assert json.loads(words)["incidents"][0]["cause"] == "gpu_oom_load"
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(15)
    _lives_again(here)


def _lives_again(here):
    """Feed the journal's observations to the mind again: the same effects, the same end."""
    book = Journal(here.state)
    policy = read_config(here.config, Config).policy
    knowledge = wiring.knowledge_of(Config())
    state = State()
    for turn in book.turns():
        state, effects = step(state, turn.observations, knowledge=knowledge, policy=policy, now=turn.at)
        assert effects == turn.effects
    assert state == book.state()
    book.close()


def test_a_start_that_fails_with_exit_code_0_is_a_failure(site):
    here = site(faults=["exit-zero#1"])
    here.daemon(*FITS)
    incident = here.wait_incident("open", "acting", "verifying", "resolved", "exhausted")
    causes = {finding.cause for finding in incident.findings}
    texts = [evidence.text for finding in incident.findings for evidence in finding.evidence]
    assert "worker_launch_failed" in causes
    assert any("exit code 0" in text for text in texts)


def test_a_start_that_hangs_without_a_line_is_found_by_what_does_not_move_and_started_again(site):
    here = site(faults=["hang-load#1"])
    here.daemon(*FITS)
    incident = here.wait_incident("resolved")
    assert any(finding.cause == "hang_on_load" for finding in incident.findings)
    assert here.target().generation == 2


def test_a_start_whose_worker_died_while_the_main_process_waits_is_found(site):
    here = site(faults=["hang-capture#1"])
    here.daemon(*FITS)
    incident = here.wait_incident("resolved", "exhausted")
    assert any(finding.cause == "hang_on_load" for finding in incident.findings)


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_a_worker_that_is_killed_while_serving_is_found_and_the_server_started_again(site, era):
    here = site(era=era, faults=["worker-killed@1#1"])
    here.daemon(*FITS)
    here.wait_incident("resolved", seconds=60)
    assert here.answers()
    assert here.target().generation == 2


def test_the_server_outlives_a_killed_daemon_and_the_next_one_takes_it_over(site):
    here = site(gpu_gib=8)
    oom = "Out of memory error on GPU 0. Cannot allocate 3.6GB memory on GPU 0, 7.9GB memory has been allocated\n"
    log = here.folder / "log"
    (log / "paddle").mkdir(parents=True)
    worker = log / "paddle" / "workerlog.0"
    worker.write_text(oom)
    first = here.daemon(*FITS)
    here.wait_phase("ready")
    pid = here.target().pid
    here.kill(first)
    assert here.answers(), "the server serves on"
    with worker.open("a") as file:
        file.write(oom)
    here.daemon(*FITS)
    began = here.snapshot().at
    here.wait(lambda seen: seen.at - began > timedelta(seconds=3), "a second life of three seconds")
    assert here.answers()
    assert here.target().pid == pid
    assert here.target().generation == 1
    acted = [one for one in here.snapshot().incidents if one.tries]
    assert not acted, "no old line is acted upon"


def test_a_remedy_cut_short_by_a_kill_is_verified_and_not_repeated(site):
    here = site()
    first = here.daemon(*TOO_LARGE)
    here.wait(lambda seen: bool(seen.state.intents), "an intent without outcome")
    here.kill(first)
    assert here.snapshot().state.intents, "killed between intent and outcome"
    here.daemon(*TOO_LARGE)
    here.wait_incident("resolved", seconds=60)
    book = Journal(here.state)
    performed = [one.intent for turn in book.turns() for one in turn.effects if isinstance(one, Perform)]
    book.close()
    assert len({one.id for one in performed}) == len(performed), "no intent is carried out twice"
    assert here.target().generation <= 4
    assert here.answers()


def test_without_leave_the_plan_is_shown_and_nothing_is_done(site):
    here = site(mode="suggest")
    here.daemon(*TOO_LARGE)
    incident = here.wait(lambda seen: any(one.held for one in seen.incidents), "a held incident").incidents[0]
    assert incident.held == "suggest"
    assert here.target().generation == 1
    status, words = here.diagnose("remedies", "plan", "--state-dir", str(here.state))
    assert status == 0
    assert "->" in words
    assert here.diagnose("status", "--state-dir", str(here.state))[0] == 1


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        pytest.param("model-missing", "model_not_found", id="model missing"),
        pytest.param("cuda-mismatch", "driver_too_old", id="driver too old"),
        pytest.param("port-taken", "port_in_use", id="port taken"),
    ],
)
def test_what_no_restart_can_cure_is_named_and_not_restarted_for_ever(site, fault, cause):
    here = site(faults=[fault])
    here.daemon(*FITS)
    incident = here.wait_incident("open", "exhausted")
    assert incident.cause == cause
    assert here.target().generation <= 4


def test_a_running_server_is_attached_to_and_left_running(site):
    here = site(gpu_gib=8)
    with (here.folder / "server.out").open("wb") as out:
        server = subprocess.Popen(
            here.command(*FITS), cwd=here.folder, env=here.env, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + 20
    while not here.answers() and time.monotonic() < deadline:
        time.sleep(0.1)
    daemon = here.daemon(attach=here.port)
    here.wait_phase("ready")
    assert here.target().pid == server.pid
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(15)
    assert here.answers(), "the daemon's end is not the server's"
    assert server.poll() is None
    server.terminate()
    server.wait(15)
