"""The HTTP API: requests into the shapes that `diagnose.web.desks` takes, answers out of those that it gives."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from diagnose.errors import DiagnoseError
from diagnose.model import codec
from diagnose.web import openapi, paths
from diagnose.web.asked import Answer, Asked, Desk
from diagnose.web.desks import DESKS
from diagnose.web.house import House
from diagnose.web.shapes import Problem, Refusal

_MOST_BYTES = 64 << 10
_PATIENCE_S = 10.0
_NO_BODY = 304


def app(house: House) -> Starlette:
    """Build the application.

    What cannot be served is answered with a `Problem`: 404 no such thing, 405 not that way, 408 too slow, 413 too
    large, 415 no JSON, 422 wrong, 500 our fault. An answer to GET has an ``ETag``; what is as it was when that is
    sent along is 304.
    """

    async def metrics(request: Request) -> Response:
        from diagnose.web import gauges  # noqa: PLC0415 - loaded once somebody looks

        accept = request.headers.get("accept", "")
        text, kind = await anyio.to_thread.run_sync(gauges.exposition, house, accept)
        return Response(text, media_type=kind)

    async def document(request: Request) -> Response:
        return _answered(request, Answer(200, openapi.document()))

    routes = [Route(paths.METRICS, metrics, methods=["GET"]), Route(paths.OPENAPI, document, methods=["GET"])]
    at = {path: [desk for desk in DESKS if desk.path == path] for path in dict.fromkeys(desk.path for desk in DESKS)}
    routes += [_route(path, desks, house) for path, desks in at.items()]
    return Starlette(
        routes=routes,
        exception_handlers={HTTPException: _problem, Refusal: _problem, DiagnoseError: _problem, Exception: _problem},
    )


def _route(path: str, desks: Sequence[Desk], house: House) -> Route:
    by_method = {desk.method: desk for desk in desks}

    async def serve(request: Request) -> Response:
        desk = by_method["GET" if request.method == "HEAD" else request.method]
        asked = Asked(
            house=house,
            names=request.path_params,
            query=_query(request, desk.query),
            body=await _body(request, desk.body) if desk.body else None,
        )
        if inspect.iscoroutinefunction(desk.serve):
            answer: Answer = await desk.serve(asked)
        else:
            answer = await anyio.to_thread.run_sync(desk.serve, asked)  # type: ignore[arg-type] # it is no coroutine
        return _answered(request, answer)

    return Route(path, serve, methods=list(by_method))


def _query(request: Request, kind: Any) -> Any:  # noqa: ANN401 - each desk has its own
    """Read what stands behind the ``?``.

    Raises:
        Refusal: It is not what the desk takes.
    """
    if kind is None:
        return None
    given = request.query_params
    if len(given.multi_items()) > len(given):
        raise _not_understood(ValueError("a name stands twice behind the ?"))
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _not_understood(error) from error


async def _body(request: Request, kind: Any) -> Any:  # noqa: ANN401 - each desk has its own
    """Read what was sent.

    Raises:
        Refusal: It is too large, too slow, or not what the desk takes.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body is no JSON by its type", "Send it with Content-Type: application/json.")
    body = b""
    with anyio.move_on_after(_PATIENCE_S) as patience:
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BYTES:
                raise Refusal(413, "the body is too large", f"Send at most {_MOST_BYTES} bytes.")
    if patience.cancelled_caught:
        raise Refusal(408, f"the body did not come within {_PATIENCE_S:g} s", "Send it whole.")
    try:
        return codec.decode(body, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _not_understood(error) from error


def _not_understood(error: Exception) -> Refusal:
    return Refusal(422, f"not understood: {error}", f"See {paths.OPENAPI} for what is taken here.")


async def _problem(request: Request, error: Exception) -> Response:
    """Answer with what went wrong."""
    if isinstance(error, Refusal):
        return refused(error)
    if isinstance(error, HTTPException):
        cure = f"{paths.OPENAPI} lists what can be asked for."
        told = Problem(problem=f"{request.method} {request.url.path}: {error.detail}", cure=cure)
        return _json(error.status_code, told, dict(error.headers or {}))
    if isinstance(error, DiagnoseError):
        return _json(500, Problem(problem=str(error), cure="See diagnose status on the host."))
    cure = "This is a fault of diagnose; its log tells more."
    return _json(500, Problem(problem=f"{type(error).__name__} while answering", cure=cure))


def refused(refusal: Refusal) -> Response:
    """Answer with why a request is not served."""
    return _json(refusal.status, refusal.told, dict(refusal.headers))


def _answered(request: Request, answer: Answer) -> Response:
    """Answer; with no body where the one who asks has it already."""
    response = _json(answer.status, answer.body)
    if request.method in {"GET", "HEAD"} and answer.status == 200:
        tag = f'"{hashlib.sha256(bytes(response.body)).hexdigest()[:20]}"'
        known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
        if tag in known:
            response = Response(status_code=_NO_BODY)
        response.headers["ETag"] = tag
        response.headers["Cache-Control"] = "no-cache"
    return response


def _json(status: int, body: object, headers: dict[str, str] | None = None) -> Response:
    given = {"X-Content-Type-Options": "nosniff", **(headers or {})}
    return Response(codec.encode(body), status_code=status, media_type="application/json", headers=given)
