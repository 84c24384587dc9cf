"""The kernel's messages: from a stand-in for kmsg, from journald, and from the real one where it may be read."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timedelta, timezone

import pytest

from diagnose.agent import wiring
from diagnose.agent.config import Config
from diagnose.catalog import cache
from diagnose.engine import window
from diagnose.engine.match import Carry
from diagnose.model.observation import LogLines, SourceSilent
from diagnose.sources.kernel import KMSG, KernelLog, Ours, Place, boot_id, concerns

US = Ours(pids=frozenset({41772, 41790}), names=frozenset({"python", "pt_main_thread"}), buses={"0000:3b:00"})
KILLED = "Out of memory: Killed process 41772 (python) total-vm:98123456kB, anon-rss:60123456kB, UID:0"
XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
SEGFAULT = "pt_main_thread[41790]: segfault at 8 ip 00007f0c13 sp 00007ffd20 error 4 in libpaddle.so[7f0c00+1000]"


def now():
    return datetime.now(timezone.utc)


def record(number, text, *, seconds=0.0, flags="-"):
    """Write one record as kmsg gives it, some seconds ago."""
    micros = int((time.clock_gettime(time.CLOCK_MONOTONIC) - seconds) * 1e6)
    return f"6,{number},{micros},{flags};{text}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n".encode()


@pytest.fixture
def kmsg(tmp_path):
    """Give the writing end of a FIFO that stands in for kmsg."""
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    yield path, lambda data: os.write(end, data)
    os.close(end)


@pytest.fixture(scope="module")
def rules():
    knowledge = wiring.knowledge_of(Config())
    return knowledge, cache.matcher(knowledge)


def told(pieces):
    return [line for piece in pieces if isinstance(piece, LogLines) for line in piece.data.decode().splitlines()]


def found(rules, pieces):
    """Name the rules that hold, given only what the kernel told."""
    knowledge, matcher = rules
    matches, carry = [], Carry()
    for piece in pieces:
        more, carry = matcher.scan(piece, carry)
        matches += more
    return matches, {one.rule_id: one for one in window.feed(window.Windows(), knowledge, matches)[1]}


# --- what is read, and when


def test_what_was_there_at_the_first_look_is_history_and_only_what_comes_later_is_fresh(kmsg):
    path, write = kmsg
    log = KernelLog("default", path=path, journal="")
    write(record(1, KILLED, seconds=20) + record(2, XID, seconds=5))
    before = log.poll(now(), US)
    write(record(3, SEGFAULT))
    after = log.poll(now(), US)
    assert [piece.fresh for piece in before] == [False]
    assert [KILLED in told(before)[0], XID in told(before)[1]] == [True, True]
    assert [(piece.fresh, piece.first_line) for piece in after] == [(True, 3)]
    assert SEGFAULT in told(after)[0]
    assert log.poll(now(), US) == []
    log.close()


def test_what_is_read_before_it_is_known_what_is_ours_is_told_later_and_stays_as_fresh_as_it_was(kmsg):
    path, write = kmsg
    log = KernelLog("default", path=path, journal="")
    write(record(1, XID, seconds=5))
    assert log.poll(now(), Ours(), hold=True) == []
    write(record(2, XID.replace("3b", "af")) + record(3, KILLED))
    assert log.poll(now(), Ours(), hold=True) == []
    pieces = log.poll(now(), US)
    assert [(piece.fresh, XID in line, KILLED in line) for piece in pieces for line in told([piece])] == [
        (False, True, False),
        (True, False, True),
    ]
    log.close()


def test_history_from_before_the_server_is_no_use(kmsg):
    path, write = kmsg
    log = KernelLog("default", path=path, journal="")
    write(record(1, KILLED, seconds=3600) + record(2, XID, seconds=5))
    assert [XID in line for line in told(log.poll(now(), US, since=now() - timedelta(minutes=1)))] == [True]
    log.close()


def test_the_next_daemon_goes_on_where_the_last_one_stopped(kmsg):
    path, write = kmsg
    first = KernelLog("default", path=path, journal="")
    write(record(7, XID))
    first.poll(now(), US)
    second = KernelLog("default", path=path, journal="")
    second.go_on(first.place)
    write(record(7, XID) + record(8, KILLED))
    assert [KILLED in line for line in told(second.poll(now(), US))] == [True]
    stranger = KernelLog("default", path=path, journal="")
    stranger.go_on(Place(boot_id="another boot", last={"kmsg": 10**9}))
    assert stranger.place == Place(boot_id=boot_id())
    for one in (first, second):
        one.close()


def test_records_are_read_whole_with_their_escapes_and_without_what_goes_with_them(kmsg):
    path, write = kmsg
    log = KernelLog("default", path=path, journal="")
    log.poll(now(), US)
    whole = record(1, "usb 1-1: name \\x22A\\x0aB\\x22", flags="-,caller=T9")
    write(whole[:30])
    assert log.poll(now(), US) == []
    write(whole[30:])
    (line,) = told(log.poll(now(), US))
    assert line.endswith('host kernel: usb 1-1: name "A B"')
    log.close()


def test_new_messages_are_from_now_though_the_kernels_clock_has_drifted(kmsg):
    path, write = kmsg
    log = KernelLog("default", path=path, journal="")
    log.poll(now(), US)
    write(record(1, KILLED, seconds=40))
    at = now()
    (line,) = told(log.poll(at, US))
    assert line.startswith(at.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00 "))
    log.close()


@pytest.mark.skipif(not os.access(KMSG, os.R_OK), reason="the kernel's log may not be read here")
def test_the_real_kmsg_is_read_without_waiting():
    log = KernelLog("default", journal="")
    began = time.monotonic()
    first = log.poll(now(), Ours())
    if any(isinstance(one, SourceSilent) for one in first):
        pytest.skip("it can be opened, but not read")
    assert log.place.last["kmsg"] >= 0
    assert time.monotonic() - began < 5
    assert all(piece.fresh is False for piece in first)
    log.close()


# --- a sense that cannot see


def test_a_kernel_log_that_may_not_be_read_is_told_once_with_the_cure(tmp_path):
    log = KernelLog("default", path=tmp_path / "none", journal="")
    at = now()
    (silent,) = log.poll(at, US)
    assert isinstance(silent, SourceSilent)
    assert silent.source == "kernel"
    assert "CAP_SYSLOG" in silent.reason
    assert "systemd-journal" in silent.reason
    assert [log.poll(at + timedelta(seconds=seconds), US) for seconds in (1, 40, 80)] == [[], [], []]


def test_a_kernel_log_that_comes_back_is_read_and_its_next_silence_is_told(tmp_path):
    path = tmp_path / "kmsg"
    log = KernelLog("default", path=path, journal="")
    at = now()
    assert len(log.poll(at, US)) == 1
    path.write_bytes(record(1, KILLED))
    assert len(told(log.poll(at + timedelta(seconds=31), US))) == 1
    log.close()
    path.unlink()
    assert len(log.poll(at + timedelta(seconds=62), US)) == 1


JOURNAL = """#!{python}
import json, sys, time
def entry(text, ago):
    micros = str(int((time.time() - ago) * 1e6))
    print(json.dumps({{"MESSAGE": text, "__REALTIME_TIMESTAMP": micros, "_TRANSPORT": "kernel"}}), flush=True)
