"""The daemon as its users run it, on the lab server: real processes, real files, real ports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from diagnose import journal
from diagnose.errors import JournalError
from diagnose.journal import Journal
from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model
from diagnose.model.effect import Perform
from diagnose.model.observation import ServerStarted
from tests.ports import free_port

GIB = 1 << 30
TOO_LARGE = ("--max-model-len", "32768", "--max-num-seqs", "128", "--max-num-batched-tokens", "32768")
FITS = ("--max-model-len", "8192", "--max-num-seqs", "8")

HASTENED = ("server.fit-memory", "server.clean-restart", "server.stuck-start")


def configured(*, mode="auto", grace="4s", timeout="3s", rules="", hastened=HASTENED, allowed=()):
    """Spell a configuration of short times.

    ``rules`` is a folder of more rules, ``hastened`` cool down in a second, ``allowed`` need no person either.
    """
    overrides = "\n".join(f"  {name}: {{cooldown: 1s}}" for name in hastened)
    overrides += "".join(f"\n  {name}: {{cooldown: 1s, mode: auto}}" for name in allowed)
    return f"""
policy:
  mode: {mode}
  settle: 500ms
  settle_most: 2s
  stall_after: 2s
  workers_gone: 1500ms
  holds_for: 1s
  within: 25s
probes: {{starting_every: 200ms, health_every: 500ms, completion_every: 1s, timeout: {timeout}}}
grace: {grace}
rules: [{rules}]
overrides:
{overrides}
"""


class Site:
    """One host: a card, a model, a folder for the state, and the daemons and servers that run there."""

    def __init__(self, folder: Path, *, gpu_gib=3, era="2.6", faults=(), mode="auto", grace="4s", load_seconds=0.4):
        self.folder, self.state = folder, folder / "state"
        make_gpus(folder / "gpus", 1, int(gpu_gib * GIB), "Lab GPU")
        (folder / "shm").mkdir()
        self.model = make_model(folder / "models", "ERNIE-4.5-0.3B")
        extra = {
            "FD_WORKER_ALIVE_TIMEOUT": "2",
            "FD_LAB_MONITOR_SECONDS": "1",
            "FD_LAB_SHM": str(folder / "shm"),
            "TMPDIR": str(folder),
        }
        self.env = lab_env(folder / "gpus", era=era, faults=faults, seed=1, load_seconds=load_seconds, extra=extra)
        self.port = free_port()
        self.config = folder / "diagnose.yaml"
        self.config.write_text(configured(mode=mode, grace=grace))
        self.daemons = []

    def command(self, *flags):
        return [sys.executable, "-m", MODULE, "--model", str(self.model), "--port", str(self.port), *flags]

    def launch(self, *flags, words="server.out"):
        """Start the lab server by itself, without any daemon."""
        with (self.folder / words).open("ab") as out:
            return subprocess.Popen(
                self.command(*flags), cwd=self.folder, env=self.env, stdout=out, stderr=out, start_new_session=True
            )

    def serve(self, *flags, until="ready", seconds=20):
        """Run the lab server by itself, to its end or until it answers; its words go to ``log/nohup.out``."""
        (self.folder / "log").mkdir(exist_ok=True)
        server = self.launch(*flags, words="log/nohup.out")
        deadline = time.monotonic() + seconds
        while server.poll() is None and not (until == "ready" and self.answers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if server.poll() is None:
            server.terminate()
        return server.wait(15)

    def daemon(self, *flags, attach=None, out=None, on_exit="leave", wrapped=()):
        """Start a daemon; its words go to a file, or to ``out``; ``wrapped`` goes before its command."""
        arguments = ["--attach", str(attach)] if attach else ["--", *self.command(*flags)]
        words = [*wrapped, sys.executable, "-m", "diagnose", "run", "--config", str(self.config), "--on-exit", on_exit]
        with (self.folder / f"daemon-{len(self.daemons)}.log").open("wb") as file:
            daemon = subprocess.Popen(
                [*words, "--state-dir", str(self.state), *arguments],
                cwd=self.folder,
                env=self.env,
                stdout=file if out is None else out,
                stderr=file if out is None else out,
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
        with contextlib.suppress(JournalError):
            return journal.read(self.state)
        return None

    def turns(self):
        """Read all turns; only while no daemon writes."""
        with contextlib.closing(Journal(self.state)) as book:
            return list(book.turns())

    def wait(self, true_of, what, seconds=40):
        """Wait until the journal shows something."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen = self.snapshot()
            if seen is not None and true_of(seen):
                return seen
            for daemon in self.daemons[-1:]:
                assert daemon.poll() is None, f"the daemon ended: {self.words()}"
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {what}\n{self.words()}")

    def words(self):
        return "\n".join(path.read_text(errors="replace")[-6000:] for path in sorted(self.folder.glob("daemon-*.log")))

    def target(self):
        return self.snapshot().state.targets["default"]

    def wait_phase(self, phase, seconds=30, generation=1):
        return self.wait(
            lambda seen: _phase(seen) == phase and seen.state.targets["default"].generation >= generation,
            f"phase {phase}",
            seconds,
        )

    def wait_incident(self, *states, seconds=40):
        """Wait until no trouble is in another state than these, and give the newest."""

        def there(seen):
            troubles = _troubles(seen)
            return troubles and all(one.state.value in {*states, "history"} for one in troubles)

        return _troubles(self.wait(there, f"an incident {states}", seconds))[0]

    def answers(self):
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=3).status_code == 200
        return False

    def starts(self):
        """Say how often the server was started, as the lab counts."""
        return int((self.folder / "gpus" / "starts").read_text())

    def processes(self, *, worker=False):
        """Return the lab's processes of this site: all, or its workers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("DIAGNOSE_LAB_GPUS") == self.env["DIAGNOSE_LAB_GPUS"]
                diagnosing = {"diagnose", "pytest"} & set(process.cmdline())
                at_work = any("worker_process" in word for word in process.cmdline()[:3])
                if ours and not diagnosing and process.pid != os.getpid() and (at_work or not worker):
                    found.append(process)
        return found

    def kill(self, daemon):
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(10)

    def stop(self, daemon):
        """Ask a daemon to end, as a service manager does."""
        daemon.send_signal(signal.SIGTERM)
        return daemon.wait(15)

    def end(self):
        """End what was started here, by its id."""
        for daemon in self.daemons:
            if daemon.poll() is None:
                self.kill(daemon)
        deadline = time.monotonic() + 5
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.02)


def _phase(seen):
    target = seen.state.targets.get("default")
    return target.phase if target else ""


def _troubles(seen):
    return [one for one in seen.incidents if one.severity.value != "info"]


def began(turns):
    """Tell how each life of the server began: ``spawned``, ``adopted``, ``attached``."""
    return [seen.how for turn in turns for seen in turn.observations if isinstance(seen, ServerStarted)]


def intents(turns):
    """Return the ids of all intents that were to be carried out, oldest first."""
    return [effect.intent.id for turn in turns for effect in turn.effects if isinstance(effect, Perform)]


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


@pytest.fixture(scope="module", params=["2.4", "2.6"])
def cured(request, tmp_path_factory):
    """Give a site whose server did not fit its card and was cured; its daemon has ended, the server serves on."""
    here = Site(tmp_path_factory.mktemp("cured"), era=request.param)
    try:
        daemon = here.daemon(*TOO_LARGE)
        here.wait_incident("resolved")
        here.stop(daemon)
        yield here
    finally:
        here.end()
