"""What a completion answers, in a stream or whole: how many tokens, which text, and when the first of them came."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec

_MOST_BYTES = 1 << 20
"""Sixteen tokens are not more; what is, is no answer to our question."""


class Answered(msgspec.Struct, kw_only=True):
    """One answer to one question.

    Attributes:
        tokens: As the server counts them; where it does not, pieces that bear text.
        first_seconds: From the question to the first token; ``None`` where the answer came whole, or none came.
        error: What the server says of a failure after it had said 200.
    """

    tokens: int = 0
    text: str = ""
    first_seconds: float | None = None
    error: str = ""


async def read(response: httpx.Response, began: float) -> Answered:
    """Read a response of status 200 to its end.

    Args:
        began: When the question was put, by ``time.perf_counter``.

    Raises:
        httpx.HTTPError: The connection broke.
    """
    found, whole, size = Answered(), [], 0
    streamed = response.headers.get("Content-Type", "").startswith("text/event-stream")
    async for line in response.aiter_lines():
        size += len(line)
        if size > _MOST_BYTES:
            return Answered(error="an answer without end")
        if not streamed:
            whole.append(line)
        elif line.startswith("data:"):
            _take(found, _json(line.removeprefix("data:")), "delta", time.perf_counter() - began)
    if not streamed:
        _take(found, _json("\n".join(whole)), "message", None)
    return found


def _take(found: Answered, piece: Mapping[str, Any], key: str, seconds: float | None) -> None:
    """Add one piece; a thinking model's reasoning is text too."""
    choices, usage, error = piece.get("choices"), piece.get("usage"), piece.get("error")
    first = choices[0] if isinstance(choices, list) and choices else None
    said = first.get(key) if isinstance(first, Mapping) else None
    parts = [said.get("reasoning_content"), said.get("content")] if isinstance(said, Mapping) else []
    text = " ".join(part for part in parts if isinstance(part, str) and part)
    counted = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    found.text += text
    found.tokens = counted if isinstance(counted, int) and counted else found.tokens + bool(text)
    if text and found.first_seconds is None:
        found.first_seconds = seconds
    if isinstance(error, Mapping):
        found.error = str(error.get("message") or error)


def _json(text: str) -> Mapping[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        return {}  # as the end mark [DONE]
    return read if isinstance(read, Mapping) else {}
