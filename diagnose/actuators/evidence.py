"""``evidence.keep``: what a restart would destroy, copied aside first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from diagnose.actuators import stacks
from diagnose.actuators.server import Server
from diagnose.errors import ActuatorError
from diagnose.launch.secrets import hidden, without_secrets
from diagnose.model.incident import Intent, Plan
from diagnose.model.remedy import Step
from diagnose.model.text import Text
from diagnose.ports import GpuUnavailableError, Member

TAIL_BYTES = 256 * 1024
MOST_LOGS = 64


class KeepEvidence:
    """Keeps the ends of the logs, the process tree and its stacks, the cards and the command, one folder an intent.

    Args:
        folder: Where the folders lie, ``<state>/evidence``.
        logs: The log files of now, the most telling first; at most 64 are kept.
        most: How many folders are kept, and for how long.
        dump: Gives the stacks of processes.
    """

    action = "evidence.keep"

    def __init__(
        self,
        server: Server,
        folder: Path,
        logs: Callable[[], Iterable[Path]],
        *,
        most: int = 20,
        age: timedelta = timedelta(days=30),
        dump: Callable[[Iterable[int]], str] = stacks.dump,
    ) -> None:
        self._server, self._folder, self._logs = server, folder, logs
        self._most, self._age, self._dump = most, age, dump

    def describe(self, step: Step, plan: Plan) -> Text:  # noqa: ARG002 - the port's words
        """Name the folder. Touches nothing."""
        return Text(
            f"Copy the ends of all logs, the processes with their stacks and the GPU state to {self._folder}",
            f"将各日志末尾、进程列表及调用栈和 GPU 状态保存到 {self._folder}",
        )

    def perform(self, step: Step, intent: Intent) -> Text:  # noqa: ARG002 - the port's words
        """Keep it: all or nothing under the final name; what is there already stays as it is.

        Raises:
            ActuatorError: The folder cannot be written.
        """
        final = self._folder / _plain(intent.id)
        if final.is_dir():
            return Text(f"already kept in {final}", f"已保存在 {final}")
        draft = final.with_name(f".{final.name}.new")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True, mode=0o700)
            count = self._write(draft, intent)
            draft.rename(final)
            self._thin(final, intent.at)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise ActuatorError(
                f"evidence cannot be kept in {final}: {error.strerror}. Free or grant space there."
            ) from error
        return Text(f"kept {count} logs in {final}", f"已将 {count} 份日志保存到 {final}")

    def _write(self, draft: Path, intent: Intent) -> int:
        logs = draft / "logs"
        logs.mkdir()
        count = 0
        for path in list(self._logs())[:MOST_LOGS]:
            tail = _tail(path)
            if tail is not None:
                (logs / f"{count:02d}-{_plain(path.name)}").write_bytes(tail)
                count += 1
        handle = self._server.handle
        members = self._server.controller.tree(handle) if handle else ()
        (draft / "processes.txt").write_text(_processes(members), encoding="utf-8")
        (draft / "stacks.txt").write_text(self._dump(_pythons(members)), encoding="utf-8")
        (draft / "gpus.json").write_bytes(self._cards(members))
        before = msgspec.json.format(msgspec.json.encode(without_secrets(intent.plan.before)), indent=1)
        (draft / "launch.json").write_bytes(before)
        return count

    def _cards(self, members: Sequence[Member]) -> bytes:
        gpu, pids = self._server.gpu, {one.pid for one in members}
        try:
            return msgspec.json.format(msgspec.json.encode(list(gpu.read(pids)) if gpu else []), indent=1)
        except GpuUnavailableError as error:
            return msgspec.json.encode({"unavailable": str(error)})

    def _thin(self, newest: Path, now: datetime) -> None:
        folders = [path for path in self._folder.iterdir() if path.is_dir() and path != newest]
        by_age = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
        oldest = (now - self._age).timestamp()
        for place, path in enumerate(by_age, start=2):
            if place > self._most or path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _processes(members: Iterable[Member]) -> str:
    rows = [
        f"{one.pid}\t{one.role}\t{one.cpu_seconds:.1f} s\t{one.rss_bytes >> 20} MiB\t" + " ".join(hidden(one.command))
        for one in members
    ]
    return "\n".join(["pid\trole\tcpu\trss\tcommand", *rows, ""])


def _pythons(members: Iterable[Member]) -> list[int]:
    """Return the processes whose stacks tell where the server stands: main and workers first."""
    found = [one for one in members if one.command and "python" in Path(one.command[0]).name]
    order = ("main", "worker", "cache", "launcher", "other")
    return [one.pid for one in sorted(found, key=lambda one: order.index(one.role))]


def _tail(path: Path) -> bytes | None:
    """Return the end of a file, from a line's beginning; ``None`` where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL_BYTES, 0))
            data = file.read(TAIL_BYTES)
    except OSError:
        return None
    return data.partition(b"\n")[2] or data if size > TAIL_BYTES else data


def _plain(name: str) -> str:
    """Return a name that is one harmless path component."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".") or "_"
