"""How soon a fault is an incident: ten runs of each, with the configuration that users have by default.

    python bench/detect.py [--runs 10] [--only NAME]

Each run starts the daemon and the lab server, waits until it serves, breaks it from outside at a known moment
(a killed or stopped worker, a line in the kernel's log), and takes the time until the incident is in the
journal. Loopback only; ends all that it starts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from diagnose import journal
from diagnose.errors import JournalError
from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model

GIB = 1 << 30
PORT = 18388
XID = "6,4242,{stamp},-;NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."


class Run:
    """One daemon and its server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_gpus(folder / "gpus", 1, 8 * GIB, "Lab GPU")
        model = make_model(folder / "models", "ERNIE-4.5-0.3B")
        self.kmsg = folder / "kmsg"
        self.kmsg.touch()
        (folder / "diagnose.yaml").write_text(f"kernel_log: {self.kmsg}\n")
        self.env = lab_env(folder / "gpus", era="2.6", load_seconds=0.3, seed=1)
        server = (sys.executable, "-m", MODULE, "--model", str(model), "--port", str(PORT), "--max-model-len", "4096")
        words = [sys.executable, "-m", "diagnose", "run", "--config", str(folder / "diagnose.yaml")]
        self.daemon = subprocess.Popen(
            [*words, "--state-dir", str(folder / "state"), "--on-exit", "stop", "--", *server],
            cwd=folder, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.stop = threading.Event()
        self.client: threading.Thread | None = None

    def ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(JournalError):
                if any(one.phase == "ready" for one in journal.read(self.folder / "state").state.targets.values()):
                    return
            time.sleep(0.1)
        raise SystemExit("the server did not come up")

    def workers(self) -> list[psutil.Process]:
        """Return the workers of this server."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("DIAGNOSE_LAB_GPUS") == self.env["DIAGNOSE_LAB_GPUS"] and any(
                    "worker_process" in word for word in process.cmdline()[:3]
                ):
                    found.append(process)
        return found

    def traffic(self) -> None:
        """Ask again and again, as clients do."""
        body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}).encode()

        def ask() -> None:
            while not self.stop.wait(0.3):
                request = urllib.request.Request(
                    f"http://127.0.0.1:{PORT}/v1/chat/completions", body, {"Content-Type": "application/json"}
                )
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(request, timeout=120).read()  # noqa: S310 - loopback

        for _ in range(3):
            self.client = threading.Thread(target=ask, daemon=True)
            self.client.start()
        time.sleep(7)

    def found(self, causes: set[str], since: float, seconds: float) -> float:
        """Wait for an incident, and return after how many seconds it was there."""
        while time.time() - since < seconds:
            with contextlib.suppress(JournalError):
                for one in journal.read(self.folder / "state").incidents:
                    if one.cause in causes:
                        return one.timeline[0].at.timestamp() - since
            time.sleep(0.01)
        return float("nan")

    def end(self) -> None:
        self.stop.set()
        for worker in self.workers():
            with contextlib.suppress(psutil.Error):
                worker.send_signal(signal.SIGCONT)
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()


def killed(run: Run) -> float:
    began = time.time()
    for worker in run.workers():
        worker.kill()
    return run.found({"worker_crash", "host_oom"}, began, 60)


def hung_busy(run: Run) -> float:
    run.traffic()
    return hung_idle(run)


def hung_idle(run: Run) -> float:
    began = time.time()
    for worker in run.workers():
        worker.suspend()
    return run.found({"engine_stall", "worker_crash"}, began, 150)


def xid(run: Run) -> float:
    began = time.time()
    with run.kmsg.open("a") as file:
        file.write(XID.format(stamp=int(time.monotonic() * 1e6)) + "\n")
    return run.found({"gpu_xid", "gpu_lost"}, began, 30)


FAULTS: dict[str, tuple[str, Callable[[Run], float]]] = {
    "killed": ("a worker is killed, the API server lives", killed),
    "hung-busy": ("a worker hangs without a line, under traffic", hung_busy),
    "hung-idle": ("a worker hangs without a line, idle", hung_idle),
    "xid": ("an Xid in the kernel's log", xid),
}


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--only", choices=FAULTS)
    args = parser.parse_args()
    for name, (what, fault) in FAULTS.items():
        if args.only not in {None, name}:
            continue
        seen = []
        for _ in range(args.runs):
            with tempfile.TemporaryDirectory(prefix="diagnose-bench-") as folder:
                run = Run(Path(folder))
                try:
                    run.ready()
                    time.sleep(2)
                    seen.append(fault(run))
                finally:
                    run.end()
        good = sorted(one for one in seen if one == one)  # noqa: PLR0124 - not a number is not equal to itself
        middle = statistics.median(good) if good else float("nan")
        print(
            f"{what}: found {len(good)} of {len(seen)}, median {middle:.1f} s, most {max(good, default=0):.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
