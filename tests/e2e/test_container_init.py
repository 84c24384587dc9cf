"""`diagnose init` as process 1 of a namespace of processes, as in a container."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.e2e.conftest import FITS

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]


def _may():
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return "unshare or nsenter is not installed here"
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=30, check=False)
    return f"no namespace of processes may be made here: {done.stderr.strip()}" if done.returncode else ""


@pytest.fixture(scope="module", autouse=True)
def allowed():
    if reason := _may():
        pytest.skip(reason)


class Container:
    """A namespace of processes whose first process is `diagnose init`."""

    def __init__(self, arguments, *, cwd, env):
        self.words = cwd / "container.log"
        with self.words.open("wb") as out:
            self.outer = subprocess.Popen(
                [*UNSHARE, sys.executable, "-m", "diagnose", "init", "--", *arguments],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.first = wait(lambda: psutil.Process(self.outer.pid).children(), "the first process")[0]

    def inside(self, script):
        words = ["nsenter", "-t", str(self.first.pid), "-p", "-m", "sh", "-c", script]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout

    def zombies(self):
        with contextlib.suppress(psutil.NoSuchProcess):
            return [one for one in self.first.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]
        return []

    def daemon(self):
        return next(one for one in self.first.children() if "run" in one.cmdline())

    def end(self):
        self.outer.kill()  # takes the first process, and so all of them, along
        self.outer.wait(20)


def wait(true_of, what, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(StopIteration, psutil.Error):
            if seen := true_of():
                return seen
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


@pytest.fixture
def container(site):
    """Give a container whose daemon has started the lab server, and the server is ready."""
    here = site(gpu_gib=8)
    arguments = ["run", "--config", str(here.config), "--state-dir", str(here.state), "--on-exit", "stop"]
    made = Container([*arguments, "--", *here.command(*FITS)], cwd=here.folder, env=here.env)
    try:
        here.wait_phase("ready")
        yield made, here
    finally:
        made.end()


def test_orphans_are_buried_signals_handed_on_and_the_server_stopped_in_order(container):
    first, here = container
    first.inside("for i in 1 2 3; do (sleep 0.1 &) ; done")
    time.sleep(0.3)
    assert wait(lambda: not first.zombies(), "no zombie"), first.zombies()
    first.first.send_signal(signal.SIGHUP)  # reload: no end
    assert here.answers()
    first.first.send_signal(signal.SIGTERM)
    assert first.outer.wait(40) == 0
    assert not here.answers()
    assert here.target().phase == "stopped"
    assert not here.processes()
    assert not here.snapshot().incidents, "an end on purpose is no trouble"


def test_a_daemon_that_is_killed_is_started_again_and_takes_the_server_over(container):
    first, here = container
    server, daemon = here.target().pid, first.daemon()
    daemon.kill()
    wait(lambda: first.daemon().pid != daemon.pid, "the next daemon")
    assert here.answers(), "the server serves on"
    since = here.snapshot().at
    here.wait(lambda seen: seen.at > since, "a turn of the next daemon")
    assert (here.target().pid, here.target().generation) == (server, 1)
    assert "the daemon broke (status -9)" in first.words.read_text()


def test_what_ends_by_itself_ends_the_container_with_its_own_status(tmp_path):
    env = {**os.environ, "HOME": str(tmp_path)}
    for arguments, status in ((["--version"], 0), (["config", "check", str(tmp_path / "none.yaml")], 2)):
        done = subprocess.run(
            [*UNSHARE, sys.executable, "-m", "diagnose", "init", "--", *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == status, done.stderr
