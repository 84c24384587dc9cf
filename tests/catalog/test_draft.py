"""A line that no rule knows becomes a rule that only a person can finish."""

from __future__ import annotations

import re

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from diagnose.catalog import check, load
from diagnose.catalog.draft import CHOOSE, as_line, draft, pattern_of
from diagnose.cli.main import main
from diagnose.engine.match import Matcher
from diagnose.engine.scan import refused

LOG = """\
INFO     2026-03-01 08:00:01,101 2301 engine.py[line:88] Engine is warm on GPU 3
ERROR    2026-03-01 08:00:12,101 2301 cachebox.py[line:211] CacheBox could not map 'b-7' of /data/a.bin for rank 3
INFO     2026-03-01 08:00:12,500 2301 cachebox.py[line:199] CacheBox mapped 'b-6' of /data/b.bin for rank 3
ERROR    2026-03-01 08:00:14,101 2301 cachebox.py[line:211] CacheBox could not map 'b-9' of /data/c.bin for rank 1
INFO     2026-03-01 08:00:15,500 2301 cachebox.py[line:20] CacheBox of rank 3 opened
ERROR    2026-03-01 08:00:16,500 2301 other.py[line:5] Wheel 7 came off
"""
LINES = [as_line(line.encode()) for line in LOG.splitlines()]


@pytest.mark.parametrize(
    ("message", "pattern"),
    [
        pytest.param("Took 3.5s of 10", r"^Took \d[\w.]* of \d+", id="numbers and their units"),
        pytest.param("Cannot open /opt/a b", r"^Cannot open \S+ b", id="a path"),
        pytest.param('No "a b" here', '^No "[^"]*" here', id="quoted text keeps its quotes"),
        pytest.param("No 'it' here", "^No '[^']*' here", id="single quotes"),
        pytest.param("Fault at 0xdeadbeef", "^Fault at (?:0x)?[0-9a-fA-F]+", id="an address"),
        pytest.param("Lost 10.0.0.7:80 again", r"^Lost \d[\d.:]+ again", id="a host"),
        pytest.param("code=17, rank 3", r"^code=(?P<code>\d+), rank (?P<rank>\d+)", id="names of what varies"),
        pytest.param("GPU 0 and GPU 1", r"^GPU (?P<gpu>\d+) and GPU \d+", id="a name stands once"),
        pytest.param("rank0 died", r"^rank\d+ died", id="a number in a name"),
        pytest.param("int8 (x*y) [z]? {w}|^$", r"^int8 \(x\*y\) \[z\]\? \{w\}\|\^\$", id="what patterns mean"),
        pytest.param("two  blanks\tthree", r"^two\s+blanks\s+three", id="blanks"),
        pytest.param("显存 12 不足", r"^显存 \d+ 不足", id="Chinese"),
        pytest.param("[x] y", r"\[x\] y", id="no anchor before a sign"),
        pytest.param("bell \x07 and \ufffd rung", "^bell . and . rung", id="what nobody can type"),
    ],
)
def test_what_varies_is_generalised(message, pattern):
    assert pattern_of(message) == pattern


def test_words_that_a_template_knows_to_vary_are_left_open():
    template = "engine.py[line:<num>] Could not load <*> on <num> of <*>"

    assert pattern_of("Could not load wheel on 3 of car", template) == r"^Could not load \S+ on \d+ of \S+"


def test_a_template_of_another_line_changes_nothing():
    assert pattern_of("Could not load wheel", "quite <*> another") == "^Could not load wheel"


def test_a_long_message_is_cut_between_words():
    pattern = pattern_of("Failure of the " + "very " * 100 + "long line")

    assert len(pattern) < 210
    assert pattern.endswith("very")


@given(st.text(st.characters(exclude_characters="\n"), min_size=1, max_size=300))
def test_a_pattern_is_re2_s_and_finds_its_message(message):
    message = as_line(message.encode("utf-8", "replace")).message
    if message.strip():
        assert re2.compile(pattern_of(message)).search(message.strip())


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.message[:20])
def test_hyperscan_takes_the_patterns(line):
    assert refused([pattern_of(line.message)]) == []


def read(tmp_path, text):
    path = tmp_path / "draft.yaml"
    path.write_text(text, encoding="utf-8")
    return load.read_files([path])


