"""Whatever bytes come: no crash, no hang, no memory without bound. What once broke a reader stays in the corpus.

``DIAGNOSE_FUZZ=5000`` tries so many inputs for each reader (default 60); a failing one that hypothesis prints is put
into ``tests/fuzz/corpus`` as a file, and is then read by all readers in each run.
"""

from __future__ import annotations

import contextlib
import os
import time
import tracemalloc
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diagnose.agent.config import Config
from diagnose.catalog import cache, load
from diagnose.catalog.load import read_config, read_files
from diagnose.engine.match import Carry
from diagnose.errors import DiagnoseError
from diagnose.launch import config, flags, spec
from diagnose.launch import settings as launch
from diagnose.model import codec
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import LogLines
from diagnose.sources.kernel import KernelLog, Ours
from diagnose.sources.logtail import LogTail
from diagnose.sources.metrics import numbers

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
TIMES = int(os.environ.get("DIAGNOSE_FUZZ", "60"))
CORPUS = sorted(Path(__file__).with_name("corpus").iterdir())
MATCHER = cache.matcher(load.load())
SECONDS, BYTES = 5.0, 64 << 20
"""What one input may cost; none is larger than some ten KiB."""

GIVEN = settings(max_examples=TIMES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
LOG = st.sampled_from(
    [
        b"ERROR    2026-01-01 10:15:03,118 41772 engine.py[line:830] ",
        b"Traceback (most recent call last):\n",
        b"Out of memory error on GPU 0. Cannot allocate 3.6GB memory on GPU 0",
        b"6,42,1234567,-;NVRM: Xid (PCI:0000:01:00): 79, pid=1, name=x, ",
        b" SUBSYSTEM=pci\n",
        b'{"log":"',
        b'","stream":"stderr","time":"2026-13-45T99:99:99Z"}',
        b"\x1b[31m",
        b"\r",
        b"\n",
        b"\0" * 64,
        b"\xff\xfe",
        "显存不足".encode(),
        b"2026-02-30 25:61:61,999 ",
        b"\xf0\x9f\x92",
        b"(" * 300,
        b"[" * 300,
    ]
)
YAML = st.sampled_from(
    [
        b"- id: a.b\n",
        b"  when: {pattern: '(?P<gpu>\\d+'}\n",
        b"  when: {all: [{any: []}], within: -1s}\n",
        b"&a [*a, *a]\n",
        b"a: &a {x: *a}\n",
        b"<<: *b\n",
        b"!!python/object:os.system x\n",
        b"targets: [{name: t, attach: 99999999999999}]\n",
        b"policy: {mode: auto, settle: 9e999s}\n",
        b"? [1, 2]\n: 3\n",
        b"--- \n",
        b"\t- x\n",
        b"{" * 200,
        b"[" * 200,
        b"'",
        b"\x85",
        b"probes: {timeout: 0s}\n",
        b"overrides: {a.b: {severity: 7}}\n",
        b"1: 2\n",
        b"null\n",
        b"\xef\xbb\xbf",
        b"2001-99-99\n",
    ]
)
METRICS = st.sampled_from(
    [
        b"# TYPE fastdeploy:num_requests_running gauge\n",
        b"fastdeploy:num_requests_running 1\n",
        b'fastdeploy:num_requests_running{pid="99999999999999999999"} NaN\n',
        b"fastdeploy:num_requests_running -Inf\n",
        b'fastdeploy:num_requests_waiting{a="\\',
        b"fastdeploy:x_total 1e999 17e999\n",
        b"}{\n",
        b"# EOF\n",
        b"\0",
    ]
)


def mixed(words):
    """Bytes of known words, of arbitrary ones, and of words that were cut."""
    piece = st.one_of(words, st.binary(max_size=40), st.builds(lambda word, at: word[:at], words, st.integers(0, 40)))
    return st.lists(piece, max_size=60).map(b"".join)


@contextlib.contextmanager
def bounded():
    """Fail where it took too long or too much."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        took, most = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert took < SECONDS
    assert most < BYTES


def read_log(data, _folder):
    """Match each line by all shipped rules, in two pieces, and write down what was found."""
    carry, half = Carry(), len(data) // 2
    for part in (data[:half], data[half:]):
        for stream in ("worker", "api", "console", "kernel", "unknown"):
            lines = LogLines(target="t", source="a.log", stream=stream, first_line=1, data=part, read_at=NOON)
            found, carry = MATCHER.scan(lines, carry)
            codec.encode(found)


def tail_log(data, folder):
    (folder / "log").mkdir()
    (folder / "log" / "a.log").write_bytes(b"")
    with LogTail([folder / "log"], stream_of=lambda _: "worker", target="t") as tail:
        tail.poll(NOON)
        (folder / "log" / "a.log").write_bytes(data)
        given_out = b""
        for second in range(1, 9):
            given_out += b"".join(one.data for one in tail.poll(NOON + timedelta(seconds=second)))
        codec.encode(tail.positions())
    assert given_out.replace(b"\0", b"") == data.replace(b"\0", b"")


def read_kernel(data, folder):
    path = folder / "kmsg"
    path.write_bytes(b"")
    ours = Ours(pids={1}, names={"python"}, buses=None, numbered=True)
    log = KernelLog("t", path=path)
    try:
        log.poll(NOON, ours)
        path.write_bytes(data)
        for second in range(1, 4):
            codec.encode(log.poll(NOON + timedelta(seconds=second), ours))
    finally:
        log.close()


def read_metrics(data, _folder):
    with contextlib.suppress(ValueError):
        numbers(data.decode("utf-8", "replace"))


def read_rules(data, folder):
    (folder / "a.yaml").write_bytes(data)
    with contextlib.suppress(DiagnoseError):
        read_files([folder])


def read_configuration(data, folder):
    (folder / "c.yaml").write_bytes(data)
    with contextlib.suppress(DiagnoseError):
        read_config(folder / "c.yaml", Config)


def read_flags(data, _folder):
    """A server's help, its configuration file, and a command of arbitrary words."""
    text = data.decode("utf-8", "replace")
    flags.parse_help(text)
    flags.parse_version(text)
    words = ["python", "-m", "fastdeploy.entrypoints.openai.api_server", *text.split()]
    list(flags.imaginary(words, {"FD_X": text}))
    with contextlib.suppress(DiagnoseError):
        config.flag_values(text)
    whole = LaunchSpec(argv=tuple(words))
    with contextlib.suppress(DiagnoseError):
        spec.fastdeploy_part(text.split())
    with contextlib.suppress(DiagnoseError):
        for ask in (
            launch.http_port,
            launch.base_url,
            launch.queue_ports,
            launch.cache_ports,
            launch.ranks_here,
            launch.model_path,
        ):
            ask(whole)
        changed = spec.set_flag(whole, "--max-num-seqs", "8")
        assert spec.value(changed, "--max-num-seqs") == "8"
        spec.diff(whole, changed)


READERS = {
    "log": (read_log, LOG),
    "tail": (tail_log, LOG),
    "kernel": (read_kernel, LOG),
    "metrics": (read_metrics, METRICS),
    "rules": (read_rules, YAML),
    "configuration": (read_configuration, YAML),
    "flags": (read_flags, st.one_of(YAML, LOG)),
}


@pytest.mark.timeout(60 + TIMES)
@pytest.mark.parametrize("name", READERS)
def test_no_bytes_break_a_reader(name, tmp_path_factory):
    read, words = READERS[name]

    @GIVEN
    @given(mixed(words))
    @example(b"")
    def holds(data):
        with bounded():
            read(data, tmp_path_factory.mktemp("fuzz"))

    holds()


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("path", CORPUS, ids=[one.name for one in CORPUS])
def test_what_is_in_the_corpus_breaks_no_reader(path, name, tmp_path):
    with bounded():
        READERS[name][0](path.read_bytes(), tmp_path)
