"""The units under the real systemd: ready, watched, reloaded, stopped, upgraded; the server serves on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from diagnose.controllers.systemd import quoted
from tests.systemd.conftest import COMMAND, CONFIG, ENVIRONMENT, FITS, GPUS, SERVICE, STATE, TOO_LARGE

pytestmark = pytest.mark.timeout(150)

DAEMON, SERVER = "diagnose.service", "fastdeploy@ernie.service"
MOST_EXPOSURE = 2.0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
def test_the_daemons_unit_is_hardly_exposed():
    unit = SERVICE / DAEMON
    words = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stdout
    line = next(line for line in told.splitlines() if "Overall exposure level" in line)
    print(line)
    exposure = float(re.search(r"([\d.]+) \w+", line.rpartition(":")[2])[1])
    assert exposure <= MOST_EXPOSURE, told
    wider = {line.split()[1].rstrip("=") for line in told.splitlines() if line.startswith("✗")}
    explained = unit.read_text()
    for option in wider & {
        "PrivateDevices",
        "ProtectProc",
        "ProcSubset",
        "PrivateNetwork",
        "IPAddressDeny",
        "RemoveIPC",
    }:
        assert re.search(rf"^#.*{option}=", explained, re.MULTILINE), f"{option}: the unit does not say why"


def test_the_daemon_is_installed_started_and_confined_and_sees_all_it_needs(host):
    told = host.install(FITS)
    assert "systemctl enable --now" in told
    assert host.ask("systemd-analyze", "verify", DAEMON, SERVER) == (0, "")
    host.run("systemctl", "start", DAEMON)
    assert host.diagnose("pause", "--for", "1m"), "orders are taken from the moment that systemd says ready"
    host.diagnose("resume")
    seen = host.wait_ready()
    assert seen["pid"] == host.server_pid()
    environ = host.run("cat", f"/proc/{seen['pid']}/environ").split("\0")
    assert "HOME=/var/lib/fastdeploy/ernie" in environ, "a folder that the server may write"
    assert not seen["blind"], "kernel, cards, logs and metrics are seen"
    assert seen["gpus"]
    pid = host.show(DAEMON, "MainPID")
    status = dict(line.split(":\t", 1) for line in host.run("cat", f"/proc/{pid}/status").splitlines() if ":\t" in line)
    assert "0" not in status["Uid"].split()
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == ("1", "2", 0)
    assert host.show(DAEMON, "StatusText") == "ernie ready (generation 1)"
    everyone = host.run("find", STATE, "-type", "f", "-perm", "/077")
    assert not everyone, "state is nobody else's to read"
    assert host.run("find", STATE, "-type", "s", "-printf", "%m").strip() == "660"


def test_cards_are_read_through_nvml_within_the_confinement(driver, host):
    host.install(FITS)
    text = f"[Service]\nUnsetEnvironment=DIAGNOSE_LAB_GPUS\nEnvironment=LD_LIBRARY_PATH={driver}\n"
    text += f"Environment=NVML_STUB_WORLD={driver}/world\n"
    host.write(f"/etc/systemd/system/{DAEMON}.d/nvml.conf", text)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", DAEMON)
    cards = host.wait(lambda: host.seen().get("gpus"), "a card")
    assert (cards[0]["name"], cards[0]["total_bytes"]) == ("H100", 80 << 30)


def test_a_daemon_that_is_to_be_ready_with_its_server_has_its_start_prolonged_while_the_model_loads(host):
    host.install(FITS)
    host.run("sed", "-i", "s/FD_LAB_LOAD_SECONDS=.*/FD_LAB_LOAD_SECONDS=24/", ENVIRONMENT)
    command = "/opt/diagnose/bin/diagnose run --config /etc/diagnose/diagnose.yaml --ready serving"
    text = f"[Service]\nExecStart=\nExecStart={command}\nTimeoutStartSec=20s\nRestart=no\n"
    host.write(f"/etc/systemd/system/{DAEMON}.d/serving.conf", text)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", DAEMON)
    assert host.answers()
    began, ready = host.show(DAEMON, "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    assert int(ready) - int(began) > 20_000_000, "longer than systemd would have waited by itself"


def test_a_stuck_daemon_is_ended_by_the_watchdog_and_the_next_one_takes_the_same_server_over(host):
    host.install(FITS)
    host.write(f"/etc/systemd/system/{DAEMON}.d/watchdog.conf", "[Service]\nWatchdogSec=3s\nTimeoutAbortSec=1s\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", DAEMON)
    before = host.wait_ready()
    daemon = host.show(DAEMON, "MainPID")
    assert host.show(DAEMON, "NRestarts") == "0", "a loop that turns is not ended"
    host.run("kill", "-STOP", daemon)
    host.wait(lambda: host.show(DAEMON, "NRestarts") == "1", "the watchdog")
    assert host.answers(), "the server does not notice"
    host.wait(lambda: host.show(DAEMON, "ActiveState") == "active", "the next daemon")
    assert "watchdog" in host.run("journalctl", "--no-pager", "-u", DAEMON)
    after = host.wait_ready()
    assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
    assert host.server_pid() == before["pid"]


def test_a_stopped_and_upgraded_daemon_leaves_the_server_alone_and_takes_it_over(host):
    host.install(FITS)
    host.run("systemctl", "start", DAEMON)
    before = host.wait_ready()
    host.run("systemctl", "stop", DAEMON)
    assert host.show(DAEMON, "ActiveState", "Result") == ["inactive", "success"]
    assert host.answers()
    host.run("systemctl", "start", DAEMON)
    host.run("kill", "-KILL", host.show(DAEMON, "MainPID"))
    host.wait(lambda: host.show(DAEMON, "NRestarts", "ActiveState") == ["1", "active"], "a daemon after the kill")
    after = host.wait_ready()
    assert (after["pid"], after["generation"]) == (before["pid"], 1)
    told = host.diagnose("service", "uninstall", user="")
    assert "removed /etc/systemd/system/diagnose.service" in told
    assert host.answers(), "not even the removal of the daemon ends a server"
    assert host.show(SERVER, "ActiveState") == "active"


RULE = """
id: test.site-sign
title: {en: A sign of this site, zh: 现场标记}
cause: invalid_argument
severity: warning
when: {pattern: 'SiteLicence: licence for \\w+ expired'}
clears: {ready: true}
why: {en: The licence is too old., zh: 许可证已过期。}
fix: {en: Renew it., zh: 更新许可证。}
tests:
  hits: ["SiteLicence: licence for search expired", "SiteLicence: licence for images expired"]
  misses: ["SiteLicence: licence for search valid", "SiteLicence: checking"]
