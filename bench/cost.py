"""What the daemon costs beside a server: eight cards, twenty logs that grow, samples each second.

    python bench/cost.py [--cards 8] [--files 20] [--rate 100] [--seconds 60]

The cards are the tests' pretended NVML library (a C compiler is needed), read through the real binding. A process of
its own writes ordinary lines at the rate into each file; `--rate 0` leaves the daemon idle. CPU time and memory are
the daemon's own, from /proc, taken after it has settled for ten seconds. Loopback only; ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from diagnose import journal
from diagnose.errors import JournalError
from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model

GIB = 1 << 30
STUB = Path(__file__).parent.parent / "tests" / "adapters" / "nvml_stub.c"
LINE = "INFO     2026-03-01 08:00:00,118 41772 token_processor.py[line:211] Request=chatcmpl-{n}, OutputToken={n}\n"
SETTLED = 10.0


def main() -> None:
    """Measure once and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", type=int, default=8)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--rate", type=int, default=100, help="lines a second into each file")
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diagnose-bench-") as name, contextlib.ExitStack() as started:
        folder = Path(name)
        daemon = _daemon(folder, args.cards, started)
        _wait_until_ready(folder / "state")
        writer = multiprocessing.get_context("spawn").Process(
            target=_write, args=(str(folder / "log"), args.rate, SETTLED + args.seconds + 2, args.files)
        )
        if args.rate:
            writer.start()
        time.sleep(SETTLED)
        shares, sizes = [], []
        for _ in range(int(args.seconds // 5)):
            before, began = sum(daemon.cpu_times()[:2]), time.monotonic()
            time.sleep(5)
            shares.append((sum(daemon.cpu_times()[:2]) - before) / (time.monotonic() - began))
            sizes.append(daemon.memory_info().rss)
        if args.rate:
            writer.join()
    print(
        f"{args.cards} cards, {args.files if args.rate else 0} files at {args.rate} lines/s each: "
        f"{statistics.median(shares):.1%} of a core (worst 5 s: {max(shares):.1%}), {max(sizes) / 1e6:.0f} MB"
    )


def _daemon(folder: Path, cards: int, started: contextlib.ExitStack) -> psutil.Process:
    """Start a daemon on the pretended cards, and the lab server, which has a card of its own."""
    make_gpus(folder / "gpus", 1, 8 * GIB, "Lab GPU")
    model = make_model(folder / "models", "ERNIE-4.5-0.3B")
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = str(door.getsockname()[1])
    command = [sys.executable, "-m", MODULE, "--model", str(model), "--port", port, "--max-model-len", "4096"]
    env = lab_env(folder / "gpus", load_seconds=0.3, seed=1, base={})
    target = {"command": command, "env": env, "cwd": str(folder)}
    (folder / "diagnose.yaml").write_text(json.dumps({"targets": [target]}))
    daemon = subprocess.Popen(
        [
            *(sys.executable, "-m", "diagnose", "run", "--config", str(folder / "diagnose.yaml")),
            *("--state-dir", str(folder / "state"), "--on-exit", "stop"),
        ],
        cwd=folder,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(_library(folder, cards)),
            "NVML_STUB_WORLD": str(folder / "world"),
            "NVML_STUB_STEP_MS": "500",  # the real driver takes no time while it waits for an event
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started.callback(daemon.wait, 60)
    started.callback(daemon.send_signal, signal.SIGTERM)
    return psutil.Process(daemon.pid)


def _library(folder: Path, cards: int) -> Path:
    """Compile the pretended driver, and put its cards in."""
    place = folder / "nvml"
    place.mkdir()
    out = str(place / "libnvidia-ml.so.1")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1", "-o", out, str(STUB), "-lpthread"],
        check=True,
    )
    world = [f"count {cards}"]
    for index in range(cards):
        told = {
            "uuid": f"GPU-0000000{index}-aaaa",
            "name": "NVIDIA L20",
            "pci": f"0 {65 + index} 0",
            "memory": f"{48 * GIB} {2 * GIB}",
            "events": "8",
            "processes": "-",
            "busy": "97",
            "celsius": "71",
            "slowdown": "90",
            "milliwatts": "312000",
            "limit": "350000",
            "reasons": "0x0",
            **{f"ecc.{kind}.{ever}": "0" for kind in (0, 1) for ever in (0, 1)},
            "remapped": "0 0 0 0",
            "pcie.gen": "4",
            "pcie.width": "16",
            "pcie.maxgen": "4",
            "pcie.maxwidth": "16",
            **{f"link.{link}": "1" for link in range(6)},
        }
        world += [f"{index}.{name} {value}" for name, value in told.items()]
    (folder / "world").write_text("\n".join(world) + "\n")
    return place


def _wait_until_ready(state: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(JournalError):
            if any(one.phase == "ready" for one in journal.read(state).state.targets.values()):
                return
        time.sleep(0.1)
    raise SystemExit("the server did not come up")


def _write(folder: str, rate: int, seconds: float, files: int) -> None:
    """Write lines at a rate into each file; runs as a process of its own."""
    logs = [(Path(folder) / f"bench_{n}.log").open("a", buffering=1 << 16) for n in range(files)]
    began, written = time.time(), 0
    while (elapsed := time.time() - began) < seconds:
        while written < elapsed * rate:
            for log in logs:
                log.write(LINE.format(n=written))
            written += 1
        for log in logs:
            log.flush()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
