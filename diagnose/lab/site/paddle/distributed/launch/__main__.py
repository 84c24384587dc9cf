"""Start the workers, watch them, stop all when one fails, and say so on stderr.

A stand-in for Paddle's launcher: one process a device, ``workerlog.N`` opened to append, what rank 0
writes also goes to stdout, where the engine reads the progress.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fastdeploy.process import end_with
from fastdeploy.settings import read_settings

_TICK = 0.05


def say(level: str, text: str) -> None:
    """Write one line of the launcher's log."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f",{int(now * 1000) % 1000:03d}"
    with contextlib.suppress(OSError):
        os.write(2, f"LAUNCH {level} {stamp} {text}\n".encode())


class Rank:
    """One worker and its log."""

    def __init__(self, rank: int, command: list[str], log: Path, device: str) -> None:
        self.rank, self.command, self.log = rank, command, log
        self._read_from = log.stat().st_size if log.exists() else 0
        env = {
            **os.environ,
            "PADDLE_TRAINER_ID": str(rank),
            "FLAGS_selected_gpus": device,
            "PADDLE_LOCAL_RANK": str(rank),
        }
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=env)  # noqa: S603  # our own worker

    def relay(self) -> None:
        """Copy what was written since the last time to stdout."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size == self._read_from:
                return
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(self._read_from)
            new = file.read(1 << 16)
            self._read_from += len(new)
            if new:
                os.write(1, new)

    def tail(self) -> None:
        """Copy the last 3000 bytes to stdout."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 3000))
            os.write(1, file.read())


def stop(ranks: list[Rank], timeout: float) -> None:
    """End all workers: SIGTERM, some seconds, SIGKILL."""
    for rank in ranks:
        with contextlib.suppress(OSError):
            rank.process.terminate()
    deadline = time.monotonic() + timeout
    for rank in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.process.wait(max(0.01, deadline - time.monotonic()))
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.kill()
            rank.process.wait()


def watch(ranks: list[Rank]) -> int:
    """Wait for the first failure, or for all to end well."""
    while True:
        codes = [rank.process.poll() for rank in ranks]
        ranks[0].relay()
        failed = next((rank for rank in ranks if rank.process.returncode not in (None, 0)), None)
        if failed is not None:
            return _fail(ranks, failed)
        if all(code == 0 for code in codes):
            say("INFO", "Pod completed")
            return 0
        time.sleep(_TICK)


def _fail(ranks: list[Rank], failed: Rank) -> int:
    code = int(failed.process.returncode)
    say("INFO", "Pod failed")
    say(
        "ERROR",
        f"Container failed !!!\nContainer rank {failed.rank} status failed cmd {failed.command} "
        f"code {code} log {failed.log}",
    )
    say("INFO", "------------------------- ERROR LOG DETAIL -------------------------")
    failed.tail()
    stop(ranks, 3)
    say("INFO", f"Exit code {code}")
    return code


def main(argv: list[str]) -> int:
    """Read ``--log_dir D --devices 0,1 SCRIPT ARGS...`` and run."""
    settings = read_settings()
    if settings.main_pid:
        end_with(settings.main_pid, settings.orphan_seconds)
    folder, devices, index = Path("log"), ["0"], 0
    while index < len(argv) and argv[index].startswith("--"):
        if argv[index] == "--log_dir":
            folder = Path(argv[index + 1])
        elif argv[index] == "--devices":
            devices = argv[index + 1].split(",")
        index += 2
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", *argv[index:]]
    _prepare(folder, devices)
    ranks = [Rank(n, command, folder / f"workerlog.{n}", device) for n, device in enumerate(devices)]

    def stopped(number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        say("INFO", f"Terminating with signal {number}")
        stop(ranks, 30)
        say("INFO", f"Exit with signal {number}")
        sys.exit(number)

    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGINT, stopped)
    say("INFO", f"Watching Pod: fdlab0, replicas {len(devices)}, status running")
    return watch(ranks)


def _prepare(folder: Path, devices: list[str]) -> None:
    kept = {key: value for key, value in os.environ.items() if key.startswith(("FLAGS_", "FD_", "NCCL_", "PADDLE_"))}
    (folder / "backup_env.0.json").write_text(json.dumps(kept, indent=1))
    say("INFO", "-----------  Configuration  ----------------------")
    say("INFO", f"devices: {','.join(devices)}")
    say("INFO", f"log_dir: {folder}")
    say("INFO", f"nproc_per_node: {len(devices)}")
    say("INFO", "--------------------------------------------------")
    say(
        "INFO",
        f"Job: default, mode collective, replicas {len(devices)}[{len(devices)}:{len(devices)}], elastic False",
    )
    say("INFO", f"Run Pod: fdlab0, replicas {len(devices)}, status ready")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
