from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.engine.templates import Template
from diagnose.report import markdown
from diagnose.report.build import Scanned, build
from diagnose.testing import NOON, both, finding, incident, knowledge, remedy, rule


def written(*incidents, lang="en", known=None, unexplained=()):
    report = build(
        target="default",
        generated_at=NOON,
        scanned=Scanned(files=1, bytes=10, lines=1, seconds=0.0),
        incidents=incidents,
        knowledge=known or knowledge(rule(command="nvidia-smi"), remedy()),
        unexplained=unexplained,
        lang=lang,
    )
    return markdown.render(report, lang=lang)


def outside(text):
    """Drop fenced blocks the way CommonMark reads them."""
    kept, mark = [], ""
    for line in text.splitlines():
        if mark:
            if re.fullmatch(r" {0,3}" + mark + r"`*\s*", line):
                mark = ""
        elif found := re.match(r" {0,3}(`{3,})", line):
            mark = found[1]
        else:
            kept.append(line)
    assert not mark, "a fence is left open"
    return "\n".join(kept)


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        (
            "en",
            ["# Diagnosis of default", "## ✗ Out of GPU memory while loading", "**Fix:** Use fewer bytes"],
        ),
        ("zh", ["# default 诊断报告", "## ✗ 加载阶段显存不足", "**处理办法：** 请降低权重的精度。"]),
    ],
)
def test_it_says_what_the_terminal_says(lang, words):
    text = written(incident(), lang=lang)

    assert all(word in text for word in words)
    assert "```sh\nnvidia-smi\n```" in text


def test_a_healthy_log_says_so():
    assert "✓ nothing found" in written()


@pytest.mark.parametrize("line", ["```", "x\n```\n# owned", "``````", "~~~", "a ```` b"])
def test_log_text_cannot_leave_its_fence(line):
    odd = Template(template="odd", count=1, sample=line, source="w.log", line=9)

    rest = outside(written(incident(finding(proof=[f"OWNED {line}"])), unexplained=[odd]))

    assert "OWNED" not in rest
    assert "owned" not in rest


def test_log_text_in_a_title_makes_no_html_link_or_mention():
    known = knowledge(rule(title=both("Broken: {name}")))
    name = "<img src=x> [a](http://b) @all **b**"

    title = written(incident(finding(labels={"name": name})), known=known).splitlines()[2]

    assert title == r"## ✗ Broken: &lt;img src=x&gt; \[a\](http://b) &#64;all \*\*b\*\*"


@given(st.lists(st.text(alphabet="`~x \n\r\x1b", max_size=30), max_size=5))
def test_no_text_breaks_a_fence(lines):
    assert outside(markdown.fence(lines)) == ""
