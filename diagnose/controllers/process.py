"""A server as a process that outlives the daemon: started, found again, watched and ended.

The server gets a session of its own and writes to a file, never into a pipe of ours: the daemon can be
killed and the server does not notice. All calls may block; the agent makes them in a thread.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import psutil

from diagnose.controllers import procfs
from diagnose.controllers.attach import differing, is_server, listener, main_of
from diagnose.controllers.leftovers import SHM, TMP, leftovers
from diagnose.controllers.spawn import CONSOLE, send, spawn
from diagnose.controllers.tree import MARK, TreeFinder, queue_ports_of
from diagnose.errors import ConfigError, ControllerError
from diagnose.launch import settings
from diagnose.model.launch import LaunchSpec
from diagnose.ports import Exit, Handle, Member, Ports, StopReport

_TURN_SECONDS = 0.05
_TERM_SECONDS = 5.0
_KILL_SECONDS = 10.0
_GRACE = timedelta(seconds=30)
_NOTHING = timedelta(0)
_SUCCESSOR_EVERY = 1.0


class ProcessController:
    """Controls servers on this machine.

    Args:
        owner: Whose servers these are; `find` sees no others.
        shm, tmp: Where servers leave shared memory and locks.
        gpu_wait: How long to wait for GPU memory after the last process has gone.
        umask: Of the servers that are started; ours where negative.
    """

    def __init__(
        self,
        *,
        owner: str = "",
        shm: Path = SHM,
        tmp: Path = TMP,
        gpu_wait: timedelta = timedelta(seconds=60),
        umask: int = -1,
    ) -> None:
        self._owner, self._umask = owner, umask
        self._shm, self._tmp, self._gpu_wait = shm, tmp, gpu_wait
        self._finder = TreeFinder()
        self._looked = float("-inf")
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._exits: dict[tuple[int, int], Exit] = {}

    def start(
        self, target: str, generation: int, spec: LaunchSpec, *, run_dir: str, ports: Ports | None = None
    ) -> Handle:
        """Start a command in its own session, its output appended to ``run_dir/console.log``.

        Args:
            ports: Read from the command where they are not given.

        Raises:
            ControllerError: It could not be started.
        """
        instance = f"{self._owner}:{target}/{generation}/{uuid.uuid4().hex[:12]}"
        console = Path(run_dir) / CONSOLE
        child = spawn(spec, console, {**os.environ, **spec.env, MARK: instance}, umask=self._umask)
        self._children[child.pid] = child
        handle = handle_of(child.pid, target=target, generation=generation, spec=spec, instance=instance)
        return msgspec.structs.replace(handle, ports=ports or ports_of(spec), console=str(console))

    def adopt(self, handle: Handle) -> Handle | None:
        """Return the handle if exactly that process (pid, start, boot) still runs, else ``None``."""
        found = procfs.stat(handle.pid)
        same = found is not None and found.alive and found.ticks == handle.ticks
        if not same or procfs.boot_id() != handle.boot_id:
            return None
        return msgspec.structs.replace(handle, how="adopted")

    def find(self, target: str) -> Handle | None:
        """Return a server that this owner started for this target, if one runs: by the mark in its environment.

        For the daemon that died between the start of a server and the note in its journal.
        """
        ours = f"{self._owner}:{target}/"
        marked = {one.pid: one for one in procfs.processes() if self._finder.mark(one).startswith(ours)}
        tops = [one for one in marked.values() if one.alive and one.ppid not in marked]
        mains = [one for one in tops if is_server(procfs.cmdline(one.pid))] or tops
        if not mains:
            return None
        newest = max(mains, key=lambda one: one.ticks)
        instance = self._finder.mark(newest)
        number = instance.rsplit("/", 2)[1]
        return self._taken(newest.pid, target, int(number) if number.isdigit() else 1, "adopted")

    def wish(self, handle: Handle) -> LaunchSpec | None:
        """Return the operator's command of what runs; ``None`` where only the journal knows it."""
        del handle
        return None

    def successor(self, handle: Handle) -> Handle | None:
        """Return what somebody else started in the place of this server that has ended, as generation 0.

        Of one that is ours there is none: nobody starts it but us.
        """
        if handle.instance or handle.ports.http is None or not self._due():
            return None
        try:
            found = self.attach(target=handle.target, port=handle.ports.http, generation=0)
        except ControllerError:
            return None
        return found if (found.pid, found.ticks) != (handle.pid, handle.ticks) else None

    def _due(self) -> bool:
        """Say whether it is time to look for a successor again."""
        now = time.monotonic()
        due = now - self._looked >= _SUCCESSOR_EVERY
        self._looked = now if due else self._looked
        return due

    def attach(self, *, target: str, port: int | None = None, pid: int | None = None, generation: int = 1) -> Handle:
        """Return a handle for a server that somebody else started: by its HTTP port or a process.

        Its command, environment and working directory are read from ``/proc``.

        Raises:
            ControllerError: There is no such server, or it may not be looked at.
        """
        if pid is None:
            pid = listener(port)
        handle = self._taken(main_of(pid), target, generation, "attached")
        if port is not None:
            ports = msgspec.structs.replace(handle.ports, http=port)
            handle = msgspec.structs.replace(handle, ports=ports)
        return self.learn_ports(handle)

    def learn_ports(self, handle: Handle) -> Handle:
        """Return the handle with the queue ports that its workers name, where they were unknown."""
        if handle.ports.queue:
            return handle
        found = {port for member in self.tree(handle) for port in queue_ports_of(member.command)}
        ports = msgspec.structs.replace(handle.ports, queue=tuple(sorted(found)))
        return msgspec.structs.replace(handle, ports=ports)

    def tree(self, handle: Handle) -> tuple[Member, ...]:
        """Return its live processes, main first, those in other sessions included."""
        return self._members(handle, thorough=False)

    def poll_exit(self, handle: Handle) -> Exit | None:
        """Return how the main process ended, ``None`` while it runs; the code only of our child."""
        self._reap(handle)
        found = procfs.stat(handle.pid)
        if found is not None and found.ticks == handle.ticks and found.alive:
            return None
        return self._exits.get((handle.pid, handle.ticks), Exit(code=None))

    def stop(
        self,
        handle: Handle,
        *,
        drain: timedelta = _NOTHING,
        grace: timedelta = _GRACE,
        running: Callable[[], int | None] | None = None,
        gpu_own_bytes: Callable[[], int | None] | None = None,
    ) -> StopReport:
        """End the whole tree and wait until its GPU memory is free. A second call finds nothing to do.

        SIGTERM to the main process, then after ``grace`` to all others, then SIGKILL; every process is
        checked to be the same as was found before a signal goes out.
        """
        began = time.monotonic()
        drained = drained_of(running, drain) if running and self.tree(handle) else None
        before = self._all(handle)
        main = [one for one in before if one.role == "main"]
        send(main, signal.SIGTERM)
        if main:
            self._wait(handle, grace.total_seconds(), until=lambda left: all(one.role != "main" for one in left))
        rest = self.tree(handle)
        send(rest, signal.SIGTERM)
        rest = self._wait(handle, min(grace.total_seconds(), _TERM_SECONDS), until=_nobody)
        killed, left = self._kill(handle, rest)
        return StopReport(
            ended=tuple(sorted({one.pid for one in before} - killed - {one.pid for one in left})),
            killed=tuple(sorted(killed)),
            left=tuple(one.pid for one in left),
            gpu_free=freed(gpu_own_bytes, self._gpu_wait),
            drained=drained,
            seconds=time.monotonic() - began,
        )

    def leftovers(self, handle: Handle) -> tuple[Path, ...]:
        """Return the shared memory and sockets that carry this instance's ports."""
        return leftovers(handle, shm=self._shm, tmp=self._tmp)

    def clean(self, handle: Handle) -> tuple[str, ...]:
        """Remove `leftovers` and return their paths.

        Raises:
            ControllerError: A process of the instance lives, or another server listens on its ports.
        """
        alive = self._all(handle)
        if alive:
            pids = ", ".join(str(one.pid) for one in alive)
            raise ControllerError(f"nothing removed: processes {pids} of this server still live. Stop them first.")
        ports = [port for port in (handle.ports.http, *handle.ports.queue, *handle.ports.cache) if port]
        taken = next((port for port in ports if _answers(port)), None)
        if taken is not None:
            raise ControllerError(f"nothing removed: another program listens on port {taken}. Stop it, or move it.")
        removed = []
        for path in self.leftovers(handle):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ControllerError(f"{path} cannot be removed: {error.strerror}. Run as its owner.") from error
            removed.append(str(path))
        return tuple(removed)

    def _all(self, handle: Handle) -> tuple[Member, ...]:
        """Look at every process of the host anew."""
        return self._members(handle, thorough=True)

    def _members(self, handle: Handle, *, thorough: bool) -> tuple[Member, ...]:
        self._reap(handle)
        found = self._finder.members(handle, thorough=thorough)
        for pid in self._finder.ended_children(handle):
            _awaited(pid)
        return found

    def _kill(self, handle: Handle, rest: tuple[Member, ...]) -> tuple[set[int], tuple[Member, ...]]:
        killed: set[int] = set()
        deadline = time.monotonic() + _KILL_SECONDS
        rest = rest or self._all(handle)
        while rest and time.monotonic() < deadline:
            killed |= send(rest, signal.SIGKILL)
            self._wait(handle, 1.0, until=_nobody)
            rest = self._all(handle)  # one that was forked meanwhile comes in the next round
        return killed - {one.pid for one in rest}, rest

    def _wait(
        self, handle: Handle, seconds: float, *, until: Callable[[tuple[Member, ...]], bool]
    ) -> tuple[Member, ...]:
        deadline = time.monotonic() + seconds
        left = self.tree(handle)
        while not until(left) and time.monotonic() < deadline:
            time.sleep(_TURN_SECONDS)
            left = self.tree(handle)
        return left

    def _taken(self, pid: int, target: str, generation: int, how: str) -> Handle:
        environ = procfs.environ(pid)
        spec = LaunchSpec(argv=procfs.cmdline(pid), env=differing(environ), cwd=procfs.link(pid, "cwd") or "/")
        mark = environ.get(MARK, "")
        handle = handle_of(pid, target=target, generation=generation, spec=spec, instance=mark)
        output = procfs.link(pid, "fd/1")
        console = output if Path(output).is_file() else ""
        return msgspec.structs.replace(handle, ports=ports_of(spec), console=console, how=how)

    def _reap(self, handle: Handle) -> None:
        """Take the exit codes of our children: of those that we started, and as PID 1 of a container."""
        child = self._children.get(handle.pid)
        if child is not None and (code := child.poll()) is not None:
            self._exits[handle.pid, handle.ticks] = Exit(code=code)
            self._children.pop(handle.pid, None)
        found = procfs.stat(handle.pid) if child is None else None
        if found is not None and not found.alive and found.ppid == os.getpid() and found.ticks == handle.ticks:
            pid, status = _awaited(handle.pid)
            if pid:
                self._exits[handle.pid, handle.ticks] = Exit(code=os.waitstatus_to_exitcode(status))


