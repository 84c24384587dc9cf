"""Starting a process that outlives us, and signalling exactly the one that was meant."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from diagnose.controllers import procfs
from diagnose.errors import ControllerError
from diagnose.model.launch import LaunchSpec
from diagnose.ports import Member

CONSOLE = "console.log"
"""The file of a start that takes what its command writes to the terminal."""


def spawn(spec: LaunchSpec, console: Path, env: Mapping[str, str], *, umask: int = -1) -> subprocess.Popen[bytes]:
    """Start a command in its own session, its output appended to a file.

    Args:
        umask: Of the command; ours where negative.

    Raises:
        ControllerError: It could not be started.
    """
    if not spec.argv:
        raise ControllerError("there is no command to start. Give one behind --.")
    try:
        console.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ControllerError(f"{console} cannot be written: {error.strerror}. Name a run_dir that can.") from error
    try:
        return subprocess.Popen(  # noqa: S603 - the operator's own command, no shell
            spec.argv,
            cwd=spec.cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=umask,
        )
    except FileNotFoundError as error:
        if not Path(spec.cwd).is_dir():
            raise ControllerError(f"the working directory {spec.cwd} is not there. Create it.") from error
        raise ControllerError(f"{spec.argv[0]} is not there. Give its full path, or correct PATH.") from error
    except OSError as error:
        raise ControllerError(f"{spec.argv[0]} cannot be started: {error.strerror}. Try it by hand.") from error
    finally:
        os.close(descriptor)


def send(members: Iterable[Member], number: signal.Signals) -> set[int]:
    """Signal exactly these processes and return the pids that were reached; who is gone is passed over.

    Raises:
        ControllerError: A process may not be signalled.
    """
    reached = set()
    for one in members:
        try:
            descriptor = os.pidfd_open(one.pid)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise ControllerError(
                f"process {one.pid} cannot be signalled: {error.strerror}. Use Linux 5.3+."
            ) from error
        try:
            found = procfs.stat(one.pid)  # the descriptor holds the process: its number cannot pass to another now
            if found is not None and found.ticks == one.ticks:
                signal.pidfd_send_signal(descriptor, number)
                reached.add(one.pid)
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise ControllerError(
                f"process {one.pid} belongs to another user. Run diagnose as that user or as root."
            ) from error
        finally:
            os.close(descriptor)
    return reached
