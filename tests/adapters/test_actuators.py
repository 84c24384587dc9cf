"""The hands do the steps of an intent on a real process, in order, and a second time do no harm."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from diagnose.actuators.evidence import TAIL_BYTES, KeepEvidence
from diagnose.actuators.hands import Hands, action_of
from diagnose.actuators.ipc import CleanIpc
from diagnose.actuators.server import RestartServer, Server
from diagnose.controllers.process import ProcessController
from diagnose.errors import ActuatorError
from diagnose.model.incident import Intent, Plan
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.observation import ProcessExit, ProcessSample, StepResult
from diagnose.model.remedy import Advice, EvidenceKeep, FlagSet, IpcClean, ServerRestart
from diagnose.model.text import Duration, Text
from diagnose.ports import Ports
from diagnose.sources.gpu import LabReader
from diagnose.sources.process import ProcessSense, log_bytes

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
WAIT = "import sys, time; print(sys.argv, flush=True); time.sleep(120)"
SHORT = timedelta(seconds=1)


class Noon:
    def now(self):
        return NOON


def command(*words):
    ports = ("--port", "1", "--engine-worker-queue-port", "7")
    argv = (sys.executable, "-c", WAIT, "fastdeploy", "serve", *ports, *words)
    return LaunchSpec(argv=argv, env={"FD_API_KEY": "s3cret"}, cwd="/")


def intent(*steps, after=None, number="i1", generation=1):
    change = Overlay(flag="--max-num-seqs", before=None, after="8", incident_id="x", at=NOON)
    plan = Plan(
        remedy_id="r", rung=0, title=Text("a", "b"), steps=steps,
        before=command("--api-key", "s3cret"), after=after or command("--max-num-seqs", "8"),
        changes=(change,),
    )  # fmt: skip
    return Intent(id=number, incident_id="x", target="t", generation=generation, at=NOON, plan=plan)


@pytest.fixture
def server(tmp_path):
    controller = ProcessController(shm=tmp_path / "shm", tmp=tmp_path / "tmp", gpu_wait=SHORT)
    (tmp_path / "shm").mkdir()
    server = Server(target="t", controller=controller, run_dir=tmp_path / "run")
    notes = []
    server.started = notes.append
    server.start(intent().plan)
    yield server
    for handle in notes:
        controller.stop(handle, grace=timedelta(0))


@pytest.fixture
def hands(server, tmp_path):
    logs = tmp_path / "log"
    logs.mkdir()
    (logs / "workerlog.0").write_bytes(b"first\n" + b"x" * TAIL_BYTES + b"\nlast\n")
    keep = KeepEvidence(server, tmp_path / "evidence", lambda: [*sorted(logs.iterdir()), logs / "gone"], most=3)
    return Hands([RestartServer(server, grace=SHORT), CleanIpc(server), keep], Noon())


def test_a_restart_ends_the_old_and_starts_the_plans_command(server, hands, tmp_path):
    old = server.handle
    (tmp_path / "shm" / "cache_ready_signal.7").write_text("")

    outcome = hands.perform(intent(ServerRestart(), after=command("--max-num-seqs", "4")))

    assert outcome.ok, outcome.results
    assert server.controller.adopt(old) is None
    assert server.alive()
    assert (server.handle.generation, server.handle.spec) == (2, command("--max-num-seqs", "4"))
    assert server.handle.console != old.console
    assert not list((tmp_path / "shm").iterdir())


def test_a_second_call_of_the_same_intent_restarts_nothing(server, hands):
    todo = intent(ServerRestart(), after=command("--max-num-seqs", "4"))
    hands.perform(todo)
    running = server.handle

    outcome = hands.perform(todo)

    assert outcome.ok
    assert server.handle == running
    assert "nothing done" in outcome.results[0].text


def test_a_server_that_died_is_started_anew(server, hands):
    os.kill(server.handle.pid, signal.SIGKILL)

    assert hands.perform(intent(ServerRestart())).ok
    assert server.alive()


def test_the_first_failing_step_ends_it_with_a_cure(hands):
    broken = LaunchSpec(argv=("/not/there", "fastdeploy", "serve"))

    outcome = hands.perform(intent(EvidenceKeep(), ServerRestart(), IpcClean(), after=broken))

    assert not outcome.ok
    assert [(one.action, one.ok) for one in outcome.results] == [
        ("evidence.keep", True),
        ("server.restart", False),
    ]
    assert outcome.results[-1].text.endswith("Give its full path, or correct PATH.")


def test_memory_that_stays_held_keeps_the_next_start_back(server, hands, tmp_path):
    folder = tmp_path / "gpus"
    folder.mkdir()
    body = {"index": 0, "name": "x", "total_bytes": 9, "processes": {str(server.handle.pid): 5}}
    (folder / "gpu0.json").write_text(json.dumps(body))
    server.gpu = LabReader(folder, alive=lambda _pid: True)

    outcome = hands.perform(intent(ServerRestart()))

    assert not outcome.ok
    assert "nvidia-smi" in outcome.results[0].text
    assert server.generation == 1


def test_steps_for_a_person_or_already_in_the_command_need_no_hand(hands):
    advice = Advice(text=Text("Look", "看"), command="nvidia-smi")
    outcome = hands.perform(intent(advice, FlagSet(set={"--port": "1"})))

    assert outcome.ok
    assert [one.action for one in outcome.results] == ["advice", "flag.set"]
    assert all(one.zh for one in outcome.results)


def test_a_broken_hand_is_a_result_and_no_exception():
    class Broken:
        action = "ipc.clean"

        def describe(self, _step, _plan):
            return Text("a", "b")

        def perform(self, _step, _intent):
            raise ZeroDivisionError("by\nnothing")

    outcome = Hands([Broken()], Noon()).perform(intent(IpcClean(), EvidenceKeep()))

    assert len(outcome.results) == 1
    assert "\n" not in outcome.results[0].text
    assert Hands([], Noon()).perform(intent(IpcClean())).results == (
        StepResult(action="ipc.clean", ok=False, text="no hand for ipc.clean here. Do it by hand."),
    )


def test_shared_memory_is_cleaned_only_behind_a_dead_server(server, hands, tmp_path):
    name = tmp_path / "shm" / "cache_ready_signal.7"
    name.write_text("")

    assert hands.perform(intent(IpcClean())).ok
    assert name.exists()

    server.stop(grace=SHORT)
    assert hands.perform(intent(IpcClean())).ok
    assert not name.exists()
    assert hands.perform(intent(IpcClean())).ok


def test_evidence_is_kept_whole_and_once_without_secrets(server, hands, tmp_path):
    hands.perform(intent(EvidenceKeep(), number="../i1"))
    (folder,) = (tmp_path / "evidence").iterdir()
    tail = (folder / "logs" / "00-workerlog.0").read_bytes()

    assert tail == b"last\n"
    assert str(server.handle.pid) in (folder / "processes.txt").read_text()
    assert (folder / "gpus.json").exists()
    assert not [path for path in folder.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert "already kept" in hands.perform(intent(EvidenceKeep(), number="../i1")).results[0].text


def test_old_evidence_makes_room(hands, tmp_path):
    for number in range(6):
        hands.perform(intent(EvidenceKeep(), number=f"i{number}"))
        os.utime(tmp_path / "evidence" / f"i{number}", (NOON.timestamp(), NOON.timestamp() + number))

    assert sorted(path.name for path in (tmp_path / "evidence").iterdir()) == ["i3", "i4", "i5"]


def test_evidence_that_cannot_be_kept_is_told_with_a_cure(server, tmp_path):
    (tmp_path / "file").write_text("")
    keep = KeepEvidence(server, tmp_path / "file", list)

    with pytest.raises(ActuatorError, match="Free or grant space"):
        keep.perform(EvidenceKeep(), intent())


def test_each_step_is_described_in_both_languages_and_touches_nothing(server, hands):
    before = server.handle
    flags, restart = FlagSet(set={"--max-num-seqs": "8"}), ServerRestart(drain=Duration(seconds=60))
    plan = intent(EvidenceKeep(), flags, IpcClean(), restart, Advice(text=Text("Look", "看"))).plan

    texts = hands.describe(plan)

    assert len(texts) == 5
    assert "--max-num-seqs - -> 8" in texts[1].en
    assert "--max-num-seqs 8" in texts[3].zh
    assert "7" in texts[2].en
    assert server.handle == before


def test_every_step_has_its_name():
    assert [action_of(step) for step in (IpcClean(), ServerRestart(), EvidenceKeep())] == [
        "ipc.clean",
        "server.restart",
        "evidence.keep",
    ]


def test_the_process_sense_tells_samples_and_each_exit_once(server, tmp_path):
    (tmp_path / "logs" / "paddle").mkdir(parents=True)
    (tmp_path / "logs" / "paddle" / "workerlog.0").write_text("12345")
    sense = ProcessSense(server.controller, server.handle, [tmp_path / "logs"])

    (sample,) = sense.poll(NOON)
    assert isinstance(sample, ProcessSample)
    assert (sample.alive, sample.workers, sample.generation) == (True, 0, 1)
    assert sample.rss_bytes > 0
    assert sample.log_bytes >= 5

    os.kill(server.handle.pid, signal.SIGKILL)
    server.controller.stop(server.handle)
    ended, sample = sense.poll(NOON)
    assert ended == ProcessExit(
        target="t", at=NOON, generation=1, role="main", pid=server.handle.pid, code=-9, expected=False
    )
    assert not sample.alive
    assert len(sense.poll(NOON)) == 1


def test_a_worker_that_is_gone_is_an_exit_with_its_signal_where_the_kernel_tells_it(tmp_path):
    parent = (
        "import subprocess, sys, time\n"
        "words = [sys.executable, '-c', 'import time; time.sleep(120)', 'worker_process.py']\n"
        "child = subprocess.Popen(words, start_new_session=True)\n"
        "print('up', flush=True)\nchild.wait()\ntime.sleep(120)"
    )
    controller = ProcessController()
    spec = LaunchSpec(argv=(sys.executable, "-c", parent))
    handle = controller.start("t", 1, spec, run_dir=str(tmp_path), ports=Ports())
    try:
        sense = ProcessSense(controller, handle)
        sample = sense.poll(NOON)[-1]
        while not sample.workers:
            sample = sense.poll(NOON)[-1]
        sense.expected = True
        worker = next(one for one in controller.tree(handle) if one.role == "worker")

        os.kill(worker.pid, signal.SIGKILL)
        told = sense.poll(NOON)
        while len(told) == 1:
            told = sense.poll(NOON)

        assert (told[0].role, told[0].pid, told[0].expected) == ("worker", worker.pid, True)
        assert told[0].code in {None, -signal.SIGKILL}
        assert told[-1].alive
    finally:
        controller.stop(handle, grace=timedelta(0))


def test_two_names_of_one_file_count_once(tmp_path):
    (tmp_path / "today.log").write_text("12345")
    (tmp_path / "now.log").symlink_to(tmp_path / "today.log")

    assert log_bytes([tmp_path, tmp_path / "today.log", Path("/not/there")]) == 5


def test_a_handle_goes_through_the_journal(server):
    handle = server.handle

    assert msgspec.json.decode(msgspec.json.encode(handle), type=type(handle)) == handle
