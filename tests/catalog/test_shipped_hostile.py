"""The evidence of every shipped rule, where users and models can put it: there it must say nothing."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from diagnose.catalog import cache, load
from diagnose.engine.match import Carry
from diagnose.model.observation import LogLines

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
KNOWN = load.read_files([load.shipped("rules")])
MATCHER = cache.matcher(KNOWN)
RECORD = "INFO     2026-01-01 10:15:03,118 41772 serving_chat.py[line:97] "
UUID = "0a1b2c3d-0000-4000-8000-000000000000"
LOGS = [
    (rule.id, logs[0])
    for rule in KNOWN.rules.values()
    if (logs := [log for test in rule.tests.hits if (log := test if isinstance(test, str) else test.log)])
]
FAIR: dict[str, str] = {}
"""Rules that may find something in such a place, and why. None has a reason so far."""


def in_json(text):
    return json.dumps(text, ensure_ascii=False)[1:-1]


def in_line(text):
    return text.replace("\n", " ")


def in_path(text):
    return text.replace("\n", "%0A")


PLACES = {
    # FastDeploy: entrypoints/openai/serving_*.py, in api_server.log, later request.log and fastdeploy.log
    "a prompt": (
        "api",
        lambda text: f'Chat Received request: {{"messages":[{{"role":"user","content":"{in_json(text)}"}}]}}',
    ),
    "a name of a model": ("api", lambda text: f'Chat Received request: {{"model":"{in_json(text)}","messages":[]}}'),
    "a completion": ("api", lambda text: f'Completion Received request: {{"model":"m","prompt":["{in_json(text)}"]}}'),
    "a stop word": ("api", lambda text: f"Recieve task: { ({'request_id': 'chatcmpl-1', 'stop': text})!r}"),
    "a user, in the id": ("api", lambda text: f"create chat completion request: chatcmpl-{in_line(text)}-{UUID}"),
    "an id of one's own": ("api", lambda text: f"create chat completion request: chatcmpl-{in_line(text)}"),
    "an id, in the engine": ("engine", lambda text: f"Cache task with request_id ({in_line(text)})"),
    "an id, in the processor": ("data", lambda text: f"req_id:{in_line(text)}, text:'hello', tokens: 3"),
    "a wrong name that goes on below": ("api", lambda text: f"Unsupported model: [{in_line(text)}"),
    "an answer": ("api", lambda text: f'Chat response: {{"choices":[{{"message":{{"content":"{in_json(text)}"}}}}]}}'),
    "an answer's chunk": (
        "api",
        lambda text: f'Chat Streaming response last send: {{"id":"chatcmpl-1","model":"{in_json(text)}","choices":[]}}',
    ),
    "an answer, inside": ("api", lambda text: f"request_output { ({'request_id': '1', 'outputs': {'text': text}})!r}"),
    "a chunk, inside": ("api", lambda text: f"The chat completion stream chunk { ({'id': '1', 'x': text})!r}"),
    "another protocol": ("api", lambda text: f'Messages request: {{"max_tokens":5,"system":"{in_json(text)}"}}'),
    "a wrong name of a model": (
        "api",
        lambda text: f"Unsupported model: [{in_line(text)}], support [default] or default",
    ),
    # FastDeploy: input/*processor.py, in data_processor.log
    "a request": ("data", lambda text: f"Start processing request dict: { ({'request_id': '1', 'stop': [text]})!r}"),
    "a request, of 2.6": ("api", lambda text: f"Processed request { ({'request_id': '1', 'system': text})!r}"),
    "a request object": (
        "api",
        lambda text: f"Processed request: Request(request_id=1, prompt={in_line(text)}, x=1)",
    ),
    "a decoded answer": ("api", lambda text: f"req_id:chatcmpl-1, decode_status: {[0, 3, [1, 2], text]!r}"),
    "tokens": ("api", lambda text: f"req_id:chatcmpl-1, tokens:{[text]!r}, token_ids: [1]"),
    "a bad word": ("api", lambda text: f"processed bad_words: {in_line(text)}, [1]"),
    "a body alone": ("api", lambda text: repr({"model": "m", "prompt": text})),
}
BARE = {
    "a path": lambda text: f'INFO:     10.0.0.7:40218 - "GET /{in_path(text)} HTTP/1.1" 404 Not Found',
    "a path, gunicorn": lambda text: (
        f'[2025-12-05 11:20:31] [5512] [INFO] 10.0.0.7:4 - "GET /{in_path(text)} HTTP/1.1" 404'
    ),
    "a query": lambda text: f'INFO:     10.0.0.7:40218 - "GET /health?{in_path(text)} HTTP/1.1" 200 OK',
    "an agent": lambda text: f'10.0.0.7 - - [05/Dec/2025:11:20:31 +0000] "GET / HTTP/1.1" 200 12 "-" "{in_line(text)}"',
    "a referrer": lambda text: (
        f'10.0.0.7 - - [05/Dec/2025:11:20:31 +0000] "GET / HTTP/1.1" 200 1 "{in_line(text)}" "curl"'
    ),
    "a user of nginx": lambda text: (
        f'10.0.0.7 - {in_line(text)} [05/Dec/2025:11:20:31 +0000] "GET / HTTP/1.1" 200 12 "-" "curl"'
    ),
    "a name of a model, refused": lambda text: (
        f'{{"error":{{"message":"Unsupported model: [{in_json(text)}], support [default]","param":"model"}}}}'
    ),
    "a name of a model, unknown": lambda text: (
        f'{{"error":{{"message":"The model `{in_json(text)}` does not exist.","type":"NotFoundError","code":404}}}}'
    ),
    "an input, refused": lambda text: (
        f'{{"detail":[{{"type":"missing","loc":["body"],"msg":"Field required","input":{{"x":"{in_json(text)}"}}}}]}}'
    ),
}


def rules_of(text, stream):
    lines = LogLines(target="t", source="a.log", stream=stream, first_line=1, data=text.encode(), read_at=NOON)
    matches, _ = MATCHER.scan(lines, Carry())
    return {hit.rule_id for one in matches for hit in one.hits if not hit.rule_id.startswith("@")}


def taken(put, stream):
    """Put the evidence of each rule in a place; give what is found there beyond what the place itself says."""
    fair = rules_of(put("hello"), stream) | set(FAIR)
    return [(rule, log, found) for rule, log in LOGS if (found := rules_of(put(log), stream) - fair)]


@pytest.mark.parametrize("place", PLACES)
def test_a_record_with_a_users_text_says_nothing(place):
    stream, put = PLACES[place]

    assert taken(lambda text: RECORD + put(text), stream) == []
    assert taken(lambda text: RECORD + put(text), "unknown") == []


@pytest.mark.parametrize("place", BARE)
@pytest.mark.parametrize("stream", ["console", "access", "unknown"])
def test_a_line_with_a_users_text_says_nothing(stream, place):
    assert taken(BARE[place], stream) == []


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
def test_the_status_is_the_servers_own(status):
    line = f'INFO:     10.0.0.7:40218 - "POST /v1/chat/completions HTTP/1.1" {status}'

    assert rules_of("\n".join([line] * 30), "console")


def test_an_error_body_is_the_servers_own():
    said = "The decoder prompt (length 163840) is longer than the maximum model length of 32768"
    for body in (
        f'{{"error":{{"message":"{said}"}}}}',
        f'{{"object":"error","message":"{said}","code":400}}',
        f'{{"detail":"{said}"}}',
        f"Error code: 400 - {{'error': {{'message': '{said}'}}}}",
        f'HTTP/1.1 400 response: {{"error":{{"message":"{said}"}}}}',
    ):
        assert rules_of(body, "unknown"), body
