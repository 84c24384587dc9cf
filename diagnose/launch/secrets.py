"""Keys and passwords in commands: they start the server, and are shown to nobody."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from diagnose.launch.names import MASK, is_secret
from diagnose.launch.spec import scan
from diagnose.model.launch import LaunchSpec

_ASSIGNMENT = re.compile(r"(?s)([A-Za-z_]\w*)=.*")


def hidden(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command with ``***`` in place of its secrets."""
    words = [_assigned(word) for word in argv]
    for one in scan(argv, 0):
        if is_secret(one.name):
            words[one.start] = f"{one.spelled}={MASK}" if one.joined else one.spelled
            words[one.start + 1 : one.end] = [MASK] * (one.end - one.start - 1)
    return tuple(words)


def without_secrets(spec: LaunchSpec) -> LaunchSpec:
    """Return a command that may be shown: secrets of its arguments and variables are ``***``."""
    return msgspec.structs.replace(spec, argv=hidden(spec.argv), env=hidden_env(spec.env))


def hidden_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return variables with ``***`` for the secret ones."""
    return {name: MASK if is_secret(name) else text for name, text in env.items()}


def _assigned(word: str) -> str:
    """``env FD_API_KEY=x python ...`` has secrets in front of the program."""
    found = _ASSIGNMENT.fullmatch(word)
    return f"{found[1]}={MASK}" if found and is_secret(found[1]) else word
