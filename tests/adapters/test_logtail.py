"""The live tail on real files, with a clock moved by hand: nothing lost, nothing doubled."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from diagnose.model.observation import LogLines, SourceSilent
from diagnose.sources.logtail import LEAST, LogTail

NOON = datetime(2025, 9, 2, 12, tzinfo=timezone.utc)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Bench:
    """A folder of logs, a tail on it that can be stopped and started, and what it told so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOON
        self.told: list[LogLines] = []
        self.silent: list[SourceSilent] = []
        self.pattern: Path | str = folder
        self.saved = None
        self.tail: LogTail | None = None

    def start(self, **more) -> LogTail:
        self.tail = LogTail(
            [self.pattern],
            stream_of=lambda name: "worker" if "worker" in name else "unknown",
            target="t",
            positions=self.saved,
            **more,
        )
        return self.tail

    def stop(self) -> None:
        assert self.tail is not None
        self.saved = self.tail.positions()
        self.tail.close()
        self.tail = None

    def poll(self, seconds: float = 0.2, times: int = 1) -> list[LogLines]:
        assert self.tail is not None
        news: list[LogLines] = []
        for _ in range(times):
            self.now += timedelta(seconds=seconds)
            for seen in self.tail.poll(self.now):
                (self.silent if isinstance(seen, SourceSilent) else news).append(seen)
        self.told += news
        return news

    def drain(self) -> None:
        for _ in range(1000):
            self.poll()
            if not self.tail.busy:
                return
        raise AssertionError("the tail is never done")

    def path(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, text: str | bytes) -> None:
        with self.path(name).open("ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())

    @property
    def text(self) -> str:
        return b"".join(one.data for one in self.told).decode(errors="surrogateescape")

    @property
    def lines(self) -> list[tuple[str, int, str]]:
        """Source, number and text of all lines, in the order in which they came."""
        return [
            (one.source.removeprefix("log/"), one.first_line + place, line)
            for one in self.told
            for place, line in enumerate(one.data.decode(errors="replace").splitlines())
        ]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    folder = tmp_path / "log"
    folder.mkdir()
    made = Bench(folder)
    yield made
    if made.tail is not None:
        made.tail.close()


@pytest.fixture
def log(bench: Bench) -> Bench:
    """A tail that has already seen two lines of `a.log`, appended after its start."""
    bench.start()
    bench.poll()
    bench.write("a.log", "one\ntwo\n")
    bench.poll()
    assert bench.lines == [("a.log", 1, "one"), ("a.log", 2, "two")]
    return bench


def test_appended_lines_come_once_with_their_numbers(log):
    log.write("a.log", "three\n")
    log.poll()
    log.poll()
    log.write("a.log", "four\nfive\n")
    log.poll(times=3)

    assert log.lines[2:] == [("a.log", 3, "three"), ("a.log", 4, "four"), ("a.log", 5, "five")]
    assert all(one.fresh and one.target == "t" for one in log.told)
    assert log.tail.read_bytes == len(log.text)


def test_after_a_rename_the_writer_may_go_on_in_the_old_file(log):
    writer = log.path("a.log").open("ab", buffering=0)
    writer.write(b"three\n")
    log.path("a.log").rename(log.folder.parent / "elsewhere")
    log.write("a.log", "new one\n")
    log.poll()
    writer.write(b"four\n")
    log.poll(seconds=5)
    writer.write(b"five\n")
    writer.close()
    log.write("a.log", "new two\n")
    log.poll(seconds=50)

    assert sorted(log.lines[2:]) == sorted(
        [("a.log", n, t) for n, t in [(3, "three"), (4, "four"), (5, "five"), (1, "new one"), (2, "new two")]]
    )
    assert log.lines[2:4] == [("a.log", 3, "three"), ("a.log", 1, "new one")]


def test_a_file_renamed_into_the_pattern_is_not_read_again(log):
    log.write("a.log", "three\n")
    log.path("a.log").rename(log.path("a.log.1"))
    log.write("a.log", "new\n")
    log.poll()
    log.write("a.log.1", "late\n")
    log.poll(times=3)

    assert log.lines[2:] == [("a.log", 3, "three"), ("a.log", 1, "new"), ("a.log.1", 4, "late")]


def test_a_chain_of_renames_keeps_all_apart(log):
    for turn in range(5):
        for number in range(turn, 0, -1):
            log.path(f"a.log.{number}").rename(log.path(f"a.log.{number + 1}"))
        log.path("a.log").rename(log.path("a.log.1"))
        log.write("a.log", f"turn {turn}\n")
        log.poll(seconds=0.3)

    assert log.lines[2:] == [("a.log", 1, f"turn {turn}") for turn in range(5)]


def test_a_file_that_leaves_the_pattern_and_comes_back_goes_on(log):
    log.path("a.log").rename(log.folder.parent / "aside")
    log.poll(seconds=61, times=3)
    (log.folder.parent / "aside").rename(log.path("b.log"))
    log.write("b.log", "three\n")
    log.poll(seconds=2)

    assert log.lines[2:] == [("b.log", 3, "three")]


@pytest.mark.parametrize("inside", [True, False], ids=["copy in the folder", "copy elsewhere"])
def test_copytruncate_begins_anew(log, inside):
    shutil.copy(log.path("a.log"), log.path("a.log.1") if inside else log.folder.parent / "copy")
    os.truncate(log.path("a.log"), 0)
    log.poll()
    log.write("a.log", "n1\n")
    log.poll()
    log.write("a.log", "n2\n")
    log.poll()

    assert log.lines[2:] == [("a.log", 1, "n1"), ("a.log", 2, "n2")]


def test_copytruncate_that_is_filled_beyond_the_old_offset_is_noticed(log):
    os.truncate(log.path("a.log"), 0)
    log.write("a.log", "another\nlonger\ncontent\n")
    log.poll()

    assert log.lines[2:] == [("a.log", 1, "another"), ("a.log", 2, "longer"), ("a.log", 3, "content")]


def test_a_refill_of_the_same_size_is_noticed(log):
    os.truncate(log.path("a.log"), 0)
    log.write("a.log", "eno\nowt\n")
    log.poll()

    assert log.lines[2:] == [("a.log", 1, "eno"), ("a.log", 2, "owt")]


def test_a_refill_with_the_same_long_head_is_noticed_by_what_stood_before_the_offset(bench):
    bench.start()
    bench.poll()
    banner = "the same banner at every start\n" * 10
    bench.write("a.log", banner + "first life 1\n")
    bench.poll()
    os.truncate(bench.path("a.log"), 0)
    bench.write("a.log", banner + "second life\nand more\n")
    bench.poll()

    assert [line for _, _, line in bench.lines if "life" in line] == ["first life 1", "second life"]
    assert bench.lines[-1] == ("a.log", 12, "and more")


def test_what_only_the_copy_of_a_truncated_file_still_holds_is_read_there(log):
    log.write("a.log", "three\nfour")
    log.poll()
    log.write("a.log", " whole\nfive\n")
    shutil.copy(log.path("a.log"), log.path("a.log.1"))
    os.truncate(log.path("a.log"), 0)
    log.write("a.log", "new\n")
    log.drain()

    assert sorted(log.lines[2:]) == sorted(
        [("a.log", 3, "three"), ("a.log.1", 4, "four whole"), ("a.log.1", 5, "five"), ("a.log", 1, "new")]
    )


def test_a_copy_that_grows_while_it_is_made_is_not_read_again(bench):
    bench.start()
    bench.poll()
    bench.write("a.log", "".join(f"line {n}\n" for n in range(100)))
    bench.drain()
    whole = bench.path("a.log").read_bytes()
    for piece in range(0, len(whole), 100):
        bench.write("a.log.1", whole[piece : piece + 100])
        bench.poll()
    bench.write("a.log", "line 100\n")
    bench.poll()
    bench.write("a.log.1", "line 100\n")
    os.truncate(bench.path("a.log"), 0)
    bench.write("a.log", "new\n")
    bench.poll(times=5)
    bench.path("a.log.1").rename(bench.path("a.log.2"))
    bench.poll(times=5)

    assert [line for _, _, line in bench.lines] == [*(f"line {n}" for n in range(101)), "new"]


def test_a_file_that_begins_like_another_is_still_read(log):
    log.write("a.log.1", "one\n")
    log.poll()
    log.write("a.log.1", "of its own\n")
    log.poll(times=4)

    assert log.lines[2:] == [("a.log.1", 1, "one"), ("a.log.1", 2, "of its own")]


def test_workers_with_the_same_banner_are_all_read(bench):
    bench.start()
    bench.poll()
    for rank in (1, 10, 11):
        bench.write(f"workerlog.{rank}", "same words\n" * 20)
        bench.poll()

    assert [one.source for one in bench.told] == ["log/workerlog.1", "log/workerlog.10", "log/workerlog.11"]
    assert {one.stream for one in bench.told} == {"worker"}


@pytest.mark.parametrize("text", ["x\n", "a much longer line than before\nand another\n"], ids=["shorter", "longer"])
def test_a_deleted_and_recreated_file_is_read_from_its_start(log, text):
    log.write("a.log", "three\n")
    log.path("a.log").unlink()
    log.write("a.log", text)
    log.poll(times=2)

    assert log.lines[2:] == [
        ("a.log", 3, "three"),
        *(("a.log", n + 1, t) for n, t in enumerate(text.split("\n")[:-1])),
    ]


def test_an_atomic_replacement_is_read_from_its_start_after_the_rest_of_the_old(log):
    log.write("a.log", "three\n")
    log.write("new.tmp", "fresh one\nfresh two\n")
    log.path("new.tmp").replace(log.path("a.log"))
    log.poll(times=2)

    assert log.lines[2:] == [("a.log", 3, "three"), ("a.log", 1, "fresh one"), ("a.log", 2, "fresh two")]


def test_a_file_that_appears_later_is_read_from_its_start(bench):
    bench.start()
    bench.poll(times=5)
    bench.write("late.log", "one\n")
    bench.poll()

    assert bench.lines == [("late.log", 1, "one")]
    assert bench.told[0].fresh


def test_a_folder_that_appears_later_is_watched_and_its_absence_is_told_once_after_a_minute(bench):
    bench.folder.rmdir()
    bench.start()
    bench.poll()
    assert bench.silent == []
    bench.poll(seconds=61, times=3)
    assert [one.source for one in bench.silent] == [str(bench.folder)]
    assert "FD_LOG_DIR" in bench.silent[0].reason
    (bench.folder / "paddle").mkdir(parents=True)
    bench.write("a.log", "one\n")
    bench.write("paddle/workerlog.0", "w\n")
    bench.poll()

    assert sorted(bench.lines) == [("a.log", 1, "one"), ("paddle/workerlog.0", 1, "w")]
    assert len(bench.silent) == 1


def test_a_folder_that_vanishes_is_told_at_once_and_once_and_comes_back_silently(log):
    shutil.rmtree(log.folder)
    log.poll(times=5)
    assert len(log.silent) == 1
    log.folder.mkdir()
    log.write("a.log", "back\n")
    log.poll(times=2)
    assert log.lines[2:] == [("a.log", 1, "back")]
    shutil.rmtree(log.folder)
    log.poll(times=2)

    assert len(log.silent) == 2


def test_a_partial_line_waits_for_its_end(log):
    log.write("a.log", "thr")
    log.poll(times=5)
    log.write("a.log", "ee\nfo")
    log.poll()
    log.write("a.log", "ur\n")
    log.poll()

    assert [one.data for one in log.told[1:]] == [b"three\n", b"four\n"]
    assert log.lines[2:] == [("a.log", 3, "three"), ("a.log", 4, "four")]


def test_the_last_line_without_newline_is_given_out_after_a_second(log):
    log.write("a.log", "the end")
    log.poll(seconds=0.5, times=2)
    assert len(log.told) == 1
    log.poll(seconds=0.6)

    assert [one.data for one in log.told[1:]] == [b"the end"]
    assert log.lines[2:] == [("a.log", 3, "the end")]


def test_the_rest_of_a_line_given_out_early_is_a_piece_with_the_same_number(log):
    log.write("a.log", "three, ")
    log.poll()
    log.poll(seconds=1.1)
    log.write("a.log", "and its rest\nfour\n")
    log.poll()

    assert [(one.first_line, one.data) for one in log.told[1:]] == [
        (3, b"three, "),
        (3, b"and its rest\nfour\n"),
    ]


def test_a_line_that_grows_all_the_time_is_given_out_after_five_seconds(log):
    for percent in range(12):
        log.write("a.log", f"\r{percent}%")
        log.poll(seconds=0.9)

    assert [one.first_line for one in log.told[1:]] == [3, 3][: len(log.told) - 1]
    assert 1 <= len(log.told[1:]) <= 2
    assert log.told[1].data.startswith(b"\r0%\r1%")


def test_a_character_split_between_two_writes_stays_whole(log):
    text = "显存不足\n".encode()
    log.write("a.log", text[:4])
    log.poll()
    log.write("a.log", text[4:])
    log.poll()

    assert log.lines[2:] == [("a.log", 3, "显存不足")]


def test_a_piece_given_out_early_ends_with_a_whole_character(log):
    text = "显存不足\n".encode()
    log.write("a.log", text[:4])
    log.poll()
    log.poll(seconds=1.1)
    log.write("a.log", text[4:])
    log.poll()

    assert [one.data.decode() for one in log.told[1:]] == ["显", "存不足\n"]


def test_a_file_truncated_to_nothing_begins_at_line_one(log):
    os.truncate(log.path("a.log"), 0)
    log.poll()
    log.write("a.log", "x\n")
    log.poll()

    assert log.lines[2:] == [("a.log", 1, "x")]


def test_an_unfinished_line_that_is_truncated_away_was_not_lost(log):
    log.write("a.log", "last words")
    log.poll()
    os.truncate(log.path("a.log"), 0)
    log.write("a.log", "new\n")
    log.poll()

    assert log.lines[2:] == [("a.log", 3, "last words"), ("a.log", 1, "new")]


def test_bytes_that_are_no_utf8_come_as_they_are(log):
    log.write("a.log", b"\xff\xfe bad \x80\n\xc3\n")
    log.poll()

    assert log.told[-1].data == b"\xff\xfe bad \x80\n\xc3\n"


@pytest.mark.parametrize("size", [4096, 3 * 1024 * 1024, 5 * 1024**3], ids=["4 KB", "3 MB", "5 GB"])
def test_a_hole_of_zero_bytes_is_passed_over(log, size):
    writer = log.path("a.log").open("r+b", buffering=0)  # not in append mode: goes on at its old place
    writer.seek(size)
    os.truncate(log.path("a.log"), 0)
    writer.write(b"behind the hole\n")
    writer.close()
    log.drain()
    log.write("a.log", "next\n")
    log.poll()

    assert log.lines[2:] == [("a.log", 1, "behind the hole"), ("a.log", 2, "next")]


def test_an_owner_that_is_slow_is_given_less_at_a_time(bench):
    bench.start().most_bytes = LEAST
    bench.poll()
    bench.write("flood.log", b"line of a flood\n" * 100_000)
    bench.write("quiet.log", "one\n")
    news = bench.poll()

    assert 0 < sum(len(one.data) for one in news) <= 2 * LEAST
    bench.drain()
    assert len(bench.lines) == 100_001


def test_a_burst_is_read_in_bounded_polls_and_the_rest_waits_on_disk(bench):
    bench.start()
    bench.poll()
    with bench.path("flood.log").open("ab") as file:
        for number in range(100_000):
            file.write(b"line %06d of a flood that goes on and on and fills the disk, byte for byte\n" % number)
    bench.write("quiet.log", "one\n")
    news = bench.poll()

    assert sum(len(one.data) for one in news) < 4.5 * 1024 * 1024
    assert any(one.source == "log/quiet.log" for one in news)
    assert bench.tail.busy
    assert bench.tail.lag_bytes > 0
    bench.drain()
    assert bench.tail.lag_bytes == 0
    flood = [one for one in bench.told if one.source == "log/flood.log"]
    assert [int(line[5:11]) for one in flood for line in one.data.splitlines()] == list(range(100_000))
    expected = 1
    for one in flood:
        assert one.first_line == expected
        expected += one.data.count(b"\n")


def test_a_flood_before_a_rotation_is_read_before_the_new_file(bench):
    bench.start()
    bench.poll()
    bench.write("a.log", "x" * 99 + "\n")
    bench.poll()
    bench.write("a.log", ("x" * 99 + "\n") * 100_000)
    bench.path("a.log").rename(bench.path("a.log.1"))
    bench.write("a.log", "new\n")
    bench.drain()

    assert bench.lines[-1] == ("a.log", 1, "new")
    assert len(bench.lines) == 100_002


def test_a_daily_symlink_is_followed_to_the_new_file_after_the_rest_of_the_old(bench):
    bench.start()
    bench.poll()
    bench.write("fastdeploy.log.2025-09-02", "one\n")
    bench.path("fastdeploy.log").symlink_to("fastdeploy.log.2025-09-02")
    bench.poll()
    bench.write("fastdeploy.log.2025-09-02", "two\n")
    bench.write("fastdeploy.log.2025-09-03", "next day\n")
    bench.path("fastdeploy.log").unlink()
    bench.path("fastdeploy.log").symlink_to("fastdeploy.log.2025-09-03")
    bench.poll()
    bench.write("fastdeploy.log.2025-09-02", "late\n")
    bench.write("fastdeploy.log", "more\n")
    bench.poll(times=2)

    assert sorted(bench.lines) == sorted(
        [
            ("fastdeploy.log", 1, "one"),
            ("fastdeploy.log", 2, "two"),
            ("fastdeploy.log", 1, "next day"),
            ("fastdeploy.log.2025-09-02", 3, "late"),
            ("fastdeploy.log", 2, "more"),
        ]
    )
    assert [line for _, _, line in bench.lines[:3]] == ["one", "two", "next day"]


def test_a_symlink_to_a_file_outside_the_folder_is_read_as_it_grows(bench):
    outside = bench.folder.parent / "outside"
    outside.write_text("")
    bench.path("a.log").symlink_to(outside)
    bench.start()
    bench.poll()
    outside.write_text("one\n")
    bench.poll(seconds=2)
    with outside.open("a") as file:
        file.write("two\n")
    bench.poll()

    assert bench.lines == [("a.log", 1, "one"), ("a.log", 2, "two")]


def test_two_hard_links_are_one_file(log):
    os.link(log.path("a.log"), log.path("b.log"))
    log.write("b.log", "three\n")
    log.poll()

    assert log.lines[2:] == [("a.log", 3, "three")]


def test_a_rename_with_a_late_new_file_loses_nothing(log):
    writer = log.path("a.log").open("ab", buffering=0)
    log.path("a.log").rename(log.path("old"))
    log.poll()
    writer.write(b"three\n")
    log.poll(seconds=2)
    writer.write(b"four\n")
    writer.close()
    log.write("a.log", "new\n")
    log.poll()
    log.write("a.log", "newer\n")
    log.poll()

    assert [line for _, _, line in log.lines] == ["one", "two", "three", "four", "new", "newer"]


def test_a_new_tail_begins_at_the_end_but_counts_the_lines(bench):
    bench.write("a.log", "old one\nold two\n")
    bench.write("b.log", "old\nunfin")
    bench.start()
    bench.poll()
    bench.write("a.log", "three\n")
    bench.write("b.log", "ished\nnews\n")
    bench.poll(times=2)

    assert sorted(bench.lines) == [("a.log", 3, "three"), ("b.log", 2, "unfinished"), ("b.log", 3, "news")]
    assert [(one.data, one.fresh) for one in bench.told if one.source == "log/b.log"] == [
        (b"unfinished\n", False),
        (b"news\n", True),
    ]


def test_a_new_tail_from_the_start_marks_what_was_there_as_not_fresh(bench):
    bench.write("a.log", "old one\nold two\n")
    bench.start(from_start=True)
    bench.write("a.log", "old three\n")
    bench.poll()
    bench.write("a.log", "four\n")
    bench.poll()
    bench.write("b.log", "later\n")
    bench.poll()

    assert [(one.data, one.fresh) for one in bench.told] == [
        (b"old one\nold two\nold three\n", False),
        (b"four\n", True),
        (b"later\n", True),
    ]


def test_a_large_old_file_is_counted_over_several_polls(bench):
    with bench.path("a.log").open("wb") as file:
        for _ in range(40):
            file.write(b"0123456789abcde\n" * 65536)
    bench.start()
    bench.poll()
    assert bench.tail.busy
    bench.write("a.log", "news\n")
    bench.drain()

    assert bench.lines == [("a.log", 40 * 65536 + 1, "news")]


def test_a_line_longer_than_a_megabyte_comes_in_pieces_with_one_number(log):
    log.write("a.log", "x" * 2_500_000 + "\nfour\n")
    log.drain()

    assert log.text == "one\ntwo\n" + "x" * 2_500_000 + "\nfour\n"
    assert [one.first_line for one in log.told[1:]] == [3, 3, 3]
    assert log.lines[-1] == ("a.log", 4, "four")


def test_lines_carry_the_generation_that_the_owner_has_set(log):
    log.tail.generation = 7
    log.write("a.log", "three\n")
    log.poll()

    assert [one.generation for one in log.told] == [0, 7]


def test_to_the_end_a_file_that_is_new_and_a_line_that_nobody_finished_are_given_out_at_once(log):
    log.write("a.log", "cut sh")
    log.write("error.log", "the last word\n")
    log.poll(seconds=0.01)
    assert not log.tail.caught_up
    assert ("error.log", 1, "the last word") not in log.lines, "names are looked up more seldom"
    log.now += timedelta(seconds=0.01)
    log.told += log.tail.poll(log.now, to_end=True)
    assert log.tail.caught_up
    assert {("error.log", 1, "the last word"), ("a.log", 3, "cut sh")} <= set(log.lines)


def test_a_tail_has_caught_up_once_all_that_was_there_is_given_out(bench):
    bench.start(from_start=True)
    bench.tail.most_bytes = LEAST
    bench.write("a.log", ("x" * 99 + "\n") * 2000)
    caught_up = []
    while not caught_up or not caught_up[-1]:
        bench.poll(seconds=0.2)
        caught_up.append(bench.tail.caught_up)
    assert caught_up[0] is False
    assert len(bench.lines) == 2000


def test_a_launch_log_that_each_launch_truncates_begins_anew(bench):
    bench.start()
    bench.poll()
    for launch in range(4):
        bench.path("launch_worker.log").write_text(f"LAUNCH {launch}\n" + "detail\n" * launch)
        bench.poll()

    assert [line for _, number, line in bench.lines if number == 1] == [f"LAUNCH {n}" for n in range(4)]
    assert len(bench.lines) == 4 + 6


def test_what_is_no_log_is_left_alone(bench):
    bench.start()
    bench.poll()
    bench.write("backup_env.0.json", "{}\n")
    bench.write("a.log.1.gz", "gz\n")
    os.mkfifo(bench.path("pipe.log"))
    bench.path("dir.log").mkdir()
    bench.path("dangling.log").symlink_to("nowhere")
    bench.path("loop.log").symlink_to("loop.log")
    bench.poll(seconds=1, times=3)

    assert bench.told == []
    assert bench.silent == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("*.log", ["a.log"], id="one level"),
        pytest.param("**/*.log", ["a.log", "in/b.log"], id="all levels"),
        pytest.param("in/?.log", ["in/b.log"], id="a folder below"),
        pytest.param("*.[!l]*", ["a.out"], id="a class of characters"),
        pytest.param("a.out", ["a.out"], id="one file"),
    ],
)
def test_a_pattern_chooses(bench, pattern, expected):
    bench.pattern = str(bench.folder / pattern)
    bench.start()
    bench.poll()
    bench.path("in").mkdir()
    for name in ("a.log", "a.out", "in/b.log"):
        bench.write(name, "x\n")
    bench.poll()

    base = "" if not pattern.startswith("in") else "in/"
    assert sorted(base + source.removeprefix("in/") if base else source for source, _, _ in bench.lines) == expected


