"""What a desk of the API is: what it takes, what it may answer, and what several of them need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from msgspec import UnsetType

from diagnose.model.text import Duration, Lang
from diagnose.web.house import House
from diagnose.web.shapes import Refusal


@dataclass(frozen=True)
class Asked:
    """One request, understood.

    Attributes:
        names: What stands in its path.
        query, body: Of the types that its desk names.
    """

    house: House
    names: Mapping[str, str]
    query: Any
    body: Any

    @property
    def lang(self) -> Lang:
        """In which language it is to be answered."""
        return getattr(self.query, "lang", "en")


@dataclass(frozen=True)
class Answer:
    """What is answered: one of the shapes of the desk."""

    status: int
    body: object


@dataclass(frozen=True)
class Desk:
    """One thing that can be asked for.

    Attributes:
        name: Of the operation.
        about: What it does, in a sentence.
        serve: Answers; may block where it is not a coroutine function.
        gives: Shape of the answer, by status. Problems that every desk may have are not named here.
        query, body: Shapes of what it takes.
    """

    method: str
    path: str
    name: str
    about: str
    serve: Callable[[Asked], Answer | Awaitable[Answer]]
    gives: Mapping[int, Any] = field(default_factory=dict)
    query: Any = None
    body: Any = None


def target_of(asked: Asked, name: str) -> str:
    """Return the server that is meant: the only one where none is named."""
    names = sorted(asked.house.targets)
    if not name and len(names) == 1:
        return names[0]
    if name in names:
        return name
    raise Refusal(404, f"no target {name!r}" if name else "which target?", f"Name one of: {', '.join(names)}.")


def back_to(given: str | UnsetType, now: datetime) -> datetime | None:
    """Return the moment that lies so long back; ``None`` where no length is given."""
    return now - length(given) if given else None


def length(text: str) -> timedelta:
    """Read a length of time of the API's own form; one of more than ten years is as good as ten."""
    return min(Duration.parse(text), timedelta(days=3650))
