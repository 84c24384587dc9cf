"""The journal's own troubles: a broken file is put aside and never repeated from, an old one is brought forward."""

from __future__ import annotations

import contextlib
import gzip
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnose import journal, outbox
from diagnose.engine.state import State
from diagnose.engine.targets import Target
from diagnose.errors import JournalError
from diagnose.journal import BROKEN, FILE, SCHEMA, Journal, Turn
from diagnose.model import codec
from diagnose.model.effect import SaveIncident
from diagnose.model.incident import State as Stands
from diagnose.model.observation import SourceSilent
from diagnose.testing import incident

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
OLD = Path(__file__).parents[1] / "journals" / "schema-1.sql.gz"
"""What a daemon of schema 1 wrote while it cured a start that did not fit its card; the last turns of it."""


def turn(seconds=0, *effects):
    silent = SourceSilent(target="t", at=NOON, source="gpu", reason="no driver")
    return Turn(at=NOON + timedelta(seconds=seconds), observations=(silent,), effects=effects)


def written(folder, turns=200):
    """Write a journal of some size, and close it."""
    with contextlib.closing(Journal(folder)) as book:
        for number in range(turns):
            book.record(turn(number, SaveIncident(incident=incident())), State(), {"positions/t": b"[]"})


def scribble(path, at, count=2000):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * count)


def integrity(folder):
    with contextlib.closing(sqlite3.connect(folder / FILE)) as db:
        return db.execute("PRAGMA integrity_check").fetchall()


@pytest.mark.parametrize(
    "breaks",
    [
        pytest.param(lambda path: path.write_bytes(b"no database at all" * 100), id="another file"),
        pytest.param(lambda path: scribble(path, 0), id="the head"),
        pytest.param(lambda path: scribble(path, 3 * 4096, 4096), id="a page in the middle"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), id="cut in half"),
    ],
)
def test_a_broken_file_is_put_aside_and_told_of_and_a_new_one_is_sound(tmp_path, breaks):
    written(tmp_path)
    breaks(tmp_path / FILE)
    broken = (tmp_path / FILE).read_bytes()
    with contextlib.closing(Journal(tmp_path)) as book:
        assert book.state() == State()
        assert book.kept() == {}
        (notice,) = book.notices
        assert str(tmp_path / BROKEN) in notice
        assert notice.endswith("Check its disk.")
        book.record(turn(), State(), {})
    assert (tmp_path / BROKEN).read_bytes() == broken, "nothing of it is lost for who looks into it"
    assert integrity(tmp_path) == [("ok",)]


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 6000))
def test_bytes_that_rot_anywhere_never_keep_the_daemon_down(tmp_path_factory, where, count):
    folder = tmp_path_factory.mktemp("rot")
    written(folder, turns=40)
    scribble(folder / FILE, int(where * (folder / FILE).stat().st_size), count)
    with contextlib.suppress(JournalError), contextlib.closing(Journal(folder)) as book:
        book.state()
        book.record(turn(), State(), {})
        assert integrity(folder) == [("ok",)]


def test_a_file_that_breaks_while_the_daemon_runs_is_replaced_by_what_it_knows(tmp_path):
    written(tmp_path)
    state = State(targets={"t": Target(name="t", phase="ready")}, incidents={"i": incident()})
    with contextlib.closing(Journal(tmp_path)) as book:
        book.keep("handle/t", b"{}")
        book._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for page in range(1, (tmp_path / FILE).stat().st_size // 4096):
            scribble(tmp_path / FILE, page * 4096, 4000)
        book._db.execute("PRAGMA cache_size = 0")
        book.record(turn(1), state, {"positions/t": b"[1]"})
        assert len(book.notices) == 1
    with contextlib.closing(Journal(tmp_path)) as again:
        assert again.notices == []
        assert again.state() == state
        assert again.kept() == {"positions/t": b"[1]", "handle/t": b"{}"}
    assert [one.id for one in journal.read(tmp_path).incidents] == [incident().id]


def old(folder):
    with contextlib.closing(sqlite3.connect(folder / FILE)) as db:
        db.executescript(gzip.decompress(OLD.read_bytes()).decode())


def test_a_file_of_schema_1_is_brought_forward_and_a_copy_of_it_kept(tmp_path):
    old(tmp_path)
    with contextlib.closing(Journal(tmp_path)) as book:
        target = book.state().targets["default"]
        assert (target.phase, target.generation, len(target.overlays)) == ("ready", 2, 2)
        assert [one.state for one in book.state().incidents.values()] == [Stands.RESOLVED]
        assert len(list(book.turns())) == 7
        assert {"handle/default", "positions/default"} <= book.kept().keys()
        assert book.last() is not None
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    with contextlib.closing(sqlite3.connect(tmp_path / f"{FILE}.schema-1")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM turns").fetchone() == (7,)
    assert outbox.read(tmp_path).waiting == {}


def test_a_way_forward_that_is_cut_short_leaves_the_old_file_as_it_was(tmp_path):
    old(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("CREATE TABLE posts_by_state (id TEXT)")  # in the way of the last change
    with pytest.raises(JournalError):
        Journal(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'alert_book'").fetchall()


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_file_of_a_later_schema_is_refused_with_the_way_back(tmp_path, upgraded):
    (old if upgraded else written)(tmp_path)
    Journal(tmp_path).close()
    (tmp_path / f"{FILE}.schema-1").rename(tmp_path / f"{FILE}.schema-{SCHEMA}") if upgraded else None
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    before = (tmp_path / FILE).read_bytes()
    cure = f"put {FILE}.schema-{SCHEMA} in its place" if upgraded else "move it away"
    with pytest.raises(JournalError, match=cure):
        Journal(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_names_that_are_no_utf8_can_be_written_down(tmp_path):
    with contextlib.closing(Journal(tmp_path)) as book:
        name = b"log/\xff.log".decode(errors="surrogateescape")
        book.keep("x", codec.encode({"path": name, name: ("显存", name)}))
        assert codec.decode(book.kept()["x"], dict) == {"path": "log/?.log", "log/?.log": ["显存", "log/?.log"]}
