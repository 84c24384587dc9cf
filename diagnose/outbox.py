"""What is to be told and to whom, until it is told: written with the turn that made it, struck off when it is taken.

At least once: between a receiver's yes and our note of it a crash may fall, and then it is told again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from diagnose import journal
from diagnose.errors import JournalError
from diagnose.journal import Also, Journal
from diagnose.model import codec
from diagnose.model.incident import Incident
from diagnose.notices.book import Alert, Book, Group, Silence
from diagnose.notices.pack import Health, Row
from diagnose.notices.post import Post

T = TypeVar("T")
WAITING, SENT, DEAD = "waiting", "sent", "dead"
_SHELVES: Mapping[str, type] = {"alerts": Alert, "groups": Group, "silences": Silence}


class Outbox:
    """The daemon's own hold on it. What cannot be written is kept in memory, and sent all the same.

    Attributes:
        rows: What waits, by receiver, oldest first.
        health: How each receiver does.
    """

    def __init__(self, book_of: Journal, receivers: Iterable[str], now: datetime) -> None:
        """Take up what an earlier daemon left.

        Raises:
            JournalError: It cannot be read.
        """
        self.journal = book_of
        self.rows: dict[str, list[Row]] = {name: [] for name in receivers}
        self.health: dict[str, Health] = {name: Health() for name in self.rows}
        self._unsaved: dict[str, Row] = {}
        self.journal.write(lambda db: _bury_orphans(db, self.rows, now))
        waiting, told = self.journal.ask(_waiting)
        for post, tries in waiting:
            self.rows[post.receiver].append(Row(post=post, tries=tries, kept=True))
        for name, health in told.items():
            if name in self.health:  # a new start is a new try: the configuration may have been put right
                self.health[name] = msgspec.structs.replace(health, next=None)

    def join(self, receivers: Iterable[str]) -> None:
        """Take on receivers; all of them are tried at once, since the configuration may have been put right."""
        for name in receivers:
            self.rows.setdefault(name, [])
            self.health[name] = msgspec.structs.replace(self.health.get(name, Health()), next=None)

    def leave(self, receiver: str, now: datetime) -> None:
        """Put aside what waits for one that the configuration has no more."""
        self.rows.pop(receiver, None)
        self.health.pop(receiver, None)
        self._unsaved = {name: row for name, row in self._unsaved.items() if row.post.receiver != receiver}
        self._note(lambda db: _bury_orphans(db, self.rows, now))

    def book(self) -> Book:
        """Return the book as it was written last."""
        return self.journal.ask(_book)

    def incident(self, name: str) -> Incident | None:
        """Find an incident that the mind has let go of already."""

        def question(db: sqlite3.Connection) -> Incident | None:
            found = db.execute("SELECT value FROM incidents WHERE id = ?", (name,)).fetchone()
            return codec.decode(found[0], Incident) if found else None

        with contextlib.suppress(JournalError):
            return self.journal.ask(question)
        return None

    def saving(self, before: Book, after: Book, posts: Sequence[Post]) -> Also | None:
        """Return what writes the changes of the book and these posts, and what could not be written before."""
        changes = _changes(before, after)
        fresh = [*(row.post for row in self._unsaved.values()), *(one for one in posts if one.kind != "again")]
        if not changes and not fresh:
            return None

        def also(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT OR REPLACE INTO alert_book VALUES (?, ?)",
                [(name, value) for name, value in changes.items() if value is not None],
            )
            db.executemany(
                "DELETE FROM alert_book WHERE name = ?", [(name,) for name, value in changes.items() if value is None]
            )
            _insert(db, fresh)

        return also

    def take(self, posts: Sequence[Post], *, kept: bool) -> set[str]:
        """Put posts in line; return the receivers that have something new.

        Args:
            kept: They were written down, and with them what was not before.
        """
        if kept:
            for row in self._unsaved.values():
                row.kept = True
            self._unsaved.clear()
        for post in posts:
            line = self.rows[post.receiver]
            if again := post.kind == "again":  # newer words replace older ones
                line[:] = [row for row in line if row.post.kind != "again" or row.post.key != post.key]
            row = Row(post=post, kept=kept and not again)
            line.append(row)
            if not kept and not again:
                self._unsaved[post.id] = row
        return {post.receiver for post in posts}

    def trying(self, rows: Sequence[Row], health: Health, *, keep: bool = True) -> None:
        """Note that rows are about to go out.

        Args:
            keep: A daemon that is started again must know: the vendor punishes who sends too much.
        """
        receiver = rows[0].post.receiver
        self.health[receiver] = health
        for row in rows:
            row.tries += 1
        if keep:
            self._note(lambda db: _save_health(db, receiver, health), grave=False)

    def settle(self, rows: Sequence[Row], state: str, health: Health, now: datetime, error: str = "") -> None:
        """Note how rows fared: ``sent``, ``dead``, or ``waiting`` where they are to be tried again."""
        receiver = rows[0].post.receiver
        self.health[receiver] = health
        if state != WAITING:
            gone = set(rows)
            line = self.rows[receiver]
            line[:] = [row for row in line if row not in gone]
        lost = [row for row in rows if state == DEAD and not row.kept and row.post.kind != "again"]
        kept = [row for row in rows if row.kept]
        told = [(state, now.isoformat(), row.tries, error, row.post.id) for row in (*kept, *lost)]
        if state == SENT:
            for row in rows:
                self._unsaved.pop(row.post.id, None)

        def also(db: sqlite3.Connection) -> None:
            _insert(db, [row.post for row in lost])
            db.executemany("UPDATE posts SET state = ?, done_at = ?, tries = ?, error = ? WHERE id = ?", told)
            _save_health(db, receiver, health)

        self._note(also, grave=state != WAITING)

    def resend(self, receiver: str) -> int:
        """Put what was put aside in line again; of all receivers where none is named.

        Raises:
            JournalError: It cannot be read or written.
        """
        found = self.journal.ask(lambda db: _posts(db, DEAD))
        again = [post for post, _ in found if post.receiver in self.rows and receiver in {"", post.receiver}]
        names = [(post.id,) for post in again]

        def also(db: sqlite3.Connection) -> None:
            db.executemany("UPDATE posts SET state = 'waiting', tries = 0, error = '' WHERE id = ?", names)

        self.journal.write(also)
        for post in again:
            self.rows[post.receiver].append(Row(post=post, kept=True))
            self.health[post.receiver] = msgspec.structs.replace(self.health[post.receiver], next=None)
        return len(again)

    def prune(self, before: datetime) -> None:
        """Forget what was told long ago; what was put aside stays until somebody sends it again."""
        self._note(
            lambda db: db.execute("DELETE FROM posts WHERE state = 'sent' AND done_at < ?", (before.isoformat(),))
        )

    def _note(self, also: Also, *, grave: bool = True) -> None:
        with contextlib.suppress(JournalError):  # told by the loop's own turns; the worst is to tell twice
            self.journal.write(also, grave=grave)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader beside the daemon sees of the alert path.

    Attributes:
        waiting, dead: Posts, by receiver.
    """

    book: Book = Book()
    health: Mapping[str, Health] = {}
    waiting: Mapping[str, int] = {}
    dead: Mapping[str, int] = {}


