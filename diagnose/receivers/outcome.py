"""How a message fared. Delivered is what the receiver itself calls so, never a bare HTTP 200."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

_MOST_SHOWN = 200
_LONGEST_WAIT = timedelta(hours=1)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One try.

    Attributes:
        kind: ``sent``; ``later`` (nobody there, too fast, its own trouble); ``barred`` (it will take no message
            before the configuration is put right); ``refused`` (it will never take this message); ``strange`` (an
            answer that nobody knows: tried a few times, then refused).
        error: What it said.
        wait: How long it asks to be left alone.
        note: What is amiss though it was sent.
    """

    kind: Literal["sent", "later", "barred", "refused", "strange"]
    error: str = ""
    wait: timedelta | None = None
    note: str = ""


SENT = Outcome(kind="sent")


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer.

    Attributes:
        headers: Names in small letters.
        at: When it came.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    at: datetime = datetime(1970, 1, 1, tzinfo=timezone.utc)

    @property
    def text(self) -> str:
        """The beginning of its body."""
        return " ".join(self.body[:2000].decode("utf-8", "replace").split())[:_MOST_SHOWN]

    def json(self) -> Mapping[str, object]:
        """Its body as an object; empty where it is none."""
        try:
            found = msgspec.json.decode(self.body)
        except msgspec.MsgspecError:
            return {}
        return found if isinstance(found, dict) else {}


def by_status(reply: Reply, *, final: frozenset[int] = frozenset({400, 413, 422})) -> Outcome | None:
    """Judge by the HTTP status; ``None`` where it is one of success.

    Args:
        final: Statuses that say that this message will never be taken.
    """
    status, said = reply.status, f"HTTP {reply.status}: {reply.text}".rstrip(": ")
    if 200 <= status < 300:
        return None
    if status >= 500 or status in {408, 425, 429}:
        return Outcome(kind="later", error=said, wait=retry_after(reply))
    return Outcome(kind="refused" if status in final else "barred", error=said)


def retry_after(reply: Reply) -> timedelta | None:
    """Read ``Retry-After``: seconds, or a date; at most an hour."""
    given = reply.headers.get("retry-after", "").strip()
    if not given:
        return None
    if given.isascii() and given.isdigit():
        wait = timedelta(seconds=min(int(given[:9]), _LONGEST_WAIT.total_seconds()))
    else:
        try:
            wait = parsedate_to_datetime(given) - reply.at
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(wait, timedelta(0)), _LONGEST_WAIT)


def by_code(reply: Reply, name: str, kinds: Mapping[int, Outcome]) -> Outcome:
    """Judge by the code that chats of China put into an HTTP 200: 0 is success, and nothing else.

    Args:
        name: The field.
        kinds: How known codes are meant; their ``error`` says what the code stands for.
    """
    if (failed := by_status(reply)) is not None:
        return failed
    answer = reply.json()
    code = answer.get(name)
    if isinstance(code, int) and not isinstance(code, bool):
        if code == 0:
            return SENT
        said = f"{name} {code}: {answer.get('msg') or answer.get('errmsg') or ''}"[:_MOST_SHOWN]
        meant = kinds.get(code, Outcome(kind="strange"))
        return msgspec.structs.replace(meant, error=f"{said} ({meant.error})" if meant.error else said)
    return Outcome(kind="strange", error=f"no {name} in the answer: {reply.text}")
