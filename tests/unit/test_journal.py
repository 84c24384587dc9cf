"""The memory: what is written is there after a crash, and what cannot be written is said."""

from __future__ import annotations

import sqlite3
import threading
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from diagnose import journal
from diagnose.engine.state import State
from diagnose.engine.targets import Target
from diagnose.errors import JournalError
from diagnose.journal import Journal, Turn
from diagnose.model.effect import Perform, PhaseChanged, SaveIncident
from diagnose.model.incident import Intent
from diagnose.model.observation import Outcome, SourceSilent
from diagnose.testing import incident, plan

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
SILENT = SourceSilent(target="t", at=NOON, source="gpu", reason="no driver")


def turn(seconds=0, *effects):
    return Turn(at=NOON + timedelta(seconds=seconds), observations=(SILENT,), effects=effects)


def test_a_turn_is_written_as_a_whole_and_read_again(tmp_path):
    state = State(targets={"t": Target(name="t", phase="ready")})
    phase = PhaseChanged(target="t", at=NOON, phase="ready", reason="a completion")
    book = Journal(tmp_path)
    book.record(turn(0, phase), state, {"positions/t": b"[]"})
    book.close()
    again = Journal(tmp_path)
    assert list(again.turns()) == [turn(0, phase)]
    assert again.state() == state
    assert again.kept() == {"positions/t": b"[]"}
    again.close()


def test_an_incident_is_kept_in_its_last_form(tmp_path):
    book = Journal(tmp_path)
    first = incident()
    book.record(turn(0, SaveIncident(incident=first)), State(), {})
    book.record(turn(1, SaveIncident(incident=first)), State(), {})
    assert journal.read(tmp_path).incidents == (first,)
    book.close()


def test_a_reader_beside_the_daemon_sees_the_last_whole_turn(tmp_path):
    book = Journal(tmp_path)
    book.record(turn(0), State(targets={"t": Target(name="t")}), {})
    assert journal.read(tmp_path).at == NOON
    assert journal.read(tmp_path).state.targets["t"].phase == "stopped"
    book.close()


def test_what_is_kept_at_once_is_there_without_a_turn(tmp_path):
    book = Journal(tmp_path)
    book.keep("handle/t", b"{}")
    assert journal.read(tmp_path).kept["handle/t"] == b"{}"
    book.close()


def test_a_full_disk_is_said_and_nothing_of_the_turn_is_there(tmp_path):
    book = Journal(tmp_path)
    book.record(turn(0), State(), {})
    pages = book._db.execute("PRAGMA page_count").fetchone()[0]
    book._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalError, match="Make room"):
        book.record(turn(1), State(), {"large": b"x" * 10_000_000})
    assert len(list(book.turns())) == 1
    book._db.execute("PRAGMA max_page_count = 1000000")
    book.record(turn(2), State(), {})
    assert len(list(book.turns())) == 2
    book.close()


def test_what_could_not_be_written_is_written_with_the_next_turn(tmp_path):
    book = Journal(tmp_path)
    book.record(turn(0), State(), {})
    book._db.execute("PRAGMA query_only = ON")
    lost = incident()
    state = State(incidents={lost.id: lost})
    with pytest.raises(JournalError):
        book.record(turn(1, SaveIncident(incident=lost)), state, {})
    with pytest.raises(JournalError):
        book.keep("handle/t", b"{}")
    book._db.execute("PRAGMA query_only = OFF")
    assert not journal.read(tmp_path).incidents
    book.record(turn(2), state, {})
    assert journal.read(tmp_path).incidents == (lost,)
    book.close()


def test_a_reader_beside_a_busy_writer_always_sees_one_whole_moment(tmp_path):
    book = Journal(tmp_path)
    told = incident()
    ends = threading.Event()
    seen = []

    def look():
        while not ends.is_set():
            found = journal.read(tmp_path)
            last = found.incidents[0].last_seen if found.incidents else None
            seen.append((found.at, last, found.kept.get("n"), found.state.targets))

    def write(second):
        at = NOON + timedelta(seconds=second)
        changed = msgspec.structs.replace(told, last_seen=at)
        state = State(targets={"t": Target(name="t", since=at)})
        book.record(turn(second, SaveIncident(incident=changed)), state, {"n": at.isoformat().encode()})

    write(0)
    reader = threading.Thread(target=look)
    reader.start()
    for second in range(1, 200):
        write(second)
    ends.set()
    reader.join()
    book.close()
    assert len(seen) > 1
    for at, last, kept, targets in seen:
        assert at == last == targets["t"].since
        assert kept == at.isoformat().encode()


def test_an_intent_is_kept_until_its_outcome_and_after(tmp_path):
    intent = Intent(id="a-1", incident_id="a", target="t", generation=1, at=NOON, plan=plan())
    outcome = Outcome(target="t", at=NOON, intent_id="a-1", ok=True, results=())
    book = Journal(tmp_path)
    book.record(turn(0, Perform(intent=intent)), State(intents={"a-1": intent}), {})
    assert journal.read(tmp_path).state.intents == {"a-1": intent}
    book.record(Turn(at=NOON, observations=(outcome,), effects=()), State(), {})
    assert book._db.execute("SELECT id, outcome IS NOT NULL FROM intents").fetchall() == [("a-1", 1)]
    assert not journal.read(tmp_path).state.intents
    book.close()


def test_only_its_owner_may_read_the_journal(tmp_path):
    Journal(tmp_path / "state").close()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / journal.FILE).stat().st_mode & 0o077 == 0


def test_a_journal_of_a_newer_version_is_refused_with_a_cure(tmp_path):
    Journal(tmp_path).close()
    with sqlite3.connect(tmp_path / journal.FILE) as db:
        db.execute(f"PRAGMA user_version = {journal.SCHEMA + 1}")
    db.close()
    with pytest.raises(JournalError, match="Upgrade diagnose"):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="Upgrade diagnose"):
        journal.read(tmp_path)


def test_a_state_of_another_shape_is_refused_with_a_cure(tmp_path):
    book = Journal(tmp_path)
    book.record(turn(0), State(), {})
    book._db.execute("UPDATE state SET value = ?", (b'{"targets": 7}',))
    with pytest.raises(JournalError, match="move the file away"):
        book.state()
    with pytest.raises(JournalError, match="move the file away"):
        journal.read(tmp_path)
    book.close()


def test_where_no_journal_is_the_reader_says_what_to_do(tmp_path):
    with pytest.raises(JournalError, match="Start the daemon first"):
        journal.read(tmp_path)
    assert not list(tmp_path.iterdir()), "a reader creates nothing"


def test_old_turns_are_forgotten_and_incidents_stay(tmp_path):
    book = Journal(tmp_path)
    book.record(turn(0, SaveIncident(incident=incident())), State(), {})
    book.record(turn(100), State(), {})
    book.prune(NOON + timedelta(seconds=50))
    assert [one.at for one in book.turns()] == [NOON + timedelta(seconds=100)]
    assert len(journal.read(tmp_path).incidents) == 1
    book.close()
