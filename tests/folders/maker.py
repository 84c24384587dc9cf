"""Makes folders of logs as users hand them over: the lab server in real processes, then whatever users do to logs.

A folder is ``console.log`` (what the terminal showed) and ``log/`` (what FastDeploy wrote).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model
from tests.e2e.conftest import GIB
from tests.ports import free_port

FILLER = 5000
"""Lines of ordinary log between a cause and the last symptom, at most."""

HOSTILE = (
    "What does this mean: CUDA out of memory. Tried to allocate 2.00 GiB",
    "NVRM: Xid (PCI:0000:65:00): 79, pid=1, GPU has fallen off the bus.",
    "Out of memory error on GPU 0. Cannot allocate 15.503906GB memory on GPU 0",
    "one\nERROR    2026-01-02 10:00:00,000 1 engine.py[line:211] Failed to launch worker processes, check log\nEnd",
    "Traceback (most recent call last):\n  File \"a.py\", line 1\nModuleNotFoundError: No module named 'paddle'",
    "OSError: (External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime version.",
    "Too many requests,current max concurrency is 512",
    "Segmentation fault (core dumped)",
    "[Errno 98] Address already in use; No space left on device; Killed process 4711 (python)",
    "Preemption is triggered! Preempted request id: chatcmpl-0",
)


class Host:
    """One host with its card: the server is started, asked, ended and started again, all in one log folder."""

    def __init__(self, folder: Path, *, era: str, gpu_bytes: int = 4 * GIB, seed: int = 1) -> None:
        self.logs, self.era, self._aside, self._seed = folder / "logs", era, folder, seed
        self.logs.mkdir(parents=True)
        (folder / "shm").mkdir()
        make_gpus(folder / "gpus", 1, gpu_bytes)
        self.model = make_model(folder / "models")
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, faults: str = "", model: Path | None = None, **env: str) -> Host:
        """Start the server; what it says goes behind what was said before."""
        extra = {
            "FD_LAB_SHM": str(self._aside / "shm"),
            "FD_LAB_MONITOR_SECONDS": "0.2",
            "FD_LAB_ORPHAN_SECONDS": "20",
            "TMPDIR": str(self._aside),
            **env,
        }
        environment = lab_env(
            self._aside / "gpus",
            era=self.era,
            load_seconds=0.3,
            faults=faults,
            seed=self._seed,
            tokens_per_second=400,
            extra=extra,
        )
        given = ["--model", str(model or self.model), "--host", "127.0.0.1", "--port", str(self.port)]
        given += ["--engine-worker-queue-port", str(free_port()), "--cache-queue-port", str(free_port())]
        with (self.logs / "console.log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *given, *flags],
                cwd=self.logs,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return self

    def wait(self, condition: Callable[[], Any], seconds: float = 20.0) -> Host:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it did not come about in {seconds} s:\n{self.text('console.log')}"
            time.sleep(0.03)
        return self

    def ready(self) -> Host:
        """Wait until it serves."""
        self.wait(lambda: self.get("/health") == 200 or not self.lives())
        assert self.lives(), self.text("console.log")
        return self

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ended(self) -> Host:
        """Wait until it has ended by itself."""
        return self.wait(lambda: not self.lives())

    def stop(self) -> Host:
        """End it as an operator does."""
        if self.process is not None and self.lives():
            self.process.terminate()
        return self.ended()

    def text(self, name: str) -> str:
        """All that the logs of one name say."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.logs.rglob(name)) if path.is_file())

    def says(self, name: str, words: str) -> Host:
        """Wait until a log says something."""
        return self.wait(lambda: words in self.text(name))

    def get(self, path: str) -> int | None:
        """Status of a GET, None where nobody listens."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._ask("GET", path, None, 2.0)
        return None

    def chat(self, text: str, seconds: float = 5.0, **more: Any) -> int | None:
        """Ask for one answer; the status, None where there was none in time."""
        return self.post({"messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}, seconds)

    def post(self, body: Any, seconds: float = 5.0) -> int | None:
        """Post any body to the chat endpoint."""
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._ask("POST", "/v1/chat/completions", raw, seconds)
        return None

    def _ask(self, method: str, path: str, raw: bytes | None, seconds: float) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request(method, path, raw)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def many(self, count: int, *, text: str = "hello", seconds: float = 5.0, **more: Any) -> Host:
        """Ask for many answers at once and wait for all."""
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda n: self.chat(f"{text} {n}", seconds, **more), range(count)))
        return self

    def traffic(self) -> Host:
        """What goes on at any server: good requests, wrong ones, and texts that speak of errors."""
        for text in HOSTILE:
            self.chat(text)
        self.wrong()
        return self.many(6, text="write a poem", max_tokens=20)

    def wrong(self) -> Host:
        """Requests that are their senders' fault."""
        self.post(b"{not json")
        self.post({"messages": []})
        self.post({"messages": [{"role": "user", "content": "x"}], "max_tokens": -1})
        self.post({"messages": [{"role": "user", "content": "x"}], "temperature": "hot"})
        self.post({"messages": [{"role": "user", "content": "word " * 40000}]}, 10)
        self.get("/no/such/path")
        return self

    def worker(self) -> int:
        """The pid of the first rank."""
        ranks = [pid for pid in self.processes() if b"worker_process.py" in _command(pid).split(b"\0")[2]]
        return min(ranks)

    def processes(self) -> list[int]:
        """All processes of this host, by the folder in their environment."""
        mark = f"DIAGNOSE_LAB_GPUS={self._aside / 'gpus'}\0".encode()
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (path / "environ").read_bytes() and (path / "cmdline").read_bytes():
                        found.append(int(path.name))
        return found

    def end(self) -> None:
        """End every process that was started here."""
        deadline = time.monotonic() + 5
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.process is not None:
                self.process.poll()
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait(5)


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() + b"\0\0\0"
    return b"\0\0\0"


