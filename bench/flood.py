"""A flood of log lines: is memory bounded, is the lag told, is a fault in its midst still found?

    python bench/flood.py [--seconds 60] [--megabytes-per-second 100]

The daemon attaches to nothing of its own: it starts the lab server, waits until it serves, and then a log of the server
grows so fast, in files that are rotated each 256 MB, with one out-of-memory line in the midst and one each ten seconds.
Told are the daemon's memory, the lag that its status shows, and how long after it was written each line was an
observation in the journal: that delay is the lag; from the read to the incident it is what remains. Loopback only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import psutil

from diagnose import journal
from diagnose.errors import JournalError
from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model
from diagnose.model import codec
from diagnose.model.observation import LogMatch, Observation

GIB = 1 << 30
PORT = 18389
MARK = "Out of memory error on GPU 0. Cannot allocate {number}.25GB memory on GPU 0"
_ROTATE_BYTES = 256_000_000
_MARKS_EVERY = 10.0
LINE = "INFO     2026-01-01 10:15:03,118 41772 worker_process.py[line:97] step {number} of the flood, all is well\n"


class Flood(threading.Thread):
    """Writes so many bytes a second."""

    def __init__(self, folder: Path, seconds: float, rate: float) -> None:
        super().__init__(name="flood", daemon=True)
        self.path, self.seconds, self.rate = folder / "workerlog.0", seconds, rate
        self.written, self.rotations = 0, 0
        self.marks: dict[int, float] = {}

    def run(self) -> None:
        block = "".join(LINE.format(number=number) for number in range(20_000)).encode()
        began = time.monotonic()
        while (passed := time.monotonic() - began) < self.seconds:
            with self.path.open("ab", buffering=0) as file:
                for piece in range(0, len(block), 1 << 16):
                    file.write(block[piece : piece + (1 << 16)])
                if passed >= (len(self.marks) + 0.5) * _MARKS_EVERY:
                    self.marks[len(self.marks)] = time.time()
                    file.write(f"\n{MARK.format(number=len(self.marks) - 1)}\n".encode())
                size = file.tell()
            self.written += len(block)
            if size > _ROTATE_BYTES:
                self.rotations += 1
                self.path.rename(self.path.with_name(f"workerlog.0.{self.rotations}"))
            ahead = self.written / self.rate - (time.monotonic() - began)
            time.sleep(max(0.0, ahead))


def flood(seconds: float, rate: float) -> int:
    """Run it, print what was seen, and return 0 where each line was found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_gpus(folder / "gpus", 1, 8 * GIB, "Lab GPU")
        (folder / "kmsg").touch()
        (folder / "diagnose.yaml").write_text(f"kernel_log: {folder / 'kmsg'}\n")
        env = lab_env(folder / "gpus", era="2.6", load_seconds=0.3, seed=1)
        model = make_model(folder / "models", "ERNIE-4.5-0.3B")
        server = (sys.executable, "-m", MODULE, "--model", str(model), "--port", str(PORT), "--max-model-len", "4096")
        words = [sys.executable, "-m", "diagnose", "run", "--config", str(folder / "diagnose.yaml")]
        daemon = subprocess.Popen(
            [*words, "--state-dir", str(folder / "state"), "--on-exit", "stop", "--", *server],
            cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _until(lambda: _phase(folder / "state") == "ready", 60)
            return _watch(daemon, folder, seconds, rate)
        finally:
            daemon.terminate()
            daemon.wait(60)


def _watch(daemon: subprocess.Popen[bytes], folder: Path, seconds: float, rate: float) -> int:
    process = psutil.Process(daemon.pid)
    before, most, lag = process.memory_info().rss, 0, 0.0
    life = Flood(folder / "log", seconds, rate)
    life.start()
    found: dict[int, float] = {}
    incident = None
    deadline = time.monotonic() + seconds * 6 + 60
    while time.monotonic() < deadline and (life.is_alive() or len(found) < len(life.marks)):
        time.sleep(0.2)
        most = max(most, process.memory_info().rss)
        with contextlib.suppress(JournalError):
            seen = journal.read(folder / "state")
            lag = max(lag, *(one.meters.latest.get("logs.behind_bytes", 0.0) for one in seen.state.targets.values()))
            incident = incident or next((one for one in seen.incidents if one.cause == "gpu_oom_runtime"), None)
            found |= _read(folder / "state", life.marks)
    delays = [found[number] - at for number, at in life.marks.items() if number in found]
    told = {
        "written_mb": life.written // 1_000_000,
        "seconds": seconds,
        "rotations": life.rotations,
        "rss_before_mib": before >> 20,
        "rss_most_mib": most >> 20,
        "lag_shown_most_mb": round(lag / 1e6),
        "marks": len(life.marks),
        "found": len(found),
        "written_to_read_s": [round(one, 1) for one in delays],
    }
    if incident and found:
        told["first_read_to_incident_s"] = round(incident.timeline[0].at.timestamp() - min(found.values()), 2)
    print(json.dumps(told))
    return int(len(found) < len(life.marks) or incident is None)


def _read(state: Path, marks: dict[int, float]) -> dict[int, float]:
    """Return when each mark was read, as the journal has it."""

    def question(db):
        return db.execute(
            "SELECT at, observations FROM turns WHERE instr(observations, ?)", (b"Out of memory",)
        ).fetchall()

    found = {}
    for at, blob in journal.look(state, question):
        for one in codec.decode(blob, tuple[Observation, ...]):
            for number in marks:
                if isinstance(one, LogMatch) and MARK.format(number=number) in one.text:
                    found.setdefault(number, datetime.fromisoformat(at).timestamp())
    return found


def _phase(state: Path) -> str:
    with contextlib.suppress(JournalError):
        return next((one.phase for one in journal.read(state).state.targets.values()), "")
    return ""


def _until(true_of, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true_of():
        if time.monotonic() > deadline:
            raise SystemExit("the server did not come up")
        time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--megabytes-per-second", type=float, default=100)
    args = parser.parse_args()
    return flood(args.seconds, args.megabytes_per_second * 1e6)


if __name__ == "__main__":
    raise SystemExit(main())
