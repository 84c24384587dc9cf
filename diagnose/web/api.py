"""What can be asked of a running daemon over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timezone
from typing import Any

import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from diagnose.engine import repetition
from diagnose.engine.signals import REPETITIVE
from diagnose.model import codec
from diagnose.model.effect import Answered
from diagnose.model.observation import Order, OutputScored
from diagnose.notices.question import Ask, Said

ORDERS = "/v1/orders"
ALERTS = "/v1/alerts"
OUTPUTS = "/v1/outputs"
_MOST_BYTES = 64 << 10
_MOST_ID = 128


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer of the model that looks wrong. Only a score and a hash of it are kept."""

    target: str
    text: str
    request_id: str = ""


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """How much of it repeats itself, 0 to 1, and whether that counts as repetitive."""

    repetition: float
    repetitive: bool


def app(
    *,
    targets: Collection[str],
    obey: Callable[[Order], Awaitable[Answered]],
    scored: Callable[[OutputScored], None],
    ask: Callable[[Ask], Awaitable[Said]] | None = None,
) -> Starlette:
    """Build the application.

    ``POST /v1/orders`` takes an `Order` as JSON and answers with its `Answered`: 200 obeyed, 409 refused.
    ``POST /v1/alerts`` takes an `Ask` and answers with what was `Said` of it, in the same way. ``POST /v1/outputs``
    takes an `Output`, by which a gateway shows an answer of the model that looks wrong to it, and answers with
    `Scored`. What cannot be taken is answered with ``{"problem": ...}``: 404 no such target, 413 too large, 422 wrong.

    Args:
        targets: The names of the supervised servers.
        obey: Puts an order to the mind.
        scored: Tells the mind of an answer that repeats itself.
        ask: Puts a question to the alert path; ``None`` where the daemon has none.
    """

    def known(target: str) -> None:
        if target not in targets:
            raise HTTPException(404, f"no target {target!r}; there are: {', '.join(sorted(targets))}")

    async def orders(request: Request) -> Response:
        order = await _read(request, Order)
        known(order.target)
        answer = await obey(order)
        return _json(200 if answer.ok else 409, answer)

    async def alerts(request: Request) -> Response:
        asked: Ask = await _read(request, Ask)
        said = await ask(asked) if ask else Said(ok=False, reason="no-alerts")
        return _json(200 if said.ok else 409, said)

    async def outputs(request: Request) -> Response:
        output = await _read(request, Output)
        known(output.target)
        told = await anyio.to_thread.run_sync(_score, output)
        repetitive = told.repetition >= REPETITIVE
        if repetitive:
            scored(told)
        return _json(200, Scored(repetition=told.repetition, repetitive=repetitive))

    desks = {ORDERS: orders, ALERTS: alerts, OUTPUTS: outputs}
    routes = [Route(path, desk, methods=["POST"]) for path, desk in desks.items()]
    return Starlette(routes=routes, exception_handlers={HTTPException: _problem})


def _score(output: Output) -> OutputScored:
    text = output.text.encode("utf-8", "replace")
    return OutputScored(
        target=output.target,
        at=datetime.now(timezone.utc),
        repetition=repetition.score(output.text),
        characters=len(output.text),
        digest=hashlib.sha256(text).hexdigest()[:16],
        request_id=output.request_id[:_MOST_ID],
    )


async def _read(request: Request, kind: Any) -> Any:  # noqa: ANN401 - kinds may be unions
    """Read what was sent.

    Raises:
        HTTPException: It is too large, or not of this kind.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"at most {_MOST_BYTES} bytes are taken")
    try:
        return codec.decode(body, kind)
    except msgspec.MsgspecError as error:
        raise HTTPException(422, f"not understood: {error}") from error


async def _problem(request: Request, error: Exception) -> Response:
    del request
    status, text = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    return _json(status, {"problem": text})


def _json(status: int, body: object) -> Response:
    return Response(codec.encode(body), status_code=status, media_type="application/json")
