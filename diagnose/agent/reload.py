"""What the daemon goes by changes while it runs: good changes come into force, bad ones are told of.

The files are looked at every few seconds (their states, nothing is read), and at once on SIGHUP. What has changed and
come to rest is read, and made ready, in a thread; it comes into force between two turns.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from diagnose.agent.config import Config, refuse_unknown_targets
from diagnose.catalog import cache, check, load, trust
from diagnose.catalog.load import Overrides
from diagnose.engine.match import Matcher
from diagnose.errors import ConfigError, DiagnoseError, RuleFileError
from diagnose.model.knowledge import Knowledge
from diagnose.notices.config import Alerts

CONFIG, RULES = "configuration", "rules"
"""The sources of the `SourceSilent` that tells of what cannot come into force."""

_EVERY = timedelta(seconds=3)
T = TypeVar("T")

Around = Callable[[], contextlib.AbstractContextManager[object]]


class Keeper(Protocol):
    """Who goes by what is read: the daemon."""

    knowledge: Knowledge

    def use(self, knowledge: Knowledge, matcher: Matcher) -> None:
        """Judge by these from the next turn on."""
        ...

    def govern(self, config: Config) -> None:
        """Go by this from the next turn on, as far as that takes no restart."""
        ...

    def tell_silent(self, source: str, reason: str) -> None:
        """Tell of a sense that cannot see."""
        ...

    def tell_sees(self, source: str) -> None:
        """Tell that it can see again."""
        ...


class Part(Generic[T]):
    """Files that may change, and what is made of them.

    Args:
        source: What they are called where they cannot be used.
        state: Names the present state of the files; quick, as it is asked often.
        read: Makes of them what is gone by, or says with a `DiagnoseError` why not.
        use: Brings it into force.
        began: The state of what is in force.
    """

    def __init__(
        self,
        source: str,
        state: Callable[[], str],
        read: Callable[[], T],
        use: Callable[[Keeper, T], None],
        *,
        began: str,
    ) -> None:
        self._source, self._state, self._read, self._use = source, state, read, use
        self._seen = self._judged = began
        self._told = ""

    async def look(self, keeper: Keeper, *, at_once: bool) -> None:
        """Look once; see `Reload.look`."""
        try:
            seen = await anyio.to_thread.run_sync(self._state)
        except Exception as error:  # noqa: BLE001 - a folder that cannot be looked at must not end the watch
            self._refuse(keeper, f"{type(error).__name__}: {error}")
            return
        resting, self._seen = at_once or seen == self._seen, seen
        if not resting or seen == self._judged:
            return
        self._judged = seen
        try:
            made = await anyio.to_thread.run_sync(self._read)
        except DiagnoseError as error:
            self._refuse(keeper, str(error))
        except Exception as error:  # noqa: BLE001 - files that break what reads them must not end the watch
            self._refuse(keeper, f"{type(error).__name__}: {error}. Take back what was changed last.")
        else:
            if self._told:
                keeper.tell_sees(self._source)
            self._told = ""
            self._use(keeper, made)

    def _refuse(self, keeper: Keeper, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            keeper.tell_silent(self._source, f"what was changed is not in force, what was before is: {reason}")


class Reload:
    """Watches files that may change.

    Args:
        every: Between two looks. A change must have stood for one of them: files are written piece by piece.
        signals: Look at once on SIGHUP. In a terminal that signal means that the terminal has gone.
        around: Is entered while a look that was asked for goes on.
    """

    def __init__(
        self,
        *parts: Part[Any],
        every: timedelta = _EVERY,
        signals: Callable[[], bool] = lambda: not _in_terminal(),
        around: Around = contextlib.nullcontext,
    ) -> None:
        self._parts, self._every = parts, every
        self._signals, self._around = signals, around
        self._asked = anyio.Event()

    def now(self) -> None:
        """Look at once."""
        self._asked.set()

    async def watch(self, keeper: Keeper) -> None:
        """Go on until cancelled."""
        async with anyio.create_task_group() as tasks:
            if self._signals():
                tasks.start_soon(self._obey_signals)
            while True:
                with anyio.move_on_after(self._every.total_seconds()):
                    await self._asked.wait()
                asked, self._asked = self._asked.is_set(), anyio.Event()
                with self._around() if asked else contextlib.nullcontext():
                    await self.look(keeper, at_once=asked)

    async def look(self, keeper: Keeper, *, at_once: bool = False) -> None:
        """Look once; what has changed since the look before last, and not since the last, is judged.

        Args:
            at_once: Judge it even though it may be changing still.
        """
        for part in self._parts:
            await part.look(keeper, at_once=at_once)

    async def _obey_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                self.now()


def rules(
    state: Callable[[], str], read: Callable[[], tuple[Knowledge, Matcher]], *, began: str
) -> Part[tuple[Knowledge, Matcher]]:
    """Watch rules and remedies; see `Part`."""

    def use(keeper: Keeper, made: tuple[Knowledge, Matcher]) -> None:
        knowledge, matcher = made
        if knowledge.digest != keeper.knowledge.digest:
            keeper.use(knowledge, matcher)

    return Part(RULES, state, read, use, began=began)


def of_folders(
    wanted: Callable[[], tuple[Sequence[Path], Overrides]], *, began: str
) -> Part[tuple[Knowledge, Matcher]]:
    """Watch the shipped folders of rules, this host's, and those that the configuration in force names.

    Args:
        wanted: Gives these folders, and single fields that replace those of the files.
        began: The digest of the knowledge in force.
    """

    def state() -> str:
        try:
            return load.digest(*wanted())
        except ConfigError as error:  # a folder or file that has gone is a state, too
            return str(error)

    def read() -> tuple[Knowledge, Matcher]:
        folders, overrides = wanted()
        trust.refuse_others(load.site_files(folders))
        knowledge = load.load(folders, overrides)
        refuse_circles(knowledge, load.files(folders))
        return knowledge, cache.matcher(knowledge)

    return rules(state, read, began=began)


def of_config(
    file: Path,
    read: Callable[[], Config],
    alerts: Alerts,
    targets: Collection[str],
    make: Callable[[Alerts], T],
    use: Callable[[T], None],
) -> Part[tuple[Config, T]]:
    """Watch a configuration, and the templates that its ``alerts:`` name; all of a change is good, or none.

    Args:
        read: Reads it again, with all that counts beside the file.
        alerts: Those in force.
        targets: The names of the supervised servers.
        make: Makes the alert path of them; says with a `ConfigError` where it cannot.
    """
    templates = [one.template for one in alerts.receivers if one.template]

    def state() -> str:
        return str([_state_of(path) for path in (str(file), *templates)])

    def read_all() -> tuple[Config, T]:
        trust.refuse_others([file])
        found = read()
        refuse_unknown_targets(found.alerts, targets, str(file))
        templates[:] = [one.template for one in found.alerts.receivers if one.template]
        return found, make(found.alerts)

    def use_all(keeper: Keeper, made: tuple[Config, T]) -> None:
        keeper.govern(made[0])
        use(made[1])

    return Part(CONFIG, state, read_all, use_all, began=state())


def _state_of(path: str) -> tuple[int, int, int, int] | str:
    try:
        seen = Path(path).stat()
    except OSError as error:
        return str(error)
    return seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino


def refuse_circles(knowledge: Knowledge, files: Sequence[Path]) -> None:
    """Refuse rules whose ``explains`` go in a circle: no root cause would be left.

    Args:
        files: Where the rules come from, the last word last.

    Raises:
        RuleFileError: They do; it names the rule that was told last.
    """
    circle = check.find_circle(knowledge)
    if not circle:
        return
    steps = set(pairwise(circle))
    rules = [rule.id for rule in knowledge.rules.values() if any((rule.cause, echo) in steps for echo in rule.explains)]
    path, line = _place(rules, files)
    raise RuleFileError(
        path=path,
        line=line,
        problem=f"explains goes in a circle: {' -> '.join(circle)}",
        hint="A cause explains its echoes only; take one of these out",
    )


def _place(rules: Sequence[str], files: Sequence[Path]) -> tuple[str, int]:
    """Find the last file that holds one of these rules, and its line there."""
    names = "|".join(re.escape(one) for one in rules)
    wanted = re.compile(rf"""(?:^|\n)[ \t]*(?:-[ \t]+)?id:[ \t]*["']?(?:{names})["']?[ \t]*(?=[\r\n#]|$)""")
    for path in reversed(files):
        text = path.read_text(encoding="utf-8", errors="replace")
        if found := wanted.search(text):
            return str(path), text.count("\n", 0, found.start()) + (2 if found[0].startswith("\n") else 1)
    return "explains", 1


def not_yet() -> None:
    """Survive a SIGHUP that comes before anybody watches: the rules were just read. No child inherits that."""
    if not _in_terminal():
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def _in_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False