"""


def test_a_reload_brings_changed_rules_into_force_before_it_returns_and_refuses_bad_ones(host):
    host.install(FITS)
    host.run("systemctl", "start", DAEMON)
    host.wait_ready()
    host.write("/etc/diagnose/rules.d/site.yaml", RULE)
    host.diagnose("rules", "lint", "/etc/diagnose/rules.d/site.yaml")
    host.run("systemctl", "reload", DAEMON)
    host.wait(lambda: host.show(DAEMON, "SubState") == "running", "the end of the reload")
    host.run("sh", "-c", "echo 'SiteLicence: licence for search expired' >>/var/log/fastdeploy/ernie/stdout.log")
    host.wait(lambda: "A sign of this site" in host.diagnose("incidents", check=False), "an incident by the new rule")
    host.write("/etc/diagnose/rules.d/site.yaml", "id: [")
    host.run("systemctl", "reload", DAEMON)
    host.wait(lambda: "rules" in host.seen()["blind"], "a word about the bad rule")
    assert host.show(DAEMON, "ActiveState") == "active"


def test_a_server_that_does_not_fit_is_restarted_in_its_unit_with_an_overlay_until_its_owner_decides_otherwise(host):
    host.install(TOO_LARGE, gpu_gib=3)
    host.run("systemctl", "start", DAEMON)
    cured = host.wait_ready(generation=2, seconds=60)
    assert cured["overlays"]
    assert cured["pid"] == host.server_pid()
    overlay = host.run("cat", f"{STATE}/overlays/{SERVER}.env")
    assert "--max-num-seqs 128" in overlay, "what it is laid over"
    laid = {one["flag"]: one["after"] for one in cured["overlays"]}
    assert laid.items() <= dict(zip(cured["command"], cured["command"][1:], strict=False)).items()
    assert TOO_LARGE in host.run("cat", ENVIRONMENT), "the owner's file is as it was"
    host.run("systemctl", "restart", SERVER)
    again = host.wait_ready(generation=3)
    assert again["command"] == cured["command"], "the overlay is in force whoever starts the unit"
    host.run("sed", "-i", f"s/{TOO_LARGE}/--max-model-len 4096 --max-num-seqs 4/", ENVIRONMENT)
    host.run("systemctl", "restart", SERVER)
    own = host.wait_ready(generation=4)
    assert own["command"][-2:] == ["--max-num-seqs", "4"]
    assert not own["overlays"], "what was laid over other arguments is gone"


def test_a_unit_that_does_not_start_is_told_and_tried_again_by_a_daemon_that_stays_on_watch(host):
    host.install(FITS)
    host.drop_in(SERVER, "[Service]\nExecStartPre=/bin/false\n")
    host.run("systemctl", "start", DAEMON)
    title = "The unit of the server runs no server"
    host.wait(lambda: title in host.diagnose("incidents", check=False), "an incident")
    assert f"systemctl start {SERVER}: Job for" in host.diagnose("report", "--format", "json", check=False)
    host.run("rm", f"/etc/systemd/system/{SERVER}.d/test.conf")
    host.run("systemctl", "daemon-reload")
    seen = host.wait_ready()
    assert seen["pid"] == host.server_pid()
    host.wait(lambda: host.seen()["blind"] == {}, "all is seen again")
    host.wait(lambda: f"resolved  ernie: {title}" in host.diagnose("incidents", check=False), "its end")
    assert host.show(DAEMON, "NRestarts") == "0"


def test_what_the_daemon_quotes_systemd_reads_as_it_was(host):
    hard = """--a '{"b": "c $d ${e} `f`"}' --g=\\h "i" # j ; k %n 中"""
    host.write("/run/hard.env", f"HARD={quoted(hard)}\n")
    command = ("systemd-run", "--wait", "--pipe", "--quiet", "-pEnvironmentFile=/run/hard.env", "printenv", "HARD")
    assert host.run(*command).rstrip("\n") == hard


