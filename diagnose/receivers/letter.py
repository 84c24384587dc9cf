"""What goes over HTTP: composed by each kind of receiver, sent by one hand."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Protocol

import httpx
import msgspec

from diagnose.notices.pack import Batch
from diagnose.receivers.outcome import Outcome, Reply
from diagnose.receivers.secrets import hidden

_MOST_ANSWER = 64 << 10


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One POST.

    Attributes:
        secrets: What must not be shown of it.
        note: What is amiss with it, though it can be sent.
    """

    url: str
    body: bytes
    headers: Mapping[str, str] = {}
    secrets: tuple[str, ...] = ()
    note: str = ""


class Sender(Protocol):
    """A kind of receiver."""

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the message.

        Raises:
            ConfigError: A secret is not there.
        """
        ...

    def judge(self, reply: Reply) -> Outcome:
        """Say whether the answer means that it was taken."""
        ...


def as_json(value: Any) -> bytes:  # noqa: ANN401 (what JSON can hold)
    """Spell a body; Chinese stays as it is, since limits count bytes."""
    return msgspec.json.encode(value)


def hmac_base64(key: bytes, message: bytes) -> str:
    """Sign with HMAC-SHA256, in base64."""
    return base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()


async def send(client: httpx.AsyncClient, letter: Letter, sender: Sender, timeout: float) -> Outcome:
    """Send one letter; nothing is raised, secrets are in no word of the outcome."""
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "diagnose", **letter.headers}
    try:
        async with client.stream("POST", letter.url, content=letter.body, headers=headers, timeout=timeout) as answer:
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MOST_ANSWER:
                    break
        given = {name.lower(): value for name, value in answer.headers.items()}
        reply = Reply(status=answer.status_code, body=body, headers=given, at=datetime.now(timezone.utc))
        outcome = sender.judge(reply)
    except httpx.InvalidURL as error:
        outcome = Outcome(kind="barred", error=f"the URL cannot be used: {error}")
    except (httpx.HTTPError, OSError, ValueError) as error:
        told = str(error) or type(error).__name__
        outcome = Outcome(kind="later", error=told)
    return msgspec.structs.replace(
        outcome, error=hidden(outcome.error, letter.secrets)[:300], note=outcome.note or letter.note
    )
