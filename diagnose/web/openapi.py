"""The OpenAPI document: made of the table of desks and the very types that requests are read into."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from diagnose import __version__
from diagnose.web import paths
from diagnose.web.asked import Desk
from diagnose.web.desks import DESKS
from diagnose.web.shapes import Problem

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_NUMBERS = ("application/openmetrics-text", "text/plain")
_EVERYWHERE: Mapping[int, str] = {
    401: "A token is needed, or it is another one.",
    403: "Not from a page of another site; or the daemon has no token, so that nothing can be changed over TCP.",
    421: "The daemon does not go by the name in the Host header.",
    500: "A fault of the daemon's, or its journal cannot be read.",
}
_OF_QUERIES: Mapping[int, str] = {422: "Not understood."}
_OF_BODIES: Mapping[int, str] = {
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is no JSON by its Content-Type.",
    422: "Not understood.",
}


@functools.cache
def document() -> dict[str, Any]:
    """Return the document (OpenAPI 3.1), as JSON takes it."""
    kinds = dict.fromkeys(kind for desk in DESKS for kind in _kinds(desk))
    shown, shapes = msgspec.json.schema_components([*kinds, Problem], ref_template=_REF)
    schemas = dict(zip([*kinds, Problem], shown, strict=True))
    operations: dict[str, dict[str, Any]] = {}
    for desk in DESKS:
        operations.setdefault(desk.path, {})[desk.method.lower()] = _operation(desk, schemas)
    operations[paths.METRICS] = {"get": _plain("metrics", "What Prometheus scrapes.", _NUMBERS, {"type": "string"})}
    operations[paths.OPENAPI] = {"get": _plain("openapi", "This document.", (_JSON,), {"type": "object"})}
    return {
        "openapi": "3.1.0",
        "info": {"title": "diagnose", "version": __version__, "description": "The daemon's HTTP API; see docs/api.md."},
        "paths": operations,
        "components": {
            "schemas": shapes,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _kinds(desk: Desk) -> Iterable[Any]:
    yield from desk.gives.values()
    if desk.body:
        yield desk.body


def _operation(desk: Desk, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {
        str(status): {"description": _word(status), "content": {_JSON: {"schema": schemas[kind]}}}
        for status, kind in desk.gives.items()
    }
    if desk.method == "GET" and 200 in desk.gives:
        told["304"] = {"description": "As it was when the If-None-Match was given."}
    problems = {**_EVERYWHERE, **(_OF_QUERIES if desk.query else {}), **(_OF_BODIES if desk.body else {})}
    operation: dict[str, Any] = {
        "operationId": desk.name,
        "summary": desk.about,
        "parameters": [*_in_path(desk), *_in_query(desk)],
        "responses": told | _problems(problems, schemas),
        "security": _security(desk.method, desk.path),
    }
    if desk.body:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": schemas[desk.body]}}}
    return operation


def _security(method: str, path: str) -> list[dict[str, Any]]:
    """Say whether a token is needed: never, over TCP from other hosts, or over TCP."""
    if path in paths.FOR_ALL:
        return []
    return [{}, {"token": []}] if method == "GET" else [{"token": []}]


def _plain(name: str, about: str, media: Sequence[str], schema: dict[str, Any]) -> dict[str, Any]:
    shown = {"description": _word(200), "content": {one: {"schema": schema} for one in media}}
    problem = {"$ref": _REF.format(name=Problem.__name__)}
    return {
        "operationId": name,
        "summary": about,
        "security": [],
        "responses": {"200": shown, "304": {"description": "As it was."}} | _problems(_EVERYWHERE, {Problem: problem}),
    }


def _problems(named: Mapping[int, str], schemas: Mapping[Any, Any]) -> dict[str, Any]:
    content = {_JSON: {"schema": schemas[Problem]}}
    return {str(status): {"description": why, "content": content} for status, why in named.items()}


def _in_path(desk: Desk) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", desk.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _in_query(desk: Desk) -> list[dict[str, Any]]:
    if desk.query is None:
        return []
    (shown,), shapes = msgspec.json.schema_components([desk.query], ref_template=_REF)
    shape = shapes[shown["$ref"].rpartition("/")[2]]
    required = set(shape.get("required", ()))
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _given(schema, shapes)}
        for name, schema in shape["properties"].items()
    ]


def _given(schema: dict[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Spell a parameter's schema by itself."""
    return dict(shapes[schema["$ref"].rpartition("/")[2]]) if "$ref" in schema else schema


def _word(status: int) -> str:
    return {200: "Done.", 404: "There is no such thing.", 409: "Refused, and nothing has changed.", 503: "Not now."}[
        status
    ]
