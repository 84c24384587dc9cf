"""Daemons are killed, replaced, doubled and left alone; the server serves on, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

import psutil
import pytest

from tests.e2e.conftest import FITS, TOO_LARGE, began, intents

pytestmark = pytest.mark.timeout(100)

OOM = "Out of memory error on GPU 0. Cannot allocate 3.6GB memory on GPU 0, 7.9GB memory has been allocated\n"


def old_oom(here):
    """Write a line of an older trouble into the worker's log, and give the file."""
    worker = here.folder / "log" / "paddle" / "workerlog.0"
    worker.parent.mkdir(parents=True)
    worker.write_text(OOM)
    return worker


def test_the_server_outlives_a_killed_daemon_and_the_next_one_takes_it_over_without_acting_on_old_lines(site):
    here = site(gpu_gib=8)
    worker = old_oom(here)
    first = here.daemon(*FITS)
    here.wait_phase("ready")
    pid = here.target().pid
    here.kill(first)
    assert here.answers(), "the server serves on"
    with worker.open("a") as file:
        file.write(OOM)
    second = here.daemon(*FITS)
    since = here.snapshot().at
    here.wait(lambda seen: seen.at - since > timedelta(seconds=2), "a second life of two seconds")
    assert here.answers()
    here.stop(second)
    target = here.target()
    assert (target.pid, target.generation, target.phase) == (pid, 1, "ready")
    assert began(here.turns()) == ["spawned", "adopted"]
    assert not intents(here.turns()), "no old line is acted upon"
    assert here.starts() == 1


def freeze_once_the_worker_is_up(here):
    """Stop the main process in its tracks: it will not heed SIGTERM, and a restart takes the whole grace."""
    here.wait(lambda _: here.processes(worker=True), "a worker")
    pid = here.target().pid
    os.kill(pid, signal.SIGSTOP)
    return pid


def cut_short(here):
    """Have a daemon killed between the intent and its outcome, while it waits for the old server's end."""
    first = here.daemon(*TOO_LARGE)
    main = freeze_once_the_worker_is_up(here)
    here.wait(lambda seen: bool(seen.state.intents), "an intent without outcome")
    here.kill(first)
    assert here.snapshot().state.intents, "killed between intent and outcome"
    assert here.starts() == 1
    return main


def test_a_remedy_cut_short_before_the_old_server_ended_is_decided_anew_and_done_once(site):
    here = site(load_seconds=1.0, grace="1s")
    cut_short(here)
    daemon = here.daemon(*TOO_LARGE)
    incident = here.wait_incident("resolved", seconds=60)
    assert [(one.rung, one.result) for one in incident.tries] == [(0, "interrupted"), (0, "kept")]
    here.stop(daemon)
    done = intents(here.turns())
    assert len(set(done)) == len(done), "no intent is carried out twice"
    assert (here.starts(), here.target().generation) == (2, 2)
    assert here.answers()


def test_a_remedy_cut_short_after_the_old_server_ended_is_brought_to_its_end(site):
    here = site(load_seconds=1.0, grace="1s")
    main = cut_short(here)
    os.kill(main, signal.SIGKILL)
    here.daemon(*TOO_LARGE)
    incident = here.wait_incident("resolved", seconds=60)
    assert [(one.rung, one.result) for one in incident.tries] == [(0, "kept")]
    assert (here.starts(), here.target().generation) == (2, 2), "not with the settings that failed, and once"
    assert here.target().overlays
    assert here.answers()


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_what_a_dead_server_left_is_no_server_and_is_ended_before_the_next_start(site, era):
    here = site(gpu_gib=8, era=era)
    first = here.daemon(*FITS)
    here.wait_phase("ready")
    here.kill(first)
    os.kill(here.target().pid, signal.SIGKILL)  # its workers and its port holder live on
    left = [one for one in here.processes() if one.pid != here.target().pid]
    assert left
    second = here.daemon(*FITS)
    here.wait_phase("ready", generation=2)
    psutil.wait_procs(left, timeout=5)
    assert not any(one.is_running() for one in left)
    here.stop(second)
    assert not here.snapshot().incidents
    assert (began(here.turns()), here.starts()) == (["spawned", "spawned"], 2)