class Letterhead(msgspec.Struct, frozen=True, kw_only=True):
    """One post and how it fared."""

    post: Post
    state: str
    done_at: datetime | None
    tries: int
    error: str


def read(folder: Path) -> Seen:
    """Read beside a running daemon; nothing where it has no receivers, or is of an earlier version.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """

    def look(db: sqlite3.Connection) -> Seen:
        counts = db.execute(
            "SELECT receiver, state, count(*) FROM posts WHERE state != 'sent' GROUP BY 1, 2"
        ).fetchall()
        return Seen(
            book=_book(db),
            health=_healths(db),
            waiting={name: count for name, state, count in counts if state == WAITING},
            dead={name: count for name, state, count in counts if state == DEAD},
        )

    return _ask(folder, look, Seen())


def posts(
    folder: Path, *, state: str = "", receiver: str = "", incident: str = "", most: int = 100
) -> list[Letterhead]:
    """Read posts, newest first.

    Args:
        incident: Only those of this one.

    Raises:
        JournalError: There is no journal, or it cannot be read.
    """

    def look(db: sqlite3.Connection) -> list[Letterhead]:
        rows = db.execute(
            "SELECT value, state, done_at, tries, error FROM posts WHERE (? = '' OR state = ?) "
            "AND (? = '' OR receiver = ?) AND (? = '' OR id LIKE '%/' || ? || '/%') ORDER BY at DESC, id DESC LIMIT ?",
            (state, state, receiver, receiver, incident, incident, most),
        ).fetchall()
        return [
            Letterhead(
                post=codec.decode(value, Post),
                state=stands,
                done_at=datetime.fromisoformat(done) if done else None,
                tries=tries,
                error=error,
            )
            for value, stands, done, tries, error in rows
        ]

    return _ask(folder, look, [])


