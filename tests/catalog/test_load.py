"""Files that cannot be used are refused with file, line and cure; later files replace earlier ones."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from diagnose.catalog import cache, check, load
from diagnose.cli.main import main
from diagnose.engine.match import Matcher
from diagnose.errors import ConfigError, FileError, RuleFileError
from diagnose.model.rule import Severity
from diagnose.model.text import Duration

GOOD = """\
id: some.failure
cause: gpu_oom_load
title: {en: It fails, zh: 失败}
why: {en: Because., zh: 因为。}
fix: {en: Mend it., zh: 修复。}
when:
  any:
    - pattern: 'something broke'
    - pattern: 'something else broke'
      within: 1h30m
clears: {quiet: 10m}
tests:
  hits: ['something broke', 'something else broke']
  misses: ['nothing broke', 'all is well']
"""
REMEDY = """\
id: some.cure
title: {en: Mend it, zh: 修复}
why: {en: Because., zh: 因为。}
cures: [gpu_oom_load]
risk: disruptive
ladder:
  - rung: {en: start anew, zh: 重启}
    steps: [{action: server.restart}]
"""


def write(folder, text, name="some.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_loads(tmp_path):
    known = load.read_files([write(tmp_path, GOOD), write(tmp_path, REMEDY, "cure.yaml")])

    rule = known.rules["some.failure"]
    assert rule.when.any[1].within == Duration(hours=1, minutes=30)
    assert rule.severity is Severity.ERROR
    assert set(known.remedies) == {"some.cure"}
    assert "@ready" in known.marks


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("---\n".join([GOOD, GOOD.replace("some.failure", "other.failure")]), id="documents"),
        pytest.param(
            "\n".join(
                "- " + one.replace("\n", "\n  ") for one in (GOOD, GOOD.replace("some.failure", "other.failure"))
            ),
            id="a list",
        ),
    ],
)
def test_a_file_may_hold_many(tmp_path, text):
    assert set(load.read_files([write(tmp_path, text)]).rules) == {"some.failure", "other.failure"}


def test_folders_are_read_to_their_depths(tmp_path):
    deep = tmp_path / "gpu" / "deep"
    deep.mkdir(parents=True)
    write(deep, GOOD)
    write(tmp_path, "no rule", "README.md")

    assert set(load.read_files([tmp_path]).rules) == {"some.failure"}


def test_a_later_file_replaces_the_earlier_whole(tmp_path):
    first = write(tmp_path, GOOD + "confidence: 0.5\n", "a.yaml")
    second = write(tmp_path, GOOD.replace("It fails", "It fails here"), "b.yaml")

    rule = load.read_files([first, second]).rules["some.failure"]

    assert (rule.title.en, rule.confidence) == ("It fails here", 0.9)


def test_the_digest_changes_with_the_files(tmp_path):
    path = write(tmp_path, GOOD)
    first = load.read_files([path]).digest
    write(tmp_path, GOOD + "confidence: 0.55\n")

    assert load.read_files([path]).digest != first


BAD = [
    pytest.param("why: {en: Because., zh: 因为。}\n", "", 1, r"why", "Add 'why'", id="a field is missing"),
    pytest.param("clears:", "cleers:", 11, "cleers", "Did you mean 'clears'", id="a field is misspelt"),
    pytest.param("zh: 修复。", "fr: Oui", 5, "fr", "fix|zh|Take", id="another language"),
    pytest.param("within: 1h30m", "within: soon", 10, "soon", "30s, 5m", id="no length of time"),
    pytest.param("clears: {quiet: 10m}", "clears: {}", 11, "how the trouble ends", ".", id="no end"),
    pytest.param("      within", "      event: x\n      within", 9, "exactly one of", ".", id="two conditions"),
    pytest.param("'something broke'\n", "'some(thing'\n", 8, r"missing \)|missing closing", "RE2", id="no pattern"),
    pytest.param("'something broke'\n", "'some(?=thing)'\n", 8, "perl operator", "look-around", id="look-around"),
    pytest.param("'something broke'\n", "'(?:some)?'\n", 8, "every line", "Anchor", id="an empty match"),
    pytest.param("'something else broke'\n", "'a(b'\n", 9, "missing", "RE2", id="the second pattern"),
    pytest.param("when:\n", "when: [\n", None, "not valid YAML", "quotes", id="no YAML"),
    pytest.param("id: some.failure\n", "id: [1, 2]\n", 1, "Expected `str`", "Write a text", id="a list for a text"),
    pytest.param("cause:", "severity: bad\ncause:", 2, "bad", "words", id="no such severity"),
    pytest.param("cause:", "confidence: 7\ncause:", None, "above 0", ".", id="more than sure"),
]


@pytest.mark.parametrize(("old", "new", "line", "problem", "hint"), BAD)
def test_a_bad_file_is_refused_with_place_and_cure(tmp_path, old, new, line, problem, hint):
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    path = write(tmp_path, text)

    with pytest.raises(RuleFileError) as caught:
        load.read_files([path])

    error = caught.value
    assert str(error).startswith(f"{path}:")
    assert line is None or error.line == line
    assert re.search(problem, error.problem)
    assert re.search(hint, str(error))
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"id: \xff\xfe\n", "UTF-8", id="no text"),
        pytest.param(b"just words\n", "expected a rule", id="no rule"),
        pytest.param(b"- 1\n- 2\n", "expected a rule", id="a list of numbers"),
        pytest.param(b"a: b: c\n", "not valid YAML", id="no YAML"),
        pytest.param(b"a: \x07\n", "not valid YAML", id="a control character"),
        pytest.param(b"a: &x [*x]\n", "unknown field", id="an anchor within itself"),
        pytest.param(b"a: !!python/object:os.system {}\n", "not valid YAML", id="a Python tag"),
    ],
)
def test_what_is_no_rule_file_is_refused(tmp_path, data, problem):
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)

    with pytest.raises(RuleFileError, match=problem) as caught:
        load.read_files([path])

    assert str(caught.value).startswith(f"{path}:")


def test_the_same_id_twice_in_one_file_is_refused(tmp_path):
    path = write(tmp_path, f"{GOOD}---\n{GOOD}")

    with pytest.raises(RuleFileError, match=r"stands twice"):
        load.read_files([path])


def test_a_bad_list_item_is_named_by_its_own_line(tmp_path):
    items = [GOOD, GOOD.replace("some.failure", "other.failure").replace("clears:", "cleers:")]
    path = write(tmp_path, "\n".join("- " + one.rstrip().replace("\n", "\n  ") for one in items) + "\n")

    with pytest.raises(RuleFileError) as caught:
        load.read_files([path])

    assert caught.value.line == GOOD.count("\n") + 11


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        load.read_files([tmp_path / "nowhere"])


def test_overrides_change_single_fields(tmp_path):
    write(tmp_path, GOOD)
    write(tmp_path, REMEDY, "cure.yaml")

    known = load.load([tmp_path], {"some.failure": {"confidence": "0.4"}, "some.cure": {"mode": "suggest"}})

    assert known.rules["some.failure"].confidence == 0.4
    assert known.remedies["some.cure"].mode.value == "suggest"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        pytest.param({"nobody": {"mode": "auto"}}, "nobody", id="no such id"),
        pytest.param({"server.fit-memory": {"mood": "auto"}}, "mood", id="no such field"),
        pytest.param({"server.fit-memory": {"mode": "sometimes"}}, "sometimes", id="no such mode"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(overrides, problem):
    with pytest.raises(ConfigError, match=problem):
        load.load([], overrides)


# --- lint


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param("gpu_oom_load", "gpu_on_fire", "gpu_on_fire", id="no such cause"),
        pytest.param("clears:", "explains: [gremlins]\nclears:", "gremlins", id="no such echo"),
        pytest.param("clears:", "remedies: [pray]\nclears:", "pray", id="no such remedy"),
        pytest.param("'something broke'\n", "'.*something broke'\n", r"open \.\*", id="an open start"),
        pytest.param("'something broke'\n", "'something broke.*'\n", r"open \.\*", id="an open end"),
        pytest.param("'something broke'\n", "'some[甲乙] broke'\n", "non-ASCII", id="Chinese in a class"),
        pytest.param("'something broke'\n", r"'\w+ \d+'" + "\n", "no fixed text", id="nothing fixed"),
        pytest.param(", 'something else broke'", "", "too few tests", id="one hit"),
        pytest.param(
            "    - pattern: 'something broke'\n",
            "    - pattern: 'something broke'\n    - {sample: host.disk_free_ration, below: 0.1}\n",
            "unknown sample 'host.disk_free_ration'",
            id="no such number",
        ),
        pytest.param("It fails,", "'{card} fails',", "card", id="a group that is not there"),
        pytest.param("clears:", "explains: [gpu_oom_load]\nclears:", "circle", id="a cause of itself"),
    ],
)
def test_lint_names_what_is_unwise(tmp_path, old, new, problem):
    text = GOOD.replace(old, new, 1)
    assert text != GOOD

    told = [one.message for one in check.lint(load.read_files([write(tmp_path, text)]))]

    assert any(re.search(problem, one) for one in told)


def test_lint_has_nothing_against_a_good_rule(tmp_path):
    assert check.lint(load.read_files([write(tmp_path, GOOD)])) == []


@pytest.mark.parametrize(
    ("old", "new", "actual"),
    [
        pytest.param("hits: ['something broke'", "hits: ['something bent'", "no finding", id="a hit that misses"),
        pytest.param("misses: ['nothing broke'", "misses: ['something broke'", "a finding", id="a miss that hits"),
    ],
)
def test_a_test_that_does_not_hold_is_told(tmp_path, old, new, actual):
    known = load.read_files([write(tmp_path, GOOD.replace(old, new, 1))])

    (failure,) = check.run_tests(known, Matcher(known)).failures

    assert (failure.item, failure.actual) == ("some.failure", actual)


# --- what is kept for the next start


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "diagnose"


def test_the_second_start_reads_what_the_first_kept(tmp_path, cache_folder):
    write(tmp_path, GOOD)
    first = load.load([tmp_path / "some.yaml"])
    cache.matcher(first)

    kept = sorted(path.suffix for path in cache_folder.iterdir())

    assert kept == [".hsdb", ".json"]
    assert load.load([tmp_path / "some.yaml"]) == first


def test_damaged_files_are_as_good_as_none(tmp_path, cache_folder):
    write(tmp_path, GOOD)
    first = load.load([tmp_path / "some.yaml"])
    cache.matcher(first)
    for path in cache_folder.iterdir():
        path.write_bytes(b"\0damaged")

    again = load.load([tmp_path / "some.yaml"])

    assert again == first
    assert isinstance(cache.matcher(again), Matcher)


def test_a_cache_that_cannot_be_written_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(write(tmp_path, "a file, no folder", "cache")))
    write(tmp_path, GOOD)

    known = load.load([tmp_path / "some.yaml"])

    assert "some.failure" in known.rules
    assert isinstance(cache.matcher(known), Matcher)


def test_nobody_reads_what_others_can_write(tmp_path, cache_folder):
    write(tmp_path, GOOD)
    first = load.load([tmp_path / "some.yaml"])
    (kept,) = cache_folder.iterdir()
    kept.write_bytes(kept.read_bytes().replace(b"It fails", b"Is fine!"))
    changed = load.load([tmp_path / "some.yaml"]).rules["some.failure"].title.en
    kept.chmod(0o666)

    assert changed == "Is fine!"
    assert load.load([tmp_path / "some.yaml"]) == first


def test_who_edits_a_file_reads_what_it_says_now(tmp_path, cache_folder):
    path = write(tmp_path, GOOD)
    load.load([path])
    (kept,) = cache_folder.iterdir()
    kept.write_bytes(kept.read_bytes().replace(b"It fails", b"Is fine!"))

    assert load.load([path], fresh=True).rules["some.failure"].title.en == "It fails"


def test_an_edit_that_sets_the_time_back_is_seen(tmp_path, cache_folder):
    path = write(tmp_path, GOOD)
    state = path.stat()
    load.load([path])
    write(tmp_path, GOOD.replace("It fails", "Is fine!"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    assert cache_folder.exists()
    assert load.load([path]).rules["some.failure"].title.en == "Is fine!"


def test_many_writers_leave_whole_files_and_no_drafts(tmp_path, cache_folder):
    known = load.read_files([write(tmp_path, GOOD)])

    def keep(number):
        cache.keep_knowledge(f"key{number % 3}", known)
        return cache.knowledge(f"key{number % 3}")

    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(keep, range(60)))

    assert all(one in (None, known) for one in read)
    assert sorted(path.name for path in cache_folder.iterdir()) == ["key0.json", "key1.json", "key2.json"]


def test_a_folder_that_is_not_there_is_made_and_the_oldest_of_many_go(tmp_path, cache_folder):
    known = load.read_files([write(tmp_path, GOOD)])

    for number in range(30):
        cache.keep_knowledge(f"key{number}", known)

    assert 1 <= len(list(cache_folder.iterdir())) <= 12


def test_of_several_cache_folders_of_a_service_the_first_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    cache.keep_knowledge("key", load.read_files([write(tmp_path, GOOD)]))

    assert (tmp_path / "one" / "diagnose" / "key.json").exists()


# --- what people see


TOLD = [
    pytest.param("  id: x\n cause: y\n", r":2:\d+: not valid YAML", "indentation", id="bad indentation"),
    pytest.param(GOOD.replace("clears:", "cleers:"), r":11:\d+: .*cleers", "Did you mean 'clears'", id="misspelt"),
    pytest.param(GOOD.replace("id: some.failure", "id: 5"), r":1:\d+: .*Expected", "Write a text", id="a number"),
    pytest.param(GOOD.replace("cause: gpu_oom_load\n", ""), r":1:\d+: missing", "Add 'cause'", id="missing"),
    pytest.param(f"{GOOD}---\n{GOOD}", r":\d+: the id", "Give each its own", id="an id twice"),
    pytest.param(f"{GOOD}why: {{en: a, zh: b}}\n", r":15:1: the field 'why'", "Keep one", id="a field twice"),
    pytest.param("[" * 5000, r":1.*: not valid YAML", "Save it|quotes", id="depths"),
    pytest.param("just words", r":1: expected a rule", "Begin each rule", id="a lone text"),
    pytest.param("- - a\n", r":1: expected a rule", "Begin each rule", id="lists"),
]


@pytest.mark.parametrize(("text", "problem", "cure"), TOLD)
def test_a_mistake_is_one_line_with_place_and_cure_and_status_2(tmp_path, capsys, text, problem, cure):
    path = write(tmp_path, text)

    status = main(["rules", "lint", str(path)])

    said = capsys.readouterr().err
    assert status == 2
    assert said.startswith(f"diagnose: {path}:")
    assert re.search(problem, said)
    assert re.search(cure, said)
    assert said.count("\n") == 1


def test_a_file_that_is_no_text_is_told_so(tmp_path, capsys):
    path = tmp_path / "some.yaml"
    path.write_bytes(b"id: \xff\xfe\n")

    assert main(["rules", "lint", str(path)]) == 2
    assert capsys.readouterr().err == f"diagnose: {path}:1: no UTF-8 text (invalid start byte). Save it as UTF-8.\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_a_file_that_cannot_be_read_is_told_so(tmp_path, capsys):
    path = write(tmp_path, GOOD)
    path.chmod(0)

    assert main(["rules", "lint", str(path)]) == 2
    assert "Give a file that this user can read" in capsys.readouterr().err


def test_an_empty_file_holds_nothing(tmp_path):
    assert load.read_files([write(tmp_path, "# nothing yet\n")]).rules == {}


def test_an_editors_own_files_are_no_rules(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / ".#some.yaml").symlink_to("nowhere")

    assert set(load.read_files([tmp_path]).rules) == {"some.failure"}


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    name: str = "none"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("- a\n- b\n", "a list", id="a list"),
        pytest.param("# first\n\nname\n", "a lone value", id="a scalar"),
        pytest.param("name: a\n---\nname: b\n", "several documents", id="documents"),
    ],
)
def test_a_configuration_of_another_shape_is_told_so(tmp_path, text, found):
    path = write(tmp_path, text)

    with pytest.raises(FileError, match=rf":\d+: expected settings, each with its name, found {found}\. Write one"):
        load.read_config(path, Settings)


def test_a_configuration_is_read(tmp_path):
    assert load.read_config(write(tmp_path, "name: a\n"), Settings).name == "a"
    assert load.read_config(write(tmp_path, "# nothing\n"), Settings).name == "none"


def test_an_override_of_a_wrong_kind_is_one_line(tmp_path):
    write(tmp_path, GOOD)

    with pytest.raises(ConfigError, match=r"some\.failure: Expected `float`"):
        load.load([tmp_path], {"some.failure": {"confidence": "much"}})
