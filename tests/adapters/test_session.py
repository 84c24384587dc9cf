"""The daemon's side of one server: what breaks here is told, and ends nothing."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import pytest

from diagnose.agent.config import Probes, TargetConfig
from diagnose.agent.session import Session
from diagnose.controllers.process import ProcessController
from diagnose.errors import JournalError
from diagnose.model.incident import Intent
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import LogLines, ServerStarted, SourceSilent
from diagnose.ports import GpuUnavailableError, Handle
from diagnose.testing import NOON, plan

COMMAND = ("python", "-m", "fastdeploy.entrypoints.openai.api_server", "--model", "m")


class NoCards:
    def read(self, _pids):
        raise GpuUnavailableError("no driver")

    def xids(self, _after=0):
        return ()


class BrokenMatcher:
    def scan(self, _piece, _carry):
        raise IndexError("out of range")


class SystemClock:
    def now(self):
        return datetime.now(timezone.utc)


def full_disk(_name, _value):
    raise JournalError("the journal cannot be written: disk full. Make room on its disk.")


@pytest.fixture
def session(tmp_path):
    return Session(
        config=TargetConfig(command=COMMAND, cwd=str(tmp_path)),
        probes=Probes(),
        grace=timedelta(seconds=1),
        state_dir=tmp_path,
        matcher=BrokenMatcher(),
        controller=ProcessController(),
        gpu=NoCards(),
        clock=SystemClock(),
        keep=full_disk,
    )


def handle(generation, argv=COMMAND):
    return Handle(
        target="default",
        generation=generation,
        pid=1,
        ticks=1,
        started=0.0,
        boot_id="b",
        instance=f":default/{generation}/x",
        spec=LaunchSpec(argv=argv),
    )


def test_lines_that_break_the_matcher_are_passed_over_and_told(session):
    lines = LogLines(target="default", source="workerlog.0", stream="worker", first_line=7, data=b"x\n", read_at=NOON)
    (told,) = session.logs.match(lines)
    assert isinstance(told, SourceSilent)
    assert told.source == "workerlog.0"
    assert told.reason.startswith("lines from 7 were passed over (IndexError: out of range).")


class Listening:
    """Notes what was read, and as whose."""

    def __init__(self):
        self.heard = []

    def scan(self, piece, carry):
        self.heard += [(line, piece.generation) for line in piece.data.decode().splitlines()]
        return [], carry


def test_the_last_words_of_a_server_are_its_own_and_the_next_ones_are_its_successors(session, tmp_path):
    (tmp_path / "log").mkdir()
    listens = Listening()
    session.logs.use(listens)
    session._watch(LaunchSpec(argv=COMMAND, cwd=str(tmp_path)), {}, new=False)
    now = datetime.now(timezone.utc)
    for _ in range(3):
        now += timedelta(seconds=0.2)
        session.logs.poll(now)
    session.server.generation = 1
    session.logs.poll(now)

    def restart():
        (tmp_path / "log" / "error.log").write_text(
            "the launcher ended\nTraceback (most re"
        )  # in a new file, cut short
        session.logs.await_end()
        session.server.generation = 2
        (tmp_path / "log" / "workerlog.0").write_text("begun\n")

    hands = threading.Thread(target=restart)
    hands.start()
    while hands.is_alive() or len(listens.heard) < 3:
        now += timedelta(seconds=0.001)  # far less than between two looks at names
        session.logs.poll(now)
    hands.join()
    assert listens.heard == [("the launcher ended", 1), ("Traceback (most re", 1), ("begun", 2)]


def test_a_server_whose_note_cannot_be_written_is_watched_all_the_same(session):
    session._started(handle(3))
    started, silent = session._news
    assert isinstance(started, ServerStarted)
    assert started.generation == 3
    assert isinstance(silent, SourceSilent)
    assert silent.source == "journal"
    assert session.sense is not None


@pytest.mark.parametrize(
    ("runs", "done"),
    [
        pytest.param(handle(2, (*COMMAND, "--max-num-seqs", "8")), True, id="its command runs as a newer start"),
        pytest.param(handle(1, (*COMMAND, "--max-num-seqs", "8")), False, id="the start before it runs"),
        pytest.param(handle(2), False, id="another command runs"),
        pytest.param(None, False, id="nothing runs"),
    ],
)
def test_an_intent_without_outcome_is_judged_by_what_runs(session, runs, done):
    made = plan(argv=COMMAND, after=(*COMMAND, "--max-num-seqs", "8"))
    intent = Intent(id="a-1", incident_id="a", target="default", generation=1, at=NOON, plan=made)
    session.server.handle = runs
    outcome = session.recover(intent)
    assert (outcome.ok, outcome.intent_id) == (done, "a-1")
    assert outcome.results[0].text
