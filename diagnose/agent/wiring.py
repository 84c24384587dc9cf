"""The one place that names the concrete parts and puts them together."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnose.agent import lock, manager, reload
from diagnose.agent.clock import SteadyClock
from diagnose.agent.config import Config, TargetConfig, refuse_unknown_targets
from diagnose.agent.given import Unused
from diagnose.agent.house import House
from diagnose.agent.loop import Daemon, Watcher
from diagnose.agent.reload import Part, Reload
from diagnose.agent.session import Session
from diagnose.agent.vitals import Tally
from diagnose.catalog import cache, load, trust
from diagnose.catalog.load import Overrides
from diagnose.controllers.process import ProcessController
from diagnose.controllers.systemd import SystemdController
from diagnose.engine.state import State
from diagnose.journal import Journal
from diagnose.model.effect import Effect
from diagnose.model.knowledge import Knowledge
from diagnose.notices.config import Alerts
from diagnose.ports import Clock
from diagnose.sources.gpu import reader_for
from diagnose.sources.kernel import KernelLog
from diagnose.web import api, door

if TYPE_CHECKING:
    from diagnose.agent.alerting import Alerting, Senders


def knowledge_of(config: Config, rules: Sequence[str] = (), remedies: Sequence[str] = ()) -> Knowledge:
    """Load what is known: shipped, of this host, of the configuration, of the command line.

    Raises:
        RuleFileError: A file cannot be used.
    """
    return load.load(_folders(config, rules, remedies), overrides=config.overrides)


def _folders(config: Config, rules: Sequence[str] = (), remedies: Sequence[str] = ()) -> list[Path]:
    return [Path(one) for one in (*config.rules, *config.remedies, *rules, *remedies)]


@contextlib.contextmanager
def daemon(
    config: Config,
    state_dir: Path,
    *,
    watcher: Watcher,
    file: Path | None = None,
    read: Callable[[], Config] | None = None,
    stop_servers: bool = False,
    ready_when: manager.ReadyWhen = "watching",
    tell: Callable[[Unused], None] = lambda _unused: None,
) -> Iterator[Daemon]:
    """Put the daemon together; its journal is closed and its lock let go in the end.

    Args:
        file: Where the configuration was read from: what it says may change while the daemon runs.
        read: Reads it again where more than the file counts, as a command line does.
        ready_when: When the service manager is told that the daemon is ready.
        tell: Is told of a command or port that was given for a server that runs otherwise.

    Raises:
        DiagnoseError: Something of it cannot be used; the message ends in the cure.
    """
    told = manager.of_environment(os.environ, ready_when)
    folders = _folders(config)
    trust.refuse_others(load.site_files(folders))
    knowledge = knowledge_of(config)
    matcher = cache.matcher(knowledge)
    gpu = reader_for(os.environ)
    with _private_files() as umask, lock.only_one(state_dir), contextlib.closing(Journal(state_dir)) as journal:
        clock = SteadyClock(journal.last())
        sessions = {
            target.name: Session(
                config=target,
                probes=config.probes,
                grace=config.grace,
                state_dir=state_dir,
                matcher=matcher,
                controller=_controller(target, state_dir, umask),
                gpu=gpu,
                clock=clock,
                keep=journal.keep,
                kernel=KernelLog(target.name, path=Path(config.kernel_log)),
                tell=tell,
                commands=config.commands,
            )
            for target in config.targets
        }
        if file:
            refuse_unknown_targets(config.alerts, sessions, str(file))
        alerts = _alerting(*_senders(config.alerts), journal, sessions, clock)
        parts: list[Part[Any]] = []
        if file:
            again = read or partial(load.read_config, file, Config)
            parts.append(
                reload.of_config(file, again, config.alerts, sessions, _senders, lambda made: _tell_by(mind, *made))
            )

        def wanted() -> tuple[Sequence[Path], Overrides]:
            return _folders(mind.config), mind.config.overrides

        parts.append(reload.of_folders(wanted, began=knowledge.digest))
        tally = Tally(journal.state())

        def watched(state: State, effects: Sequence[Effect]) -> None:
            tally.note(state, effects)
            watcher(state, effects)

        try:
            mind = Daemon(
                config=config,
                knowledge=knowledge,
                journal=journal,
                sessions=sessions,
                clock=clock,
                watcher=watched,
                stop_servers=stop_servers,
                reload=Reload(*parts, around=told.reloading),
                door=lambda mind: door.serve(
                    api.app(House(mind, state_dir, tally)),
                    state_dir,
                    config.http,
                    lambda why: mind.tell_silent("http", why),
                ),
                alerts=alerts,
                manager=told,
            )
            yield mind
        finally:
            for session in sessions.values():
                session.close()


@contextlib.contextmanager
def _private_files() -> Iterator[int]:
    """Let nobody else read what is written meanwhile; gives what held before, for the servers."""
    before = os.umask(0o077)
    try:
        yield before
    finally:
        os.umask(before)


def _senders(alerts: Alerts) -> tuple[Alerts, Senders]:
    """Make the senders of a configuration; one that has nobody to tell loads nothing of them."""
    if not alerts.receivers:
        return alerts, {}
    from diagnose.receivers import make  # noqa: PLC0415 - templates and senders cost memory

    return alerts, make.senders(alerts)


def _alerting(
    alerts: Alerts, senders: Senders, journal: Journal, targets: Iterable[str], clock: Clock
) -> Alerting | None:
    """Make the alert path, where there is somebody to tell."""
    if not senders:
        return None
    from diagnose.agent.alerting import Alerting  # noqa: PLC0415 - see `_senders`

    return Alerting(alerts, senders, journal, targets=targets, clock=clock)


def _tell_by(mind: Daemon, alerts: Alerts, senders: Senders) -> None:
    """Bring another configuration of alerts into force."""
    if mind.alerts:
        mind.alerts.use(alerts, senders)
    elif made := _alerting(alerts, senders, mind.journal, mind.sessions, mind.clock):
        mind.tell_by(made)


def _controller(target: TargetConfig, state_dir: Path, umask: int) -> ProcessController:
    if target.unit:
        return SystemdController(target.unit, overlays=state_dir / "overlays", systemctl=target.systemctl)
    return ProcessController(owner=_owner(state_dir), umask=umask)


def _owner(state_dir: Path) -> str:
    """Name this daemon among others on the host: no server of another one is ever taken for its own."""
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]
