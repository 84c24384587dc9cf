r"""Where in a line stands text that users wrote: requests, answers, paths, agents, names of models.

What is found there says nothing about the server. The forms are those of FastDeploy's own log calls
(``fastdeploy/entrypoints/openai/serving_*.py``, ``fastdeploy/input/*processor.py``), of uvicorn, gunicorn and
nginx, and of FastAPI's answers. All patterns run in RE2: a line may be a megabyte of somebody's malice.
"""

from __future__ import annotations

from collections.abc import Iterator

import re2

_FIELDS = (
    "messages|prompts?|content|text|input|query|reasoning_content|outputs?|arguments|user|model|stop|delta|choices"
    "|bad_words|prompt_tokens|text_after_process"
)
_WORDS = (
    "prompts?|messages|outputs?|response|answer|text_after_process|raw_prediction|decode_status|bad_words|stop_seqs"
)
_OPENER = re2.compile(
    "(?i)"
    + "|".join(
        (
            # Chat Received request: {...}; Receive request: ...; Received RequestOutput: {...}
            r"\brec(?:ei|ie|e)ved?\b[^:{\[]{0,60}\brequest(?:output)?\b[^:{\[]{0,60}[:{\[]",
            # request: {...}; Start processing request dict: {...}; Processed request {...}; Recieve task: {...}
            r"\b(?:request|task)(?:[_ ](?:dict|output|id))?(?:\[[^\]]{0,80}\])?\s*(?:[:=]\s*[{\[(]|\{)",
            r"\bRequest\(request_id=",
            # an id that holds what its user chose
            r"\bCache task with request_id \(|\[line:\d+\] Request: ",
            r"\bcreate (?:chat )?completions? request:|\breq_id:",
            # a field of a body, as JSON or as Python writes it
            rf"[\"'](?:{_FIELDS})[\"']\s*:\s*[\"'\[{{]",
            # Chat Streaming response last send: {...}; response: ...; decode_status: [0, 3, [7], 'text']
            r"\bresponse\b[^:{\[]{0,40}:\s*[{\[]",
            rf"\b(?:{_WORDS})\s*[:=]\s*[\"'\[{{(]?",
            r"\b(?:text|tokens):\s*[\[\"']",  # req_id:..., tokens:[...]; req_id:..., text:'...',
            r"\b(?:stream chunk|request_output|to OpenAI:)\s*[{\[(]",
        )
    )
)
_MOST = 20
"""Behind so many forms in one line all counts as written by users."""

_NEAR = 40
"""An error body this close behind an answer's opener is the server's own word: ``response: {"error": ...``."""

_ERROR_BODY = re2.compile(r"""(?i)\{\s*["'](?:error["']\s*:|object["']\s*:\s*["']error["']|detail["']\s*:)""")
_ACCESS = re2.compile(r"""["'](?:GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS)\s(\S.*?)\sHTTP/\d(?:\.\d)?["']?(.*)$""")
_NGINX_USER = re2.compile(r"^[\w.:-]+ \S+ (.+) \[\d\d/[A-Z][a-z][a-z]/\d{4}:[^\]]{0,30}\] \"")
_NAMES = re2.compile(
    r"(?i)cmpl-(?:[0-9a-f]{8}-[0-9a-f]{4}-|(.*?)-[0-9a-f]{8}-[0-9a-f]{4}-)"  # the request's user, in its id
    r"|\bunsupported model:\s*\[(.*)\],? support"
    r"|\bunsupported model:\s*\[(.*)$"  # it goes on in the line below
    r"|\bmodel [`'\"](.*)[`'\"] (?:does not exist|not found)"
)


def zones(text: str) -> list[tuple[int, int]]:
    """Return the places, start and end, of users' text in a line; one that reaches its end stands last.

    >>> zones('INFO:     10.0.0.7:1 - "GET /a/b HTTP/1.1" 404 Not Found')
    [(28, 32)]
    >>> zones('{"error": {"message": "too long"}}'), zones('request: {"error": "too long"}')
    ([], [(10, 30)])
    """
    return [zone for zone in _zones(text) if zone[0] < zone[1]]


def _zones(text: str) -> Iterator[tuple[int, int]]:
    for count, name in enumerate(_NAMES.finditer(text)):
        place: tuple[int, int] = name.span(name.lastindex or 0) if name.lastindex else (name.end(), name.end())
        if count == _MOST:
            yield place[0], len(text)
            break
        yield place
    if nginx := _NGINX_USER.search(text):
        yield nginx.span(1)
    if access := _ACCESS.search(text):
        if " HTTP/" in access[2]:  # somebody pretends that the line ends early
            yield access.start(1), len(text)
        else:
            yield access.span(1)
            if (quoted := access[2].find('"')) >= 0:  # referrer and agent, behind the status
                yield access.start(2) + quoted, len(text)
    if (body := body_of(text)) is not None:
        yield body, len(text)


def body_of(text: str) -> int | None:
    """Return where the body of a request or of an answer begins; an error body is the server's own word.

    >>> body_of('INFO prompt: hello'), body_of('HTTP error, response: {"detail": "too long"}')
    (13, None)
    """
    for count, opener in enumerate(_OPENER.finditer(text)):
        start, end = opener.span()
        answers = opener[0][:8].lower() == "response" and count < _MOST
        if not (answers and _ERROR_BODY.search(text[start : end + _NEAR])):
            return int(end)
    return None