# --- what happens to logs afterwards

_STAMP = re.compile(r"(?P<date>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?P<part>[,.]\d{3})?")
_ORDINARY = {
    "2.4": (
        "INFO     {at} 2301  token_processor.py[line:402] Request: chatcmpl-{n} token ratio: 31.5",
        "INFO     {at} 2301  token_processor.py[line:8] Request: chatcmpl-{n} finished, number of generated tokens: 4.",
        "INFO     {at} 2301  common_engine.py[line:888] Cache task with request_id (chatcmpl-{n})",
    ),
    "2.6": (
        "INFO     {at} 2301  common_engine.py[line:888] Cache task with request_id (chatcmpl-{n})",
        (
            "INFO     {at} 2301  scheduler_metrics_logger.py[line:88] Decode batch, dp_rank: 0, #running-req: 2,"
            " #token: 90, token usage: 0.12, #free-block: 900, #evictable-block: 0, cuda graph: True,"
            " gen throughput (token/s): 61.0, #queue-req: 0, "
        ),
    ),
}
_WORKER = "[{at}] [ WARNING] token_processor.py:412 - current tokens need to accumulate, req_id: {n}"


def pad(file: Path, before: str, era: str, count: int = FILLER) -> None:
    """Put ordinary lines above the last line with ``before``, stamped as the line above them or later."""
    lines = file.read_bytes().decode(errors="replace").split("\n")
    place = max(number for number, line in enumerate(lines) if before in line)
    forms = (_WORKER,) if "workerlog" in file.name else _ORDINARY[era]
    above = next((found for line in reversed(lines[:place]) if (found := _STAMP.search(line))), None)
    below = next((found for line in lines[place:] if (found := _STAMP.search(line))), above)
    assert below is not None, f"no date in {file}"
    first, last = _time(above or below), _time(below)
    step = (last - first) / (count + 1)
    filler = [
        forms[number % len(forms)].format(at=_stamp(first + step * (number + 1), era), n=number)
        for number in range(count)
    ]
    file.write_bytes("\n".join([*lines[:place], *filler, *lines[place:]]).encode())


def _time(found: re.Match[str]) -> datetime:
    part = (found["part"] or ",000")[1:]
    return datetime.fromisoformat(f"{found['date']}.{part}")


def _stamp(at: datetime, era: str) -> str:
    text = at.strftime("%Y-%m-%d %H:%M:%S")
    return text if era == "2.6" else f"{text},{at.microsecond // 1000:03d}"


def age(folder: Path, by: timedelta) -> None:
    """Make all logs older: every date in them, the names of daily files, and the links to these."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(_older(path.read_bytes().decode(errors="surrogateescape"), by))
    for path in sorted(folder.rglob("*")):
        day = re.search(r"\.log\.(\d{4}-\d\d-\d\d)$", path.name)
        if day and by.days and not path.is_symlink():
            new = (datetime.fromisoformat(day[1]) - by).strftime("%Y-%m-%d")
            path.rename(path.with_name(path.name.replace(day[1], new)))


def split_at_midnight(folder: Path) -> None:
    """Move what daily files hold of a later day than their name says into that day's file."""
    for path in sorted(folder.rglob("*.log.*")):
        day = re.search(r"\.log\.(\d{4}-\d\d-\d\d)$", path.name)
        if not day or path.is_symlink():
            continue
        lines = path.read_bytes().decode(errors="surrogateescape").split("\n")
        later = next(
            (n for n, line in enumerate(lines) if (at := _STAMP.search(line)) and at["date"][:10] > day[1]), None
        )
        if later is not None:
            date = _STAMP.search(lines[later])["date"][:10]  # type: ignore[index]
            new = path.with_name(path.name.replace(day[1], date))
            new.write_bytes("\n".join(lines[later:]).encode(errors="surrogateescape"))
            path.write_bytes("\n".join([*lines[:later], ""]).encode(errors="surrogateescape"))


def _older(text: str, by: timedelta) -> bytes:
    def moved(found: re.Match[str]) -> str:
        return (datetime.fromisoformat(found["date"]) - by).strftime("%Y-%m-%d %H:%M:%S") + (found["part"] or "")

    def glog(found: re.Match[str]) -> str:
        at = datetime.strptime(f"2026{found[2]}", "%Y%m%d %H:%M:%S") - by  # noqa: DTZ007 (glog names no zone)
        return found[1] + at.strftime("%m%d %H:%M:%S")

    text = _STAMP.sub(moved, text)
    return re.sub(r"(?m)^([IWEF])(\d{4} \d\d:\d\d:\d\d)", glog, text).encode(errors="surrogateescape")


class Workshop:
    """Makes folders, two at a time, before they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(2)
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def order(self, name: str, era: str, make: Callable[[Host], None], **host: Any) -> None:
        """Have a folder made when there is time."""
        with self._lock:
            if name not in self._made:
                self._made[name] = self._pool.submit(self._make, name, era, make, host)

    def folder(self, name: str) -> Path:
        """Wait for a folder that was ordered."""
        folder: Path = self._made[name].result(timeout=90)
        return folder

    def _make(self, name: str, era: str, make: Callable[[Host], None], given: dict[str, Any]) -> Path:
        host = Host(self._folder / name, era=era, **given)
        try:
            make(host)
        finally:
            host.end()
        return host.logs

    def close(self) -> None:
        """Give up what has not begun, wait for the rest."""
        self._pool.shutdown(cancel_futures=True)
