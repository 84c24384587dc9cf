"""Where the API listens: on a socket in the state folder, and on TCP where the configuration says so.

Who may write the state folder may give orders; on TCP a token is asked for (`diagnose.web.gate`).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import uvicorn
from starlette.types import ASGIApp

from diagnose.web.gate import Gate
from diagnose.web.place import Http, short_path

_MOST_AT_ONCE = 64
"""Connections over TCP."""


async def serve(app: ASGIApp, folder: Path, http: Http, shut: Callable[[str], None]) -> None:
    """Serve until cancelled.

    Args:
        shut: Is told why it cannot be served over TCP; the socket in the folder is served all the same.

    Raises:
        OSError: The socket in the folder cannot be made.
    """
    async with anyio.create_task_group() as tasks:
        if http.listen:
            tasks.start_soon(_serve_tcp, app, http, shut)
        with listening(folder) as listener:
            await _server(app).serve(sockets=[listener])


async def _serve_tcp(app: ASGIApp, http: Http, shut: Callable[[str], None]) -> None:
    host, port = http.address
    token = http.token if http.token_file else None
    guarded = Gate(app, token=token, names=http.names, open_reads=http.is_loopback)
    try:
        listener = bound(host, port)
    except OSError as error:
        shut(f"{http.listen}: {error.strerror}. Choose another http: listen, and start the daemon again.")
        return
    with listener:
        await _server(guarded, most=_MOST_AT_ONCE).serve(sockets=[listener])


def bound(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        OSError: It is taken, or none of ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # named, or asyncio leaves Nagle's delay on
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


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
        Path(path).chmod(0o660)  # the folder says who comes this far; its group are the operators
        listener.listen()
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()


def _server(app: ASGIApp, *, most: int | None = None) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            log_level="error",  # what strangers send is no news
            server_header=False,
            limit_concurrency=most,
        )
    )


class _Server(uvicorn.Server):
    """Leaves signals to the daemon, and turns once a second where uvicorn turns ten times: it costs an idle daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # noqa: ASYNC110 - no event: each turn renews the date that answers bear
            await anyio.sleep(1)
