"""Half an hour with all faults of the lab in random order: does the daemon leak, stand still, or act twice?

    python bench/soak.py [--minutes 30] [--seed 1]

One daemon (mode auto) looks after one lab server, each start of which has another fault or none, and which is killed,
stopped or flooded from outside meanwhile; where it stays down, a person has it started again. Printed once a minute
and at the end: resident memory, descriptors, threads, incidents. Memory at the end must be within 5 % of minute 5,
with no descriptor more in all of the last minutes. Loopback only; ends all it starts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from diagnose import journal
from diagnose.errors import JournalError
from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.faults import FAULTS
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model
from diagnose.model.effect import Perform

GIB = 1 << 30
CONFIG = """
policy:
  mode: auto
  settle: 500ms
  settle_most: 2s
  stall_after: 5s
  workers_gone: 2s
  holds_for: 2s
  within: 30s
  restarts: {limit: 100000, per: 1h}
  remedies: {limit: 100000, per: 1h}
probes: {starting_every: 200ms, health_every: 500ms, completion_every: 2s, timeout: 3s}
grace: 3s
kernel_log: KMSG
"""
WRAPPER = """#!/bin/sh
FD_LAB_FAULTS=$(cat {fault})
cat {fault} >> {fault}.given
: > {fault}
export FD_LAB_FAULTS
exec "$@"
"""
"""Gives the next start the fault that is written down, once."""

DOWN_FOR_A_PERSON = 3
"""Looks in a row, 2 to 12 seconds apart, at a server that is down: some failed starts are left to a person."""

WHILE_SERVING = {"worker-killed", "worker-segv", "oom-serving", "stall", "intake-dead", "log-flood"}


class Soak:
    """One daemon, its server, and what is done to them."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.state, self.chance = folder, folder / "state", chance
        make_gpus(folder / "gpus", 1, 8 * GIB, "Lab GPU")
        (folder / "kmsg").touch()
        (folder / "shm").mkdir()
        (folder / "diagnose.yaml").write_text(CONFIG.replace("KMSG", str(folder / "kmsg")))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.faults: list[str] = []
        self.fault = folder / "fault"
        self.fault.touch()
        self.wrapper = folder / "faulty"
        self.wrapper.write_text(WRAPPER.format(fault=self.fault))
        self.wrapper.chmod(0o755)
        self.model = make_model(folder / "models", "ERNIE-4.5-0.3B")
        self.daemon: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start the daemon, and with it the server."""
        extra = {
            "FD_WORKER_ALIVE_TIMEOUT": "2", "FD_LAB_MONITOR_SECONDS": "1",
            "FD_LAB_SHM": str(self.folder / "shm"), "TMPDIR": str(self.folder),
        }  # fmt: skip
        self.env = lab_env(self.folder / "gpus", era="2.6", seed=1, load_seconds=0.4, extra=extra)
        server = [str(self.wrapper), sys.executable, "-m", MODULE, "--model", str(self.model), "--port", str(self.port)]
        server += ["--max-model-len", "8192", "--max-num-seqs", "8"]
        words = [sys.executable, "-m", "diagnose", "run", "--config", str(self.folder / "diagnose.yaml")]
        with (self.folder / "daemon.log").open("ab") as out:
            self.daemon = subprocess.Popen(
                [*words, "--state-dir", str(self.state), "--", *server],
                cwd=self.folder, env=self.env, stdout=out, stderr=out,
            )  # fmt: skip

    def processes(self, *, workers: bool = False) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                ours = process.environ().get("DIAGNOSE_LAB_GPUS") == str(self.folder / "gpus")
                at_work = any("worker_process" in word for word in words[:3])
                if ours and "diagnose" not in words and (at_work or not workers):
                    found.append(process)
        return found

    def trouble(self) -> str:
        """Do one thing to the server from outside; all faults of the lab come about through its environment."""
        if not self.fault.stat().st_size and self.chance.random() < 0.7:
            self.faults = self.faults or self.chance.sample([one.name for one in FAULTS], len(FAULTS))
            name = self.faults.pop()
            when = f"@{self.chance.uniform(2, 8):.0f}" if name in WHILE_SERVING else ""
            self.fault.write_text(f"{name}{when}\n")
        kind = self.chance.choice(
            ["kill-worker", "kill-main", "stop-worker", "lines", "kmsg", "rotate", "traffic", "truncate"]
        )
        workers, everyone = self.processes(workers=True), self.processes()
        with contextlib.suppress(psutil.Error, OSError, IndexError, ValueError):
            if kind == "kill-worker":
                workers[0].kill()
            elif kind == "kill-main":
                min(everyone, key=lambda one: one.create_time()).kill()
            elif kind == "stop-worker":
                workers[0].send_signal(signal.SIGSTOP)
                time.sleep(4)
                workers[0].send_signal(signal.SIGCONT)
            elif kind == "lines":
                with (self.folder / "log" / "paddle" / "workerlog.0").open("a") as log:
                    log.write("Out of memory error on GPU 0. Cannot allocate 3.6GB memory on GPU 0\n" * 50)
                    log.writelines(f"an idle line {self.chance.random()}\n" for _ in range(200_000))
            elif kind == "kmsg":
                line = (
                    f"6,{self.chance.randrange(9999)},{int(time.monotonic() * 1e6)},-;NVRM: Xid (PCI:0000:01:00): 31\n"
                )
                with (self.folder / "kmsg").open("a") as log:
                    log.write(line)
            elif kind == "rotate":
                log = self.folder / "log" / "fastdeploy.log"
                log.rename(log.with_name(f"fastdeploy.log.{self.chance.randrange(10)}"))
            elif kind == "truncate":
                with (self.folder / "log" / "error.log").open("r+") as log:
                    log.truncate(0)
            else:
                for _ in range(20):
                    with socket.create_connection(("127.0.0.1", self.port), timeout=2) as door:
                        door.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
        return kind

    def start_again(self) -> None:
        """Be the person who has mended what the server failed for."""
        words = [sys.executable, "-m", "diagnose", "restart", "--state-dir", str(self.state)]
        subprocess.run(words, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def usage(self) -> dict[str, int]:
        """Measure the daemon; a log that is there is held open, so these are counted apart."""
        process = psutil.Process(self.daemon.pid)
        logs = sum(".log" in one.path or "workerlog" in one.path for one in process.open_files())
        return {
            "rss_kib": process.memory_info().rss >> 10,
            "descriptors": process.num_fds() - logs,
            "logs": logs,
            "threads": process.num_threads(),
        }

    def end(self) -> None:
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.daemon.wait(60)
            self.daemon.kill()
            self.daemon.wait()
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.1)


def soak(minutes: float, seed: int) -> int:
    """Run it; return 0 where nothing leaked."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        life = Soak(Path(name), chance)
        try:
            life.begin()
            return _watch(life, minutes * 60)
        finally:
            life.end()


