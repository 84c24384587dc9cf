"""The memory: what is written is there after a crash, and what cannot be written is said."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta, timezone

import pytest

from diagnose import journal
from diagnose.engine.state import State
from diagnose.engine.targets import Target
from diagnose.errors import JournalError
from diagnose.journal import Journal, Turn
from diagnose.model.effect import PhaseChanged, SaveIncident
from diagnose.model.observation import SourceSilent
from diagnose.testing import incident

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


def test_a_journal_of_a_newer_version_is_refused_with_a_cure(tmp_path):
    Journal(tmp_path).close()
    with sqlite3.connect(tmp_path / journal.FILE) as db:
        db.execute(f"PRAGMA user_version = {journal.SCHEMA + 1}")
    db.close()
    with pytest.raises(JournalError, match="Upgrade diagnose"):
        Journal(tmp_path)


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / journal.FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(JournalError, match="state folder"):
        Journal(tmp_path)


def test_old_turns_are_forgotten_and_incidents_stay(tmp_path):
    book = Journal(tmp_path)
    book.record(turn(0, SaveIncident(incident=incident())), State(), {})
    book.record(turn(100), State(), {})
    book.prune(NOON + timedelta(seconds=50))
    assert [one.at for one in book.turns()] == [NOON + timedelta(seconds=100)]
    assert len(journal.read(tmp_path).incidents) == 1
    book.close()
