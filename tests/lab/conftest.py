"""Lab servers that are ended with the test, whatever they left."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model
from tests.ports import free_port

LOAD_SECONDS = 0.2


def until(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Wait for a truthy value and give it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail("it did not come about in time")


@dataclass
class LabServer:
    """One start of the lab server."""

    folder: Path
    port: int
    queue_port: int
    process: subprocess.Popen[bytes]

    def ask(self, path: str, body: Any = None, timeout: float = 10.0, **headers: str) -> tuple[int, str]:
        """Send one request; a body makes it a POST."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            raw = None if body is None else json.dumps(body).encode()
            connection.request("POST" if raw else "GET", path, raw, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def chat(self, text: str, timeout: float = 10.0, **more: Any) -> tuple[int, dict[str, Any]]:
        """Ask for one answer."""
        body = {"messages": [{"role": "user", "content": text}], **more}
        status, answer = self.ask("/v1/chat/completions", body, timeout)
        return status, json.loads(answer)

    def status(self, path: str = "/health") -> int | None:
        """The status of a GET, None where nobody listens."""
        try:
            return self.ask(path, timeout=2)[0]
        except OSError:
            return None

    def ready(self) -> LabServer:
        """Wait until it serves."""
        until(lambda: self.status() == 200 or self.process.poll() is not None)
        assert self.process.poll() is None, self.console()
        return self

    def ended(self, timeout: float = 10.0) -> int:
        """Wait for the end and give the exit status."""
        return self.process.wait(timeout)

    def console(self) -> str:
        return (self.folder / "console.txt").read_text()

    def log(self, name: str) -> str:
        path = self.folder / "log" / name
        return path.read_text() if path.exists() else ""

    def gpu(self) -> dict[str, Any]:
        return json.loads((self.folder / "gpus" / "gpu0.json").read_text())

    def used_bytes(self) -> int:
        state = self.gpu()
        living = [size for pid, size in state["processes"].items() if Path(f"/proc/{pid}").exists()]
        return sum(living) + sum(state["leaked"].values())

    def processes(self) -> list[int]:
        """All processes of this test's servers, by the folder in their environment."""
        return _of(self.folder)

    def worker(self) -> int:
        """The pid of the first rank."""
        return next(pid for pid in self.processes() if _command(pid).split("\0")[2].endswith("worker_process.py"))


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text() + "\0\0\0"
    return "\0\0\0"


def _of(folder: Path) -> list[int]:
    mark = f"DIAGNOSE_LAB_GPUS={folder / 'gpus'}\0".encode()
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes() and (path / "cmdline").read_bytes():
                    found.append(int(path.name))
    return found


@dataclass
class Lab:
    """Starts servers in one folder."""

    folder: Path
    servers: list[LabServer] = field(default_factory=list)

    def start(
        self,
        *flags: str,
        era: str = "2.4",
        faults: str = "",
        gpu_bytes: int = 4 << 30,
        gpus: int = 1,
        seed: int = 0,
        model: Path | None = None,
        **extra: str,
    ) -> LabServer:
        """Start one; ``extra`` are variables of the environment."""
        if not self.servers:
            make_gpus(self.folder / "gpus", gpus, gpu_bytes)
            (self.folder / "shm").mkdir()
        env = lab_env(
            self.folder / "gpus",
            era=era,
            load_seconds=LOAD_SECONDS,
            faults=faults,
            seed=seed,
            tokens_per_second=200,
            extra={
                "FD_LAB_SHM": str(self.folder / "shm"),
                "FD_LAB_MONITOR_SECONDS": "0.2",
                "FD_LAB_ORPHAN_SECONDS": "20",
                "TMPDIR": str(self.folder),
                **extra,
            },
        )
        port, queue_port = free_port(), free_port()
        home = model or make_model(self.folder / "models")
        given = ["--model", str(home), "--host", "127.0.0.1", "--port", str(port)]
        given += ["--engine-worker-queue-port", str(queue_port), "--cache-queue-port", str(free_port())]
        with (self.folder / "console.txt").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *given, *flags],
                cwd=self.folder,
                env=env,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        server = LabServer(self.folder, port, queue_port, process)
        self.servers.append(server)
        return server

    def end(self) -> None:
        """End every process that the servers started."""
        deadline = time.monotonic() + 5
        while (left := _of(self.folder)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for server in self.servers:
                server.process.poll()
            time.sleep(0.02)
        for server in self.servers:
            server.process.wait(5)


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """One server for the tests that only ask."""
    made = Lab(tmp_path_factory.mktemp("served"))
    yield made.start("--served-model-name", "ernie").ready()
    made.end()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.end()
