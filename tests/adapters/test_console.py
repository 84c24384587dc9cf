"""The console of a server is kept within bounds while it writes on, and each of its lines is read once."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import time
from datetime import datetime, timezone

import pytest

from diagnose.actuators import console
from diagnose.controllers.spawn import CONSOLE
from diagnose.model.observation import LogLines
from diagnose.sources.logtail import LogTail

WRITER = """
import sys, time
for number in range(int(sys.argv[1])):
    print(f"line {number} " + "x" * 80, flush=True)
    time.sleep(0.0002)
"""
LINES = 6000
MOST = 100_000


def names(folder):
    return sorted(one.name for one in folder.iterdir())


@pytest.fixture
def run_dir(tmp_path):
    console.folder(tmp_path, 1).mkdir()
    return tmp_path


def test_a_console_is_turned_over_while_its_server_writes_on_and_no_line_is_read_twice(run_dir):
    path = console.folder(run_dir, 1) / CONSOLE
    with path.open("ab") as out:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(LINES)], stdout=out)
    tail = LogTail([str(run_dir)], stream_of=lambda _: "console", target="t", from_start=True)
    read, turned = [], 0
    quiet_since = None
    while quiet_since is None or time.monotonic() - quiet_since < 2:
        pieces = tail.poll(datetime.now(timezone.utc))
        read += [int(one) for piece in pieces if isinstance(piece, LogLines)
                 for one in re.findall(rb"^line (\d+) x", piece.data, re.MULTILINE)]  # fmt: skip
        turned += console.turn_over(path, MOST)
        quiet_since = None if writer.poll() is None or pieces else quiet_since or time.monotonic()
        time.sleep(0.01)
    assert writer.returncode == 0
    assert turned >= 3
    assert path.stat().st_size < 2 * MOST
    assert sorted(read) == sorted(set(read)), "none twice"
    assert LINES - len(read) <= turned, "at most what was written within the microseconds before the emptying"
    assert names(path.parent) == [CONSOLE, f"{CONSOLE}.1"]


def test_a_small_console_is_left_alone(run_dir):
    path = console.folder(run_dir, 1) / CONSOLE
    path.write_text("a line\n")
    assert not console.turn_over(path)
    assert path.read_text() == "a line\n"


def test_a_console_that_cannot_be_copied_is_emptied_for_the_disks_sake(run_dir, monkeypatch):
    path = console.folder(run_dir, 1) / CONSOLE
    path.write_bytes(b"a line\n" * 100)

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(console.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="full"):
        console.turn_over(path, 10)
    assert path.stat().st_size == 0
    assert names(path.parent) == [CONSOLE]


def test_consoles_of_starts_long_past_go(run_dir):
    for number in (1, 2, 5):
        console.folder(run_dir, number).mkdir(exist_ok=True)
    console.forget_old(run_dir, console.KEPT + 2)
    assert names(run_dir) == ["generation-5"]