def test_a_file_that_may_not_be_read_is_told_once_with_a_cure():
    folder = Path(tempfile.mkdtemp())  # not below a folder of pytest's, which only its owner may enter
    folder.chmod(0o755)
    bench = Bench(folder)
    was_root = os.geteuid() == 0
    try:
        bench.start()
        bench.poll()
        bench.write("a.log", "one\n")
        bench.path("a.log").chmod(0)
        if was_root:
            os.seteuid(65534)
        bench.poll(seconds=2, times=3)
        assert [(one.source, "right" in one.reason or "read it" in one.reason) for one in bench.silent] == [
            (str(bench.path("a.log")), True)
        ]
        if was_root:
            os.seteuid(0)
        bench.path("a.log").chmod(0o644)
        bench.poll()
        assert [line for _, _, line in bench.lines] == ["one"]
        assert len(bench.silent) == 1
    finally:
        if was_root:
            os.seteuid(0)
        bench.tail.close()
        shutil.rmtree(folder)


def test_a_closed_tail_holds_no_descriptor(log):
    before = _descriptors()
    log.tail.close()
    log.tail.close()

    assert _descriptors() == before - 1


def test_many_files_do_not_use_up_the_descriptors(bench):
    bench.start()
    bench.poll()
    before = _descriptors()
    for number in range(400):
        bench.write(f"{number}.log", f"{number}\n")
    bench.poll(times=2)
    assert _descriptors() <= before + 256
    for number in range(400):
        bench.write(f"{number}.log", "again\n")
    bench.poll(times=2)

    assert len(bench.lines) == 800
    assert sum(number == 2 for _, number, _ in bench.lines) == 400