def _ask(folder: Path, question: Callable[[sqlite3.Connection], T], nothing: T) -> T:
    def asked(db: sqlite3.Connection) -> T:
        known = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'posts'").fetchone()
        return question(db) if known else nothing

    return journal.look(folder, asked)


def _changes(before: Book, after: Book) -> dict[str, bytes | None]:
    changed: dict[str, bytes | None] = {}
    for shelf in _SHELVES:
        old, new = getattr(before, shelf), getattr(after, shelf)
        if old is new:
            continue
        changed |= {f"{shelf}/{name}": codec.encode(one) for name, one in new.items() if old.get(name) is not one}
        changed |= {f"{shelf}/{name}": None for name in old if name not in new}
    return changed


def _book(db: sqlite3.Connection) -> Book:
    shelves: dict[str, dict[str, object]] = {shelf: {} for shelf in _SHELVES}
    for name, value in db.execute("SELECT name, value FROM alert_book"):
        shelf, _, rest = name.partition("/")
        if shelf in _SHELVES:
            shelves[shelf][rest] = codec.decode(value, _SHELVES[shelf])
    return Book(**shelves)  # type: ignore[arg-type] # each shelf holds its own kind


def _insert(db: sqlite3.Connection, given: Iterable[Post]) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO posts VALUES (?, ?, 'waiting', ?, NULL, 0, '', ?)",
        [(one.id, one.receiver, one.at.isoformat(), codec.encode(one)) for one in given],
    )


def _posts(db: sqlite3.Connection, state: str) -> list[tuple[Post, int]]:
    rows = db.execute("SELECT value, tries FROM posts WHERE state = ? ORDER BY at, rowid", (state,)).fetchall()
    return [(codec.decode(value, Post), tries) for value, tries in rows]


def _waiting(db: sqlite3.Connection) -> tuple[list[tuple[Post, int]], dict[str, Health]]:
    return _posts(db, WAITING), _healths(db)


def _healths(db: sqlite3.Connection) -> dict[str, Health]:
    return {name: codec.decode(value, Health) for name, value in db.execute("SELECT name, value FROM receivers")}


def _save_health(db: sqlite3.Connection, receiver: str, health: Health) -> None:
    db.execute("INSERT OR REPLACE INTO receivers VALUES (?, ?)", (receiver, codec.encode(health)))


def _bury_orphans(db: sqlite3.Connection, receivers: Iterable[str], now: datetime) -> None:
    """Put aside what waits for receivers that the configuration no longer has, and forget how they did."""
    known = set(receivers)
    waiting = {name for (name,) in db.execute("SELECT DISTINCT receiver FROM posts WHERE state = 'waiting'")}
    for name in waiting - known:
        db.execute(
            "UPDATE posts SET state = 'dead', done_at = ?, error = ? WHERE state = 'waiting' AND receiver = ?",
            (now.isoformat(), "no such receiver in the configuration any more", name),
        )
    for (name,) in db.execute("SELECT name FROM receivers").fetchall():
        if name not in known:
            db.execute("DELETE FROM receivers WHERE name = ?", (name,))
