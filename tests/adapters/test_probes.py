"""The probes ask a real server on loopback, and tell its answers apart."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest

from diagnose.sources.http import CANARY, CompletionProbe, HealthProbe

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
MODELS = json.dumps({"object": "list", "data": [{"id": "ernie"}]})


def chat(content, tokens=3, **message):
    body = {"choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}]}
    return json.dumps(body if tokens is None else {**body, "usage": {"completion_tokens": tokens}})


class Answers(ThreadingHTTPServer):
    """Answers each path as told, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, answers, pause):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.pause, self.over = answers, [], pause, threading.Event()


class Handler(BaseHTTPRequestHandler):
    def _answer(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        status, text = self.server.answers.get(self.path, (404, '{"detail":"Not Found"}'))
        data = b"" if status == 304 else text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if text.startswith("data:"):
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked may have gone
            for piece in data.splitlines(keepends=True):
                self.wfile.write(piece)
                self.server.over.wait(self.server.pause)

    do_GET = do_POST = _answer  # noqa: N815 - the names that the library calls

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(answers, *, pause=0.0):
    """Serve; ``pause`` is between two lines of an answer, in seconds."""
    with Answers(answers, pause) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def ask(kind, **kwargs):
    async def once():
        async with kind(target="t", **kwargs) as probe:
            return await probe.ask(NOON, 3)

    return anyio.run(once)


def completion(answers, *, pause=0.0, **kwargs):
    with serving({"/v1/models": (200, MODELS), **answers}, pause=pause) as (server, url):
        return ask(CompletionProbe, base_url=url, **kwargs), server.asked


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(200, "", "ok", id="well"),
        pytest.param(404, "Worker Service Not Healthy", "unhealthy", id="the server's own 404"),
        pytest.param(404, '{"detail":"Not Found"}', "missing", id="no such path"),
        pytest.param(304, "", "cleared", id="no weights"),
        pytest.param(429, '{"detail":"Too many requests"}', "busy", id="overload"),
        pytest.param(503, "proxy", "error", id="something else"),
    ],
)
def test_health_has_a_word_for_each_answer(status, body, expected):
    with serving({"/health": (status, body)}) as (_, url):
        result = ask(HealthProbe, base_url=url)

    assert (result.answer, result.status, result.probe) == (expected, status, "health")
    assert (result.target, result.generation, result.at) == ("t", 3, NOON)
    assert result.seconds > 0


def test_nobody_there_and_nobody_answering_are_different():
    with socket.create_server(("127.0.0.1", 0)) as door:
        url = f"http://127.0.0.1:{door.getsockname()[1]}"
        silent = ask(HealthProbe, base_url=url, timeout=timedelta(seconds=0.1))
    refused = ask(HealthProbe, base_url=url)

    assert (silent.answer, silent.status) == ("timeout", None)
    assert (refused.answer, refused.status) == ("refused", None)


def test_a_server_that_hangs_up_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as door:

        def hang_up():
            door.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        result = ask(HealthProbe, base_url=f"http://127.0.0.1:{door.getsockname()[1]}")
        thread.join()

    assert (result.answer, result.status) == ("error", None)


def test_a_completion_is_small_marked_and_asks_for_a_model_that_is_there():
    answers = {"/v1/chat/completions": (200, chat("Red, orange, yellow."))}
    result, asked = completion(answers, model="other", prompt="Colours?")

    assert (result.answer, result.tokens, result.repetition) == ("ok", 3, 0.0)
    body = asked[-1][1]
    assert body["model"] == "ernie"
    assert body["max_tokens"] <= 16
    assert body["messages"] == [{"role": "user", "content": "Colours?"}]
    assert body["user"].startswith(CANARY)
    assert asked[-1][2] is None


