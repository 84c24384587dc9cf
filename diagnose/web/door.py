"""The socket in the state folder: who may write that folder may give orders, nobody else."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

NAME = "api.sock"


async def serve(app: Starlette, folder: Path) -> None:
    """Serve until cancelled.

    Raises:
        OSError: The socket cannot be made.
    """
    with listening(folder) as listener:
        server = _Server(uvicorn.Config(app, lifespan="off", ws="none", access_log=False, log_config=None))
        await server.serve(sockets=[listener])


@contextlib.contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """Hold the socket; it is gone in the end.

    Raises:
        OSError: It cannot be made.
    """
    with short_path(folder) as path, socket.socket(socket.AF_UNIX) as listener:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()  # of a daemon that was killed: the folder has one daemon at a time
        listener.bind(path)
        Path(path).chmod(0o600)
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Name the socket by its folder's descriptor: the kernel takes no path of more than 107 bytes."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{NAME}"
    finally:
        os.close(handle)


class _Server(uvicorn.Server):
    """Leaves signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
