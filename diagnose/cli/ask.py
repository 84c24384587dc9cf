"""Puts a person's order to the running daemon, and says what became of it."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from diagnose.cli.place import language, state_dir
from diagnose.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diagnose.journal import Snapshot
    from diagnose.model.incident import Incident
    from diagnose.web.shapes import Reply

T = TypeVar("T")
EXIT_OBEYED, EXIT_REFUSED = 0, 2
_PATIENCE_S = 30.0
_PATIENCE_TO_LOOK_S = 3.0
"""Then the journal is asked: a daemon that hangs is just when somebody looks."""


def tell(args: argparse.Namespace, kind: str, *, target: str, incident: str = "", why: str = "") -> int:
    """Give the order and print the answer; 0 obeyed, 2 refused.

    Args:
        args: May have ``lasting``: for how long an approval or a pause holds.

    Raises:
        InputError: No daemon looks after the state folder.
    """
    from diagnose.web import paths

    lasting: timedelta | None = getattr(args, "lasting", None)
    order = {"kind": kind, "by": who(), "target": target, "incident": incident, "for": spelled(lasting), "why": why}
    return said(put(args, "POST", paths.ORDERS, order))


def put(args: argparse.Namespace, method: str, path: str, body: object = None, **query: str) -> Reply:
    """Ask the daemon for something that a person wants; it answers in the person's language.

    Raises:
        InputError: No daemon looks after the state folder, or it does not understand.
    """
    from diagnose.web.shapes import Reply

    return _sent(state_dir(args), method, path, body, {"lang": language(args), **query}, Reply, patience=_PATIENCE_S)


def said(reply: Reply) -> int:
    """Print the answer; 0 done, 2 refused."""
    print(reply.text)
    return EXIT_OBEYED if reply.ok else EXIT_REFUSED


def spelled(length: timedelta | None) -> str | None:
    """Spell a length of time as the API takes it."""
    from diagnose.model.text import Duration

    return str(Duration(seconds=length.total_seconds())) if length else None


def look(folder: Path, path: str, kind: type[T], **query: str) -> T | None:
    """Ask the daemon of a state folder how something stands; ``None`` where none answers."""
    try:
        return _sent(folder, "GET", path, None, query, kind, patience=_PATIENCE_TO_LOOK_S)
    except InputError:
        return None


def _sent(
    folder: Path, method: str, path: str, body: object, query: Mapping[str, str], kind: type[T], *, patience: float
) -> T:
    """Put a request to the daemon of a state folder.

    Raises:
        InputError: None answers, or it does not understand.
    """
    import httpx
    import msgspec

    from diagnose.model import codec
    from diagnose.web.place import short_path
    from diagnose.web.shapes import Problem

    content = None if body is None else codec.encode(body)
    headers = {"Content-Type": "application/json"}
    try:
        with short_path(folder) as socket, httpx.Client(transport=httpx.HTTPTransport(uds=socket)) as client:
            url = f"http://diagnose{path}"
            answer = client.request(method, url, params=query, content=content, headers=headers, timeout=patience)
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
        with contextlib.suppress(msgspec.MsgspecError):
            told = codec.decode(answer.content, Problem)
            raise InputError(f"{told.problem}. {told.cure}") from error
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


def add_target(parser: argparse.ArgumentParser) -> None:
    """Let a command name its server."""
    parser.add_argument("--target", metavar="NAME", help="which server (default: the only one)")


def target_of(args: argparse.Namespace) -> str:
    """Return the server that a command is about.

    Raises:
        InputError: See `one_target`.
    """
    from diagnose import journal

    return one_target(journal.read(state_dir(args)), args.target)


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
