"""What users write reaches logs; it must never look like trouble of the server."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.engine.match import Carry, Matcher
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import LogLines
from diagnose.model.rule import Clears, Rule, RuleTests, When
from diagnose.model.text import Text

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
SOME = Text(en="a", zh="b")
OOM = "Out of memory error on GPU 3. Cannot allocate 2.5GB memory"
LOGGED = ["api", "engine", "access", "error", "cache", "data"]
BARE = ["worker", "launch", "console", "kernel", "unknown"]


def rule(name, pattern):
    return Rule(
        id=name,
        cause="unknown",
        title=SOME,
        why=SOME,
        fix=SOME,
        when=When(pattern=pattern, streams=tuple(LOGGED + BARE)),
        clears=Clears(ready=True),
        tests=RuleTests(hits=(), misses=()),
    )


RULES = [
    rule("oom", r"Out of memory error on GPU \d+"),
    rule("spanning", r"[Rr]equest.*Out of memory error"),
    rule("long", r"decoder prompt \(length \d+\) is longer"),
]
MATCHERS = {
    engine: Matcher(
        Knowledge(rules={one.id: one for one in RULES}, remedies={}, marks={}, digest="hostile"), engine=engine
    )
    for engine in ("hyperscan", "re2")
}


def rules_of(text, stream, engine="hyperscan"):
    lines = LogLines(target="t", source="a.log", stream=stream, first_line=1, data=text.encode(), read_at=NOON)
    matches, _ = MATCHERS[engine].scan(lines, Carry())
    return {hit.rule_id for one in matches for hit in one.hits if not hit.rule_id.startswith("@")}


def prefixed(level, message):
    return f"{level:8} 2026-01-01 10:15:03,118 41772 serving_chat.py[line:97] {message}"


OPENERS = [
    pytest.param("Chat Received request: {}", id="FastDeploy chat"),
    pytest.param("Completion Received request: {}", id="FastDeploy completion"),
    pytest.param("Receive request: {{'prompt': '{}'}}", id="FastDeploy engine"),
    pytest.param("Received completion request: {}", id="older"),
    pytest.param("request: {{'model': 'x', 'messages': [{{'content': '{}'}}]}}", id="a dict"),
    pytest.param('request: {{"model": "x", "messages": [{{"content": "{}"}}]}}', id="JSON"),
    pytest.param('{{"model": "x", "messages": [{{"role": "user", "content": "{}"}}]}}', id="the body alone"),
    pytest.param('{{"prompt": "{}"}}', id="a completion's body"),
    pytest.param("prompt: {}", id="a prompt"),
    pytest.param("text_after_process: {}", id="a template filled in"),
    pytest.param('response: {{"choices": [{{"text": "{}"}}]}}', id="an answer"),
    pytest.param("'outputs': {{'text': '{}'}}", id="outputs"),
    pytest.param("""request: {{"error": {{"message": "{}"}}}}""", id="a request that looks like an error"),
    pytest.param("""'prompt': '{{"error": {{"message": "{}"}}}}'""", id="a prompt that looks like an error"),
    pytest.param("""response: {{"object": "chat.completion", "choices": [{{"text": "{}"}}]}}""", id="a good answer"),
]


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("stream", LOGGED + BARE)
def test_text_of_users_never_matches(stream, opener):
    body = opener.format(OOM)

    assert rules_of(prefixed("INFO", body), stream) == set()
    assert rules_of(prefixed("ERROR", f"refused, {body}"), stream) == set()
    assert rules_of(body, stream) == set()


@pytest.mark.parametrize("opener", OPENERS)
def test_what_the_server_says_before_still_matches(opener):
    assert "oom" in rules_of(prefixed("ERROR", f"{OOM}, {opener.format('hello')}"), "api")


@given(
    st.text(max_size=60),
    st.text(max_size=60),
    st.sampled_from(["INFO", "ERROR", "DEBUG"]),
    st.sampled_from(LOGGED + BARE),
    st.sampled_from(["hyperscan", "re2"]),
)
def test_no_json_body_ever_matches(before, after, level, stream, engine):
    body = {"model": "m", "messages": [{"role": "user", "content": f"{before}{OOM}{after}"}]}

    for text in (json.dumps(body), json.dumps(body, ensure_ascii=False), repr(body)):
        line = prefixed(level, f"Chat Received request: {text}")
        assert rules_of(line.replace("\n", "\\n"), stream, engine) == set()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"error":{"message":"@","type":"invalid_request_error","code":"x"}}', id="error"),
        pytest.param('{"object":"error","message":"@","code":400}', id="object"),
        pytest.param('{"detail":"@"}', id="detail"),
    ],
)
@pytest.mark.parametrize("before", ["", "HTTP error: 400, Response: ", "response: "])
def test_an_error_body_is_the_servers_own_word(before, body):
    said = "The decoder prompt (length 163840) is longer than the maximum"

    assert rules_of(before + body.replace("@", said), "unknown") == {"long"}


MULTILINE = f"""help me with this
Traceback (most recent call last):
  File "mine.py", line 1, in <module>
RuntimeError: {OOM}
{OOM}
thanks"""


@pytest.mark.parametrize("stream", LOGGED)
@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_prompt_of_many_lines_does_not_match(stream, level):
    record = prefixed(level, f"Receive request: {{'prompt': '{MULTILINE}'}}")

    assert rules_of(f"{record}\n{prefixed('INFO', 'done')}\n", stream) == set()


@pytest.mark.parametrize("stream", LOGGED)
def test_a_prompt_of_very_many_lines_does_not_match(stream):
    filler = "more of it\n" * 400

    assert rules_of(f"{prefixed('INFO', 'Receive request: x')}\n{filler}{OOM}\n", stream) == set()


@pytest.mark.parametrize("stream", LOGGED)
@pytest.mark.parametrize("level", ["WARNING", "ERROR", "CRITICAL"])
def test_a_bare_line_of_a_bad_record_matches(stream, level):
    assert rules_of(f"{prefixed(level, 'it broke:')}\n\n{OOM}\n", stream) == {"oom"}


@pytest.mark.parametrize("stream", LOGGED)
def test_a_bare_line_of_a_bad_record_that_ends_in_a_users_text_is_the_users(stream):
    name = prefixed("ERROR", f"request refused: Unsupported model: [mine\n{OOM}], support [theirs]")

    assert rules_of(f"{name}\n{prefixed('INFO', 'done')}\n", stream) == set()


@pytest.mark.parametrize("stream", LOGGED)
def test_a_traceback_in_a_harmless_record_matches(stream):
    text = prefixed("INFO", "loop ends, Traceback (most recent call last):") + f'\n  File "a.py", line 1\nE: {OOM}\n'

    assert rules_of(text, stream) == {"oom"}


@pytest.mark.parametrize("stream", BARE)
def test_where_programs_print_bare_lines_match(stream):
    assert rules_of(f"{prefixed('INFO', 'loading')}\n{OOM}\n", stream) == {"oom"}


def test_a_return_within_a_prompt_begins_no_line():
    for stream in LOGGED + BARE:
        assert rules_of(prefixed("INFO", f"Receive request: {{'prompt': 'x\r{OOM}'}}"), stream) == set()


def test_a_path_or_an_agent_does_not_match():
    line = f'10.0.0.7:1 - "GET /{OOM} HTTP/1.1" 404 "-" "{OOM}"'

    assert rules_of(prefixed("INFO", line), "access") == set()