def _awaited(pid: int) -> tuple[int, int]:
    try:
        return os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # another thread was faster
        return 0, 0


def ports_of(spec: LaunchSpec) -> Ports:
    """Read the ports from a command; a command that is no FastDeploy server has none."""
    try:
        return Ports(
            http=settings.http_port(spec),
            queue=settings.queue_ports(spec),
            cache=settings.cache_ports(spec),
        )
    except ConfigError:
        return Ports()


def handle_of(pid: int, *, target: str, generation: int, spec: LaunchSpec, instance: str) -> Handle:
    """Make the handle of a process that runs.

    Raises:
        ControllerError: It is gone.
    """
    found = procfs.stat(pid)
    if found is None:
        raise ControllerError(f"process {pid} is gone. Look for the server again.")
    return Handle(
        target=target,
        generation=generation,
        pid=pid,
        ticks=found.ticks,
        started=psutil.boot_time() + found.ticks / os.sysconf("SC_CLK_TCK"),
        boot_id=procfs.boot_id(),
        instance=instance,
        spec=spec,
    )


def drained_of(running: Callable[[], int | None], drain: timedelta) -> bool | None:
    """Wait until no request is in flight, and say whether that was so; ``None`` where nobody can tell."""
    deadline = time.monotonic() + drain.total_seconds()
    count = running()
    while count and time.monotonic() < deadline:
        time.sleep(_TURN_SECONDS * 4)
        count = running()
    return None if count is None else count == 0


def freed(own_bytes: Callable[[], int | None] | None, wait: timedelta) -> bool | None:
    """Wait until no GPU memory is held, and say whether that is so; ``None`` where nobody can tell."""
    if own_bytes is None:
        return None
    deadline = time.monotonic() + wait.total_seconds()
    held = own_bytes()
    while held and time.monotonic() < deadline:
        time.sleep(_TURN_SECONDS * 4)
        held = own_bytes()
    return None if held is None else held == 0


def _nobody(left: tuple[Member, ...]) -> bool:
    return not left


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
