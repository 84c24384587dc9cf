"""The first thing that a new user runs."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from diagnose.cli.demo import Done
from diagnose.model.incident import State
from diagnose.model.rule import Severity


def demo(folder):
    command = [sys.executable, "-m", "diagnose", "lab", "demo", "--dir", str(folder)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=150, cwd=folder.parent)


def test_the_demo_cures_the_server_and_ends_when_it_is_cured(tmp_path):
    ran = demo(tmp_path / "demo")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Cured" in ran.stdout
    last = max(map(float, re.findall(r"^ *([\d.]+)s ", ran.stdout, re.MULTILINE)))
    assert last - float(re.search(r"([\d.]+)s .*resolved: well again", ran.stdout)[1]) < 20, ran.stdout
    assert (tmp_path / "demo" / "report.md").is_file()


@pytest.mark.parametrize(
    ("stands", "over"),
    [([], False), ([State.ACTING], False), ([State.RESOLVED], True), ([State.RESOLVED, State.PENDING], False)],
)
@pytest.mark.parametrize("blind", [False, True])
def test_the_demo_does_not_wait_for_what_its_user_may_not_watch(stands, over, blind):
    incidents = [SimpleNamespace(severity=Severity.CRITICAL, state=one, tries=[1]) for one in stands]
    incidents += [SimpleNamespace(severity=Severity.INFO, state=State.OPEN, tries=[])] * blind
    stopped = []
    done = Done(lambda *_: None)
    done.stop = lambda: stopped.append(True)
    done(SimpleNamespace(incidents=dict(enumerate(incidents))), ())
    assert bool(stopped) is over


def test_a_demo_that_cannot_be_made_says_so_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    ran = demo(tmp_path / "file")
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert ran.stderr.count("\n") == 1