def test_a_daemon_that_is_given_another_command_supervises_that_one(site):
    here = site(gpu_gib=8)
    first = here.daemon(*FITS)
    here.wait_phase("ready")
    here.stop(first)
    os.kill(here.target().pid, signal.SIGTERM)
    deadline = time.monotonic() + 15
    while here.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    here.daemon("--max-model-len", "4096")
    here.wait_phase("ready", generation=2)
    desired = here.target().desired.argv
    assert "4096" in desired, "a restart must not bring the old command back"
    assert "8192" not in desired


def test_a_daemon_whose_reader_has_gone_cures_all_the_same(site):
    here = site()
    reader, writer = os.pipe()
    here.daemon(*TOO_LARGE, out=writer)
    os.close(writer)
    here.wait_phase("starting")
    os.close(reader)
    assert here.wait_incident("resolved").cause == "gpu_oom_load"


def test_two_daemons_with_folders_of_their_own_do_not_touch_each_others_servers(site):
    one, other = site(gpu_gib=8), site(gpu_gib=8)
    one.daemon(*FITS)
    one.wait_phase("ready")
    second = other.daemon(*FITS)
    other.wait_phase("ready")
    assert one.target().pid != other.target().pid
    other.stop(second)
    assert began(other.turns()) == ["spawned"]
    assert one.answers()


def test_a_second_daemon_on_the_same_folder_is_refused(site):
    here = site(gpu_gib=8)
    first = here.daemon(*FITS)
    here.wait_phase("starting")
    second = here.daemon(*FITS)
    assert second.wait(15) == 2
    assert f"process {first.pid}" in here.words()
    assert "Traceback" not in here.words()
    assert here.starts() == 1


@pytest.mark.parametrize("by", ["port", "pid"])
def test_a_running_server_is_attached_to_and_left_running(site, by):
    here = site(gpu_gib=8)
    old_oom(here)
    server = here.launch(*FITS)
    deadline = time.monotonic() + 20
    while not here.answers() and time.monotonic() < deadline:
        time.sleep(0.05)
    daemon = here.daemon(attach=here.port if by == "port" else server.pid)
    here.wait_phase("ready")
    here.stop(daemon)
    assert here.target().pid == server.pid
    assert here.answers(), "the daemon's end is not the server's"
    assert server.poll() is None
    assert not intents(here.turns())
    assert (began(here.turns()), here.starts()) == (["attached"], 1)
    server.terminate()
    assert server.wait(15) == 0


def test_with_on_exit_stop_the_server_ends_with_the_daemon(site):
    here = site(gpu_gib=8)
    daemon = here.daemon("--max-model-len", "8192", on_exit="stop")
    here.wait_phase("ready")
    assert here.stop(daemon) == 0
    assert not here.processes()
    assert not here.snapshot().incidents, "an end on purpose is no trouble"


def test_a_server_is_attached_to_while_its_model_still_loads(site):
    here = site(gpu_gib=8, load_seconds=4)
    server = here.launch(*FITS)
    here.daemon(attach=here.port)
    here.wait_phase("starting")
    assert not here.answers(), "its port is closed yet"
    here.wait_phase("ready")
    assert here.target().pid == server.pid
    server.terminate()
    server.wait(15)


def test_an_attached_server_that_its_owner_starts_anew_is_taken_over(site):
    here = site(gpu_gib=8, mode="observe")
    first = here.launch(*FITS)
    daemon = here.daemon(attach=here.port)
    here.wait_phase("ready")
    first.terminate()
    first.wait(15)
    here.wait_phase("failed")
    second = here.launch("--max-model-len", "4096")
    here.wait_phase("ready", generation=2)
    target = here.target()
    assert (target.pid, target.overlays) == (second.pid, ())
    assert "4096" in target.desired.argv
    here.stop(daemon)
    assert began(here.turns()) == ["attached", "attached"]
    second.terminate()
    second.wait(15)
