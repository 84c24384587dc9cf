"""A tail that is killed again and again: what it journaled with its positions is whole in the end."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

_CHILD = """
import sqlite3, sys, time
from datetime import datetime, timezone
import msgspec
from diagnose.sources.logtail import LogTail, Position

folder, store = sys.argv[1:]
db = sqlite3.connect(store, isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE IF NOT EXISTS seen (data BLOB, first_line INTEGER)")
db.execute("CREATE TABLE IF NOT EXISTS positions (data BLOB)")
row = db.execute("SELECT data FROM positions").fetchone()
saved = msgspec.msgpack.decode(row[0], type=tuple[Position, ...]) if row else None
tail = LogTail([folder], stream_of=str, target="t", positions=saved)
while True:
    news = tail.poll(datetime.now(timezone.utc))
    db.execute("BEGIN IMMEDIATE")
    db.executemany("INSERT INTO seen VALUES (?, ?)", [(one.data, one.first_line) for one in news])
    db.execute("DELETE FROM positions")
    db.execute("INSERT INTO positions VALUES (?)", (msgspec.msgpack.encode(tail.positions()),))
    db.execute("COMMIT")
    if not tail.busy:
        time.sleep(0.002)
"""


def _seen(store: Path) -> list[tuple[bytes, int]]:
    db = sqlite3.connect(store)
    try:
        return db.execute("SELECT data, first_line FROM seen ORDER BY rowid").fetchall()
    finally:
        db.close()


def _wait(ready, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "the child does not come up"
        time.sleep(0.01)


def _has_positions(store: Path) -> bool:
    if not store.exists():
        return False
    db = sqlite3.connect(store, timeout=10)
    try:
        return bool(db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'positions'").fetchone()[0]) and bool(
            db.execute("SELECT count(*) FROM positions").fetchone()[0]
        )
    finally:
        db.close()


def test_a_tail_killed_ten_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    folder, store = tmp_path / "log", tmp_path / "store.db"
    folder.mkdir()
    log = folder / "a.log"
    chance = random.Random(7)
    written = 0

    def write(lines: int) -> None:
        nonlocal written
        with log.open("ab", buffering=0) as file:
            for _ in range(lines):
                written += 1
                file.write(b"line %d\n" % written)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _CHILD, str(folder), str(store)])

    child = start()
    try:
        _wait(lambda: _has_positions(store))
        for turn in range(10):
            seen_before = len(_seen(store))
            for _ in range(40):
                write(chance.randrange(50))
                if chance.random() < 0.02:
                    log.rename(folder / f"a.log.{turn}.{written}")
            # from the third turn on, some kills hit the child while it starts and catches up
            if turn % 3 != 2:
                _wait(lambda before=seen_before: len(_seen(store)) > before)
            write(chance.randrange(2000))
            time.sleep(chance.random() * 0.05)
            child.send_signal(signal.SIGKILL)
            child.wait()
            write(5)
            child = start()
        write(1)
        _wait(lambda: any(b"line %d\n" % written in data for data, _ in _seen(store)[-5:]))
    finally:
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
        child.wait()

    numbers = [int(line.split()[1]) for data, _ in _seen(store) for line in data.splitlines()]
    assert sorted(numbers) == list(range(1, written + 1))
