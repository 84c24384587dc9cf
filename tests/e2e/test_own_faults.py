"""Troubles of the daemon itself and of its host: it says that it is blind, goes on, and the server is left alone."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest

from diagnose import journal
from diagnose.errors import JournalError
from diagnose.journal import BROKEN, FILE, SCHEMA
from tests.e2e.conftest import FITS, TOO_LARGE, began, configured, intents

pytestmark = pytest.mark.timeout(150)

FULL_SECONDS = 60 if os.environ.get("DIAGNOSE_ALL_SCENARIOS") else 5


def blind(seen):
    """Return the sources of incidents that tell of blindness."""
    return {finding.labels.get("source", "") for one in seen.incidents for finding in one.findings}


def lives_on(here, seconds, daemon=None):
    """Let some time pass in which the daemon must not end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert (daemon or here.daemons[-1]).poll() is None, here.words()
        time.sleep(0.05)


def assert_left_alone(here, pid):
    target = here.target()
    assert (target.pid, target.generation, here.starts()) == (pid, 1, 1), here.words()
    assert here.answers()


def ready(here, *flags):
    daemon = here.daemon(*(flags or FITS))
    here.wait_phase("ready")
    return daemon, here.target().pid


def taken_over(here, *flags):
    """Start the next daemon, and wait until it has come to its turns."""
    before = here.snapshot()
    daemon = here.daemon(*(flags or FITS))
    here.wait(lambda seen: before is None or not before.at or seen.at > before.at, "a turn of the next daemon")
    here.wait_phase("ready")
    return daemon


def cures_still(here):
    """A worker dies now; that must be found and cured."""
    here.processes(worker=True)[0].kill()
    here.wait_phase("ready", generation=2, seconds=60)


# --- descriptors and memory


def test_a_daemon_without_descriptors_takes_no_live_server_for_dead(site):
    here = site(gpu_gib=8)
    daemon, pid = ready(here)
    hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, hard))
    seen = here.wait(lambda seen: {"processes", "probes"} <= blind(seen), "blindness that is told")
    lives_on(here, 5)
    assert_left_alone(here, pid)
    assert not seen.state.intents
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
    here.wait(lambda seen: not {"processes", "probes"} & set(seen.state.targets["default"].blind), "sight again", 60)
    assert_left_alone(here, pid)
    cures_still(here)


def test_a_daemon_without_memory_or_threads_does_no_harm_and_the_next_one_goes_on(site):
    here = site(gpu_gib=8)
    daemon, pid = ready(here)
    size = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (size, size))
    time.sleep(6)
    here.kill(daemon)  # whether it ended, hangs (a service manager's watchdog ends it then) or goes on
    assert_left_alone(here, pid)
    taken_over(here)
    assert_left_alone(here, pid)
    cures_still(here)


# --- time


def test_a_daemon_that_was_stopped_for_a_while_blames_nothing_on_the_server(site):
    here = site(gpu_gib=8)
    daemon, pid = ready(here)
    for _ in range(3):
        daemon.send_signal(signal.SIGSTOP)
        time.sleep(4)
        daemon.send_signal(signal.SIGCONT)
        lives_on(here, 1.5)
    assert_left_alone(here, pid)
    seen = here.snapshot()
    assert not seen.incidents, [one.cause for one in seen.incidents]
    cures_still(here)


@pytest.fixture(scope="session")
def faulty_host(tmp_path_factory):
    """Compile what makes a faulty host of a sound one, for one process."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler here: the clock and the disk of this host cannot be made faulty")
    library = tmp_path_factory.mktemp("faulty") / "faulty_host.so"
    source = Path(__file__).with_name("faulty_host.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def faulty(here, library):
    """Have this site's daemons live on a faulty host; return what sets its faults."""
    dial = here.folder / "faulty-host"
    here.env |= {"LD_PRELOAD": str(library), "FAULTY_HOST": str(dial)}

    def put(off=0.0, slow=0.0):
        dial.with_suffix(".new").write_text(f"{off} {slow}\n")
        dial.with_suffix(".new").replace(dial)

    put()
    return put


