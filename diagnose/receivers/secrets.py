"""Secrets: read when they are needed, so that a new one counts at once, and never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from diagnose.errors import ConfigError
from diagnose.notices.config import Secret

_SHOWN = "***"
_URL = re.compile(r"(https?://[^/\s'\"?#]+)[^\s'\"]*")
_TOKEN = re.compile(r"[/=]")
_LEAST = 4


def read(secret: Secret, environ: Mapping[str, str] = os.environ) -> str:
    """Read a secret.

    Raises:
        ConfigError: It is not there.
    """
    if secret.env:
        value = environ.get(secret.env, "").strip()
        if not value:
            raise ConfigError(
                f"alerts: the variable {secret.env} is empty. Set it where the daemon is started, or use file:."
            )
        return value
    try:
        with Path(secret.file).open(encoding="utf-8") as file:
            value = file.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigError(f"alerts: {secret.file}: {told}. Put the secret there, readable for the daemon.") from error
    if not value:
        raise ConfigError(f"alerts: {secret.file}: its first line is empty. Put the secret there.")
    return value


def plain(value: str | Secret) -> str:
    """Read what may be written openly.

    Raises:
        ConfigError: It is not there.
    """
    return value if isinstance(value, str) else read(value)


def opened(headers: Mapping[str, str | Secret]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Read headers; return with them the values of those that are secret.

    Raises:
        ConfigError: One is not there.
    """
    read_ones = {name: plain(value) for name, value in headers.items()}
    return read_ones, tuple(read_ones[name] for name, value in headers.items() if isinstance(value, Secret))


def of_url(url: str) -> tuple[str, ...]:
    """Return what must not be shown of a secret URL: all of it, and the token at its end.

    >>> of_url("https://chat.example/send?key=abcd1234")
    ('https://chat.example/send?key=abcd1234', 'abcd1234')
    """
    return url, _TOKEN.split(url)[-1]


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Take secrets out of words that people will see: themselves, and all of a URL but its host.

    >>> hidden("no answer from https://chat.example/hook/abcd1234?key=x", [])
    'no answer from https://chat.example/***'
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _LEAST:
            text = text.replace(secret, _SHOWN)
    return _URL.sub(rf"\1/{_SHOWN}", text)
