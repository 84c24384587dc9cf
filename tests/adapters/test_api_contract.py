"""The API keeps to its own OpenAPI document, whatever it is asked: no 500, no answer that is not in it."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from diagnose.model.incident import State as Stands
from diagnose.web import openapi, paths
from tests.adapters.api_life import TOKEN, living
from tests.adapters.test_api import trouble

SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "schemathesis"
SECONDS = 300 if os.environ.get("DIAGNOSE_ALL_SCENARIOS") else 30


@pytest.mark.timeout(SECONDS + 60)
def test_schemathesis_finds_nothing_that_the_document_does_not_say(tmp_path):
    hook = {"kind": "webhook", "name": "hook", "url": "http://127.0.0.1:9/x"}
    troubles = trouble("a1b2c3d4"), trouble("b1b2c3d4", state=Stands.RESOLVED)
    with living(tmp_path / "state", *troubles, receivers=[hook]) as life:
        done = subprocess.run(
            [
                SCHEMATHESIS,
                "run",
                f"{life.url}{paths.OPENAPI}",
                "--checks=all",
                "--continue-on-failure",
                f"--max-time={SECONDS}",
                "--seed=1",
                f"--header=Authorization: Bearer {TOKEN}",
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    count = sum(len(methods) for path, methods in openapi.document()["paths"].items() if path != paths.OPENAPI)
    assert f"Tested: {count}" in done.stdout, done.stdout  # all but the document itself, by which it is asked
