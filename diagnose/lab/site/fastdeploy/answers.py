"""Bodies of answers and errors."""

from __future__ import annotations

import json
import math
import os
import time
from typing import Any


class RequestError(Exception):
    """A request is refused, with this status and body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body))
        self.status, self.body = status, body


def refuse(
    message: str,
    *,
    status: int = 500,
    kind: str = "invalid_request_error",
    code: str | None = "invalid_value",
    param: str | None = None,
) -> RequestError:
    """Build an error of the eras from 2.2: a client's mistake has status 500 there."""
    return RequestError(status, {"error": {"message": message, "type": kind, "param": param, "code": code}})


_RANGES = (
    ("temperature", 0.0, math.inf),
    ("top_p", 0.0, 1.0),
    ("frequency_penalty", -2.0, 2.0),
    ("presence_penalty", -2.0, 2.0),
)


def check_body(raw: bytes, *, chat: bool) -> dict[str, Any]:
    """Read a body and check what the original's models check; these refusals are 400."""
    try:
        body = json.loads(raw or b"null")
    except ValueError as problem:
        raise refuse(f"JSON decode error: {problem}", status=400) from None
    if not isinstance(body, dict):
        raise refuse("Input should be a valid dictionary or object to extract fields from", status=400)
    needed = "messages" if chat else "prompt"
    if body.get(needed) is None and not body.get("prompt_token_ids"):
        raise refuse("Field required", status=400, code="missing_required_parameter", param=needed)
    if body.get("stream_options") and not body.get("stream"):
        raise refuse("Stream options can only be defined when `stream=True`.", status=400, param="stream_options")
    if chat and body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise refuse("when using `top_logprobs`, `logprobs` must be set to true.", status=400, param="top_logprobs")
    _check_numbers(body)
    return body


def _check_numbers(body: dict[str, Any]) -> None:
    for name, least, most in _RANGES:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refuse("Input should be a valid number", status=400, param=name)
        if not least <= value <= most:
            raise refuse(f"Input should be between {least} and {most}", status=400, param=name)
    for name in ("max_tokens", "max_completion_tokens", "min_tokens", "n"):
        value = body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise refuse("Input should be a valid integer", status=400, param=name)


def prompt_of(body: dict[str, Any], *, chat: bool) -> str:
    """Find the text to answer."""
    if not chat:
        prompt = body.get("prompt") if body.get("prompt") is not None else body.get("prompt_token_ids")
        if isinstance(prompt, str):
            return prompt
        if isinstance(prompt, list) and prompt:
            return " ".join(str(part) for part in prompt)
        raise refuse("Prompt type must be one of: str, list[str], list[int], list[list[int]]")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refuse("messages can not be an empty list, unless prompt_token_ids is passed")
    return "\n".join(_content(message) for message in messages if isinstance(message, dict))


def _content(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return f"{message.get('role', 'user')}: {content}"


def check_lengths(body: dict[str, Any], prompt_tokens: int, limit: int) -> int:
    """Check lengths as the engine client does; give the number of tokens to make.

    A prompt beyond the model's length was clipped to one less before: the message shows the clipped length.
    """
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    if asked is not None and not 1 <= asked <= limit:
        raise refuse(f"max_tokens can be defined [1, {limit}], but now it's {asked}.", param="max_tokens")
    least = max(1, body.get("min_tokens") or 1)
    clipped = min(prompt_tokens, limit - 1)
    if clipped + least >= limit:
        message = f"Input text is too long, input_ids_len ({clipped}) + min_tokens({least}) >= max_model_len({limit})"
        raise refuse(message, code="context_length_exceeded", param="messages")
    return min(asked or limit, limit - clipped)


def usage_of(prompt: int, made: int, cached: int) -> dict[str, Any]:
    """Count tokens."""
    details = {"cached_tokens": cached, "image_tokens": 0, "video_tokens": 0}
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + made,
        "completion_tokens": made,
        "prompt_tokens_details": details,
    }


def whole(name: str, model: str, text: str, reason: str, usage: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    """Build an answer that comes in one piece."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
    if chat:
        message = {"role": "assistant", "content": text, "reasoning_content": None, "tool_calls": None}
        choice["message"] = message
    else:
        choice |= {"text": text, "reasoning_content": None, "tool_calls": None}
    kind = "chat.completion" if chat else "text_completion"
    return {
        "id": name,
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def chunk(name: str, model: str, text: str, reason: str | None, *, chat: bool, role: bool = False) -> dict[str, Any]:
    """Build one piece of a stream."""
    choice: dict[str, Any] = {
        "index": 0,
        "logprobs": None,
        "finish_reason": reason,
        "arrived_time": time.time(),
    }
    if chat:
        choice["delta"] = {"content": text, "reasoning_content": None, "tool_calls": None}
        if role:
            choice["delta"]["role"] = "assistant"
    else:
        choice["text"] = text
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {
        "id": name,
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": None,
    }


def models(name: str, root: str, length: int, created: int) -> dict[str, Any]:
    """List the one model that is served."""
    permission = {
        "id": "modelperm-" + format(abs(hash(name)), "x")[:16],
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    one = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "FastDeploy",
        "root": root,
        "parent": None,
        "max_model_len": length,
        "permission": [permission],
    }
    return {"object": "list", "data": [one]}


def log_level() -> int:
    """How much of a request 2.6 record: 0 that it came, 1 its stages, 2 its text, 3 all."""
    if os.environ.get("FD_LOG_REQUESTS", "1") == "0":
        return -1
    try:
        return int(os.environ.get("FD_LOG_REQUESTS_LEVEL", "2"))
    except ValueError:
        return 2
