from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from diagnose.cli import incidents, report
from diagnose.cli.output import drawn, write
from diagnose.engine.templates import Template
from diagnose.errors import InputError
from diagnose.model.rule import Severity
from diagnose.report.build import Scanned, build
from diagnose.report.terminal import render
from diagnose.testing import NOON, finding, incident, knowledge, rule

ODD = (Template(template="odd", count=1, sample="odd", source="w.log", line=1),)
OOM = incident()
NOTE = incident(finding("req", cause="client_error", severity=Severity.INFO))
UNKNOWN = incident(finding("unknown", cause="unknown"))


def made(found=(), unexplained=()):
    return build(
        target="default",
        generated_at=NOON,
        scanned=Scanned(),
        incidents=found,
        knowledge=knowledge(rule()),
        unexplained=unexplained,
        lang="en",
    )


@pytest.mark.parametrize(
    ("found", "unexplained", "status"),
    [
        pytest.param((), (), 0, id="healthy"),
        pytest.param((NOTE,), (), 0, id="a note is no trouble"),
        pytest.param((OOM,), ODD, 1, id="a problem"),
        pytest.param((OOM, UNKNOWN), (), 1, id="a problem beside an unknown one"),
        pytest.param((UNKNOWN, NOTE), (), 3, id="cause unknown"),
        pytest.param((), ODD, 3, id="only unexplained errors"),
    ],
)
def test_the_exit_status_says_what_was_found(found, unexplained, status):
    assert report.status(made(found, unexplained)) == status


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path):
    (tmp_path / "r.json").write_text("old and longer than the new one")

    write("neu 中\n", str(tmp_path / "r.json"))

    assert (tmp_path / "r.json").read_text(encoding="utf-8") == "neu 中\n"
    assert os.listdir(tmp_path) == ["r.json"]  # noqa: PTH208 - names only


def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no/r\.json: No such file or directory\. Name a file"):
        write("x", str(tmp_path / "no" / "r.json"))


def test_a_pipe_takes_the_report_and_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    write("x\n", str(pipe))

    assert os.read(reader, 10) == b"x\n"
    assert pipe.is_fifo()
    os.close(reader)


def test_a_link_to_a_file_held_open_is_written_through_and_stays(tmp_path):
    link = tmp_path / "stdout"  # as /dev/stdout is one; the machine's own is none of a test's business
    with (tmp_path / "real").open("w+") as held:
        link.symlink_to(f"/proc/self/fd/{held.fileno()}")

        write("x\n", str(link))

        assert os.readlink(link) == f"/proc/self/fd/{held.fileno()}"  # noqa: PTH115 - text, not a path
        assert held.read() == "x\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["real", "stdout"]


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")

    write("x\n", str(tmp_path / "link"))

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x\n"


def test_standard_output_of_a_poor_encoding_gets_question_marks():
    code = "from diagnose.cli.output import write; write('✓ a\\n', None)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)

    assert done.stdout == b"? a\n"


def test_what_is_no_terminal_gets_no_colours_and_no_blanks_at_line_ends():
    text = drawn(render(made([OOM]), lang="en", width=100), 100)

    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("since", ["yesterday", "5", "99999999999999d"])
def test_a_length_that_cannot_be_read_is_told_with_the_cure(since):
    with pytest.raises(InputError, match="--since"):
        report.run(parsed("report", "x.log", "--since", since))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["report", "a", "-", "--format", "json"], {"paths": ["a", "-"], "format": "json", "output": None}),
        (["report", "-o", "f", "--lang", "zh"], {"paths": [], "output": "f", "lang": "zh"}),
        (["incidents", "--json", "a1"], {"id": "a1", "json": True}),
    ],
)
def test_the_commands_are_spelled_so(line, expected):
    args = vars(parsed(*line))

    assert {name: args[name] for name in expected} == expected


def parsed(*line):
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    report.add(subparsers)
    incidents.add(subparsers)
    return parser.parse_args(line)
