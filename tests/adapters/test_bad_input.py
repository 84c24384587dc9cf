"""Bad input gets one line that ends in a cure, exit status 2 or above, and nothing is lost."""

from __future__ import annotations

import os

import pytest

from diagnose.cli.main import main

OOM = b"Out of memory error on GPU 0. Cannot allocate 15.5GB memory on GPU 0, 70.1GB memory has been allocated"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    try:
        status = main(list(words))
    except SystemExit as stopped:  # argparse ends by itself
        status = stopped.code
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.mark.parametrize(
    ("log", "line"),
    [
        pytest.param(b"x" * 900_000 + b" " + OOM + b"\n", 1, id="a line of 900 KB"),
        pytest.param(b"y" * 3_000_000 + b"\n" + OOM + b"\n", 2, id="behind a line of 3 MB"),
        pytest.param(b"a\0b\0\0" + OOM + b"\n", 1, id="NUL bytes"),
        pytest.param(b"\x80\xff\xfe bad \xe4\xb8\n" + OOM + b"\n", 2, id="no UTF-8"),
        pytest.param(b"\x1b[31m" + OOM + b"\x1b[0m", 1, id="colours, and no newline at the end"),
        pytest.param(b"one\r\n" + OOM + b"\r\n", 2, id="lines as Windows ends them"),
        pytest.param(b"10%|#  |\r20%|## |\r" + OOM + b"\n", 1, id="a progress bar before it"),
    ],
)
def test_a_strange_log_is_read_all_the_same(tmp_path, capsys, log, line):
    (tmp_path / "server.log").write_bytes(log)
    status, out, err = run(capsys, "report", "server.log", "--format", "json")
    assert status == 1, err
    assert f'"line":{line},' in out.replace('"line": ', '"line":')
    assert '"cause":"gpu_oom' in out.replace('"cause": ', '"cause":')


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["report", "nowhere.log"], "nowhere.log does not exist", id="a missing path"),
        pytest.param(["report", "empty"], "empty holds no log", id="an empty folder"),
        pytest.param(["report", "program"], "program holds no text", id="no text"),
        pytest.param(["report", "--since", "yesterday", "some.log"], "write it like 30s", id="no length of time"),
        pytest.param(["report", "--rules", "rule.yaml", "some.log"], "rule.yaml:3", id="a bad rule file"),
        pytest.param(["report"], "no journal here", id="no journal"),
        pytest.param(["rules", "lint", "rule.yaml"], "rule.yaml:3", id="a bad rule"),
        pytest.param(["rules", "lint", "broken.yaml"], "broken.yaml:2", id="no YAML"),
        pytest.param(["config", "check", "config.yaml"], "config.yaml:2", id="a bad configuration"),
        pytest.param(["config", "check", "nothing.yaml"], "nothing.yaml", id="a missing configuration"),
        pytest.param(["run"], "nothing to supervise", id="nothing to supervise"),
        pytest.param(["run", "--", "bash", "-c", "x"], "Give the command itself", id="a hidden command"),
        pytest.param(["run", "--config", "config.yaml"], "config.yaml:2", id="run with a bad configuration"),
        pytest.param(["status"], "Start the daemon first", id="no daemon"),
        pytest.param(["remedies", "show", "none"], "See diagnose remedies list", id="no such remedy"),
        pytest.param(["capacity", "--model", "none", "--gpu-memory", "4GiB"], "Give a model folder", id="no model"),
    ],
)
def test_bad_input_is_told_in_one_line_that_ends_in_a_cure(tmp_path, capsys, words, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "some.log").write_text("all is well\n")
    (tmp_path / "program").write_bytes(os.urandom(5000))
    (tmp_path / "rule.yaml").write_text("id: a.b\ncause: unknown\ntitel: {en: a, zh: b}\n")
    (tmp_path / "broken.yaml").write_text("id: a\n  b: [\n")
    (tmp_path / "config.yaml").write_text("policy:\n  mode: everything\n")
    status, _, err = run(capsys, *words)
    assert status == 2
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_told(tmp_path, capsys):
    path = tmp_path / "secret.log"
    path.write_text("x\n")
    path.chmod(0)
    status, _, err = run(capsys, "report", "secret.log")
    assert status == 2
    assert "secret.log" in err


def test_a_healthy_log_is_healthy(tmp_path, capsys):
    (tmp_path / "some.log").write_text("INFO:     Application startup complete.\n")
    assert run(capsys, "report", "some.log")[0] == 0
