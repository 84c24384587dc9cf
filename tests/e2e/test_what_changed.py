"""What changed since the last healthy start: the report of a failed start names exactly that."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tests.e2e.conftest import FITS, GIB, TOO_LARGE, began

pytestmark = pytest.mark.timeout(120)

FRAGILE = """
import sys
if sys.orig_argv[1:3] == ["-m", "fastdeploy.entrypoints.openai.api_server"]:
    import labdep
    if labdep.broken and "--help" not in sys.argv:
        print("ImportError: cannot import name 'ops' from 'labdep'", file=sys.stderr)
        import os
        os._exit(1)
"""


@pytest.fixture
def healthy(site):
    """Give a site whose server started well once and was stopped; a fragile package is installed for it."""
    here = site(mode="suggest")
    here.extra = here.folder / "extra"
    here.extra.mkdir()
    here.env["PYTHONPATH"] += os.pathsep + str(here.extra)
    here.env["PYTHONDONTWRITEBYTECODE"] = "1"
    (here.extra / "sitecustomize.py").write_text(FRAGILE)
    install(here, "1.0")
    daemon = here.daemon(*FITS, on_exit="stop")
    here.wait_phase("ready")
    here.wait(lambda seen: seen.state.targets["default"].healthy, "the surroundings of the healthy start")
    here.stop(daemon)
    return here


def install(here, version):
    for old in here.extra.glob("labdep-*"):
        (old / "METADATA").unlink()
        old.rmdir()
    info = here.extra / f"labdep-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: labdep\nVersion: {version}\n")
    (here.extra / "labdep.py").write_text(f"broken = {version != '1.0'}\n")


def failed(here, *flags):
    """Start again, and return what the report says of the start that fails."""
    here.daemon(*(flags or FITS))
    here.wait(
        lambda seen: any(one.compared and one.held for one in seen.incidents if one.severity.value != "info"),
        "an incident that was compared",
    )
    status, words = here.diagnose("report", "--state-dir", str(here.state), "--format", "json")
    assert status in {1, 3}
    return next(one for one in json.loads(words)["incidents"] if one["severity"] != "info")


def changed(told):
    return [(one["kind"], one["name"], one["before"], one["after"]) for one in told["changed"]]


def test_another_command_line_is_named_flag_by_flag(healthy):
    told = failed(healthy, *TOO_LARGE)
    assert told["cause"] == "gpu_oom_load"
    assert changed(told) == [
        ("command", "--max-model-len", "8192", "32768"),
        ("command", "--max-num-batched-tokens", None, "32768"),
        ("command", "--max-num-seqs", "8", "128"),
    ]
    assert told["changed_since"]
    assert "Changed since the last healthy start" in healthy.words(), "told live, too"
    state = ("--state-dir", str(healthy.state))
    for arguments in (["report"], ["report", "--format", "markdown"], ["incidents", told["id"]]):
        words = healthy.diagnose(*arguments, *state)[1]
        assert "Changed since the last healthy start" in words
        assert "8 → 128" in words
    assert "--max-num-seqs" in healthy.diagnose("status", *state)[1].split("Changed since")[1]
    assert "与最近一次正常启动" in healthy.diagnose("report", *state, "--lang", "zh")[1]


def test_another_variable_is_named(healthy):
    healthy.env["FD_LAB_FAULTS"] = "exit-zero"
    assert changed(failed(healthy)) == [("env", "FD_LAB_FAULTS", "", "exit-zero")]


def test_another_model_file_is_named(healthy):
    config = healthy.model / "config.json"
    config.write_text("{")
    ((kind, name, before, after),) = changed(failed(healthy))
    assert (kind, name) == ("model", "config.json")
    assert before != after
    assert after.startswith("1 bytes")


def test_another_package_is_named(healthy):
    install(healthy, "2.0")
    assert changed(failed(healthy)) == [("package", "labdep", "1.0", "2.0")]


def test_a_neighbour_on_the_card_is_named(healthy):
    with subprocess.Popen(["sleep", "120"]) as neighbour:
        try:
            card = healthy.folder / "gpus" / "gpu0.json"
            plain = json.loads(card.read_text())
            plain["processes"] = {str(neighbour.pid): int(2.5 * GIB)}
            card.write_text(json.dumps(plain))
            ((kind, name, before, after),) = changed(failed(healthy))
        finally:
            neighbour.kill()
    assert (kind, before) == ("neighbour", None)
    assert "sleep" in name
    assert after == f"2.50 GiB, process {neighbour.pid}"


def test_that_nothing_changed_is_told_where_the_cause_lies_elsewhere(healthy):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", healthy.port))
        squatter.listen()
        told = failed(healthy)
    assert (told["cause"], told["changed"]) == ("port_in_use", [])
    words = healthy.diagnose("report", "--state-dir", str(healthy.state))[1]
    assert "Nothing changed since the last healthy start" in words


def test_a_first_start_that_fails_says_that_no_healthy_one_is_known(site):
    here = site(faults=["exit-zero"], mode="suggest")
    told = failed(here)
    assert told["changed"] == []
    assert "changed_since" not in told
    assert "No healthy start of this server is known yet" in here.diagnose("report", "--state-dir", str(here.state))[1]


def test_a_remedys_own_change_is_told_as_such_and_the_cured_start_is_the_next_healthy_one(cured):
    target = cured.target()
    assert target.healthy.generation == target.generation
    assert set(target.healthy.facts["remedy"]) == {one.flag for one in target.overlays}
    for start in target.starts:
        assert start.compared.since is None, "no healthy start came before"


def test_a_server_that_is_adopted_is_not_looked_at_again(site):
    here = site(mode="suggest")
    first = here.daemon(*FITS)
    here.wait_phase("ready")
    before = here.wait(lambda seen: seen.state.targets["default"].healthy, "surroundings").state.targets["default"]
    here.stop(first)
    daemon = here.daemon(*FITS)
    here.wait(lambda seen: seen.state.targets["default"].facts.at > before.facts.at, "its software was asked again")
    here.stop(daemon)
    assert here.target().healthy == before.healthy
    assert began(here.turns()) == ["spawned", "adopted"]
    assert len(list((here.state / "flags").iterdir())) == 1, "the help of one version is kept once"


# --- what was given for a server that runs already


@pytest.mark.parametrize("how", ["command", "attach"])
def test_what_is_given_for_a_server_that_runs_otherwise_is_told_and_noted(site, how):
    here = site(mode="suggest")
    first = here.daemon(*FITS)
    here.wait_phase("ready")
    here.stop(first)
    state = ("--state-dir", str(here.state))
    pid = here.target().pid

    again = here.daemon(*FITS, "--max-num-seqs=4") if how == "command" else here.daemon(attach=1)
    change = "--max-num-seqs 8 -> 4" if how == "command" else f"--attach {here.port} -> 1"
    deadline = time.monotonic() + 20
    while "is not used" not in here.words() and time.monotonic() < deadline:
        time.sleep(0.05)
    (line,) = [line for line in here.words().splitlines() if "is not used" in line]
    assert change in line
    assert f"kill {pid}" in line
    assert change in here.diagnose("status", *state)[1]
    assert json.loads(here.diagnose("status", *state, "--json")[1])["targets"][0]["given_but_unused"] == [change]
    here.stop(again)

    same = here.daemon(*FITS)
    here.wait(lambda seen: seen.kept["unused/default"] == b"null", "the note is taken back")
    here.stop(same)
    assert "is not used" not in (here.folder / "daemon-2.log").read_text()


# --- the server's own help


def test_a_help_that_hangs_delays_neither_start_nor_end_of_the_daemon(site, tmp_path):
    here = site(mode="suggest")
    python = tmp_path / "python"
    lines = ["#!/bin/sh", 'case "$*" in *--help*) exec sleep 300 ;; esac', f'exec {sys.executable} "$@"']
    python.write_text("\n".join(lines) + "\n")
    python.chmod(0o755)
    plain = here.command
    here.command = lambda *flags: [str(python), *plain(*flags)[1:]]
    daemon = here.daemon(*FITS, on_exit="stop")
    here.wait_phase("ready")
    hanging = [one for one in here.processes() if one.cmdline()[:2] == ["sleep", "300"]]
    assert hanging
    began_at = time.monotonic()
    here.stop(daemon)
    assert time.monotonic() - began_at < 8
    psutil.wait_procs(hanging, timeout=5)
    assert not hanging[0].is_running()