@pytest.mark.parametrize("hours", [2, -2])
def test_a_clock_that_jumps_is_told_and_changes_nothing(site, faulty_host, hours):
    here = site(gpu_gib=8, load_seconds=3.0)
    put = faulty(here, faulty_host)
    here.daemon(*FITS)
    here.wait_phase("starting")
    put(off=hours * 3600)
    here.wait_phase("ready")
    pid = here.target().pid
    here.wait(lambda seen: any("clock" in one.rule_id for one in seen.incidents), "a jump that is told", 30)
    before = here.snapshot().at
    here.wait(lambda seen: seen.at - before > timedelta(seconds=2), "turns at the pace of before", 20)
    assert_left_alone(here, pid)
    put(off=0)
    lives_on(here, 3)
    assert_left_alone(here, pid)
    cures_still(here)


def test_a_slow_disk_holds_up_the_daemon_and_nobody_else(site, faulty_host):
    here = site(gpu_gib=8)
    put = faulty(here, faulty_host)
    _, pid = ready(here)
    put(slow=4.0)  # a probe's patience is 1 s
    here.diagnose("pause", "--state-dir", str(here.state), "--for", "1s")  # has to be written through
    lives_on(here, 10)
    put()
    lives_on(here, 2)
    assert_left_alone(here, pid)
    assert not intents_of(here)


def intents_of(here):
    with contextlib.closing(sqlite3.connect(here.state / FILE)) as db:
        return db.execute("SELECT id FROM intents").fetchall()


# --- the journal and its disk


def scribble(here):
    path = here.state / FILE
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4000)


def test_a_journal_that_breaks_is_begun_anew_and_the_server_taken_over(site):
    here = site(gpu_gib=8)
    daemon, pid = ready(here)
    here.stop(daemon)
    scribble(here)
    here.daemon(*FITS)
    here.wait(lambda seen: any(one.rule_id == "host.daemon.journal-renewed" for one in seen.incidents), "its incident")
    here.wait_phase("ready")
    assert_left_alone(here, pid)
    assert (here.state / BROKEN).exists()
    cures_still(here)


def private_mounts():
    """Return the words before a command that give it mounts of its own, or skip."""
    words = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace may be made here")
    return words


def on_small_disk(here, *, size="4m", read_only=False):
    """Let the next daemon have its state folder on a small disk of its own; return its words' prefix."""
    here.state.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={size}{',ro' if read_only else ''} tmpfs {here.state}"
    return [*private_mounts(), "sh", "-c", f'{mount} && exec "$@"', "sh"]


