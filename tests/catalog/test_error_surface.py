"""How much of what FastDeploy can say of its failures some rule knows; runs where the list of it is at hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from diagnose.catalog import cache, check, load
from diagnose.model.rule import LogTest
from diagnose.profiles import fastdeploy

SURFACE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fastdeploy-error-surface.jsonl"
LEVELS = {"ERROR", "CRITICAL", "EXCEPTION"}
LEAST = 0.95
OFTEN = 10
HEAD = f"{'ERROR':8} 2026-03-01 08:00:12,001 4177  engine.py[line:213] "
NO_CAUSE = {
    "fd-shutdown-04": "harmless: on the way down the cache process had ended already",
    "fd-ipc-11": "too vague: one client that went away writes the same line",
    "fd-engine-07": "an envelope: the error that it carries is logged, and known, by its own line",
    "fd-engine-04": "of one bad request, and what stands behind it may be its user's own text",
    "fd-kv-cache-05": "it stands behind an id that a user may choose",
    "fd-kv-cache-12": "harmless: the request waits and is scheduled again",
    "fd-kv-cache-13": "harmless: the request waits and is scheduled again",
    "fd-repetition-09": "harmless: the answer is passed on as it is",
    "fd-http-13": "harmless: the metrics port of a server without an engine says so",
    "fd-control-11": "an envelope: the rank's own log says what failed",
}
"""Rows that no rule should know, and why."""

VALUES = {
    "addr": "10.0.0.7:8188",
    "args": "--max_model_len 32768",
    "code": "500",
    "b": "True",
    "cudaErrorName": "cudaErrorMemoryAllocation",
    "e": "list index out of range",
    "file": "model-00001-of-00002.safetensors",
    "flag": "max-model-len",
    "id": "chatcmpl-0a1b2c3d-0000-4000-8000-000000000000",
    "ip": "10.0.0.7",
    "ips": "10.0.0.7,10.0.0.8",
    "key": "max_model_len",
    "list": "['a', 'b']",
    "model": "ernie-4.5",
    "name": "Ernie4_5ForCausalLM",
    "path": "/models/ernie",
    "pid": "4177",
    "port": "8188",
    "role": "prefill",
    "shape": "[2, 3]",
    "so": "libcudart.so.12",
    "symbol": "_ZN3phi5PlaceE",
    "traceback": 'Traceback (most recent call last):\n  File "a.py", line 3, in main\nValueError: no',
    "type": "int",
    "unit": "GB",
    "value": "many",
    "x": "15.503906",
    "y": "0.25",
}

pytestmark = pytest.mark.skipif(not SURFACE.exists(), reason=f"FastDeploy's error surface is not here: {SURFACE}")


def filled(template):
    return re.sub(r"<([^<>\n]{1,60})>", lambda hole: VALUES.get(hole[1], "7"), template.replace("\\n", "\n"))


def as_written(row):
    """Put a row's text into a line of the format of its stream."""
    text, stream = filled(row["template"]), row["stream"]
    if given := re.search(r"body (\{.*\})", stream):
        return LogTest(log=given[1])
    if re.match(r"HTTP|.*HTTP body", stream) or text.startswith("{"):
        body = text if text.startswith("{") else json.dumps({"error": {"message": text, "code": None}})
        return LogTest(log=body)
    kind = fastdeploy.stream_of(re.split(r"[ /]", stream.replace("N", "0").replace("<dev>", "0"))[0])
    head = HEAD if kind not in {"unknown", "worker", "kernel", "launch", "console"} else ""
    if "traceback" in stream or row["level"] == "EXCEPTION":
        named = re.match(r"(?:\w+\.)*\w*(?:Error|Exception|Exit)\b", text)
        last = text if named else f"ValueError: {text}"
        above = f"{head}an error occurred, " if head else ""  # a logger's own file holds no bare traceback
        frames = f'{above}Traceback (most recent call last):\n  File "a.py", line 3, in main'
        return LogTest(log=f"{frames}\n{last}", stream=kind)
    return LogTest(log=f"{head}{text}", stream=kind)


def is_known(row, knowledge, matcher):
    """Say whether some rule knows the row, at once or when it comes again and again."""
    once = as_written(row)
    often = LogTest(log="\n".join([once.log or ""] * OFTEN), stream=once.stream)
    return any(check.found_by(knowledge, matcher, log) for log in (once, often))


def test_errors_that_the_server_can_tell_are_known_or_it_is_said_why_not(capsys):
    knowledge = load.load()
    matcher = cache.matcher(knowledge)
    rows = [json.loads(line) for line in SURFACE.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if row["level"] in LEVELS]
    missed = [row["id"] for row in rows if not is_known(row, knowledge, matcher)]
    share = 1 - len(missed) / len(rows)
    with capsys.disabled():
        print(f"\nerror surface: {len(rows) - len(missed)} of {len(rows)} known ({share:.3f})")

    assert sorted(missed) == sorted(NO_CAUSE), "unknown without a reason, or a reason that is no longer needed"
    assert share >= LEAST
