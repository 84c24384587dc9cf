"""What the operator gave for a server that runs already, and that is not what runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from diagnose.agent.config import TargetConfig
from diagnose.engine.state import State
from diagnose.launch.spec import diff, fastdeploy_part, set_flag
from diagnose.model import codec
from diagnose.model.launch import LaunchSpec
from diagnose.ports import Handle

QUEUE_FLAGS = ("--engine-worker-queue-port", "--cache-queue-port")
"""Flags that the daemon chooses where the operator does not."""


class Unused(msgspec.Struct, frozen=True, kw_only=True):
    """A server was taken over as it runs, although something else was given.

    Attributes:
        pid: Of the server.
        changes: What was given, against what runs; a line each, secrets hidden.
    """

    pid: int
    changes: tuple[str, ...]


def unused_of(kept: Mapping[str, bytes], state: State) -> dict[str, tuple[str, ...]]:
    """Return, by target, what was given and is not used, for servers that still are the ones that were taken over.

    Args:
        kept: What the journal keeps, by name.
    """
    found = {name: kept.get(f"unused/{name}", b"null") for name in state.targets}
    noted = {name: codec.decode(value, Unused) for name, value in found.items() if value != b"null"}
    return {name: one.changes for name, one in noted.items() if one.pid == state.targets[name].pid}


def chosen(config: TargetConfig) -> frozenset[str]:
    """Return the flags whose values are the daemon's own choice."""
    words = {word.partition("=")[0] for word in config.command}
    return frozenset(flag for flag in QUEUE_FLAGS if flag not in words)


def unused_command(config: TargetConfig, wanted: LaunchSpec, runs: LaunchSpec, handle: Handle) -> Unused | None:
    """Compare the command that was given with the operator's command of the server that runs.

    Args:
        wanted: The command, as it would be started.
        runs: Without what remedies laid over it.

    Raises:
        ConfigError: One of them starts no FastDeploy server.
    """
    own = chosen(config)
    runs, wanted = without(runs, own), without(wanted, own)
    told = list(diff(runs, wanted))
    if handle.instance:  # of one that somebody else started, /proc tells more words and variables than were given
        program, given = (spec.argv[: fastdeploy_part(spec.argv)] for spec in (runs, wanted))
        told += [f"{' '.join(program)} -> {' '.join(given)}"] if program != given else []
    else:
        named = {f"env {name}" for name in config.env}
        told = [line for line in told if not line.startswith("env ") or " ".join(line.split()[:2]) in named]
    return Unused(pid=handle.pid, changes=tuple(told)) if told else None


def unused_attach(number: int, handle: Handle, pids: frozenset[int]) -> Unused | None:
    """Compare the port or process that was given with the server that runs."""
    if number in {handle.pid, handle.ports.http, *pids}:
        return None
    return Unused(pid=handle.pid, changes=(f"--attach {handle.ports.http or handle.pid} -> {number}",))


def without(spec: LaunchSpec, flags: Iterable[str]) -> LaunchSpec:
    """Return a command without these flags."""
    for flag in flags:
        spec = set_flag(spec, flag, None)
    return spec
