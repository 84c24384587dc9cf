"""The pages for people on call: made from what is known, complete, and those that are kept are of today."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from diagnose.catalog import load, runbook
from diagnose.catalog.runbook import causes, page, pages
from diagnose.cli.main import main
from diagnose.model.causes import CAUSES
from diagnose.model.remedy import FlagSet, Rung
from diagnose.model.rule import RuleTests
from diagnose.testing import both, knowledge, remedy, rule

KEPT = Path(__file__).resolve().parents[2] / "docs" / "runbook"
AGAIN = "diagnose rules runbook -o docs/runbook"
HAN = re.compile(r"[一-鿿]")


@pytest.fixture(scope="module")
def shipped():
    return load.read_files([load.shipped("rules"), load.shipped("remedies")])


@pytest.fixture(scope="module")
def made(shipped):
    return pages(shipped)


def test_the_kept_pages_are_of_today(made):
    kept = {str(path.relative_to(KEPT)): path.read_text(encoding="utf-8") for path in KEPT.rglob("*.md")}

    differing = sorted(name for name in {*kept, *made} if kept.get(name) != made.get(name))
    assert differing == [], f"make them again: {AGAIN}"


def test_each_class_of_cause_has_a_page_in_both_languages(made):
    assert set(made) == {"index.md", *(f"{lang}/{cause}.md" for lang in ("en", "zh") for cause in CAUSES)}


def test_links_lead_somewhere(made):
    for name, text in made.items():
        folder = name.rpartition("/")[0]
        for link in re.findall(r"\]\(([^)#]+\.md)\)", text):
            assert (f"{folder}/{link}" if folder else link) in made, f"{name}: {link}"
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            assert f'<a id="{anchor}"></a>' in text, f"{name}: {anchor}"


def test_each_rule_stands_on_its_cause_s_page_with_what_to_do(shipped, made):
    for one in shipped.rules.values():
        for lang in ("en", "zh"):
            text = made[f"{lang}/{one.cause}.md"]
            assert f"`{one.id}`" in text
            assert runbook._plain(one.fix.in_(lang)) in text
            assert runbook._plain(one.why.in_(lang)) in text


def test_each_remedy_stands_on_the_page_of_what_it_cures(shipped, made):
    for one in shipped.remedies.values():
        for cause in one.cures:
            assert f"`{one.id}`" in made[f"zh/{cause}.md"]


def test_chinese_pages_have_chinese_headings(made):
    for name, text in made.items():
        if name.startswith("zh/"):
            headings = [line for line in text.splitlines() if line.startswith("#") and not line.startswith("###")]
            assert all(HAN.search(line) for line in headings), name


def test_english_pages_have_no_chinese_but_in_samples(made):
    for name, text in made.items():
        if name.startswith("en/"):
            prose = re.sub(r"(?ms)^ *(`{3,}).*?^ *\1$", "", text)
            assert HAN.search(prose) is None, name


def test_no_place_for_a_label_is_left(made):
    for name, text in made.items():
        prose = re.sub(r"(?ms)^ *(`{3,}).*?^ *\1$", "", text)
        assert re.search(r"\{\w+\}", prose) is None, name


def test_what_a_log_would_tell_is_left_open():
    known = knowledge(rule(title=both("GPU {gpu} is full"), command="kill {pid}"))

    text = page("gpu_oom_load", known, "en")

    assert "### GPU … is full" in text
    assert "kill <pid>" in text


def test_text_of_a_site_makes_no_markup():
    known = knowledge(rule(fix=both("Look <b>at</b> `*x*` and *y* or _z_ in snake_case; 1 < 2 <= 3 | 4.")))

    text = page("gpu_oom_load", known, "en")

    assert r"Look \<b>at\</b> `*x*` and \*y\* or \_z\_ in snake_case; 1 < 2 <= 3 | 4." in text


def test_chinese_that_a_file_folds_has_no_blank_within():
    known = knowledge(rule(fix=both("x", "先看\n日志，再 restart\n服务。")))

    assert "先看日志，再 restart 服务。" in page("gpu_oom_load", known, "zh")


def test_a_sample_cannot_leave_its_fence():
    hits = RuleTests(hits=("```\n# no heading of ours",), misses=())
    known = knowledge(msgspec.structs.replace(rule(), tests=hits))

    assert "````text\n```\n# no heading of ours\n````" in page("gpu_oom_load", known, "en")


def test_a_cause_of_a_site_has_its_page_too():
    known = knowledge(rule("site.odd", cause="site_odd"))

    assert causes(known) == ["unknown", "site_odd"]
    assert page("site_odd", known, "zh").startswith("# site_odd\n")


def test_a_step_says_what_it_sets_and_takes_out():
    steps = (FlagSet(set={"--a": "1", "--b": "", "--c": None}),)
    known = knowledge(rule(), remedy(ladder=(Rung(rung=both("x"), steps=steps),)))

    assert "set `--a 1`, `--b`; take out `--c`" in page("gpu_oom_load", known, "en")


# --- the command


def test_the_command_writes_all_pages(tmp_path, capsys):
    assert main(["rules", "runbook", "-o", str(tmp_path / "pages"), "--lang", "zh"]) == 0

    written = {str(path.relative_to(tmp_path / "pages")) for path in (tmp_path / "pages").rglob("*.md")}
    assert written == {"index.md", *(f"zh/{cause}.md" for cause in CAUSES)}
    assert f"{len(CAUSES) + 1} pages" in capsys.readouterr().out


def test_the_command_prints_one_page(capsys):
    assert main(["rules", "runbook", "gpu_lost", "--lang", "zh"]) == 0

    assert capsys.readouterr().out.startswith("# GPU 掉卡\n")


@pytest.mark.parametrize(("args", "problem"), [(["no_such_cause"], "no page for"), ([], "-o DIR")])
def test_what_it_cannot_do_is_told_with_the_cure(capsys, args, problem):
    assert main(["rules", "runbook", *args]) == 2
    assert problem in capsys.readouterr().err
