"""Logs that lie there, in every form in which people keep them."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from datetime import datetime, timezone
from pathlib import Path

import pytest

from diagnose.errors import InputError
from diagnose.sources.blocks import Limits, UnpackError, transcoded, unpacked, whole_lines
from diagnose.sources.logfiles import LogFiles, open_logs


def read(*paths: Path | str, **more) -> LogFiles:
    return open_logs(
        [str(path) for path in paths],
        target="t",
        stream_of=lambda name: "worker" if "workerlog" in name else "unknown",
        is_log=lambda name: name.endswith(".log") or "workerlog" in name,
        **more,
    )


def text_of(found: LogFiles) -> dict[str, bytes]:
    return {file.name: b"".join(one.data for one in file.chunks()) for file in found}


def make(path: Path, data: str | bytes = "line\n", *, mtime: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return path


def test_a_file_is_read_with_its_name_its_stream_and_its_time(tmp_path):
    path = make(tmp_path / "workerlog.0", "one\ntwo\nthree", mtime=1_756_800_000)

    (file,) = read(path)
    chunk, last = file.chunks()

    assert (file.name, file.stream, file.size) == (str(path), "worker", 13)
    assert file.mtime == datetime(2025, 9, 2, 8, tzinfo=timezone.utc)
    assert (chunk.data, chunk.first_line, chunk.read_at) == (b"one\ntwo\n", 1, file.mtime)
    assert (last.data, last.first_line) == (b"three", 3)
    assert (chunk.source, chunk.stream, chunk.target, chunk.fresh) == (str(path), "worker", "t", True)


def test_a_named_file_counts_whatever_it_is_called(tmp_path):
    assert text_of(read(make(tmp_path / "notes.json", "x\n"))) == {str(tmp_path / "notes.json"): b"x\n"}


def test_an_empty_file_is_a_log_without_lines(tmp_path):
    assert text_of(read(make(tmp_path / "empty.log", ""))) == {str(tmp_path / "empty.log"): b""}


def test_a_file_can_be_read_twice(tmp_path):
    (file,) = read(make(tmp_path / "a.log", "x\n"))

    assert list(file.chunks()) == list(file.chunks())


def test_a_folder_is_read_with_all_below_it_oldest_first_by_names_from_there(tmp_path):
    make(tmp_path / "c.log", mtime=300)
    make(tmp_path / "paddle/workerlog.1", mtime=200)
    make(tmp_path / "paddle/workerlog.0", mtime=200)
    make(tmp_path / "a.log", mtime=400)

    found = read(tmp_path)

    assert [file.name for file in found] == ["paddle/workerlog.0", "paddle/workerlog.1", "c.log", "a.log"]
    assert (len(found), found.size) == (4, 20)


def test_names_say_where_they_come_from_when_several_paths_are_named(tmp_path):
    make(tmp_path / "one/a.log", mtime=1)
    make(tmp_path / "two/a.log", mtime=2)

    names = [file.name for file in read(tmp_path / "one", f"{tmp_path}/two/")]

    assert names == [f"{tmp_path}/one/a.log", f"{tmp_path}/two/a.log"]


def test_in_a_folder_unknown_names_count_if_they_look_like_text(tmp_path):
    make(tmp_path / "known.log")
    make(tmp_path / "console", "Traceback (most recent call last):\n")
    make(tmp_path / "gbk.txt", "显存不足\n".encode("gbk"))
    make(tmp_path / "holes", b"\0" * 5000 + b"text behind a hole\n")
    make(tmp_path / "colours", b"\x1b[31mERROR\x1b[0m \r 10%\r 20%\n")
    make(tmp_path / "program", b"\x7fELF\x02\x01" + bytes(range(256)))
    make(tmp_path / "random", bytes(range(256)) * 40)
    make(tmp_path / "known-but-binary.log", b"\x7fELF\x02\x01" + bytes(range(256)))
    make(tmp_path / "backup_env.0.json", "{}\n")
    make(tmp_path / ".hidden", "x\n")
    make(tmp_path / ".git/config", "x\n")

    assert sorted(text_of(read(tmp_path))) == ["colours", "console", "gbk.txt", "holes", "known.log"]


def test_in_a_folder_pipes_sockets_and_dangling_links_are_passed_over(tmp_path):
    make(tmp_path / "a.log")
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "dangling.log").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    place = Path.cwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)
        try:
            server.bind("socket.log")
        finally:
            os.chdir(place)
        found = read(tmp_path)

    assert sorted(text_of(found)) == ["a.log"]
    assert found.skipped == []


def test_links_to_one_file_are_read_once_under_the_plain_name(tmp_path):
    make(tmp_path / "fastdeploy.log.2025-09-02", "x\n")
    (tmp_path / "fastdeploy.log").symlink_to("fastdeploy.log.2025-09-02")
    make(tmp_path / "paddle/workerlog.0", "w\n")
    (tmp_path / "workerlog.0").symlink_to("paddle/workerlog.0")

    assert text_of(read(tmp_path)) == {"fastdeploy.log": b"x\n", "workerlog.0": b"w\n"}


def test_a_link_to_a_file_elsewhere_is_read(tmp_path):
    make(tmp_path / "elsewhere", "x\n")
    (tmp_path / "log").mkdir()
    (tmp_path / "log/a.log").symlink_to(tmp_path / "elsewhere")

    assert text_of(read(tmp_path / "log")) == {"a.log": b"x\n"}


# Packed files


def test_a_gz_is_unpacked_with_all_its_members_and_padding(tmp_path):
    data = gzip.compress(b"one\ntw") + gzip.compress(b"o\n") + gzip.compress(b"") + b"\0" * 512
    make(tmp_path / "workerlog.0.gz", data)

    (file,) = read(tmp_path)

    assert (file.name, file.stream, file.size) == ("workerlog.0.gz", "worker", len(data))
    assert text_of(read(tmp_path)) == {"workerlog.0.gz": b"one\ntwo\n"}


def test_a_gz_that_is_none_is_read_as_it_is(tmp_path):
    assert text_of(read(make(tmp_path / "a.log.gz", "plain\n"))) == {str(tmp_path / "a.log.gz"): b"plain\n"}


def test_a_gz_that_ends_too_early_gives_what_it_has_and_says_so(tmp_path):
    lines = b"".join(b"line %d of a log\n" % n for n in range(10000))
    path = make(tmp_path / "a.log.gz", gzip.compress(lines)[:-2000])

    found = read(path)
    (data,) = text_of(found).values()

    assert data
    assert lines.startswith(data)
    assert found.skipped == [(str(path), "ends too early: read as far as it goes")]


def test_a_damaged_gz_is_an_error_when_named_and_skipped_in_a_folder(tmp_path):
    packed = bytearray(gzip.compress(os.urandom(40_000).hex().encode()))
    packed[20_000:20_100] = b"x" * 100
    path = make(tmp_path / "a.log.gz", bytes(packed))

    with pytest.raises(InputError, match="cannot be unpacked"):
        text_of(read(path))
    found = read(tmp_path)
    text_of(found)

    assert [name for name, _ in found.skipped] == ["a.log.gz"]


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(ratio=100, free_bytes=1 << 20), id="ratio"),
        pytest.param(Limits(ratio=10_000, total_bytes=1 << 20), id="total"),
    ],
)
def test_a_gz_that_becomes_far_too_much_is_an_error(tmp_path, limits):
    path = make(tmp_path / "bomb.log.gz", gzip.compress(b"\n" * (4 << 20)))

    with pytest.raises(InputError, match="unpacks to more than 1 MiB"):
        text_of(read(path, limits=limits))


def bundle(path: Path, *members: tuple[str, bytes, int], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data, mtime in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("log/link.log")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


@pytest.mark.parametrize(("name", "mode"), [("b.tar.gz", "w:gz"), ("b.tgz", "w:gz"), ("b.tar", "w")])
def test_the_logs_in_a_bundle_are_read_oldest_first_without_extraction(tmp_path, name, mode):
    long = b"".join(b"line %d\n" % n for n in range(100_000))
    path = bundle(
        tmp_path / name,
        ("./log/new.log", b"new\n", 300),
        ("log/workerlog.0", long, 100),
        ("log/old.log.gz", gzip.compress(b"packed\n"), 200),
        ("env.json", b"{}", 50),
        ("core", b"\x7fELF" + bytes(100), 50),
        ("../../evil.log", b"outside\n", 400),
        mode=mode,
    )

    found = read(path)

    assert [file.name for file in found] == ["log/workerlog.0", "log/old.log.gz", "log/new.log", "../../evil.log"]
    assert list(text_of(found).values()) == [long, b"packed\n", b"new\n", b"outside\n"]
    assert sorted(os.listdir(tmp_path)) == [name]  # noqa: PTH208 - names, not paths


def test_a_bundle_cut_short_gives_the_logs_it_has(tmp_path):
    noise = os.urandom(300_000).hex().encode()
    path = bundle(tmp_path / "b.tgz", ("a.log", b"whole\n", 1), ("b.log", noise, 2))
    make(path, path.read_bytes()[:200_000])

    found = read(path)
    texts = text_of(found)

    assert texts["a.log"] == b"whole\n"
    assert found.skipped


def test_a_bundle_without_logs_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no log"):
        read(bundle(tmp_path / "b.tgz", ("env.json", b"{}", 1)))


# Standard input


def test_standard_input_is_read_as_it_comes():
    program = (
        "import sys; from diagnose.sources.logfiles import open_logs\n"
        "for file in open_logs(['-'], target='t', stream_of=lambda name: 'unknown', is_log=bool):\n"
        "    for one in file.chunks(): print(one.source, one.first_line, one.data, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdin.write(b"one\ntwo\n")
        child.stdin.flush()
        first = child.stdout.readline()
        child.stdin.write(b"three")
        child.stdin.close()
        rest = child.stdout.read()

    assert (first, rest) == (b"- 1 b'one\\ntwo\\n'\n", b"- 3 b'three'\n")


def test_packed_standard_input_is_unpacked_and_stays_open():
    stdin = io.BytesIO(gzip.compress(b"one\n"))

    assert text_of(read("-", stdin=stdin)) == {"-": b"one\n"}
    assert not stdin.closed


def test_a_named_pipe_is_read_when_a_person_names_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", f"printf 'a\\nb\\n' > {tmp_path / 'pipe'}"]):
        assert text_of(read(tmp_path / "pipe")) == {str(tmp_path / "pipe"): b"a\nb\n"}


# Text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_a_file_with_a_byte_order_mark_becomes_utf8(tmp_path, encoding):
    path = make(tmp_path / "a.log", "\ufeff显存 one\r\ntwo\r\n".encode(encoding))

    assert text_of(read(path)) == {str(path): "显存 one\r\ntwo\r\n".encode()}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_transcoding_does_not_depend_on_where_blocks_end(size):
    text = "显存 😀 line\n" * 5
    data = text.encode("utf-16")

    blocks = [data[place : place + size] for place in range(0, len(data), size)]

    assert b"".join(transcoded(blocks)) == text.encode()


@pytest.mark.parametrize("size", [1, 2, 3, 100, 1000])
def test_unpacking_does_not_depend_on_where_blocks_end(size):
    packed = (gzip.compress(b"one\n" * 1000) + gzip.compress(b"two\n")) * 3 + b"\0" * 10

    blocks = [packed[place : place + size] for place in range(0, len(packed), size)]

    assert b"".join(unpacked(blocks, Limits())) == (b"one\n" * 1000 + b"two\n") * 3


@pytest.mark.parametrize("size", [1, 7, 4096, 256 * 1024])
def test_lines_come_whole_and_numbered_wherever_blocks_end(size):
    data = b"".join(b"line %d\n" % n for n in range(1, 3000)) + b"the last"

    chunks = list(whole_lines(data[place : place + size] for place in range(0, len(data), size)))

    assert b"".join(chunk for _, chunk in chunks) == data
    assert all(chunk.endswith(b"\n") for _, chunk in chunks[:-1])
    number = 1
    for first, chunk in chunks:
        assert first == number
        number += chunk.count(b"\n")


@pytest.mark.parametrize("size", [65536, 256 * 1024, 5 * 1024 * 1024], ids=["64 K", "256 K", "5 M"])
@pytest.mark.parametrize("end", [b"\nthree\nfour", b"\n", b""], ids=["more", "newline", "end"])
def test_of_a_line_beyond_a_megabyte_the_head_is_kept_and_the_numbers_stay_right(size, end):
    data = b"one\n" + b"x" * 3_000_000 + end

    chunks = list(whole_lines(data[place : place + size] for place in range(0, len(data), size)))

    lines = [(first + n, line) for first, chunk in chunks for n, line in enumerate(chunk.splitlines())]
    assert lines[0] == (1, b"one")
    assert lines[1][0] == 2
    assert lines[1][1] == b"x" * len(lines[1][1])
    if size < 1024 * 1024:
        assert len(lines[1][1]) == 1024 * 1024 - 1
    assert lines[2:] == ([(3, b"three"), (4, b"four")] if b"three" in end else [])


def test_memory_stays_small_for_a_large_file(tmp_path):
    with (tmp_path / "a.log").open("wb") as file:
        for _ in range(64):
            file.write(b"an ordinary line of a log, with some words in it\n" * 20_000)
    path = make(tmp_path / "b.log.gz", gzip.compress((tmp_path / "a.log").read_bytes(), 1))
    tracemalloc.start()
    try:
        total = sum(len(one.data) for file in read(tmp_path) for one in file.chunks())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert path.stat().st_size < total
    assert total == 2 * 64 * 20_000 * 49
    assert peak < 4 * 1024 * 1024


# What cannot be read


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        pytest.param(lambda _: None, "does not exist. Check the path", id="missing"),
        pytest.param(lambda path: path.mkdir(), "holds no log. Name the log folder", id="empty folder"),
        pytest.param(lambda path: make(path / "x.json"), "holds no log. Name the log folder", id="no log in it"),
        pytest.param(lambda path: make(path, b"\x7fELF\x02\x01"), "holds no text. Name a log", id="binary"),
    ],
)
def test_what_a_person_named_and_cannot_be_read_is_an_error_with_a_cure(tmp_path, make_it, message):
    make_it(tmp_path / "it")

    with pytest.raises(InputError, match=message):
        read(tmp_path / "it")


def test_a_path_through_a_file_and_a_device_are_errors_with_a_cure(tmp_path):
    make(tmp_path / "a.log")

    with pytest.raises(InputError, match="Check the path"):
        read(tmp_path / "a.log" / "b")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        read("/dev/null")


def test_what_is_no_tar_is_an_error_with_a_cure(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: .*\. Check"):
        read(make(tmp_path / "a.tar.gz", gzip.compress(b"no tar at all\n" * 100)))


def test_unreadable_files_are_errors_when_named_and_skipped_in_a_folder():
    folder = Path(tempfile.mkdtemp())  # not below a folder of pytest's, which only its owner may enter
    folder.chmod(0o755)
    was_root = os.geteuid() == 0
    try:
        make(folder / "a.log")
        make(folder / "secret.log").chmod(0)
        make(folder / "closed" / "b.log")
        (folder / "closed").chmod(0)
        if was_root:
            os.seteuid(65534)
        with pytest.raises(InputError, match="permission denied"):
            read(folder / "secret.log")
        with pytest.raises(InputError, match="permission denied"):
            read(folder / "closed")
        found = read(folder)
        assert list(text_of(found)) == ["a.log"]
        assert sorted(found.skipped) == [("closed", "Permission denied"), ("secret.log", "Permission denied")]
    finally:
        if was_root:
            os.seteuid(0)
        (folder / "closed").chmod(0o755)
        shutil.rmtree(folder)


def test_a_file_removed_before_its_turn_is_skipped_in_a_folder_and_an_error_when_named(tmp_path):
    make(tmp_path / "a.log")
    in_folder, named = read(tmp_path), read(tmp_path / "a.log")
    (tmp_path / "a.log").unlink()

    assert text_of(in_folder) == {"a.log": b""}
    assert in_folder.skipped == [("a.log", "No such file or directory")]
    with pytest.raises(InputError, match="does not exist"):
        text_of(named)


def test_unpacking_names_what_is_damaged():
    with pytest.raises(UnpackError, match="damaged"):
        list(unpacked([b"\x1f\x8b\x08" + b"\xff" * 100], Limits()))
