"""Commands of a site: by name from its list, with fixed arguments, without a shell, and with an end."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import psutil
import pytest

from diagnose.actuators.command import RunCommand
from diagnose.agent.config import Config
from diagnose.cli.main import main
from diagnose.errors import ActuatorError
from diagnose.model import codec
from diagnose.model.incident import Intent, Plan
from diagnose.model.launch import LaunchSpec
from diagnose.model.remedy import OperatorCommand
from diagnose.model.text import Text

PLAN = Plan(
    remedy_id="site.drain",
    rung=0,
    title=Text("t", "t"),
    steps=(),
    before=LaunchSpec(argv=()),
    after=LaunchSpec(argv=()),
)


def intent(name="i1", incident="abc"):
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return Intent(id=name, incident_id=incident, target="ernie", generation=1, at=now, plan=PLAN)


def step(name="own", seconds=10.0):
    return OperatorCommand(command=name, timeout=timedelta(seconds=seconds))


def test_a_listed_command_runs_with_its_arguments_as_they_are_and_is_told_of_what(tmp_path):
    out = tmp_path / "out"
    script = 'printf "%s\\n" "$1" "$DIAGNOSE_TARGET" "$DIAGNOSE_INCIDENT" >"$0"; env | wc -l; echo done'
    hand = RunCommand({"own": ("/bin/sh", "-c", script, str(out), "$(touch /tmp/x); `id`")})
    assert hand.perform(step(), intent()).en.startswith("own ended well: ")
    assert out.read_text().splitlines() == ["$(touch /tmp/x); `id`", "ernie", "abc"]
    assert "own: /bin/sh" in hand.describe(step(), PLAN).en


def test_what_is_not_listed_never_runs():
    with pytest.raises(ActuatorError, match=r"not allowed here\. List it"):
        RunCommand({}).perform(step("/bin/true"), intent())


def test_an_intent_runs_a_command_once(tmp_path):
    out = tmp_path / "out"
    hand = RunCommand({"own": ("/bin/sh", "-c", f"echo x >>{out}")})
    hand.perform(step(), intent("one"))
    assert "nothing done" in hand.perform(step(), intent("one")).en
    hand.perform(step(), intent("two"))
    assert out.read_text() == "x\nx\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        pytest.param(("/bin/sh", "-c", "echo broken pool >&2; exit 3"), "status 3: broken pool", id="it failed"),
        pytest.param(("/bin/sh", "-c", "kill -9 $$"), "status -9: it said nothing", id="it was killed"),
        pytest.param(("/nowhere/program",), "cannot be run: No such file", id="it is not there"),
    ],
)
def test_a_command_that_fails_fails_the_step_with_its_last_words(argv, says):
    with pytest.raises(ActuatorError, match=says):
        RunCommand({"own": argv}).perform(step(), intent())


def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path):
    pid = tmp_path / "pid"
    began = time.monotonic()
    hand = RunCommand({"own": ("/bin/sh", "-c", f"sleep 60 & echo $! >{pid}; wait")})
    with pytest.raises(ActuatorError, match="took too long and was killed"):
        hand.perform(step(seconds=0.5), intent())
    assert time.monotonic() - began < 30
    child = int(pid.read_text())
    psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=5)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("command", [[], ["relative"], ["sh", "-c", "x"]])
def test_the_list_names_programs_by_their_full_path(command):
    with pytest.raises(ValueError, match="write its full path"):
        codec.convert({"commands": {"own": command}}, Config)


REMEDY = """
id: site.drain
title: {en: Out of rotation, zh: 摘除流量}
why: {en: Others serve meanwhile., zh: 其间由其他实例服务。}
cures: [overload_503]
risk: disruptive
ladder: [{rung: {en: Drain, zh: 摘除}, steps: [{action: operator.command, command: own, timeout: 30s}]}]
"""


@pytest.mark.parametrize(("commands", "status"), [("{}", 1), ("{own: [/bin/true]}", 0)])
def test_the_check_finds_a_remedy_whose_command_nobody_allows(tmp_path, capsys, commands, status):
    (tmp_path / "remedies").mkdir(mode=0o755)
    (tmp_path / "remedies" / "drain.yaml").write_text(REMEDY)
    file = tmp_path / "diagnose.yaml"
    file.write_text(f"targets: [{{name: a, attach: 8000}}]\nremedies: [{tmp_path}/remedies]\ncommands: {commands}\n")
    assert main(["config", "check", str(file)]) == status
    assert ("site.drain runs the command own" in capsys.readouterr().out) is bool(status)
