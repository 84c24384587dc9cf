"""The daemon as its users run it, on the lab server: real processes, real files, real ports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from diagnose import journal
from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model

GIB = 1 << 30
TOO_LARGE = ("--max-model-len", "32768", "--max-num-seqs", "128", "--max-num-batched-tokens", "32768")
FITS = ("--max-model-len", "8192", "--max-num-seqs", "8")

CONFIG = """
policy:
  mode: {mode}
  settle: 700ms
  settle_most: 3s
  stall_after: 2500ms
  workers_gone: 1500ms
  holds_for: 1200ms
  within: 25s
probes: {{starting_every: 200ms, health_every: 500ms, completion_every: 1s, timeout: 3s}}
grace: 4s
"""


class Site:
    """One host: a card, a model, a folder for the state, and the daemons and servers that run there."""

    def __init__(self, folder: Path, *, gpu_gib=3, era="2.6", faults=(), mode="auto", load_seconds=0.4):
        self.folder, self.state = folder, folder / "state"
        make_gpus(folder / "gpus", 1, int(gpu_gib * GIB), "Lab GPU")
        self.model = make_model(folder / "models", "ERNIE-4.5-0.3B")
        extra = {"FD_WORKER_ALIVE_TIMEOUT": "2", "FD_LAB_MONITOR_SECONDS": "1"}
        self.env = lab_env(folder / "gpus", era=era, faults=faults, seed=1, load_seconds=load_seconds, extra=extra)
        self.port = free_port()
        self.config = folder / "diagnose.yaml"
        self.config.write_text(CONFIG.format(mode=mode))
        self.daemons = []

    def command(self, *flags):
        return [sys.executable, "-m", MODULE, "--model", str(self.model), "--port", str(self.port), *flags]

    def serve(self, *flags, until="ready", seconds=20):
        """Run the lab server by itself, to its end or until it answers; its words go to ``log/nohup.out``."""
        (self.folder / "log").mkdir(exist_ok=True)
        with (self.folder / "log" / "nohup.out").open("ab") as out:
            server = subprocess.Popen(
                self.command(*flags), cwd=self.folder, env=self.env, stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + seconds
        while server.poll() is None and not (until == "ready" and self.answers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if server.poll() is None:
            server.terminate()
        return server.wait(15)

    def daemon(self, *flags, attach=None):
        """Start a daemon; its words go to a file."""
        arguments = ["--attach", str(attach)] if attach else ["--", *self.command(*flags)]
        words = [sys.executable, "-m", "diagnose", "run", "--config", str(self.config)]
        with (self.folder / f"daemon-{len(self.daemons)}.log").open("wb") as out:
            daemon = subprocess.Popen(
                [*words, "--state-dir", str(self.state), *arguments],
                cwd=self.folder,
                env=self.env,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )
        self.daemons.append(daemon)
        return daemon

    def diagnose(self, *arguments):
        """Run one command, and return its exit status and words."""
        done = subprocess.run(
            [sys.executable, "-m", "diagnose", *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.env,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def snapshot(self):
        with contextlib.suppress(Exception):
            return journal.read(self.state)
        return None

    def wait(self, true_of, what, seconds=40):
        """Wait until the journal shows something."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen = self.snapshot()
            if seen is not None and true_of(seen):
                return seen
            for daemon in self.daemons[-1:]:
                assert daemon.poll() is None, f"the daemon ended: {self.words()}"
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {what}\n{self.words()}")

    def words(self):
        return "\n".join(path.read_text(errors="replace")[-6000:] for path in sorted(self.folder.glob("daemon-*.log")))

    def target(self):
        return self.snapshot().state.targets["default"]

    def wait_phase(self, phase, seconds=30):
        return self.wait(lambda seen: _phase(seen) == phase, f"phase {phase}", seconds)

    def wait_incident(self, *states, seconds=40):
        def there(seen):
            return any(one.state.value in states and one.severity.value != "info" for one in seen.incidents)

        seen = self.wait(there, f"an incident {states}", seconds)
        return next(one for one in seen.incidents if one.state.value in states and one.severity.value != "info")

    def answers(self):
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=3).status_code == 200
        return False

    def kill(self, daemon):
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(10)

    def end(self):
        """End what was started here, by its id."""
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(15)
            if daemon.poll() is None:
                self.kill(daemon)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("DIAGNOSE_LAB_GPUS") == self.env["DIAGNOSE_LAB_GPUS"]
                if ours and process.pid != os.getpid():
                    process.kill()


def _phase(seen):
    target = seen.state.targets.get("default")
    return target.phase if target else ""


def free_port():
    """Find a port below those that clients get, so that nothing else takes it meanwhile."""
    for port in range(21000 + os.getpid() % 4000, 32000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


@pytest.fixture
def site(tmp_path):
    """Give a maker of sites; all of them are ended with the test."""
    made = []

    def make(**options):
        made.append(Site(tmp_path / f"site-{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.end()
