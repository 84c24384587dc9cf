"""What only numbers, the process table and the kernel tell: found in time, named, and told of nothing that is well.

The servers of the slow tests run side by side, with the daemon's own settings.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from diagnose.engine.incidents import LIVE
from tests.e2e.conftest import FITS, Site
from tests.memory_groups import limited_group

pytestmark = pytest.mark.timeout(150)

PLAIN = "policy: {mode: observe}\n"
FAULT_AT = 12


def plain(here, extra=""):
    here.config.write_text(PLAIN + extra)
    return here


def served(here, extra=""):
    """Start the daemon and its server, and wait until that serves."""
    plain(here, extra)
    here.daemon(*FITS)
    here.wait_phase("ready")
    return here


def chat(here, words, tokens, seconds=200):
    body = {"model": "default", "messages": [{"role": "user", "content": words}], "max_tokens": tokens}
    return httpx.post(f"http://127.0.0.1:{here.port}/v1/chat/completions", json=body, timeout=seconds)


def grave(seen):
    return [one for one in seen.incidents if one.severity.value not in {"info", "warning"}]


def findings(seen, rule):
    return [finding for one in seen.incidents for finding in one.findings if finding.rule_id == rule]


def wait_finding(here, rule, seconds=60):
    seen = here.wait(lambda seen: bool(findings(seen, rule)), f"a finding of {rule}", seconds)
    return next(one for one in seen.incidents if any(finding.rule_id == rule for finding in one.findings))


def settled(here, seconds=10):
    """Wait until a trouble is open; return it."""
    seen = here.wait(
        lambda seen: any(one.state in LIVE and one.state.value != "pending" for one in grave(seen)), "open", seconds
    )
    return grave(seen)[0]


# --- hangs, side by side


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Give sites whose servers hang in different ways, and one that is well; all run at once."""
    folder = tmp_path_factory.mktemp("several")
    kinds = {"traffic": [f"stall@{FAULT_AT}"], "idle": [f"stall@{FAULT_AT}"], "intake": [f"intake-dead@{FAULT_AT}"]}
    here = {
        name: plain(Site(folder / name, gpu_gib=8, era="2.4", faults=kinds[name], mode="observe")) for name in kinds
    }
    here["well"] = Site(folder / "well", gpu_gib=8, era="2.4", mode="observe", load_seconds=6)
    here["well"].env["FD_LAB_TOKENS_PER_SECOND"] = "2"  # a prompt is read at 320 tokens a second
    plain(here["well"], "probes: {completion_every: 10m}\n")
    over = threading.Event()

    def asks():
        while not over.is_set():
            with contextlib.suppress(httpx.HTTPError):
                chat(here["traffic"], "tell me a story of mountains", 300)
            over.wait(0.05)

    def reads():
        with contextlib.suppress(httpx.HTTPError):
            here["answer"] = chat(here["well"], "word " * 7600, 2)

    try:
        for name in (*kinds, "well"):
            here[name].daemon(*FITS)
        here["traffic"].wait_phase("ready", 60)
        for _ in range(2):
            threading.Thread(target=asks, daemon=True).start()
            time.sleep(0.7)  # never both before their first token: that would be a long prompt, which may take minutes
        here["well"].wait_phase("ready", 60)
        here["reading"] = threading.Thread(target=reads, daemon=True)
        here["reading"].start()
        yield here
    finally:
        over.set()
        for name in (*kinds, "well"):
            here[name].end()


@pytest.mark.parametrize(
    ("kind", "rule", "within"),
    [
        pytest.param("traffic", "server.telemetry.stalled", 30, id="with traffic"),
        pytest.param("idle", "server.telemetry.stalled", 60, id="idle"),
        pytest.param("intake", "server.telemetry.intake-dead", 60, id="the intake has died"),
    ],
)
def test_a_hang_without_a_line_is_found_in_time(several, kind, rule, within):
    here = several[kind]
    incident = wait_finding(here, rule, 90)
    hung = here.target().ready_at + timedelta(seconds=FAULT_AT)
    found = min(one.at for one in incident.findings if one.rule_id == rule)
    assert (found - hung).total_seconds() < within
    assert incident.cause == "engine_stall"
    assert here.target().seen["stall"] >= hung, "a proof that is independent of logs"
    assert here.answers(), "/health says that all is well"


def test_a_slow_start_a_long_prompt_and_an_empty_queue_are_no_trouble(several):
    here = several["well"]
    several["reading"].join(100)
    assert several["answer"].status_code == 200
    time.sleep(6)
    seen = here.snapshot()
    assert not grave(seen)
    assert not findings(seen, "server.telemetry.stalled")
    waited = [turn.values["server.requests_running"] for turn in numbers(here)]
    assert max(waited) == 1, "it was seen at work"
    assert here.target().phase == "ready"