def _watch(life: Soak, seconds: float) -> int:
    began, rows, done, down = time.monotonic(), [], {}, 0
    while (passed := time.monotonic() - began) < seconds:
        time.sleep(life.chance.uniform(2, 12))
        if life.daemon.poll() is not None:
            print("the daemon ended:", (life.folder / "daemon.log").read_text(errors="replace")[-3000:])
            return 1
        down = 0 if life.processes() else down + 1
        if down:
            done["down"] = done.get("down", 0) + 1
        if down >= DOWN_FOR_A_PERSON:
            done["person"] = done.get("person", 0) + 1
            life.start_again()
        kind = life.trouble()
        done[kind] = done.get(kind, 0) + 1
        if passed // 60 >= len(rows):
            rows.append(life.usage())
            print(f"minute {len(rows) - 1}: {rows[-1]}", flush=True)
    rows.append(life.usage())
    with contextlib.suppress(JournalError):
        seen = journal.read(life.state)
        print(f"incidents {len(seen.incidents)}, causes {sorted({one.cause for one in seen.incidents})}")
    base = rows[min(5, len(rows) - 1)]
    grown = rows[-1]["rss_kib"] / base["rss_kib"] - 1
    print(f"done {json.dumps(done)}")
    given = Path(f"{life.fault}.given").read_text().splitlines()
    print(f"faults {json.dumps(Counter(one.partition('@')[0] for one in given))}")
    print(f"starts of the server {(life.folder / 'gpus' / 'starts').read_text()}, end {rows[-1]}, grown {grown:+.1%}")
    leaked = min(one["descriptors"] for one in rows[-5:]) - base["descriptors"]  # what comes and goes is no leak
    return _acts(life) or int(grown > 0.05 or leaked > 0)


def _acts(life: Soak) -> int:
    """Count acts; none may have been carried out twice."""
    life.daemon.terminate()
    life.daemon.wait(60)
    with contextlib.closing(journal.Journal(life.state)) as book:
        acts = [one.intent.id for turn in book.turns() for one in turn.effects if isinstance(one, Perform)]
    print(f"acts {len(acts)}, twice {len(acts) - len(set(acts))}")
    return int(len(acts) != len(set(acts)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    return soak(args.minutes, args.seed)


if __name__ == "__main__":
    raise SystemExit(main())
