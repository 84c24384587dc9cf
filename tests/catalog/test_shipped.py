"""Every shipped rule and remedy loads, lints clean and passes the tests inside it, with either engine."""

from __future__ import annotations

import re

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


WITHOUT_A_RULE = {
    "unknown": "what no rule knows",
    "nvlink_fault": "told by the driver's Xid, where there is a card to fail",
}


def test_each_cause_has_a_rule():
    missing = set(CAUSES) - {rule.cause for rule in SHIPPED.rules.values()} - set(WITHOUT_A_RULE)

    assert missing == set()


TEXTS = [
    (f"{item.id}: {name}", getattr(item, name))
    for item in (*SHIPPED.rules.values(), *SHIPPED.remedies.values())
    for name in ("title", "why", "fix")
    if hasattr(item, name)
]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def test_each_text_is_there_in_both_languages():
    same = [name for name, text in TEXTS if text.en.strip() == text.zh.strip()]
    not_chinese = [name for name, text in TEXTS if not CHINESE.search(text.zh)]
    not_english = [name for name, text in TEXTS if len(CHINESE.findall(text.en)) > len(text.en) / 3]

    assert (same, not_chinese, not_english) == ([], [], [])


def test_both_languages_name_the_same_groups():
    def fields(text):
        return set(re.findall(r"\{(\w+)\}", text))

    assert [name for name, text in TEXTS if fields(text.en) != fields(text.zh)] == []


def test_each_command_can_be_typed_as_it_stands():
    parts = {name: re.split(r"; |&& ", rule.command) for name, rule in SHIPPED.rules.items() if rule.command}
    wrong = [name for name, said in parts.items() if any(re.match(r"-|\w+=|.*\.\.\.$", one) for one in said)]

    assert wrong == []


def test_both_ways_of_loading_give_the_same():
    assert load.load(fresh=True) == load.load()
