"""Rules and remedies that change while the daemon runs: good ones come into force, bad ones are told of.

The folders are looked at every few seconds (the states of their files, nothing is read), and at once on SIGHUP. What
has changed and come to rest is read, and its matcher made, in a thread; it comes into force between two turns.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from diagnose.catalog import cache, check, load, trust
from diagnose.catalog.load import Overrides
from diagnose.engine.match import Matcher
from diagnose.errors import ConfigError, DiagnoseError, RuleFileError
from diagnose.model.knowledge import Knowledge

SOURCE = "rules"
"""The source of the `SourceSilent` that tells of a rule base that cannot come into force."""

_EVERY = timedelta(seconds=3)

Around = Callable[[], contextlib.AbstractContextManager[object]]


class Keeper(Protocol):
    """Who judges by the rules: the daemon."""

    knowledge: Knowledge

    def use(self, knowledge: Knowledge, matcher: Matcher) -> None:
        """Judge by these from the next turn on."""
        ...

    def tell_silent(self, source: str, reason: str) -> None:
        """Tell of a sense that cannot see."""
        ...

    def tell_sees(self, source: str) -> None:
        """Tell that it can see again."""
        ...


class Reload:
    """Watches the files that a rule base was made of.

    Args:
        state: Names the present state of the files; quick, as it is asked often.
        read: Makes knowledge and matcher of them, or says with a `DiagnoseError` why not.
        began: The state that the knowledge in force was made of.
        every: Between two looks. A change must have stood for one of them: files are written piece by piece.
        signals: Look at once on SIGHUP. In a terminal that signal means that the terminal has gone.
        around: Is entered while a look that was asked for goes on.
    """

    def __init__(
        self,
        state: Callable[[], str],
        read: Callable[[], tuple[Knowledge, Matcher]],
        *,
        began: str,
        every: timedelta = _EVERY,
        signals: Callable[[], bool] = lambda: not _in_terminal(),
        around: Around = contextlib.nullcontext,
    ) -> None:
        self._state, self._read, self._every = state, read, every
        self._seen = self._judged = began
        self._told = ""
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
            knowledge, matcher = await anyio.to_thread.run_sync(self._read)
        except DiagnoseError as error:
            self._refuse(keeper, str(error))
        except Exception as error:  # noqa: BLE001 - rules that break the loader must not end the watch
            self._refuse(keeper, f"{type(error).__name__}: {error}. Take back what was changed last.")
        else:
            if self._told:
                keeper.tell_sees(SOURCE)
            self._told = ""
            if knowledge.digest != keeper.knowledge.digest:
                keeper.use(knowledge, matcher)

    async def _obey_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                self.now()

    def _refuse(self, keeper: Keeper, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            keeper.tell_silent(SOURCE, f"the changed rules are not in force, those before are: {reason}")


def of_folders(
    folders: Sequence[Path], overrides: Overrides | None, *, began: str, around: Around = contextlib.nullcontext
) -> Reload:
    """Watch the shipped folders, this host's and these.

    Args:
        began: The digest of the knowledge in force.
        around: Is entered while a look that was asked for goes on.
    """

    def state() -> str:
        try:
            return load.digest(folders, overrides)
        except ConfigError as error:  # a folder or file that has gone is a state, too
            return str(error)

    def read() -> tuple[Knowledge, Matcher]:
        trust.refuse_others(load.site_files(folders))
        knowledge = load.load(folders, overrides)
        refuse_circles(knowledge, load.files(folders))
        return knowledge, cache.matcher(knowledge)

    return Reload(state, read, began=began, around=around)


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
