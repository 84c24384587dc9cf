"""What machine, container and process tree have left; how processes end that are not our children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diagnose.engine.rates import NAMES
from diagnose.sources.exits import ExitWatch
from diagnose.sources.host import HostSense, container_numbers, names_of, threads_of, tree_numbers
from diagnose.testing import NOON
from tests.memory_groups import limited_group

GIB = 1 << 30


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# --- the host


def test_the_host_is_measured_and_each_disk_once_by_all_that_lies_there(tmp_path):
    sense = HostSense("default", {"logs": tmp_path / "log" / "not there yet", "state": tmp_path, "proc": Path("/proc")})
    first, *disks = sense.poll(NOON)
    values = first.values
    assert 0 < values["host.memory_available_bytes"] < values["host.memory_total_bytes"]
    assert values["host.memory_available_ratio"] == pytest.approx(
        values["host.memory_available_bytes"] / values["host.memory_total_bytes"]
    )
    assert 0 <= values["host.shm_free_ratio"] <= 1
    assert values["host.load_per_cpu"] >= 0
    assert [disk.labels for disk in disks] == [{"place": "logs, state"}], "what has no size is no disk"
    assert disks[0].values["host.disk_free_bytes"] > 0
    told = {*values, *disks[0].values, *sense.poll(NOON)[0].values, *tree_numbers([os.getpid()])}
    assert told <= NAMES, "rules may ask for all of them"


def test_a_clock_that_is_put_is_told_and_one_that_runs_is_not(tmp_path):
    put = [0.0]
    sense = HostSense("default", {"state": tmp_path}, wall=lambda: time.time() + put[0])
    assert "host.clock_jump_seconds" not in sense.poll(NOON)[0].values
    assert sense.poll(NOON)[0].values["host.clock_jump_seconds"] < 1
    put[0] = 3600.0
    assert sense.poll(NOON)[0].values["host.clock_jump_seconds"] == pytest.approx(3600, abs=2)


def test_a_host_that_tells_nothing_gives_no_numbers_and_no_error(tmp_path):
    (first,) = HostSense("default", {}, proc=tmp_path / "none", shm=tmp_path / "none").poll(NOON)
    assert first.values.keys() == {"host.load_per_cpu"}


# --- containers


def test_a_container_of_the_second_kind_is_measured_by_its_tightest_limit(tmp_path):
    write(
        tmp_path,
        proc__7__cgroup="0::/kubepods/pod1/box\n",
        cg__cgroup_DOT_controllers="cpu memory pids\n",
        cg__kubepods__pod1__box__memory_DOT_max="max\n",
        cg__kubepods__pod1__box__memory_DOT_current=f"{6 * GIB}\n",
        cg__kubepods__pod1__box__memory_DOT_events="low 0\nhigh 0\nmax 41\noom 3\noom_kill 2\noom_group_kill 0\n",
        cg__kubepods__pod1__memory_DOT_max=f"{8 * GIB}\n",
        cg__kubepods__pod1__memory_DOT_current=f"{7 * GIB}\n",
        cg__kubepods__pod1__memory_DOT_stat=f"anon 5\ninactive_file {1 * GIB}\n",
        cg__kubepods__pod1__box__cpu_DOT_stat="usage_usec 5\nnr_periods 400\nnr_throttled 100\n",
        cg__kubepods__pod1__box__pids_DOT_max="100\n",
        cg__kubepods__pod1__box__pids_DOT_current="95\n",
    )
    assert container_numbers(7, proc=tmp_path / "proc", cgroups=tmp_path / "cg") == {
        "process.container_memory_bytes": 6 * GIB,
        "process.container_memory_free_bytes": 2 * GIB,
        "process.container_memory_ratio": 0.75,
        "process.container_oom_kills_total": 2,
        "process.container_periods_total": 400,
        "process.container_throttled_total": 100,
        "process.container_pids_ratio": 0.95,
    }


def test_a_container_of_the_first_kind_is_measured_from_within(tmp_path):
    outside = "/docker/4c0ffee"  # the host's path: what we see is our own top
    write(
        tmp_path,
        proc__7__cgroup=f"5:memory:{outside}\n3:cpu,cpuacct:{outside}\n0::/\n",
        cg__memory__memory_DOT_limit_in_bytes=f"{4 * GIB}\n",
        cg__memory__memory_DOT_usage_in_bytes=f"{4 * GIB}\n",
        cg__memory__memory_DOT_stat=f"total_inactive_file {3 * GIB}\n",
        cg__memory__memory_DOT_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        cg__cpu__cpu_DOT_stat="nr_periods 10\nnr_throttled 9\nthrottled_time 77\n",
    )
    told = container_numbers(7, proc=tmp_path / "proc", cgroups=tmp_path / "cg")
    assert told["process.container_memory_ratio"] == 0.25
    assert told["process.container_throttled_total"] == 9
    assert told["process.container_oom_kills_total"] == 1


def test_without_a_limit_there_is_no_container_to_tell_of(tmp_path):
    write(
        tmp_path,
        proc__7__cgroup="5:memory:/\n3:cpu,cpuacct:/\n",
        cg__memory__memory_DOT_limit_in_bytes="9223372036854771712\n",
        cg__memory__memory_DOT_usage_in_bytes=f"{4 * GIB}\n",
        cg__cpu__cpu_DOT_stat="nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
    )
    assert container_numbers(7, proc=tmp_path / "proc", cgroups=tmp_path / "cg") == {}
    assert container_numbers(8, proc=tmp_path / "proc", cgroups=tmp_path / "cg") == {}


def test_what_the_kernel_kills_for_want_of_memory_is_counted_for_the_host_and_the_container():
    sense = HostSense("default", {})
    waits = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with limited_group() as group, waits:
        group.put(waits.pid)
        before = {**sense.poll(NOON)[0].values, **container_numbers(waits.pid)}
        group.run_out()
        after = {**sense.poll(NOON)[0].values, **container_numbers(waits.pid)}
        waits.communicate(b"\n")
    for name in ("host.oom_kills_total", "process.container_oom_kills_total"):
        assert after[name] >= before[name] + 1, name
    assert {*after} <= NAMES


# --- processes

PARENT = """
import os, resource, subprocess, threading, time
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = [open("/dev/null") for _ in range(50)]
dead = [subprocess.Popen(["true"]) for _ in range(3)]
[threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(2)]
for one in dead:
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
print("there", flush=True)
time.sleep(60)
"""


@pytest.fixture
def parent():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_tree_is_measured_by_threads_descriptors_and_children_that_nobody_buried(parent):
    told = tree_numbers([parent.pid, 2**22 + 1])
    assert told["process.threads"] == 3
    assert told["process.zombies"] == 3
    assert 50 / 64 < told["process.descriptors_ratio"] <= 1
    assert len(threads_of([parent.pid])) == 3
    assert names_of([parent.pid]) == {Path(f"/proc/{parent.pid}/comm").read_text().strip()}


GRANDPARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(3)"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.readline()
child.stdin.close()
child.wait()
print("buried", flush=True)
time.sleep(60)
"""


