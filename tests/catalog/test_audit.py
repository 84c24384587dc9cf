"""The list of what runs with us is right, and an audit that can ask nobody says so and fails nobody."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "audit.py"


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sbom_holds_what_runs_and_no_tools_of_developers(audit):
    told = json.loads(audit.sbom(audit.closure(audit.PRODUCT)))
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["component"]["name"] == audit.PRODUCT
    names = {one["name"] for one in told["components"]}
    assert {"anyio", "httpx", "msgspec", "psutil", "idna"} <= names
    assert not {"pytest", "mypy", "ruff", "pip-audit"} & names
    edges = {one["ref"].partition("@")[0]: one.get("dependsOn", []) for one in told["dependencies"]}
    assert any(ref.startswith("pkg:pypi/anyio@") for ref in edges["pkg:pypi/httpx"])


def test_what_is_known_is_told_with_its_cure(audit):
    weak = {"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}
    judged = [{"name": "a", "version": "2.0", "vulns": [weak, {**weak, "id": "PYSEC-2", "fix_versions": []}]}]
    told = list(audit.known_of([*judged, {"name": "b", "version": "1", "vulns": []}]))
    assert told == ["a 2.0: PYSEC-1; use 2.1", "a 2.0: PYSEC-2; no version is free of it"]


def test_without_a_network_it_says_so_and_goes_on(tmp_path):
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
    done = subprocess.run(
        [sys.executable, str(TOOL)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **nowhere},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "could not be judged" in done.stdout
    assert (tmp_path / "build" / "sbom.cdx.json").is_file()
