"""The rule that the documentation shows is a good one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diagnose.catalog import check, load
from diagnose.engine.match import Matcher

PAGE = Path(__file__).resolve().parents[2] / "docs" / "writing-rules.md"


@pytest.fixture
def known(tmp_path):
    (example,) = re.findall(r"```yaml\n(id: .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    return load.read_files([path])


def test_the_example_is_wise(known):
    assert check.lint(known) == []


def test_its_tests_pass(known):
    done = check.run_tests(known, Matcher(known))
    assert (done.rules, done.hits, done.misses, done.failures) == (1, 2, 2, ())
