"""``diagnose rules``, as people and programs call it."""

from __future__ import annotations

import gzip
import json

import pytest

from diagnose.cli.main import main

RULE = """\
id: site.disk-array
cause: disk_full
title: {en: The array is full, zh: 阵列已满}
why: {en: Because., zh: 因为。}
fix: {en: Mend it., zh: 修复。}
when: {pattern: 'array \\S+ is full'}
clears: {quiet: 10m}
tests:
  hits: ['array md0 is full', 'array md1 is full']
  misses: ['array md0 is half full', 'the array is fine']
"""
OOM = "ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 15.503906GB memory on GPU 0"


@pytest.fixture
def site(tmp_path):
    (tmp_path / "disk.yaml").write_text(RULE, encoding="utf-8")
    return tmp_path


def run(capsys, *argv):
    status = main(["rules", *map(str, argv)])
    told = capsys.readouterr()
    return status, told.out, told.err


@pytest.mark.parametrize(("lang", "title"), [("en", "The array is full"), ("zh", "阵列已满")])
def test_list_names_all_rules_in_the_readers_language(capsys, monkeypatch, site, lang, title):
    monkeypatch.setenv("COLUMNS", "300")

    status, out, _ = run(capsys, "list", "--rules", site, "--lang", lang)

    assert status == 0
    assert title in next(line for line in out.splitlines() if "site.disk-array" in line)


def test_list_is_there_for_programs(capsys, site):
    status, out, _ = run(capsys, "list", "--json", "--rules", site)

    rules = json.loads(out)
    assert status == 0
    assert "site.disk-array" in {rule["id"] for rule in rules}
    assert [rule["cause"] for rule in rules] == sorted(rule["cause"] for rule in rules)


def test_show_prints_one_rule(capsys, site):
    status, out, _ = run(capsys, "show", "site.disk-array", "--rules", site)

    rule = json.loads(out)
    assert status == 0
    assert (rule["title"]["zh"], rule["clears"]["quiet"]) == ("阵列已满", "10m")


@pytest.mark.parametrize("command", ["show", "test"])
def test_a_rule_that_is_not_there_is_told_with_a_cure(capsys, command):
    status, out, err = run(capsys, command, "no.such")

    assert (status, out) == (2, "")
    assert "no.such" in err
    assert err.endswith("See diagnose rules list.\n")


def test_lint_says_nothing_of_what_is_shipped(capsys):
    status, out, _ = run(capsys, "lint")

    assert status == 0
    assert out.count("\n") == 1
    assert out.endswith(" 0 problems\n")


def test_lint_of_a_path_speaks_of_that_alone(capsys, site):
    assert run(capsys, "lint", site)[:2] == (0, "1 rules, 0 remedies, 0 problems\n")


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        pytest.param(r".*array \S+ is full", "open .*", id="an open start"),
        pytest.param(r"\w+ \d+", "no fixed text", id="nothing fixed"),
        pytest.param(r"(?U)array \S+ is full", "Hyperscan refuses it", id="too much for Hyperscan"),
    ],
)
def test_lint_says_what_is_unwise_and_how_to_mend_it(capsys, site, pattern, problem):
    (site / "disk.yaml").write_text(RULE.replace(r"array \S+ is full", pattern), encoding="utf-8")

    status, out, _ = run(capsys, "lint", site)

    assert status == 1
    assert out.startswith("site.disk-array: pattern ")
    assert problem in out


def test_lint_sees_an_edit_at_once(capsys, site):
    run(capsys, "lint", site)
    (site / "disk.yaml").write_text(RULE.replace("disk_full", "disk_fulL"), encoding="utf-8")

    assert run(capsys, "lint", site)[0] == 1


def test_test_counts_and_names_what_fails(capsys, site):
    assert run(capsys, "test", "site.disk-array", "--rules", site)[:2] == (
        0,
        "1 rules, 0 remedies: 2 hits and 2 near misses, 0 failed\n",
    )
    (site / "disk.yaml").write_text(RULE.replace("the array is fine", "array md7 is full"), encoding="utf-8")

    status, out, _ = run(capsys, "test", "site.disk-array", "--rules", site)

    assert status == 1
    assert "FAILED site.disk-array: expected a near miss, got a finding\n       array md7 is full\n" in out


def test_match_shows_which_line_fires_which_rule(capsys, site):
    log = site / "server.log"
    log.write_text(f"all is well\n{OOM}\narray \x1b[31mmd0\x1b[0m is full\n", encoding="utf-8")

    status, out, _ = run(capsys, "match", log, "--rules", site)

    rows = out.splitlines()
    assert status == 1
    assert any("server.log:2  gpu.oom." in row for row in rows)
    assert rows[-1].endswith("server.log:3  site.disk-array  array md0 is full")


def test_match_of_a_quiet_log_is_fine(capsys, tmp_path):
    log = tmp_path / "quiet.log.gz"
    log.write_bytes(gzip.compress(b"all is well\n"))

    assert run(capsys, "match", log) == (0, "", "")


def test_match_of_no_file_is_told(capsys, tmp_path):
    status, _, err = run(capsys, "match", tmp_path / "none.log")

    assert status == 2
    assert err.startswith("diagnose: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["rule", "remedy"])
def test_schema_is_json_schema(capsys, kind):
    status, out, _ = run(capsys, "schema", kind)

    schema = json.loads(out)
    named = schema["$defs"][kind.title()]
    assert status == 0
    assert {"id", "title"} <= set(named["required"])
    assert named["additionalProperties"] is False
