"""``server.restart``: end the whole tree, wait for its GPU memory, clean up, start the plan's command."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from diagnose.actuators import console
from diagnose.controllers import procfs
from diagnose.controllers.attach import listener
from diagnose.controllers.spawn import CONSOLE
from diagnose.errors import ActuatorError, ConfigError, ControllerError
from diagnose.launch import settings
from diagnose.launch.secrets import hidden
from diagnose.launch.spec import diff
from diagnose.model.incident import Intent, Plan
from diagnose.model.launch import LaunchSpec
from diagnose.model.remedy import ServerRestart, Step
from diagnose.model.text import Text
from diagnose.ports import Controller, GpuReader, GpuUnavailableError, Handle, StopReport
from diagnose.sources.facts import config_values
from diagnose.sources.gpu import chosen

_GRACE = timedelta(seconds=30)
_SLACK_BYTES = 256 << 20
_LOOK_SECONDS = 0.2


@dataclass
class Server:
    """The one server that the hands look after.

    Attributes:
        run_dir: Where each generation has a folder for its console.
        handle: What runs now, or ran last; ``None`` before the first start.
        generation: The number of the last start.
        gpu: Tells when its memory is free; ``None`` where there are no cards.
        running: Counts requests in flight; ``None`` where that cannot be asked.
        started: Called with each new handle, at once: the journal's note.
        stopping: Called before a stop on purpose: what ends now is expected.
        ended: Called between end and start: waits until what the ended one wrote is read.
        memory_wait: How long a restart waits for GPU memory that no process of ours holds any more.
    """

    target: str
    controller: Controller
    run_dir: Path
    handle: Handle | None = None
    generation: int = 0
    gpu: GpuReader | None = None
    running: Callable[[], int | None] | None = None
    started: Callable[[Handle], None] = lambda _handle: None
    stopping: Callable[[Handle], None] = lambda _handle: None
    ended: Callable[[], None] = lambda: None
    memory_wait: timedelta = timedelta(seconds=60)
    _others: Mapping[str, int] = field(default_factory=dict)

    def alive(self) -> bool:
        """Say whether the main process runs."""
        return self.handle is not None and self.controller.adopt(self.handle) is not None

    def stop(self, *, drain: timedelta = timedelta(0), grace: timedelta = _GRACE) -> StopReport:
        """End all its processes, and wait for its GPU memory.

        Raises:
            ActuatorError: Something is left; nothing new may be started then.
        """
        if self.handle is None:
            return StopReport()
        self.stopping(self.handle)
        report = self.controller.stop(
            self.handle, drain=drain, grace=grace, running=self.running, gpu_own_bytes=self._own_bytes()
        )
        if report.left:
            pids = ", ".join(map(str, report.left))
            raise ActuatorError(f"processes {pids} cannot be ended, not even by SIGKILL. See dmesg; reboot if need be.")
        if report.gpu_free is False:
            raise ActuatorError(
                "all processes are gone, but GPU memory is still held. Look for its owner with nvidia-smi."
            )
        return report

    def start(self, plan: Plan) -> Handle:
        """Start the plan's command as the next generation.

        Raises:
            ActuatorError: It could not be started.
        """
        number = self.generation + 1
        self._others = self._used(plan.after)
        folder = console.folder(self.run_dir, number)
        handle = self.controller.start(self.target, number, plan.after, run_dir=str(folder))
        self.handle, self.generation = handle, number
        console.forget_old(self.run_dir, number)
        self.started(handle)
        return handle

    def bound_console(self) -> None:
        """Keep the file that takes its output within bounds, where it is one of ours; may wait for the disk.

        Raises:
            OSError: See `console.turn_over`.
        """
        path = console.folder(self.run_dir, self.generation) / CONSOLE
        if self.handle and self.handle.console == str(path):
            console.turn_over(path)

    def late_bytes(self) -> int:
        """Wait until the cards hold no more than before the last start, and say how much more they still hold.

        A worker that died takes its memory along, but not at once; and in a container nobody tells whose
        memory is whose. What a neighbour took meanwhile looks the same: after ``memory_wait`` this gives up.
        """
        deadline = time.monotonic() + self.memory_wait.total_seconds()
        while (late := self._more_than_before()) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return late

    @staticmethod
    def wait_for_ports(spec: LaunchSpec, grace: timedelta) -> None:
        """Wait until nobody listens where the command wants to: up to 2.3 it would say so only after loading.

        Raises:
            ActuatorError: Somebody still does after ``grace``; the message names who.
        """
        deadline = time.monotonic() + grace.total_seconds()
        while (port := _taken(spec)) is not None:
            if time.monotonic() >= deadline:
                raise ActuatorError(
                    f"port {port} is still held by {_holder(port)}. End it, or start the server with another port."
                )
            time.sleep(_LOOK_SECONDS)

    def _more_than_before(self) -> int:
        used = self._used(self.handle.spec) if self.handle and self._others else {}
        more = max((used[card] - before for card, before in self._others.items() if card in used), default=0)
        return more if more > _SLACK_BYTES else 0

    def _used(self, spec: LaunchSpec) -> dict[str, int]:
        """Return the bytes in use of each card that the command may see; empty where nobody can tell."""
        visible = settings.visible_devices(spec, os.environ)
        try:
            cards = self.gpu.read(()) if self.gpu else ()
        except GpuUnavailableError:
            return {}
        return {card.label: card.used_bytes for card in chosen(cards, visible)}

    def _own_bytes(self) -> Callable[[], int | None] | None:
        """Ask for the memory of the processes that live now, also when they are gone."""
        reader = self.gpu
        if reader is None or self.handle is None:
            return None
        pids = {one.pid for one in self.controller.tree(self.handle)}

        def held() -> int | None:
            try:
                return sum(card.own_bytes for card in reader.read(pids))
            except GpuUnavailableError:
                return None

        return held


def _taken(spec: LaunchSpec) -> int | None:
    """Return a port of the command on which somebody listens now."""
    try:
        flags = config_values(spec)
        queues = (*settings.queue_ports(spec, config=flags), *settings.cache_ports(spec, config=flags))
        ports = (settings.http_port(spec, flags), *queues)
    except ConfigError:  # no command of FastDeploy: nothing is known of its ports
        return None
    return next((port for port in ports if not _free(port)), None)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - as the server will, and let go at once
        except PermissionError:
            return True  # below 1024: the server has to know
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    with contextlib.suppress(ControllerError):
        pid = listener(port)
        return f"process {pid} ({shlex.join(hidden(procfs.cmdline(pid)))[:120]})"
    return "a process that cannot be seen from here"


class RestartServer:
    """Restarts a server with the command that the plan worked out."""

    action = "server.restart"

    def __init__(self, server: Server, *, grace: timedelta = _GRACE) -> None:
        self._server, self._grace = server, grace

    def describe(self, step: Step, plan: Plan) -> Text:
        """Name the command and what changes in it. Touches nothing."""
        changes = "; ".join(diff(plan.before, plan.after))
        command = shlex.join(hidden(plan.after.argv))
        seconds = step.drain.total_seconds() if isinstance(step, ServerRestart) else 0
        en = f"Stop the server (up to {seconds:.0f} s for requests in flight) and start: {command}"
        zh = f"停止服务（最多等待进行中的请求 {seconds:.0f} 秒）并启动：{command}"
        return Text(f"{en} ({changes})" if changes else en, f"{zh}（{changes}）" if changes else zh)

    def perform(self, step: Step, intent: Intent) -> Text:
        """Restart; a second call for the same intent finds it done and does nothing.

        Raises:
            ActuatorError: The old server could not be ended, or the new one not started.
        """
        server = self._server
        done = server.generation > intent.generation
        if done and server.alive() and server.handle is not None and server.handle.spec == intent.plan.after:
            number = server.generation
            return Text(
                f"generation {number} already runs this command; nothing done",
                f"第 {number} 次启动已在用该命令，未重复执行",
            )
        drain = step.drain if isinstance(step, ServerRestart) else timedelta(0)
        report = server.stop(drain=drain, grace=min(self._grace, step.timeout))
        cleaned = self._clean()
        late = server.late_bytes()
        server.wait_for_ports(intent.plan.after, self._grace)
        server.ended()
        handle = server.start(intent.plan)
        gone = len(report.ended) + len(report.killed)
        killed, number, held = len(report.killed), handle.generation, late / 2**30
        en = f"ended {gone} processes ({killed} by SIGKILL) in {report.seconds:.1f} s, {cleaned.en}, "
        en += f"started generation {number} as process {handle.pid}"
        zh = f"{report.seconds:.1f} 秒内结束 {gone} 个进程（{killed} 个被 SIGKILL），{cleaned.zh}，"
        zh += f"第 {number} 次启动，进程号 {handle.pid}"
        if late:
            en += f"; {held:.1f} GiB of GPU memory that it had not found at its last start were held"
            zh += f"；上次启动时尚空闲的 {held:.1f} GiB 显存现被占用"
        return Text(en, zh)

    def _clean(self) -> Text:
        """What cannot be removed is told, but is no reason to stay down: the server replaces its names."""
        handle = self._server.handle
        try:
            removed = self._server.controller.clean(handle) if handle else ()
        except ControllerError as error:
            told = str(error).rstrip(".")
            return Text(told, told)
        return Text(f"removed {len(removed)} leftovers", f"清理 {len(removed)} 项残留")