entry({xid!r}, 30)
if "-f" not in sys.argv:
    sys.exit()
print("{{half a line", flush=True)
entry([78, 86, 82, 77, 58, 32, 255], 0)
entry({killed!r}, -1)
{after}
"""


def journalctl(folder, after="time.sleep(60)"):
    path = folder / "journalctl"
    path.write_text(JOURNAL.format(python=sys.executable, xid=XID, killed=KILLED, after=after))
    path.chmod(0o755)
    return str(path)


def test_journald_is_read_where_kmsg_may_not_be(tmp_path):
    log = KernelLog("default", path=tmp_path / "none", journal=journalctl(tmp_path))
    pieces, deadline = [], time.monotonic() + 20
    while len(told(pieces)) < 3 and time.monotonic() < deadline:
        pieces += log.poll(now(), US)
        time.sleep(0.02)
    log.close()
    assert [XID in told(pieces)[0], KILLED in told(pieces)[-1]] == [True, True]
    assert [piece.fresh for piece in pieces if XID in piece.data.decode()] == [False]
    assert [piece.fresh for piece in pieces if KILLED in piece.data.decode()] == [True]


def test_a_journal_that_shows_nothing_of_the_kernel_is_told(tmp_path):
    path = tmp_path / "journalctl"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    log = KernelLog("default", path=tmp_path / "none", journal=str(path))
    (silent,) = log.poll(now(), US)
    assert "nor the journal (it shows no message of the kernel)" in silent.reason


# --- whom a line is about


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        pytest.param(KILLED, True, id="our worker was killed"),
        pytest.param(KILLED.replace("41772", "99"), False, id="another process was killed"),
        pytest.param(
            "oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/x,task=python,pid=41772,uid=0", True, id="memcg"
        ),
        pytest.param(
            "oom-kill:constraint=CONSTRAINT_NONE,task_memcg=/x,task=java,pid=7,uid=0", False, id="memcg, other"
        ),
        pytest.param("java invoked oom-killer: gfp_mask=0x100cca(GFP), order=0, oom_score_adj=0", False, id="a caller"),
        pytest.param(SEGFAULT, True, id="a thread of ours"),
        pytest.param(SEGFAULT.replace("41790", "5"), False, id="a crash of another"),
        pytest.param("traps: python[41772] general protection fault ip:7f sp:7f error:0", True, id="a trap of ours"),
        pytest.param("traps: python[4] general protection fault ip:7f sp:7f error:0", False, id="a trap of another"),
        pytest.param("INFO: task python:41772 blocked for more than 122 seconds.", True, id="hung, ours"),
        pytest.param("INFO: task kworker/0:1:88 blocked for more than 122 seconds.", False, id="hung, another"),
        pytest.param(XID, True, id="our card"),
        pytest.param(XID.replace("3b:00", "af:00"), False, id="another card"),
        pytest.param(
            "NVRM: Xid (PCI:0000:3B:00): 31, pid=41772, name=python, Ch 00000008", True, id="our process, card"
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:3b:00): 31, pid=12, name=jupyter, Ch 00000008", False, id="shared card, other"
        ),
        pytest.param(
            "NVRM: Xid (PCI:0000:3b:00): 48, pid=12, name=jupyter, DBE", True, id="shared card, the card itself"
        ),
        pytest.param("NVRM: Xid (PCI:0000:af:00): 48, pid=12, name=jupyter, DBE", False, id="another card itself"),
        pytest.param("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", True, id="bus lost, ours"),
        pytest.param("pcieport 0000:5d:00.0: AER: Uncorrected (Fatal) error received", False, id="another port"),
        pytest.param("EXT4-fs (sda1): mounted filesystem", True, id="nobody by name"),
    ],
)
def test_only_lines_of_our_processes_and_cards_count(text, ours):
    assert concerns(text, US) is ours


def test_where_the_cards_are_not_known_every_card_may_be_ours():
    assert concerns(XID.replace("3b:00", "af:00"), Ours(pids={1}))


@pytest.mark.parametrize(("name", "ours"), [("python", True), ("mysqld", False)])
def test_within_a_container_processes_are_known_by_their_names(name, ours):
    inside = Ours(pids={7}, names={"python"}, numbered=False)
    assert concerns(f"Out of memory: Killed process 99812 ({name}) total-vm:1kB", inside) is ours


# --- what the rules make of it


def test_a_kill_for_want_of_memory_an_xid_and_a_segfault_are_found_by_the_shipped_rules(kmsg, rules):
    path, write = kmsg
    log = KernelLog("default", path=path, journal="")
    log.poll(now(), US)
    write(record(1, KILLED) + record(2, XID) + record(3, SEGFAULT))
    matches, findings = found(rules, log.poll(now(), US))
    log.close()
    assert {"memory.host.oom-killer", "server.telemetry.kernel-segfault"} <= findings.keys()
    assert findings["memory.host.oom-killer"].labels["pid"] == "41772"
    assert {"gpu_lost", "gpu_xid"} & {one.cause for one in findings.values()}
    assert all(one.fresh for one in findings.values())
    assert all(one.stream == "kernel" and abs(one.at - now()) < timedelta(seconds=30) for one in matches)


def test_what_the_kernel_says_of_others_raises_nothing(kmsg):
    path, write = kmsg
    log = KernelLog("default", path=path, journal="")
    log.poll(now(), US)
    lines = [KILLED.replace("41772", "9"), XID.replace("3b", "af"), SEGFAULT.replace("41790", "9")]
    write(b"".join(record(number, text) for number, text in enumerate(lines)))
    assert log.poll(now(), US) == []
    log.close()
