"""Every shipped rule and remedy loads, lints clean and passes the tests inside it, with either engine."""

from __future__ import annotations

import pytest

from diagnose.catalog import check, load
from diagnose.engine.match import Matcher
from diagnose.model.causes import CAUSES

SHIPPED = load.read_files([load.shipped("rules"), load.shipped("remedies")])
MATCHERS = {engine: Matcher(SHIPPED, engine=engine) for engine in ("hyperscan", "re2")}


def test_there_are_rules_and_remedies():
    assert len(SHIPPED.rules) > 100
    assert len(SHIPPED.remedies) > 10


def test_all_lint_clean():
    assert check.lint(SHIPPED) == []


@pytest.mark.parametrize("name", sorted(SHIPPED.rules))
def test_the_tests_of_a_rule_pass(name):
    assert check.run_tests(SHIPPED, MATCHERS["hyperscan"], [name]).failures == ()


@pytest.mark.parametrize("name", sorted(SHIPPED.remedies))
def test_the_tests_of_a_remedy_pass(name):
    assert check.run_tests(SHIPPED, MATCHERS["hyperscan"], [name]).failures == ()


def test_without_hyperscan_they_pass_too():
    assert check.run_tests(SHIPPED, MATCHERS["re2"]).failures == ()


def test_each_remedy_cures_causes_that_there_are():
    assert {cause for remedy in SHIPPED.remedies.values() for cause in remedy.cures} <= set(CAUSES)
