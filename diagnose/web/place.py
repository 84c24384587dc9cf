"""Where the API is: its socket in the state folder, and its address on TCP; for who serves it and who asks it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from diagnose.errors import ConfigError

NAME = "api.sock"
"""Of the socket in the state folder."""

_LEAST_TOKEN = 16


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The API over TCP.

    Attributes:
        listen: Address and port, as ``127.0.0.1:9411`` or ``[::1]:9411``; empty: only the socket in the state folder.
        token_file: Its first line is asked of who changes something, and, where ``listen`` is not loopback, of who
            reads incidents. Without it nothing can be changed over TCP.
        names: More names by which the host is asked, as a proxy before it or its users write them.
    """

    listen: str = ""
    token_file: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.listen and not self.token_file and not _address(self.listen)[0].is_loopback:
            raise ValueError("listen is no loopback address, so a token_file is needed; or listen on 127.0.0.1:PORT")

    @property
    def address(self) -> tuple[str, int]:
        """Address and port."""
        ip, port = _address(self.listen)
        return str(ip), port

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        return _address(self.listen)[0].is_loopback

    def token(self) -> str:
        """Read the token.

        Raises:
            ConfigError: It is not there, or too short to be one.
        """
        path = Path(self.token_file)
        try:
            with path.open(encoding="utf-8") as file:
                token = file.readline().strip()
        except (OSError, UnicodeDecodeError) as error:
            told = error.strerror if isinstance(error, OSError) else "no text"
            raise ConfigError(f"http: {path}: {told}. Put a token there: openssl rand -hex 32") from error
        if len(token) < _LEAST_TOKEN:
            raise ConfigError(
                f"http: {path}: less than {_LEAST_TOKEN} characters. Put a token there: openssl rand -hex 32"
            )
        return token


def _address(listen: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    host, _, port = listen.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise ValueError(f"{listen!r} is no address and port; write it like 127.0.0.1:9411 or [::1]:9411") from error
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{listen!r} has no port; write it like 127.0.0.1:9411")
    return ip, int(port)


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Name the socket by its folder's descriptor: the kernel takes no path of more than 107 bytes."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{NAME}"
    finally:
        os.close(handle)
