"""What ships for Prometheus: its own tool finds it right, and a real one scrapes the daemon and passes alerts on."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from diagnose.catalog import load
from diagnose.testing import finding, incident
from tests.adapters.api_life import living
from tests.adapters.prometheus import PROMETHEUS, PROMTOOL, alertmanager, running
from tests.ports import free_port

SHIPPED = load.shipped("service") / "prometheus"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["check", "rules", "diagnose.rules.yml"], id="the rules can be used"),
        pytest.param(["check", "config", "scrape.example.yml"], id="the example can be used"),
        pytest.param(["test", "rules", "promtool.test.yml"], id="each alert fires when it should"),
    ],
)
def test_promtool_finds_nothing_wrong(command, tmp_path):
    if PROMTOOL is None:
        pytest.skip("no promtool here (apt-get install prometheus)")
    for file in (*SHIPPED.iterdir(), Path(__file__).with_name("promtool.test.yml")):
        shutil.copy(file, tmp_path)
    done = subprocess.run([PROMTOOL, *command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test_of_its_own():
    rules = (SHIPPED / "diagnose.rules.yml").read_text()
    tests = Path(__file__).with_name("promtool.test.yml").read_text()
    names = [line.split()[-1] for line in rules.splitlines() if "- alert:" in line]
    assert len(names) == 9
    assert [name for name in names if f"alertname: {name}\n" not in tests] == []


def test_what_promtool_thinks_of_our_numbers(tmp_path):
    if PROMTOOL is None:
        pytest.skip("no promtool here (apt-get install prometheus)")
    with living(tmp_path, incident(finding()), receivers=[hook()]) as life, life.tcp() as client:
        numbers = client.get("/metrics").text
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=numbers, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


CONFIG = """
global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}
rule_files: ["{rules}"]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{manager}"]}}]}}]}}
scrape_configs: [{{job_name: diagnose, static_configs: [{{targets: ["{daemon}"]}}]}}]
"""


def hook():
    return {"kind": "webhook", "name": "hook", "url": "http://127.0.0.1:9/x"}


def test_a_real_prometheus_scrapes_the_daemon_and_an_alert_of_our_rules_reaches_a_real_alertmanager(tmp_path):
    if PROMETHEUS is None:
        pytest.skip("no Prometheus here (apt-get install prometheus)")
    with alertmanager(tmp_path) as manager, living(tmp_path / "state", incident(finding())) as life:
        config = tmp_path / "prometheus.yml"
        config.write_text(
            CONFIG.format(
                rules=SHIPPED / "diagnose.rules.yml",
                manager=manager.url.removeprefix("http://"),
                daemon=life.url.removeprefix("http://"),
            )
        )
        port = free_port()
        flags = [
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with running([PROMETHEUS, *flags], port):
            alert = _until(lambda: {one["labels"]["alertname"]: one for one in manager.alerts()})
            target = httpx.get(f"http://127.0.0.1:{port}/api/v1/targets", timeout=5).json()["data"]["activeTargets"][0]
    assert (target["health"], target["lastError"]) == ("up", "")
    labels = alert["DiagnoseCriticalIncident"]["labels"]
    assert (labels["target"], labels["cause"], labels["severity"]) == ("default", "gpu_oom_load", "critical")


def _until(seen, seconds=40):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := seen():
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing within {seconds} s")
