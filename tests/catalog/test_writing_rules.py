"""The rule and the remedy that the documentation shows are good ones, and its fragments are what they seem."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from diagnose.catalog import check, load
from diagnose.engine.match import Matcher
from diagnose.model import codec
from diagnose.model.remedy import Remedy
from diagnose.model.rule import Rule, RuleTests, When

PAGE = Path(__file__).resolve().parents[2] / "docs" / "writing-rules.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def known(tmp_path):
    for number, example in enumerate(one for one in EXAMPLES if one.startswith("id: ")):
        (tmp_path / f"{number}.yaml").write_text(example, encoding="utf-8")
    return load.read_files([tmp_path])


def test_the_examples_are_wise(known):
    assert check.lint(known) == []


def test_their_tests_pass(known):
    done = check.run_tests(known, Matcher(known))
    assert (done.rules, done.remedies, done.hits, done.misses, done.failures) == (1, 1, 2, 2, ())


@pytest.mark.parametrize(("field", "kind"), [("when", When), ("tests", RuleTests)])
def test_a_fragment_is_what_it_seems(field, kind):
    (fragment,) = (one for one in EXAMPLES if one.startswith(f"{field}:"))
    plain = yaml.safe_load(fragment)[field]
    codec.convert({"misses": [], **plain} if kind is RuleTests else plain, kind)


def test_the_overrides_fit_what_is_shipped():
    (fragment,) = (one for one in EXAMPLES if one.startswith("overrides:"))
    load.load([], yaml.safe_load(fragment)["overrides"])


@pytest.mark.parametrize("kind", [Rule, Remedy])
def test_every_field_is_explained(kind):
    missing = [name for name in kind.__struct_encode_fields__ if not re.search(rf"`{name}[`:]|\b{name}:", TEXT)]
    assert missing == []


def test_the_links_of_the_page_lead_somewhere():
    titles = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in re.findall(r"(?m)^## (.+)$", TEXT)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) == titles


def test_the_index_names_every_page():
    index = (PAGE.parent / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)]+)\)", index))
    assert {path.name for path in PAGE.parent.glob("*.md")} - {"index.md"} <= linked
    assert all((PAGE.parent / link).is_file() for link in linked)
