"""The memory: SQLite, one writer. Every turn's observations and effects, and where the mind stands.

A turn is one transaction: what was seen, what is intended, how far the logs were read. What the
transaction holds was not acted upon before it was on disk, so after a crash the two agree.

A file of an earlier version is brought forward, and a copy of it kept; one of a later version is refused. A file that
is broken is put aside and a new one begun: with what is in memory where the daemon runs, empty where it starts.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import msgspec

from diagnose.engine.state import State
from diagnose.errors import JournalError
from diagnose.model import codec
from diagnose.model.effect import Effect, Perform, SaveIncident
from diagnose.model.incident import Incident
from diagnose.model.mark import Mark
from diagnose.model.observation import Observation, Outcome

FILE = "journal.db"
_MARK = "mark/"
BROKEN = FILE + ".broken"
"""Where a file that cannot be used any more is put; the last one is kept."""

_CHANGES: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE IF NOT EXISTS turns (
          seq INTEGER PRIMARY KEY, at TEXT NOT NULL, observations BLOB NOT NULL, effects BLOB NOT NULL)""",
        """CREATE TABLE IF NOT EXISTS state (
          id INTEGER PRIMARY KEY CHECK (id = 1), at TEXT NOT NULL, value BLOB NOT NULL)""",
        """CREATE TABLE IF NOT EXISTS incidents (
          id TEXT PRIMARY KEY, target TEXT NOT NULL, state TEXT NOT NULL, last_seen TEXT NOT NULL,
          value BLOB NOT NULL)""",
        """CREATE TABLE IF NOT EXISTS intents (
          id TEXT PRIMARY KEY, at TEXT NOT NULL, value BLOB NOT NULL, outcome BLOB)""",
        "CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    ),
    (
        "CREATE TABLE IF NOT EXISTS alert_book (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
        "CREATE TABLE IF NOT EXISTS receivers (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
        """CREATE TABLE IF NOT EXISTS posts (
          id TEXT PRIMARY KEY, receiver TEXT NOT NULL, state TEXT NOT NULL, at TEXT NOT NULL, done_at TEXT,
          tries INTEGER NOT NULL, error TEXT NOT NULL, value BLOB NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS posts_by_state ON posts (state, at)",
    ),
)
"""What each schema changed: the first entry makes schema 1 of an empty file, the second makes 2 of 1, and so on."""

SCHEMA = len(_CHANGES)

_KEEP = "INSERT OR REPLACE INTO kept VALUES (?, ?)"

T = TypeVar("T")
Also = Callable[[sqlite3.Connection], object]
"""Writes more in the same transaction."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of the mind, as it was lived."""

    at: datetime
    observations: tuple[Observation, ...]
    effects: tuple[Effect, ...]


class Journal:
    """The daemon's own hold on the file; one at a time.

    Attributes:
        notices: What became of a broken file, to be told to people; who tells it clears them.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the journal in ``folder``.

        Raises:
            JournalError: The folder or file cannot be used, or is of a newer version.
        """
        self._lock = threading.Lock()
        self._behind = False
        self._path = folder / FILE
        self._kept: dict[str, bytes] = {}
        self.notices: list[str] = []
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._db = _opened(self._path)
            except sqlite3.DatabaseError as error:
                if not _is_broken(error):
                    raise
                self._db = self._begun_anew(error, "What it held of the past is not known any more.")
            self._kept = dict(self._db.execute("SELECT name, value FROM kept").fetchall())
        except (OSError, sqlite3.Error) as error:
            raise JournalError(
                f"{self._path}: {error}. Give a state folder that this user can write (--state-dir DIR)."
            ) from error

    def _begun_anew(self, error: sqlite3.Error, what_of_it: str) -> sqlite3.Connection:
        """Put the file aside and begin another one."""
        aside = self._path.with_name(BROKEN)
        for end in ("-wal", "-shm"):
            self._path.with_name(FILE + end).unlink(missing_ok=True)
        self._path.replace(aside)
        self.notices.append(f"{self._path} was broken ({error}) and is now {aside}. {what_of_it} Check its disk.")
        return _opened(self._path)

    def record(self, turn: Turn, state: State, kept: Mapping[str, bytes], also: Also | None = None) -> None:
        """Write one turn down, with where the mind stands after it, and what the senses must keep.

        Intents and incidents are on disk when this returns, whatever happens to the machine then.

        Args:
            also: Writes what must be there if the turn is, and not be there if it is not: whom to tell of it.

        Raises:
            JournalError: Nothing of the turn was written.
        """
        grave = bool(turn.effects or also) or any(isinstance(one, Outcome) for one in turn.observations)

        def whole(db: sqlite3.Connection) -> None:
            self._write(turn, state, kept)
            if also:
                also(db)

        self._kept.update(kept)
        try:
            self.write(whole, grave=grave)
        except JournalError:
            self._behind = True
            raise
        self._behind = False

    def _write(self, turn: Turn, state: State, kept: Mapping[str, bytes]) -> None:
        at = turn.at.isoformat()
        if turn.observations or turn.effects:
            self._db.execute(
                "INSERT INTO turns (at, observations, effects) VALUES (?, ?, ?)",
                (at, codec.encode(turn.observations), codec.encode(turn.effects)),
            )
            self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (at, codec.encode(state)))
        if self._behind:  # what an earlier turn could not write is in the state
            self._save(state.incidents.values())
        self._save(effect.incident for effect in turn.effects if isinstance(effect, SaveIncident))
        for effect in turn.effects:
            if isinstance(effect, Perform):
                intent = (effect.intent.id, at, codec.encode(effect.intent))
                self._db.execute("INSERT OR REPLACE INTO intents (id, at, value) VALUES (?, ?, ?)", intent)
        for seen in turn.observations:
            if isinstance(seen, Outcome):
                self._db.execute("UPDATE intents SET outcome = ? WHERE id = ?", (codec.encode(seen), seen.intent_id))
        self._db.executemany(_KEEP, list(kept.items()))

    def _save(self, found: Iterable[Incident]) -> None:
        rows = ((one.id, one.target, one.state.value, one.last_seen.isoformat(), codec.encode(one)) for one in found)
        self._db.executemany("INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?)", rows)

    def keep(self, name: str, value: bytes) -> None:
        """Write one thing down at once, outside of a turn (a handle of a process just started); any thread.

        Raises:
            JournalError: It was not written.
        """
        self._kept[name] = value
        self.write(lambda db: db.execute(_KEEP, (name, value)))

    def mark(self, incident: str, mark: Mark) -> None:
        """Write down what a person says of a diagnosis; any thread.

        Raises:
            JournalError: It was not written.
        """
        self.keep(f"{_MARK}{incident}", codec.encode(mark))

    def write(self, also: Also, *, grave: bool = True) -> None:
        """Write in a transaction of its own; any thread.

        Args:
            grave: It must outlast the machine, not only the process.

        Raises:
            JournalError: Nothing was written.
        """
        try:
            with self._lock:
                try:
                    self._transact(also, grave=grave)
                except sqlite3.DatabaseError as error:
                    if not _is_broken(error):
                        raise
                    self._renew(error)
                    self._transact(also, grave=grave)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"the journal cannot be written: {error}. Make room on its disk.") from error

    def _transact(self, also: Also, *, grave: bool) -> None:
        with _rollback_on_error(self._db):
            self._db.execute(f"PRAGMA synchronous = {'FULL' if grave else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            also(self._db)
            self._db.execute("COMMIT")

    def _renew(self, error: sqlite3.Error) -> None:
        """Begin anew with what is in memory: all that was kept now, where the mind stands with the next turn."""
        self._db.close()
        self._db = self._begun_anew(error, "What is known now is in a new one; single turns of the past are not.")
        self._behind = True
        self._transact(lambda db: db.executemany(_KEEP, list(self._kept.items())), grave=True)

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Read with the daemon's own hold on the file; any thread.

        Raises:
            JournalError: It cannot be read, or not be understood.
        """
        try:
            with self._lock:
                return question(self._db)
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: {error}. Is its disk sound?") from error
        except msgspec.MsgspecError as error:
            raise _strange(self._path, error) from error

    def kept(self) -> dict[str, bytes]:
        """Return all that was kept, by name."""
        return dict(self._kept)

    def last(self) -> datetime | None:
        """Return when the last turn was written; ``None`` where there was none."""
        row = self._db.execute("SELECT at FROM state").fetchone()
        return datetime.fromisoformat(row[0]) if row else None

    def state(self) -> State:
        """Return where the mind stood after the last turn; a fresh state where there is none.

        Raises:
            JournalError: It cannot be understood.
        """
        row = self._db.execute("SELECT value FROM state").fetchone()
        try:
            return codec.decode(row[0], State) if row else State()
        except msgspec.MsgspecError as error:
            raise _strange(self._path, error) from error

    def turns(self) -> Iterator[Turn]:
        """Yield all turns, oldest first."""
        for at, observations, effects in self._db.execute("SELECT at, observations, effects FROM turns ORDER BY seq"):
            yield Turn(
                at=datetime.fromisoformat(at),
                observations=codec.decode(observations, tuple[Observation, ...]),
                effects=codec.decode(effects, tuple[Effect, ...]),
            )

    def prune(self, before: datetime) -> None:
        """Forget turns that are older; incidents stay."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("DELETE FROM turns WHERE at < ?", (before.isoformat(),))

    def close(self) -> None:
        """Let the file go."""
        self._db.close()


def seen(folder: Path, since: datetime, until: datetime) -> list[Observation]:
    """Read what was observed between two moments, oldest first, beside a running daemon.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """

    def question(db: sqlite3.Connection) -> list[Observation]:
        rows = db.execute(
            "SELECT observations FROM turns WHERE at BETWEEN ? AND ? ORDER BY seq",
            (since.astimezone(timezone.utc).isoformat(), until.astimezone(timezone.utc).isoformat()),
        ).fetchall()
        return [one for (blob,) in rows for one in codec.decode(blob, tuple[Observation, ...])]

    return look(folder, question)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader beside the daemon sees."""

    at: datetime | None
    state: State
    incidents: tuple[Incident, ...]
    kept: Mapping[str, bytes]


def look(folder: Path, question: Callable[[sqlite3.Connection], T]) -> T:
    """Ask something of the journal beside a running daemon, without disturbing it; all of it from one moment.

    Raises:
        JournalError: There is none, or it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        raise JournalError(
            f"{path}: no journal here. Start the daemon first (diagnose run -- COMMAND), "
            "or name its folder (--state-dir DIR)."
        )
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as db:
            _check_version(db, path)
            db.execute("BEGIN")
            return question(db)
    except sqlite3.Error as error:
        raise JournalError(f"{path}: {error}. Is it readable for this user?") from error
    except msgspec.MsgspecError as error:
        raise _strange(path, error) from error


def read(folder: Path) -> Snapshot:
    """Read the journal beside a running daemon, without disturbing it.

    Raises:
        JournalError: There is none, or it cannot be read.
    """

    def question(db: sqlite3.Connection) -> Snapshot:
        row = db.execute("SELECT at, value FROM state").fetchone()
        return Snapshot(
            at=datetime.fromisoformat(row[0]).astimezone(timezone.utc) if row else None,
            state=codec.decode(row[1], State) if row else State(),
            incidents=_incidents(db),
            kept=dict(db.execute("SELECT name, value FROM kept").fetchall()),
        )

    return look(folder, question)


def incidents(folder: Path) -> tuple[Incident, ...]:
    """Read the newest incidents beside a running daemon, and nothing else.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """
    return look(folder, _incidents)


def kept(folder: Path, beginning: str) -> dict[str, bytes]:
    """Read what is kept under names that begin so, beside a running daemon.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """
    question = "SELECT name, value FROM kept WHERE substr(name, 1, ?) = ?"
    return look(folder, lambda db: dict(db.execute(question, (len(beginning), beginning)).fetchall()))


def marks(folder: Path) -> dict[str, Mark]:
    """Read what people said of diagnoses, by incident.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """
    found = kept(folder, _MARK)
    try:
        return {name.removeprefix(_MARK): codec.decode(value, Mark) for name, value in found.items()}
    except msgspec.MsgspecError as error:
        raise _strange(folder / FILE, error) from error


def _incidents(db: sqlite3.Connection) -> tuple[Incident, ...]:
    rows = db.execute("SELECT value FROM incidents ORDER BY last_seen DESC LIMIT 1000").fetchall()
    return tuple(codec.decode(value, Incident) for (value,) in rows)


def _opened(path: Path) -> sqlite3.Connection:
    """Open or create the file, look whether it is sound, and bring it to the present schema.

    Raises:
        JournalError: It is of a newer version.
        sqlite3.DatabaseError: It is broken, or cannot be used.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA journal_mode = WAL")
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))  # noqa: TRY301 - as SQLite itself tells of it
        _bring_forward(db, path, _check_version(db, path))
    except BaseException:
        db.close()
        raise
    return db


def _is_broken(error: sqlite3.Error) -> bool:
    """Say whether the file's content is not what SQLite wrote; a full or locked disk is another kind of error."""
    return type(error) is sqlite3.DatabaseError


def _bring_forward(db: sqlite3.Connection, path: Path, version: int) -> None:
    if version == SCHEMA:
        return
    if version:
        copy = _copy_of(path, version)
        copy.unlink(missing_ok=True)
        db.execute("VACUUM INTO ?", (str(copy),))
        copy.chmod(0o600)
    with _rollback_on_error(db):
        db.execute("BEGIN IMMEDIATE")
        for change in _CHANGES[version:]:
            for statement in change:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")


def _copy_of(path: Path, version: int) -> Path:
    """Name the copy that is kept of a file before it is brought forward."""
    return path.with_name(f"{FILE}.schema-{version}")


def _check_version(db: sqlite3.Connection, path: Path) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA:
        copy = _copy_of(path, SCHEMA)
        way_back = f"put {copy.name} in its place (as it was before the upgrade)" if copy.exists() else "move it away"
        raise JournalError(
            f"{path}: written by a newer diagnose (schema {version}, this one knows {SCHEMA}). "
            f"Upgrade diagnose, or {way_back}; a running server is taken over either way."
        )
    return int(version)


def _strange(path: Path, error: Exception) -> JournalError:
    return JournalError(
        f"{path}: written by another version of diagnose ({error}). "
        "Use that version, or move the file away to begin a new journal."
    )


@contextlib.contextmanager
def _rollback_on_error(db: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