def problems(known):
    return [one.message for one in check.lint(known)]


def test_lint_asks_for_what_only_a_person_can_say(tmp_path):
    known = read(tmp_path, draft(LINES[1], LINES).text)

    assert problems(known) == [
        f"unknown cause {CHOOSE!r}",
        "title (en, zh) is still to be written",
        "why (en, zh) is still to be written",
        "fix (en, zh) is still to be written",
    ]


def test_its_own_tests_run_and_hold(tmp_path):
    known = read(tmp_path, draft(LINES[1], LINES).text)
    (rule,) = known.rules.values()

    done = check.run_tests(known, Matcher(known))

    assert (done.hits, done.misses, done.failures) == (2, 2, ())
    assert rule.tests.hits[0].labels == {"rank": "3"}
    assert all("cachebox.py" in miss for miss in rule.tests.misses), "of the same logger"


def test_a_line_all_alone_gives_a_draft_that_asks_for_more_tests(tmp_path):
    known = read(tmp_path, draft(LINES[1], [LINES[1]]).text)

    assert "too few tests" in problems(known)


def test_a_finished_draft_is_a_wise_rule(tmp_path):
    text = draft(LINES[1], LINES).text.replace(CHOOSE, "disk_full")
    text = re.sub(r"'TODO: .*'", "In plain words.", text)
    text = re.sub(r"'待写：.*'", "用白话写。", text)

    assert problems(read(tmp_path, text)) == []


@pytest.mark.parametrize(
    "line",
    [
        'ERROR: it\'s "quoted": {a: [b]} # no comment',
        "ERROR: \x1b]0;title\x07 and \x85 and \u2028 here",
        "ERROR: 'TODO: - &x *y !z %w @v",
        "ERROR: \\d+ \\n backslash",
        "ERROR: 锁文件“a”已存在",
    ],
)
def test_whatever_stands_in_a_line_the_draft_loads(tmp_path, line):
    sample = as_line(line.encode())
    known = read(tmp_path, draft(sample, [sample, *LINES]).text)
    (rule,) = known.rules.values()

    hit = rule.tests.hits[0]
    assert (hit if isinstance(hit, str) else hit.log) == sample.text
    assert check.run_tests(known, Matcher(known)).failures == ()


# --- the command


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "fastdeploy.log"
    path.write_text(LOG, encoding="utf-8")
    return path


def test_the_command_drafts_the_most_frequent_unexplained_line(log, capsys):
    assert main(["rules", "draft", str(log)]) == 0

    told = capsys.readouterr()
    assert "CacheBox could not map" in told.out
    assert "--line 6" in told.err, "the others are named"


@pytest.mark.parametrize("which", [["--line", "6"], ["--template", "Wheel"], ["--template", "Wheel <num>"]])
def test_the_line_can_be_named(log, tmp_path, capsys, which):
    output = tmp_path / "new.yaml"

    assert main(["rules", "draft", str(log), *which, "-o", str(output)]) == 0
    assert f"rules lint {output}" in capsys.readouterr().out
    assert main(["rules", "lint", str(output)]) == 1
    assert "title (en, zh) is still to be written" in capsys.readouterr().out
    assert main(["rules", "test", "site.wheel-came-off", "--rules", str(output)]) == 0


def test_a_line_that_a_rule_knows_is_told_so(tmp_path, capsys):
    path = tmp_path / "dmesg.log"
    path.write_text("NVRM: Xid (PCI:0000:41:00): 79, pid=1234, name=python, GPU has fallen off the bus.\n")

    assert main(["rules", "draft", str(path), "--line", "1"]) == 0
    assert "known already: gpu.lost.off-the-bus, gpu.lost.xid79" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--line", "99"], "has no line 99"),
        (["--template", "nothing like it"], "no unexplained line has"),
    ],
)
def test_what_cannot_be_drafted_is_refused_with_the_cure(log, capsys, args, problem):
    assert main(["rules", "draft", str(log), *args]) == 2
    assert problem in capsys.readouterr().err


def test_no_file_is_written_over(log, tmp_path, capsys):
    output = tmp_path / "mine.yaml"
    output.write_text("mine")

    assert main(["rules", "draft", str(log), "-o", str(output)]) == 2
    assert output.read_text() == "mine"
    assert "Name a new file" in capsys.readouterr().err
