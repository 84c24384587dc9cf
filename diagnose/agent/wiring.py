"""The one place that names the concrete parts and puts them together."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diagnose.agent import lock, manager, reload
from diagnose.agent.clock import SteadyClock
from diagnose.agent.config import Config, TargetConfig
from diagnose.agent.given import Unused
from diagnose.agent.house import House
from diagnose.agent.loop import Daemon, Watcher
from diagnose.agent.session import Session
from diagnose.agent.vitals import Tally
from diagnose.catalog import cache, load, trust
from diagnose.controllers.process import ProcessController
from diagnose.controllers.systemd import SystemdController
from diagnose.engine.state import State
from diagnose.journal import Journal
from diagnose.model.effect import Effect
from diagnose.model.knowledge import Knowledge
from diagnose.ports import Clock
from diagnose.sources.gpu import reader_for
from diagnose.sources.kernel import KernelLog
from diagnose.web import api, door

if TYPE_CHECKING:
    from diagnose.agent.alerting import Alerting


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
    stop_servers: bool = False,
    ready_when: manager.ReadyWhen = "watching",
    tell: Callable[[Unused], None] = lambda _unused: None,
) -> Iterator[Daemon]:
    """Put the daemon together; its journal is closed and its lock let go in the end.

    Args:
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
            )
            for target in config.targets
        }
        alerts = _alerting(config, journal, sessions, clock)
        tally = Tally(journal.state())

        def watched(state: State, effects: Sequence[Effect]) -> None:
            tally.note(state, effects)
            watcher(state, effects)

        try:
            yield Daemon(
                config=config,
                knowledge=knowledge,
                journal=journal,
                sessions=sessions,
                clock=clock,
                watcher=watched,
                stop_servers=stop_servers,
                reload=reload.of_folders(folders, config.overrides, began=knowledge.digest, around=told.reloading),
                door=lambda mind: door.serve(
                    api.app(House(mind, state_dir, tally)),
                    state_dir,
                    config.http,
                    lambda why: mind.tell_silent("http", why),
                ),
                alerts=alerts,
                manager=told,
            )
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


def _alerting(config: Config, journal: Journal, targets: Iterable[str], clock: Clock) -> Alerting | None:
    """Make the alert path; a daemon that has nobody to tell loads nothing of it."""
    if not config.alerts.receivers:
        return None
    from diagnose.agent.alerting import Alerting  # noqa: PLC0415 - templates and senders cost memory

    return Alerting(config.alerts, journal, targets=targets, clock=clock)


def _controller(target: TargetConfig, state_dir: Path, umask: int) -> ProcessController:
    if target.unit:
        return SystemdController(target.unit, overlays=state_dir / "overlays", systemctl=target.systemctl)
    return ProcessController(owner=_owner(state_dir), umask=umask)


def _owner(state_dir: Path) -> str:
    """Name this daemon among others on the host: no server of another one is ever taken for its own."""
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]