class Inside:
    """The state folder as its daemon sees it; what is read there is copied first, since SQLite looks up real paths."""

    def __init__(self, daemon, here):
        self.state = Path(f"/proc/{daemon.pid}/root{here.state}")
        self.copies = here.folder / "copies"
        self.copies.mkdir()

    def copied(self):
        for end in ("-wal", ""):
            (self.copies / (FILE + end)).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(self.state / (FILE + end), self.copies / (FILE + end))
        (self.copies / f"{FILE}-shm").unlink(missing_ok=True)
        return self.copies

    def fill(self):
        with contextlib.suppress(OSError), (self.state / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def wait(self, true_of, seconds=30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(JournalError, KeyError):
                if true_of(seen := journal.read(self.copied())):
                    return seen
            time.sleep(0.05)
        raise AssertionError("it did not come to that")


def serving(here):
    server = here.launch(*FITS)
    deadline = time.monotonic() + 20
    while not here.answers() and time.monotonic() < deadline:
        time.sleep(0.05)
    return server


def test_a_full_disk_leaves_server_and_journal_whole_and_is_told_at_once_and_afterwards(site):
    here = site(gpu_gib=8)
    wrapped = on_small_disk(here)
    server = serving(here)
    daemon = here.daemon(attach=here.port, wrapped=wrapped)
    inside = Inside(daemon, here)
    inside.wait(lambda seen: seen.state.targets["default"].phase == "ready")
    inside.fill()
    lives_on(here, FULL_SECONDS)
    assert "journal" in here.words(), "who watches is told while nothing can be written"
    (inside.state / "ballast").unlink()
    seen = inside.wait(lambda seen: "journal" in blind(seen))
    assert any(one.rule_id == "host.daemon.part" for one in seen.incidents)
    inside.wait(lambda seen: "journal" not in seen.state.targets["default"].blind)
    with contextlib.closing(sqlite3.connect(inside.copied() / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert server.poll() is None
    assert here.answers()
    assert here.starts() == 1
    here.stop(daemon)
    ended(server)


def test_a_read_only_state_folder_is_refused_in_one_line_and_the_server_serves_on(site):
    here = site(gpu_gib=8)
    wrapped = on_small_disk(here, read_only=True)
    server = serving(here)
    daemon = here.daemon(attach=here.port, wrapped=wrapped)
    assert daemon.wait(20) == 2
    assert "Read-only file system. Give a state folder" in here.words()
    assert "Traceback" not in here.words()
    assert here.answers()
    ended(server)


def ended(server):
    server.terminate()
    server.wait(15)


# --- upgrades


def put_back(here, version):
    with contextlib.closing(sqlite3.connect(here.state / FILE)) as db:
        if version < SCHEMA:
            for table in ("alert_book", "receivers", "posts"):
                db.execute(f"DROP TABLE {table}")
        db.execute(f"PRAGMA user_version = {version}")


def test_a_server_is_taken_over_across_an_upgrade_and_the_way_back_is_told(site):
    here = site(gpu_gib=8)
    daemon, pid = ready(here)
    here.stop(daemon)
    put_back(here, 1)
    here.stop(taken_over(here))
    assert began(here.turns()) == ["spawned", "adopted"]
    put_back(here, SCHEMA + 1)
    refused = here.daemon(*FITS)
    assert refused.wait(20) == 2
    assert f"written by a newer diagnose (schema {SCHEMA + 1}" in here.words()
    put_back(here, SCHEMA)
    taken_over(here)
    assert_left_alone(here, pid)


# --- signals


def test_a_changed_policy_comes_into_force_and_what_takes_a_restart_is_told(site):
    here = site(mode="observe")
    daemon = here.daemon(*TOO_LARGE)
    here.wait_incident("open")

    def change(**times):
        here.config.write_text(configured(**times))
        daemon.send_signal(signal.SIGHUP)

    def waits(seen):
        return seen.state.targets["default"].blind.get("configuration", "")

    change(timeout="2s", mode="observe")
    seen = here.wait(waits, "what takes a restart is told")
    assert waits(seen).startswith("changed, and not in force yet: probes. Restart the daemon")
    assert any(one.rule_id == "host.daemon.not-in-force" for one in seen.incidents)
    change(mode="observe")
    here.wait(lambda seen: not waits(seen), "it is over")
    change(mode="auto")
    here.wait_incident("resolved")
    assert not waits(here.snapshot())
    assert daemon.poll() is None
    assert here.starts() == 2


def test_sighup_reads_the_rules_again_and_sigterm_ends_in_order_even_amid_a_remedy(site):
    here = site(load_seconds=1.0)
    daemon = here.daemon(*TOO_LARGE)
    here.wait_phase("starting")
    for _ in range(5):
        daemon.send_signal(signal.SIGHUP)
        time.sleep(0.1)
    here.wait(lambda seen: bool(seen.state.intents), "an intent")
    assert here.stop(daemon) == 0
    here.daemon(*TOO_LARGE)
    here.wait_incident("resolved")
    here.stop(here.daemons[-1])
    done = intents(here.turns())
    assert len(set(done)) == len(done) == 1
    assert here.starts() == 2
