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
LEAST = 0.9
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
    if re.match(r"HTTP|.*HTTP body", stream) or text.startswith("{"):
        body = text if text.startswith("{") else json.dumps({"error": {"message": text, "code": None}})
        return LogTest(log=body)
    kind = fastdeploy.stream_of(re.split(r"[ /]", stream.replace("N", "0").replace("<dev>", "0"))[0])
    if "traceback" in stream or row["level"] == "EXCEPTION":
        named = re.match(r"(?:\w+\.)*\w*(?:Error|Exception|Exit)\b", text)
        last = text if named else f"ValueError: {text}"
        return LogTest(log=f'Traceback (most recent call last):\n  File "a.py", line 3, in main\n{last}', stream=kind)
    if kind in {"unknown", "worker", "kernel", "launch", "console"}:
        return LogTest(log=text, stream=kind)
    return LogTest(log=f"{'ERROR':8} 2026-03-01 08:00:12,001 4177  engine.py[line:213] {text}", stream=kind)


def test_most_errors_that_the_server_can_tell_are_known(capsys):
    known = load.load()
    matcher = cache.matcher(known)
    rows = [json.loads(line) for line in SURFACE.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if row["level"] in LEVELS]
    missed = [row for row in rows if not check.found_by(known, matcher, as_written(row))]
    share = 1 - len(missed) / len(rows)
    with capsys.disabled():
        print(f"\nerror surface: {len(rows) - len(missed)} of {len(rows)} known ({share:.3f})")
        for row in missed:
            print(f"  {row['id']}: {row['template'][:120]!r} ({row['stream']})")

    assert share >= LEAST
