"""The daemon's configuration: one YAML file, or none and a command line."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import msgspec

from diagnose.engine.policy import Policy
from diagnose.errors import ConfigError
from diagnose.model.text import Duration
from diagnose.notices.config import Alerts
from diagnose.profiles.fastdeploy import CANARY_PROMPT
from diagnose.web.place import Http

_RELOADED = frozenset({"policy", "rules", "remedies", "overrides"})
_ELSEWHERE = frozenset({"alerts"})  # has its own way into force, with the messages that wait
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@\\-]*\.service")


class TargetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server to look after.

    Attributes:
        name: How reports and metrics call it.
        command: Program and arguments; no shell.
        env: Variables on top of the daemon's own.
        cwd: Working directory; the daemon's own where not given.
        attach: Port or process id of a server that already runs, instead of a command.
        unit: The systemd unit that the server runs in, instead of a command, e.g. ``fastdeploy@ernie.service``.
        systemctl: How systemd is spoken to, where it is another program than this, or needs one in front.
        log_dir: Where its logs are, if not where the command says (``FD_LOG_DIR``, else ``log``).
    """

    name: str = "default"
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    cwd: str = ""
    attach: int | None = None
    unit: str = ""
    systemctl: tuple[str, ...] = ("systemctl",)
    log_dir: str = ""

    def __post_init__(self) -> None:
        if [bool(self.command), self.attach is not None, bool(self.unit)].count(True) != 1:
            raise ValueError("a target has either a command, or a port or pid to attach to, or a unit")
        if self.unit and not _UNIT.fullmatch(self.unit):
            raise ValueError(f"{self.unit!r} is no service unit: write it as fastdeploy@NAME.service")


class Probes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the server is asked, and how long an answer may take.

    Attributes:
        health_every: Between two questions to ``/health``.
        completion_every: Between two canary completions of a ready server.
        starting_every: Between two questions to a server that starts or is being verified.
        metrics_every: Between two looks at a ready server's ``/metrics``.
        timeout: For a completion; ``/health`` has a third of it.
        prompt: What the canary asks.
    """

    health_every: Duration = Duration(seconds=5)
    completion_every: Duration = Duration(seconds=20)
    starting_every: Duration = Duration(seconds=2)
    metrics_every: Duration = Duration(seconds=5)
    timeout: Duration = Duration(seconds=30)
    prompt: str = CANARY_PROMPT


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it.

    Attributes:
        state_dir: Where the journal, evidence and the servers' output are kept.
        rules, remedies: More folders of them, after the shipped ones and ``/etc/diagnose``.
        overrides: Single fields of rules and remedies by id, e.g. ``{server.fit-memory: {mode: auto}}``.
        commands: Programs that remedies of this site may run, by name: ``{drain: [/usr/bin/drain, --pool, ernie]}``.
        grace: How long a server may take to end by itself.
        kernel_log: Where the kernel's messages are read; the journal is asked where that may not be.
        keep_turns: How long the journal keeps single turns.
        alerts: Who is told, when, and how.
        http: The API and the numbers for Prometheus over TCP; the socket in the state folder is always there.
    """

    targets: tuple[TargetConfig, ...] = ()
    state_dir: str = ""
    lang: str = ""
    policy: Policy = Policy()
    probes: Probes = Probes()
    rules: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, str | int | float | bool]] = {}
    commands: Mapping[str, tuple[str, ...]] = {}
    grace: Duration = Duration(seconds=30)
    kernel_log: str = "/dev/kmsg"
    keep_turns: Duration = Duration(days=7)
    alerts: Alerts = Alerts()
    http: Http = Http()

    def __post_init__(self) -> None:
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError("two targets have the same name; give each its own")
        for name, command in self.commands.items():
            if not command or not command[0].startswith("/"):
                raise ValueError(f"the command {name} names no program; write its full path, then its arguments")


def governed(now: Config, changed: Config) -> tuple[Config, tuple[str, ...]]:
    """Take over what may change while the daemon runs.

    Returns:
        What is in force then, and the names of what differs and takes a restart.
    """
    differs = {name for name in now.__struct_fields__ if getattr(now, name) != getattr(changed, name)}
    taken = {name: getattr(changed, name) for name in differs & _RELOADED}
    return msgspec.structs.replace(now, **taken), tuple(sorted(differs - _RELOADED - _ELSEWHERE))


def refuse_unknown_targets(alerts: Alerts, targets: Collection[str], file: str) -> None:
    """See that what ``alerts:`` names as targets are some: a route to nobody is found when nobody is told.

    Args:
        targets: The names of the supervised servers.
        file: Where it is written.

    Raises:
        ConfigError: One is none.
    """
    named = {"routes": alerts.routes, "maintenance": alerts.maintenance}
    for key, matches in named.items():
        for number, one in enumerate(matches):
            if strange := [name for name in one.targets if name not in targets]:
                raise ConfigError(
                    f"{file}: alerts.{key}[{number}].targets: {strange[0]!r} is no target. "
                    f"Write one of: {', '.join(sorted(targets))}."
                )
