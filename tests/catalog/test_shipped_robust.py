"""Every hit of every shipped rule, as transports carry it; and as users may write it, where it must not count."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import msgspec
import pytest

from diagnose.catalog import cache, check, load
from diagnose.engine.lines import pieces, take_apart
from diagnose.model.rule import LogTest

KNOWN = load.load()
MATCHER = cache.matcher(KNOWN)
PREFIXES = {
    "docker compose": "fastdeploy-server-1  | ",
    "kubectl": "[pod/ernie-0/fastdeploy] ",
    "container runtime": "2026-03-01T08:00:12.123456789Z stderr F ",
    "docker with times": "2026-03-01T08:00:12.123456789Z ",
    "journald": "Mar 01 08:00:12 gpu-host fastdeploy[4177]: ",
    "journald with ISO times": "2026-03-01T08:00:12+0800 gpu-host fastdeploy[4177]: ",
    "journald with all": "Sun 2026-03-01 08:00:12 UTC gpu-host fastdeploy[4177]: ",
    "dmesg": "[12345.678901] ",
    "dmesg with times": "[Sun Mar  1 08:00:12 2026] ",
    "an engine's own mark": "(EngineCore_DP0 pid=1574) ",
    "a rank": "[rank0]: ",
    "two of them": "fastdeploy-server-1  | 2026-03-01T08:00:12.123456789Z ",
}
LOGS = [
    (rule, test if isinstance(test, LogTest) else LogTest(log=test))
    for rule in KNOWN.rules.values()
    for test in rule.tests.hits
    if isinstance(test, str) or test.log
]
ANSWER = (
    'INFO     2026-03-01 08:00:12,001 4177  serving_chat.py[line:301] Chat response: {{"id": "chatcmpl-1", "choices": '
    '[{{"index": 0, "message": {{"role": "assistant", "content": {0}}}}}]}}'
)
PROMPT = "INFO     2026-03-01 08:00:12,001 4177  ernie4_5_processor.py[line:120] Processed request: {{'prompt': {0}}}"


def found(rule, test):
    return any(one.rule_id == rule.id for one in check.found_by(KNOWN, MATCHER, test))


def wrapped(test, prefix="", suffix=""):
    lines = [prefix + line + suffix for line in test.log.split("\n")]
    return msgspec.structs.replace(test, log="\n".join(lines))


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_what_carries_a_line_changes_nothing(prefix):
    lost = [(rule.id, test.log) for rule, test in LOGS if not found(rule, wrapped(test, prefix))]
    # Lines that say nothing without the very place where they begin are few, and named here by nobody.
    assert len(lost) <= len(LOGS) * 0.02, lost[:20]


def in_docker_json(log):
    rows = ({"log": f"{line}\n", "stream": "stderr", "time": "2026-03-01T08:00:12.1Z"} for line in log.split("\n"))
    return "\n".join(json.dumps(row, separators=(",", ":")) for row in rows)


def in_one_line_of_syslog(log):
    return "Mar  1 08:00:12 gpu-host fastdeploy[4177]: " + log.replace("\n", "#012").replace("\t", "#011")


def counts(when):
    """Whether a rule asks for several records: one record in one line is one."""
    return when.count > 1 or any(map(counts, (*when.all, *when.any, *when.sequence)))


@pytest.mark.parametrize("carry", [in_docker_json, in_one_line_of_syslog])
def test_what_carries_lines_in_another_shape_changes_nothing(carry):
    """The messages of one exception stay together, whatever joined or quoted them."""
    logs = [one for one in LOGS if carry is not in_one_line_of_syslog or not counts(one[0].when)]
    tests = [(rule, msgspec.structs.replace(test, log=carry(test.log))) for rule, test in logs]
    lost = [(rule.id, test.log) for rule, test in tests if not found(rule, test)]
    assert len(lost) <= len(LOGS) * 0.02, lost[:20]


def test_colours_and_line_ends_change_nothing():
    for prefix, suffix in (("\x1b[31m", "\x1b[0m"), ("", "\r"), ("\x1b[33m", "\x1b[0m\r")):
        lost = [(rule.id, test.log) for rule, test in LOGS if not found(rule, wrapped(test, prefix, suffix))]
        assert not lost, lost[:5]


@pytest.mark.parametrize("line", [ANSWER, PROMPT], ids=["a model's answer", "a user's prompt"])
@pytest.mark.parametrize("stream", ["api", "engine", "unknown"])
def test_what_users_and_models_write_is_never_evidence(line, stream):
    quoted = [(rule, LogTest(log=line.format(json.dumps(test.log)), stream=stream)) for rule, test in LOGS]
    taken = [(rule.id, test.log) for rule, test in quoted if found(rule, test)]
    assert not taken, taken[:5]


def forges_a_record(log):
    """Say whether a line looks as if a logger wrote it: in raw text nothing tells it from a real one."""
    now = datetime(2026, 3, 1, tzinfo=timezone.utc)
    lines = (piece for line in log.encode().split(b"\n") for piece in pieces(line))
    return any(take_apart(line, zone=timezone.utc, reference=now).prefixed for line in lines)


@pytest.mark.parametrize("stream", ["api", "engine", "data"])
def test_a_prompt_of_many_lines_is_never_evidence(stream):
    head = "INFO     2026-03-01 08:00:12,001 4177  ernie4_5_processor.py[line:120] prompt: please explain\n"
    raw = [(rule, test.log) for rule, test in LOGS if not forges_a_record(test.log)]
    assert len(raw) > 200
    taken = [(rule.id, log) for rule, log in raw if found(rule, LogTest(log=head + log, stream=stream))]
    assert not taken, taken[:5]
