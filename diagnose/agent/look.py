"""Looking around at each start, beside everything else: what surrounds it, and what its software can do."""

from __future__ import annotations

import os
import queue
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from diagnose.agent.guard import reason_of
from diagnose.launch.surroundings import Sealer
from diagnose.model.observation import ServerFacts, SourceSilent, Surroundings
from diagnose.sources import facts, surroundings
from diagnose.sources.surroundings import Look

Seen = Surroundings | ServerFacts | SourceSilent

SOURCE = "surroundings"
_KEY = "seal.key"
_LAST_WORDS = 1.0
"""Seconds that the end of the daemon waits for what is being asked to be given up."""


class Lookout:
    """Looks around in threads of its own: a hanging ``--help`` or folder never keeps anyone waiting.

    Args:
        folder: Where the answers of each version, and the key of the fingerprints, are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def begin(self, look: Look, *, known: bool = False) -> None:
        """Look around at a start; `news` tells it.

        Args:
            known: Its surroundings are known already: only its software is asked.
        """
        if not known:
            self._aside(look, lambda: surroundings.collect(look, sealer(self._folder), self._stop))
        self._aside(
            look,
            lambda: facts.learn(
                look.desired, target=look.target, now=look.at, cache=self._folder / "flags", stop=self._stop
            ),
        )

    def news(self) -> list[Seen]:
        """Return what was seen since the last call."""
        return [self._seen.get_nowait() for _ in range(self._seen.qsize())]

    def end(self) -> None:
        """Give up what is being asked. No thread holds the daemon back: each dies with it."""
        self._stop.set()
        for one in self._threads:
            one.join(_LAST_WORDS / len(self._threads))

    def _aside(self, look: Look, ask: Callable[[], Seen]) -> None:
        def answer() -> None:
            try:
                seen = ask()
            except Exception as error:  # noqa: BLE001 - a thread that dies unheard is a sense that is blind unknown
                seen = SourceSilent(target=look.target, at=look.at, source=SOURCE, reason=reason_of(error))
            if not self._stop.is_set():
                self._seen.put(seen)

        self._threads = [one for one in self._threads if one.is_alive()]
        thread = threading.Thread(target=answer, name="lookout", daemon=True)
        self._threads.append(thread)
        thread.start()


def sealer(folder: Path) -> Sealer:
    """Return the maker of fingerprints; its key stays the same over restarts, and leaves this folder never.

    Where no key can be kept there is none: secrets then look all alike, and never changed.
    """
    file = folder / _KEY
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    except OSError:
        return Sealer()
    try:
        return Sealer(file.read_bytes())
    except OSError:
        return Sealer()
