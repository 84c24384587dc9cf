"""Puts a person's order to the running daemon, and says what became of it."""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from diagnose.cli.place import language, state_dir
from diagnose.errors import InputError

if TYPE_CHECKING:
    from diagnose.journal import Snapshot
    from diagnose.model.incident import Incident

T = TypeVar("T")
EXIT_OBEYED, EXIT_REFUSED = 0, 2
_PATIENCE_S = 30.0


def tell(args: argparse.Namespace, kind: str, *, target: str, incident: str = "", why: str = "") -> int:
    """Give the order and print the answer; 0 obeyed, 2 refused.

    Args:
        args: May have ``lasting``: for how long an approval or a pause holds.

    Raises:
        InputError: No daemon looks after the state folder.
    """
    from diagnose.model import codec
    from diagnose.model.effect import Answered
    from diagnose.model.observation import Order
    from diagnose.report import texts
    from diagnose.web.api import ORDERS

    now = datetime.now(timezone.utc)
    lasting: timedelta | None = getattr(args, "lasting", None)
    given = {"target": target, "kind": kind, "by": who(), "incident": incident, "why": why}
    until = now + lasting if lasting else None
    order = codec.convert({**given, "id": secrets.token_hex(4), "at": now, "until": until}, Order)
    answer = post(state_dir(args), ORDERS, order, Answered)
    print(texts.answer_text(answer, language(args)))
    return EXIT_OBEYED if answer.ok else EXIT_REFUSED


def post(folder: Path, path: str, asked: object, kind: type[T]) -> T:
    """Ask the daemon of a state folder.

    Args:
        path: Of its API.
        kind: What it answers with.

    Raises:
        InputError: None answers, or it does not understand.
    """
    import httpx
    import msgspec

    from diagnose.model import codec
    from diagnose.web.door import short_path

    try:
        with short_path(folder) as socket, httpx.Client(transport=httpx.HTTPTransport(uds=socket)) as client:
            answer = client.post(f"http://diagnose{path}", content=codec.encode(asked), timeout=_PATIENCE_S)
    except (OSError, httpx.ConnectError) as error:
        raise InputError(
            f"no daemon answers in {folder} ({error}). Start it (diagnose run ...), name its folder (--state-dir DIR), "
            "or become its user."
        ) from error
    except httpx.HTTPError as error:
        raise InputError(
            f"the daemon in {folder} does not answer ({type(error).__name__}). See diagnose status, then ask again."
        ) from error
    try:
        return codec.decode(answer.content, kind)
    except msgspec.MsgspecError as error:
        raise InputError(f"the daemon says: {answer.text[:500]}. Is it of the same version?") from error


def who() -> str:
    """Name the person for the history."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def one_target(snapshot: Snapshot, wanted: str | None) -> str:
    """Return the target that is meant.

    Raises:
        InputError: It is not known, or several are and none is named.
    """
    names = sorted(snapshot.state.targets)
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return wanted or ""
    problem = f"no target {wanted!r}." if wanted else "which target?"
    raise InputError(f"{problem} There are: {', '.join(names) or 'none'}. Name one with --target.")


def one_incident(snapshot: Snapshot, wanted: str | None) -> Incident:
    """Return the incident that is meant: by its id or the beginning of it; the newest that waits where none is named.

    Raises:
        InputError: There is none, or several.
    """
    from diagnose.model.incident import State

    if wanted is None:
        found = [one for one in snapshot.incidents if one.state is State.OPEN and one.plan][:1]
        problem = "no incident waits for a person"
    else:
        found = [one for one in snapshot.incidents if one.id == wanted]
        found = found or [one for one in snapshot.incidents if one.id.startswith(wanted)]
        problem = f"{len(found)} incidents begin with {wanted!r}" if found else f"no incident {wanted!r}"
    if len(found) != 1:
        raise InputError(f"{problem}. See diagnose incidents.")
    return found[0]


def add_lasting(parser: argparse.ArgumentParser, flag: str, what: str) -> None:
    """Add a length of time."""
    parser.add_argument(flag, dest="lasting", type=_lasting, metavar="DURATION", help=what)


def _lasting(text: str) -> timedelta:
    from diagnose.model.text import Duration

    try:
        found = Duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if found <= timedelta(0):
        raise argparse.ArgumentTypeError(f"{text!r} is over at once; give a length like 30m or 2h")
    return found