def waited(true, seconds=10):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_how_a_child_of_another_ended_is_told_while_it_waits_to_be_buried(parent):
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; exec sleep 60"], stdout=subprocess.PIPE) as shell:
        pid = int(shell.stdout.readline())  # its parent is a sleep, which never buries it
        watch = ExitWatch()
        watch.keep([pid, parent.pid])
        assert not watch.any_ended()
        os.kill(pid, signal.SIGKILL)
        assert waited(watch.any_ended)
        assert watch.code(pid) == -signal.SIGKILL
        watch.keep([parent.pid])
        assert not watch.any_ended(), "what was told of is watched no more"
        watch.close()
        shell.kill()


@pytest.mark.skipif(
    tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 15), reason="the kernel tells it from 6.15 on"
)
def test_how_a_child_of_another_ended_is_told_even_when_it_is_buried():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", GRANDPARENT], **pipes) as process:
        pid = int(process.stdout.readline())
        watch = ExitWatch()
        watch.keep([pid])
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"buried\n"
        assert watch.any_ended()
        assert watch.code(pid) == 3
        watch.close()
        process.kill()


def test_of_what_is_gone_before_it_was_watched_nobody_tells():
    process = subprocess.Popen(["true"])
    process.wait()
    watch = ExitWatch()
    watch.keep([process.pid])
    assert not watch.any_ended()
    assert watch.code(process.pid) is None
    watch.close()
