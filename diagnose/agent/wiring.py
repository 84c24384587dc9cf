"""The one place that names the concrete parts and puts them together."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from diagnose.agent import lock, reload
from diagnose.agent.config import Config
from diagnose.agent.loop import Daemon, Watcher
from diagnose.agent.session import Session
from diagnose.catalog import cache, load
from diagnose.controllers.process import ProcessController
from diagnose.journal import Journal
from diagnose.model.knowledge import Knowledge
from diagnose.sources.gpu import reader_for


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the present (aware, UTC)."""
        return datetime.now(timezone.utc)


def knowledge_of(config: Config, rules: Sequence[str] = (), remedies: Sequence[str] = ()) -> Knowledge:
    """Load what is known: shipped, of this host, of the configuration, of the command line.

    Raises:
        RuleFileError: A file cannot be used.
    """
    return load.load(_folders(config, rules, remedies), overrides=config.overrides)


def _folders(config: Config, rules: Sequence[str] = (), remedies: Sequence[str] = ()) -> list[Path]:
    return [Path(one) for one in (*config.rules, *config.remedies, *rules, *remedies)]


@contextlib.contextmanager
def daemon(config: Config, state_dir: Path, *, watcher: Watcher, stop_servers: bool = False) -> Iterator[Daemon]:
    """Put the daemon together; its journal is closed and its lock let go in the end.

    Raises:
        DiagnoseError: Something of it cannot be used; the message ends in the cure.
    """
    knowledge = knowledge_of(config)
    matcher = cache.matcher(knowledge)
    journal = Journal(state_dir)
    clock = SystemClock()
    with lock.only_one(state_dir), contextlib.closing(journal):
        sessions = {
            target.name: Session(
                config=target,
                probes=config.probes,
                grace=config.grace,
                state_dir=state_dir,
                matcher=matcher,
                controller=ProcessController(owner=_owner(state_dir)),
                gpu=reader_for(os.environ),
                clock=clock,
                keep=journal.keep,
            )
            for target in config.targets
        }
        yield Daemon(
            config=config,
            knowledge=knowledge,
            journal=journal,
            sessions=sessions,
            clock=clock,
            watcher=watcher,
            stop_servers=stop_servers,
            reload=reload.of_folders(_folders(config), config.overrides, began=knowledge.digest),
        )


def _owner(state_dir: Path) -> str:
    """Name this daemon among others on the host: no server of another one is ever taken for its own."""
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]