# Restarts


def test_what_was_written_while_down_is_read_after_a_restart(log):
    log.stop()
    log.write("a.log", "three\n")
    log.write("new.log", "appeared\n")
    log.start()
    log.poll(times=2)

    assert log.lines[2:] == [("a.log", 3, "three"), ("new.log", 1, "appeared")]
    assert all(one.fresh for one in log.told)


def test_a_restart_with_nothing_new_says_nothing(log):
    log.write("a.log", "partial")
    log.poll()
    log.stop()
    log.start()
    log.poll(times=2)
    log.write("a.log", " no more\n")
    log.poll()

    assert log.lines[2:] == [("a.log", 3, "partial no more")]


@pytest.mark.parametrize("text", ["x\n", "completely different\nand longer\n"], ids=["shorter", "longer"])
def test_an_inode_used_again_while_down_is_a_new_file(log, text):
    log.stop()
    # Written anew in place: same inode, other content, as when the file system gives the number out again.
    log.path("a.log").write_text(text)
    log.start()
    log.poll(times=2)

    assert log.lines[2:] == [("a.log", n + 1, t) for n, t in enumerate(text.split("\n")[:-1])]


def test_a_rotation_while_down_loses_nothing(log):
    log.write("a.log", "three\n")
    log.stop()
    log.write("a.log", "four\n")
    log.path("a.log").rename(log.path("a.log.1"))
    log.write("a.log", "new\n")
    log.start()
    log.poll(times=2)

    assert [line for _, _, line in log.lines] == ["one", "two", "three", "four", "new"][: len(log.lines)]
    assert [(number, line) for _, number, line in log.lines[2:]] == [(3, "three"), (4, "four"), (1, "new")]