def test_a_key_is_sent_and_a_refused_one_has_its_cure():
    result, asked = completion({"/v1/chat/completions": (401, '{"error":"Unauthorized"}')}, api_key="s3cret")

    assert asked[-1][2] == "Bearer s3cret"
    assert (result.answer, result.status) == ("error", 401)
    assert "FD_API_KEY" in result.detail
    assert "s3cret" not in result.detail


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(200, chat("", tokens=0), "error", id="no tokens"),
        pytest.param(200, chat("Red", tokens=None), "ok", id="text without a count"),
        pytest.param(200, chat(None, reasoning_content="Let me think"), "ok", id="thinking"),
        pytest.param(200, '{"choices":[]}', "error", id="no choices"),
        pytest.param(200, "<html>", "error", id="no JSON"),
        pytest.param(200, "[1]", "error", id="another JSON"),
        pytest.param(500, '{"error":{"message":"boom","type":"internal_error"}}', "error", id="failure"),
        pytest.param(404, '{"detail":"Not Found"}', "missing", id="no chat here"),
        pytest.param(429, "{}", "busy", id="overload"),
        pytest.param(304, "", "cleared", id="no weights"),
    ],
)
def test_a_completion_is_well_only_if_tokens_came(status, body, expected):
    result, _ = completion({"/v1/chat/completions": (status, body)})

    assert (result.answer, result.status) == (expected, status)
    assert (result.answer == "ok") == (result.tokens > 0)


def stream(*pieces, usage=None, end=("[DONE]",)):
    """Spell a stream as FastDeploy does: a role first, then text, then how much it was."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
    events = [json.dumps({"choices": [{"delta": delta}], "usage": None}) for delta in deltas]
    events += [json.dumps({"choices": [], "usage": {"completion_tokens": usage}})] if usage else []
    return "".join(f"data: {event}\n\n" for event in (*events, *end))


@pytest.mark.parametrize(
    ("body", "answer", "tokens"),
    [
        pytest.param(stream("Red", ", orange"), "ok", 2, id="pieces"),
        pytest.param(stream("Red", ", orange", usage=5), "ok", 5, id="counted by the server"),
        pytest.param(stream(), "error", 0, id="nothing but a role"),
        pytest.param(stream(end=()), "error", 0, id="broken off"),
        pytest.param(stream("Red", end=('{"error": {"message": "the worker died"}}',)), "error", 1, id="failed midway"),
        pytest.param(stream("Red", end=("{broken", "[1]", "[DONE]")), "ok", 1, id="with pieces that are none"),
    ],
)
def test_a_stream_is_an_answer_if_tokens_came_and_no_error(body, answer, tokens):
    result, asked = completion({"/v1/chat/completions": (200, body)})

    assert (result.answer, result.tokens) == (answer, tokens)
    assert (result.first_token_seconds is not None) == (tokens > 0)
    assert asked[-1][1]["stream"] is True


def test_what_fails_in_a_stream_is_told_in_the_servers_words():
    result, _ = completion({"/v1/chat/completions": (200, stream(end=('{"error": {"message": "the worker died"}}',)))})

    assert (result.answer, result.detail) == ("error", "the worker died")


def test_the_first_token_comes_before_the_last():
    result, _ = completion({"/v1/chat/completions": (200, stream(*"abcdefgh"))}, pause=0.02)

    assert 0.02 < result.first_token_seconds < result.seconds / 2


def test_a_stream_that_trickles_is_given_up_in_time():
    result, _ = completion(
        {"/v1/chat/completions": (200, stream(*"x" * 200))}, pause=0.05, timeout=timedelta(seconds=0.4)
    )

    assert result.answer == "timeout"
    assert result.seconds < 5


def test_a_loop_in_the_answer_is_measured():
    result, _ = completion({"/v1/chat/completions": (200, chat("好的好的好的好的好的好的好的好的", tokens=16))})

    assert result.answer == "ok"
    assert result.repetition == 1.0


def test_an_answer_without_text_has_no_repetition():
    result, _ = completion({"/v1/chat/completions": (200, chat("", tokens=1))})

    assert (result.answer, result.repetition) == ("ok", None)


def test_the_given_name_is_asked_for_where_no_list_can_be_had():
    result, asked = completion({"/v1/models": (500, ""), "/v1/chat/completions": (200, chat("Red"))}, model="mine")

    assert result.answer == "ok"
    assert asked[-1][1]["model"] == "mine"


def test_a_dead_server_refuses_a_completion():
    with socket.create_server(("127.0.0.1", 0)) as door:
        url = f"http://127.0.0.1:{door.getsockname()[1]}"

    assert ask(CompletionProbe, base_url=url).answer == "refused"


def test_a_proxy_of_the_environment_is_never_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with serving({"/health": (200, "")}) as (_, url):
        assert ask(HealthProbe, base_url=url).answer == "ok"
