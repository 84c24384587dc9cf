"""What the parts promise each other, and the values that pass between them.

A port says what is done, what may be raised, and what a second call does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol

import msgspec

from diagnose.errors import DiagnoseError
from diagnose.model.incident import Intent, Plan
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import GpuReading
from diagnose.model.remedy import Step
from diagnose.model.text import Text

Role = Literal["main", "launcher", "worker", "cache", "other"]


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the present (aware, UTC)."""
        ...


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Where one instance listens; the names of what it leaves behind carry these numbers.

    Attributes:
        queue, cache: Engine worker queue and cache queue, one a data-parallel rank; empty where random.
    """

    http: int | None = None
    queue: tuple[int, ...] = ()
    cache: tuple[int, ...] = ()


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """One running server, such that it is found again after the daemon was restarted. Goes to the journal.

    Attributes:
        ticks: When the main process started, in clock ticks since boot: with pid and boot id an exact
            identity that no change of the clock can shift.
        started: The same as seconds since the epoch, for people.
        instance: The mark in the environment of all its processes; empty for one that was attached.
        console: The file that takes stdout and stderr; empty where there is none.
    """

    target: str
    generation: int
    pid: int
    ticks: int
    started: float
    boot_id: str
    instance: str
    spec: LaunchSpec
    ports: Ports = Ports()
    console: str = ""
    how: Literal["spawned", "adopted", "attached"] = "spawned"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One live process of a server.

    Attributes:
        cpu_seconds: Its own processor time and that of its ended, awaited children.
    """

    pid: int
    ticks: int
    role: Role
    command: tuple[str, ...]
    cpu_seconds: float = 0.0
    rss_bytes: int = 0


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """The main process ended; ``code`` as Python counts, ``None`` where the kernel does not tell us."""

    code: int | None


class StopReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a stop went.

    Attributes:
        ended: Processes that went on SIGTERM or by themselves.
        killed: Processes that had to be killed.
        left: Processes that could not be ended; empty means success.
        gpu_free: Whether its GPU memory is given back; ``None`` where nobody could tell.
        drained: Whether no request was in flight when the stop began; ``None`` where nobody could tell.
    """

    ended: tuple[int, ...] = ()
    killed: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    gpu_free: bool | None = None
    drained: bool | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """All processes are gone, and the memory as far as anyone can tell."""
        return not self.left and self.gpu_free is not False


class Controller(Protocol):
    """Starts, finds, watches and stops servers; all calls may block."""

    def start(self, target: str, generation: int, spec: LaunchSpec, *, run_dir: str, ports: Ports = ...) -> Handle:
        """Start a command in its own session, its output in ``run_dir/console.log``.

        A second call starts a second server.

        Raises:
            ControllerError: It could not be started.
        """
        ...

    def adopt(self, handle: Handle) -> Handle | None:
        """Return the handle again if exactly that process still runs, else ``None``."""
        ...

    def tree(self, handle: Handle) -> tuple[Member, ...]:
        """Return its live processes, main first, those in other sessions included."""
        ...

    def poll_exit(self, handle: Handle) -> Exit | None:
        """Return how the main process ended, ``None`` while it runs. A second call says the same."""
        ...

    def stop(
        self,
        handle: Handle,
        *,
        drain: timedelta = ...,
        grace: timedelta = ...,
        running: Callable[[], int | None] | None = None,
        gpu_own_bytes: Callable[[], int | None] | None = None,
    ) -> StopReport:
        """End the whole tree and wait until its GPU memory is free. A second call finds nothing to do.

        Args:
            drain: How long to wait for requests in flight, if ``running`` can count them.
            grace: How long the main process may take after SIGTERM.
            running: Requests in flight; ``None`` where it cannot be told.
            gpu_own_bytes: GPU memory that the instance's processes hold; ``None`` where it cannot be told.
        """
        ...

    def clean(self, handle: Handle) -> tuple[str, ...]:
        """Remove the shared memory and sockets that this instance left, and return their paths.

        Raises:
            ControllerError: A process of the instance lives, or another server uses its ports.
        """
        ...


class Actuator(Protocol):
    """A hand: does one kind of thing and says how it went."""

    @property
    def action(self) -> str:
        """The name of its step in a remedy, e.g. ``server.restart``."""
        ...

    def describe(self, step: Step, plan: Plan) -> Text:
        """Say in one line what `perform` would do. Touches nothing."""
        ...

    def perform(self, step: Step, intent: Intent) -> Text:
        """Do it within ``step.timeout``, and say in one line what was done.

        A second call does no further harm.

        Raises:
            ActuatorError: It was not done, or only in part; the message says which, and the cure.
        """
        ...


class GpuUnavailableError(DiagnoseError):
    """The cards cannot be read; the message ends in the cure.

    Attributes:
        kind: ``missing`` (no driver here), ``mismatch`` (its library and module are of different releases), ``hangs``
            (it does not answer) or ``failed``.
    """

    def __init__(self, message: str, kind: str = "failed") -> None:
        super().__init__(message)
        self.kind = kind


class Xid(msgspec.Struct, frozen=True, kw_only=True):
    """An error that the driver reported through NVML's events.

    Attributes:
        number: Counts all that this reader saw, from 1.
        gpu_instance: The slice of a card that is split.
    """

    number: int
    index: int
    pci: str
    xid: int
    gpu_instance: int | None = None


class GpuReader(Protocol):
    """Reads the cards; holds no GPU memory itself, and no CUDA context."""

    def read(self, pids: Collection[int]) -> Sequence[GpuReading]:
        """Return one entry a card, by index; one that is lost has one too.

        Args:
            pids: The processes whose memory counts as own.

        Raises:
            GpuUnavailableError: Nothing can be read now; a later call may work.
        """
        ...

    def xids(self, after: int = 0) -> Sequence[Xid]:
        """Return what the driver reported since the event of this number; the first call begins to listen.

        Never waits, and never raises: a driver that tells no events tells none.
        """
        ...
