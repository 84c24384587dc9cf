"""Whatever happens to log files, in whatever order: each line is given out once, with its number.

``DIAGNOSE_LOG_SCHEDULES=1000`` plays so many lives of up to 30 happenings each (default 200).
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from diagnose.model.observation import LogLines
from diagnose.sources.logtail import LogTail

SCHEDULES = int(os.environ.get("DIAGNOSE_LOG_SCHEDULES", "200"))
_NAMES = st.sampled_from(["a.log", "b.log", "workerlog.0"])
_BANNER = "==== the very same banner at each start of the server, as servers like to print them ====\n" * 2


class Schedule(RuleBasedStateMachine):
    """Writers, rotations and restarts; the tail polls whenever hypothesis says so.

    What is destroyed is polled first: nobody can read what is truncated or deleted unseen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "log"
        self.now = datetime(2025, 9, 2, tzinfo=timezone.utc)
        self.count = itertools.count(1)
        self.banners = 0
        self.written: dict[str, int] = {}
        self.line_of: dict[int, int] = {}
        self.unfinished: set[int] = set()
        self.got: list[LogLines] = []
        self.saved = None
        self.tail = self.new_tail()

    def new_tail(self) -> LogTail:
        return LogTail([self.folder], stream_of=lambda _: "unknown", target="t", positions=self.saved)

    def teardown(self) -> None:
        self.poll(0.2)
        self.poll(2.0)
        self.poll(0.2)
        self.tail.close()
        shutil.rmtree(self.root)
        seen: Counter[str] = Counter()
        for one in self.got:
            lines = one.data.decode().splitlines()
            for place, text in enumerate(lines):
                seen[text] += 1
                if text in self.written:
                    assert one.first_line + place == self.written[text], text
        missing = [text for text in self.written if not seen[text]]
        doubled = [text for text, times in seen.items() if times > 1 and text in self.written]
        assert not missing, f"lost: {missing}"
        assert not doubled, f"doubled: {doubled}"

    def inode(self, path: Path) -> int | None:
        return path.stat().st_ino if path.exists() else None

    @initialize()
    def begin(self) -> None:
        self.folder.mkdir()
        self.poll(0.2)

    def append(self, path: Path, count: int, width: int) -> None:
        number = path.read_bytes().count(b"\n") if path.exists() else 0
        with path.open("a") as file:
            for _ in range(count):
                number += 1
                text = f"line {next(self.count)} ".ljust(width, "x")
                self.written[text] = number
                file.write(text + "\n")

    def whole(self, path: Path) -> bool:
        return not path.exists() or not path.stat().st_size or path.read_bytes().endswith(b"\n")

    @rule(name=_NAMES, count=st.integers(1, 5), width=st.sampled_from([0, 20, 200]))
    def write(self, name: str, count: int, width: int) -> None:
        if self.whole(self.folder / name):
            self.append(self.folder / name, count, width)

    @rule(name=_NAMES, cut=st.integers(1, 8), pause=st.sampled_from([0.01, 0.06, 0.5]))
    def write_in_two(self, name: str, cut: int, pause: float) -> None:
        path = self.folder / name
        number = path.read_bytes().count(b"\n") + 1 if path.exists() else 1
        text = f"line {next(self.count)} in two writes 显存"
        self.written[text] = number
        data = (text + "\n").encode()
        with path.open("ab", buffering=0) as file:
            file.write(data[:-cut])
            self.poll(pause)
            file.write(data[-cut:])

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.2, 1.5, 30.0, 100.0]))
    def poll(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        for one in self.tail.poll(self.now):
            assert isinstance(one, LogLines), one
            self.got.append(one)

    @rule(name=_NAMES, banner=st.booleans(), poll=st.booleans())
    def rotate(self, name: str, banner: bool, poll: bool) -> None:  # noqa: FBT001 - hypothesis gives it
        path = self.folder / name
        if not path.exists():
            return
        for number in range(4, 0, -1):
            if (old := self.folder / f"{name}.{number}").exists():
                if number == 4:
                    self.poll(0.2)
                old.rename(self.folder / f"{name}.{number + 1}")
        path.rename(self.folder / f"{name}.1")
        if poll:
            self.poll(0.2)
        if banner:
            path.write_text(_BANNER)

    @rule(name=_NAMES)
    def go_on_in_the_rotated_file(self, name: str) -> None:
        if (self.folder / f"{name}.1").exists():
            self.append(self.folder / f"{name}.1", 2, 0)

    @rule(name=_NAMES, refill=st.integers(0, 6), seen=st.booleans())
    def copytruncate(self, name: str, refill: int, seen: bool) -> None:  # noqa: FBT001 - hypothesis gives it
        path = self.folder / name
        if not path.exists() or not path.stat().st_size:
            return
        self.poll(0.2)  # the original must have been seen before its copy
        if self.whole(path):
            self.append(path, refill // 2, 0)
        copy = self.folder / f"{name}.copy-{next(self.count)}"
        shutil.copyfile(path, copy)
        if seen:
            self.poll(0.2)
        os.truncate(path, 0)
        if refill:
            self.append(path, refill, 20)

    @rule(name=_NAMES, banner=st.booleans())
    def truncate(self, name: str, banner: bool) -> None:  # noqa: FBT001 - hypothesis gives it
        path = self.folder / name
        if path.exists():
            self.poll(0.2)
            os.truncate(path, 0)
            if banner:
                path.write_text(_BANNER)
            self.append(path, 1, 0)

    @rule(name=_NAMES, count=st.integers(1, 6))
    def delete_and_recreate(self, name: str, count: int) -> None:
        path = self.folder / name
        if path.exists():
            self.poll(0.2)
            path.unlink()
        self.append(path, count, 0)

    @rule(name=_NAMES, unlinked=st.booleans())
    def replace(self, name: str, unlinked: bool) -> None:  # noqa: FBT001 - hypothesis gives it
        new = self.root / "new"
        self.append(new, 2, 0)
        if unlinked:
            self.poll(0.2)
            (self.folder / name).unlink(missing_ok=True)
        self.poll(0.2)
        new.replace(self.folder / name)

    @rule(name=_NAMES, other=_NAMES)
    def swap_names(self, name: str, other: str) -> None:
        one, two = self.folder / name, self.folder / other
        if one.exists() and two.exists() and one != two:
            one.rename(self.root / "aside")
            two.rename(one)
            (self.root / "aside").rename(two)
            self.poll(0.2)  # a copy is known by the name of its original: that must have been seen

    @rule()
    def restart(self) -> None:
        self.saved = self.tail.positions()
        self.tail.close()
        self.tail = self.new_tail()

    @rule(name=_NAMES)
    def rotate_while_down(self, name: str) -> None:
        self.saved = self.tail.positions()
        self.tail.close()
        if (self.folder / name).exists():
            self.append(self.folder / name, 2, 0)
            (self.folder / name).rename(self.folder / f"{name}.down-{next(self.count)}")
            self.append(self.folder / name, 1, 20)
        self.tail = self.new_tail()

    @precondition(lambda self: self.tail is not None)
    @invariant()
    def positions_are_within_the_files(self) -> None:
        assert all(one.offset >= 0 and one.line >= 1 for one in self.tail.positions())


TestWhateverHappensEachLineIsGivenOutOnce = Schedule.TestCase
TestWhateverHappensEachLineIsGivenOutOnce.settings = settings(
    max_examples=SCHEDULES,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWhateverHappensEachLineIsGivenOutOnce.pytestmark = [pytest.mark.timeout(120 + SCHEDULES)]
