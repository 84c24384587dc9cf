"""From a line in a log to its incident in the journal, while 20 files grow.

    python bench/latency.py [--rate 1000] [--seconds 20] [--files 20]

A real daemon watches the lab server; a process of its own writes ordinary lines at the rate, spread over the
files, and ten times a second a line that fires a rule of its own, with the time of writing in it. Latency is
from there to the moment when the turn with its incident is on disk (synchronous=FULL). Loopback only; ends by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import psutil

from diagnose.agent import wiring
from diagnose.agent.config import Config, TargetConfig
from diagnose.engine.state import State
from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model
from diagnose.model.effect import Effect, SaveIncident

GIB = 1 << 30
LINE = "INFO     2026-03-01 08:00:00,118 41772 token_processor.py[line:211] Request=chatcmpl-{n}, OutputToken={n}\n"
PLANTED = 10
"""Lines a second that fire a rule."""


def rules(folder: Path, count: int) -> None:
    """Write rules, each for one planted line."""
    one = """
- id: bench.planted-{n}
  cause: bench_{n}
  severity: warning
  confidence: 0.9
  title: {{en: x, zh: x}}
  why: {{en: x, zh: x}}
  fix: {{en: x, zh: x}}
  when: {{pattern: 'planted{n} at (?P<at>[\\d.]+)'}}
  clears: {{quiet: 1s}}
  tests: {{hits: ['planted{n} at 1.0'], misses: ['x']}}
"""
    folder.mkdir()
    (folder / "bench.yaml").write_text("".join(one.format(n=f"{n:04}") for n in range(count)))


def write(folder: str, rate: int, seconds: float, files: int) -> None:
    """Write lines at a rate; runs as a process of its own."""
    names = [Path(folder) / f"bench_{n}.log" for n in range(files)]
    logs = [name.open("a", buffering=1 << 16) for name in names]
    began, written, planted = time.time(), 0, 0
    while (elapsed := time.time() - began) < seconds:
        while written < elapsed * rate:
            logs[written % files].write(LINE.format(n=written))
            written += 1
        if planted < elapsed * PLANTED:
            log = random.choice(logs)
            log.flush()
            log.write(
                f"ERROR    2026-03-01 08:00:00,300 1 engine.py[line:1] planted{planted:04} at {time.time():.6f}\n"
            )
            planted += 1
        for log in logs:
            log.flush()
        time.sleep(0.001)


def main() -> None:
    """Measure once and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, help="lines a second over all files")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--files", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diagnose-bench-") as name:
        folder = Path(name)
        seen = watch(folder, args)
    cuts = statistics.quantiles(seen.latencies, n=100)
    print(
        f"{args.rate} lines/s in {args.files} files, {len(seen.latencies)} of {int(args.seconds * PLANTED)} planted: "
        f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms; {seen.cpu:.1%} of a core, {seen.rss >> 20} MB"
    )


class Seen:
    """Takes the time when an incident is on disk."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.latencies: list[float] = []
        self.ready = threading.Event()
        self.cpu, self.rss = 0.0, 0

    def __call__(self, state: State, effects: Sequence[Effect]) -> None:
        now = time.time()
        if any(target.phase == "ready" for target in state.targets.values()):
            self.ready.set()
        for effect in effects:
            if isinstance(effect, SaveIncident) and effect.incident.id not in self.known:
                self.known.add(effect.incident.id)
                if at := effect.incident.findings[0].labels.get("at"):
                    self.latencies.append(now - float(at))


def watch(folder: Path, args: argparse.Namespace) -> Seen:
    """Run the daemon beside the writer."""
    make_gpus(folder / "gpus", 1, 8 * GIB, "Lab GPU")
    model = make_model(folder / "models", "ERNIE-4.5-0.3B")
    rules(folder / "rules", int(args.seconds * PLANTED) + 1)
    env = lab_env(folder / "gpus", load_seconds=0.3, seed=1, base={})
    os.environ["DIAGNOSE_LAB_GPUS"] = env["DIAGNOSE_LAB_GPUS"]
    command = (sys.executable, "-m", MODULE, "--model", str(model), "--port", "18377", "--max-model-len", "4096")
    target = TargetConfig(command=command, env=env, cwd=str(folder))
    seen = Seen()
    config = Config(targets=(target,), rules=(str(folder / "rules"),))
    with wiring.daemon(config, folder / "state", watcher=seen, stop_servers=True) as daemon:

        def load() -> None:
            seen.ready.wait(60)
            me = psutil.Process()
            before, began = sum(me.cpu_times()[:2]), time.monotonic()
            writer = multiprocessing.get_context("spawn").Process(
                target=write, args=(str(folder / "log"), args.rate, args.seconds, args.files)
            )
            writer.start()
            writer.join()
            time.sleep(1)
            seen.cpu = (sum(me.cpu_times()[:2]) - before) / (time.monotonic() - began)
            seen.rss = me.memory_info().rss
            daemon.stop()

        threading.Thread(target=load, daemon=True).start()
        anyio.run(daemon.run)
    return seen


if __name__ == "__main__":
    main()