def numbers(here):
    here.stop(here.daemons[-1])
    seen = [one for turn in here.turns() for one in turn.observations if type(one).__name__ == "Numbers"]
    return [one for one in seen if "server.requests_running" in one.values]


# --- deaths


def test_the_death_of_a_worker_under_a_living_server_is_found_at_once_with_its_signal(site):
    here = served(site(gpu_gib=8, era="2.4"))
    worker = worker_of(here)
    at = time.time()
    worker.kill()
    incident = wait_finding(here, "server.telemetry.worker-gone", 10)
    assert incident.first_seen.timestamp() - at < 5
    (gone,) = findings(here.snapshot(), "server.telemetry.worker-gone")
    assert gone.labels["pid"] == str(worker.pid)
    assert gone.labels["signal"] == "9"
    assert gone.evidence[0].text == f"worker process {worker.pid} ended: signal 9, ready"
    assert here.answers(), "the server itself says nothing of it yet"


def worker_of(here):
    (worker,) = [one for one in here.processes(worker=True) if one.cmdline()[2].endswith("worker_process.py")]
    return worker


def kmsg(folder):
    path = folder / "kmsg"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)

    def write(number, text):
        os.write(end, f"4,{number},{int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)},-;{text}\n".encode())

    return path, write


def test_a_kill_for_want_of_memory_explains_the_death_and_what_befalls_others_is_not_ours(site):
    here = site(gpu_gib=8, era="2.4")
    path, write = kmsg(here.folder)
    served(here, f"kernel_log: {path}\n")
    killed = "Out of memory: Killed process {} (python) total-vm:98123456kB, anon-rss:60123456kB, UID:0"
    write(1, killed.format(1))
    write(2, "NVRM: Xid (PCI:0000:f1:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.")
    time.sleep(3)
    assert not grave(here.snapshot())
    worker = worker_of(here)
    write(3, killed.format(worker.pid))
    worker.kill()
    wait_finding(here, "memory.host.killed-worker", 15)
    incident = settled(here)
    assert incident.cause == "host_oom"
    assert "worker_crash" in {finding.cause for finding in incident.findings[1:]}
    proof = [one.text for finding in incident.findings for one in finding.evidence]
    assert killed.format(worker.pid) in proof
    assert f"worker process {worker.pid} ended: signal 9, ready" in proof
    assert killed.format(1) not in proof


def test_a_kill_at_the_containers_limit_is_known_without_the_kernels_log(site):
    here = site(gpu_gib=8, era="2.4")
    path, _ = kmsg(here.folder)
    served(here, f"kernel_log: {path}\n")
    with limited_group() as group:
        for one in here.processes():
            group.put(one.pid)
        worker = worker_of(here)
        Path(f"/proc/{worker.pid}/oom_score_adj").write_text("1000")
        time.sleep(13)  # until the counts of the group were read once
        group.run_out()
        wait_finding(here, "memory.container.killed-counted", 15)
        incident = settled(here)
    assert incident.cause == "host_oom"
    assert incident.findings[0].rule_id == "memory.container.killed-counted"
    assert "worker_crash" in {finding.cause for finding in incident.findings[1:]}


def test_a_kill_by_a_person_is_not_called_want_of_memory(site):
    here = served(site(gpu_gib=8, era="2.4"))
    latest = "host.oom_kill_age_seconds"
    here.wait(lambda seen: latest in seen.state.targets["default"].meters.latest, "the kernel's count read twice", 25)
    worker_of(here).kill()
    here.wait(lambda seen: bool(findings(seen, "server.crash.killed")), "the launcher's word of the kill", 40)
    assert settled(here).cause == "worker_crash"
    seen = here.snapshot()
    assert not [one for incident in seen.incidents for one in incident.findings if one.cause == "host_oom"]


# --- senses that cannot see


def test_a_sense_that_cannot_see_is_one_finding_and_all_else_goes_on(site):
    here = site(gpu_gib=8, era="2.4")
    served(here, f"kernel_log: {here.folder}\n")  # a folder can be opened, and not read
    wait_finding(here, "host.blind.kernel", 10)
    shutil.rmtree(here.folder / "log")
    incident = wait_finding(here, "host.blind.logs", 10)
    assert incident.findings[0].labels["source"] == str(here.folder / "log")
    time.sleep(6)
    seen = here.snapshot()
    blind = [finding for one in seen.incidents for finding in one.findings if finding.cause == "blind_spot"]
    assert sorted((one.labels["source"], one.count) for one in blind) == [(str(here.folder / "log"), 1), ("kernel", 1)]
    worker = worker_of(here)
    worker.kill()
    assert wait_finding(here, "server.telemetry.worker-gone", 10)
    (here.folder / "log").mkdir()
    here.wait(
        lambda seen: all(one.state.value == "resolved" for one in seen.incidents if one.rule_id == "host.blind.logs"),
        "that it is told to be over",
        15,
    )