def test_without_the_rights_the_daemon_says_which_and_starts_nothing(host):
    told = host.install(FITS, grant=False)
    assert "may not start or stop" in told
    assert host.ask("systemctl", "start", DAEMON)[0] == 1
    journal = host.run("journalctl", "--no-pager", "-u", DAEMON)
    assert "the rights are missing: diagnose service show" in journal
    assert "Traceback" not in journal
    assert host.server_pid() == 0
    rule = host.diagnose("service", "show", "--name", "ernie", "--", *_command(host), user="")
    assert "org.freedesktop.systemd1.manage-units" in rule
    assert "NOPASSWD: /usr/bin/systemctl --no-ask-password start -- fastdeploy@ernie.service" in rule


def test_the_rights_are_for_servers_only(host):
    host.install(FITS)
    host.run("systemctl", "start", DAEMON)
    host.wait_ready()
    for verb, unit in (("stop", DAEMON), ("start", "systemd-journald.service"), ("kill", SERVER)):
        status, told = host.ask("systemctl", "--no-ask-password", verb, unit, user="diagnose")
        assert status, (verb, unit)
        assert "authentication required" in told.lower() or "denied" in told.lower()
    assert host.answers()


def test_a_server_that_the_daemon_started_itself_outlives_it_too(host):
    command = json.dumps(_command(host))
    target = f"targets: [{{name: own, cwd: {STATE}, command: {command}}}]"
    host.install(FITS, config=re.sub(r"targets: .*", lambda _: target, CONFIG))
    lab = host.run("grep", "-E", "^(PYTHONPATH|FD_LAB|FD_)", ENVIRONMENT).replace('"', "")
    text = "[Service]\n" + "".join(f"Environment={line}\n" for line in lab.splitlines())
    host.write(
        f"/etc/systemd/system/{DAEMON}.d/lab.conf",
        text + f"ReadWritePaths={GPUS}\nWatchdogSec=3s\nTimeoutAbortSec=1s\n",
    )
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", DAEMON)
    before = host.wait_ready()
    host.run("kill", "-STOP", host.show(DAEMON, "MainPID"))
    host.wait(lambda: host.show(DAEMON, "NRestarts", "ActiveState") == ["1", "active"], "the next daemon")
    assert host.wait_ready()["pid"] == before["pid"]
    host.run("systemctl", "stop", DAEMON)
    assert host.answers()


def _command(host):
    return [*COMMAND, "--port", str(host.port), *FITS.split()]