def test_a_rotation_in_the_middle_of_the_first_look_after_a_restart_doubles_nothing(log, monkeypatch):
    log.stop()
    ask, done = os.stat, []

    def rotating(path, *args, **more):
        if str(path).endswith("a.log") and not done:  # the folder was listed, and no file asked yet
            done.append(log.path("a.log").rename(log.path("a.log.1")))
        return ask(path, *args, **more)

    log.start()
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", rotating)
        log.poll()
    assert done
    log.poll(seconds=2, times=3)
    log.write("a.log.1", "three\n")
    log.poll()

    assert log.lines[2:] == [("a.log.1", 3, "three")]


def test_a_file_that_a_rotation_renames_before_it_is_opened_is_no_blindness(log, monkeypatch):
    log.write("b.log", "new\n")
    opens, done = os.open, []

    def rotating(path, *args, **more):
        if str(path).endswith("b.log") and not done:  # its name was found, and leads nowhere now
            done.append(log.path("b.log").rename(log.path("b.log.1")))
        return opens(path, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", rotating)
        log.poll()
    assert done
    log.poll(seconds=2)

    assert log.lines[-1] == ("b.log.1", 1, "new")
    assert not log.silent


def test_copytruncate_while_down_doubles_nothing(log):
    log.stop()
    log.write("a.log", "three\n")
    shutil.copy(log.path("a.log"), log.path("a.log.1"))
    os.truncate(log.path("a.log"), 0)
    log.write("a.log", "a new beginning\n")
    log.start()
    log.drain()

    assert sorted(log.lines[2:]) == [("a.log", 1, "a new beginning"), ("a.log.1", 3, "three")]


def test_a_folder_added_to_the_configuration_is_not_read_from_its_start(log):
    log.stop()
    more = log.folder.parent / "more"
    more.mkdir()
    (more / "b.log").write_text("ancient\n")
    with LogTail([log.folder, more], stream_of=str, target="t", positions=log.saved) as tail:
        assert tail.poll(log.now) == []
        with (more / "b.log").open("a") as file:
            file.write("news\n")
        assert [(one.first_line, one.data) for one in tail.poll(log.now)] == [(2, b"news\n")]


def test_memory_of_files_that_are_gone_is_bounded(bench):
    bench.start()
    bench.poll()
    for number in range(600):
        bench.write(f"{number}.log", "x\n")
        if number % 50 == 49:
            bench.poll()
            for path in bench.folder.iterdir():
                path.unlink()
            bench.poll(seconds=30, times=4)

    assert len(bench.lines) == 600
    assert len(bench.tail.positions()) <= 257 + 50
