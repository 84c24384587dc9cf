"""Prometheus and its Alertmanager as they are, on loopback, where the host has them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time

import httpx
import pytest

from tests.adapters.vendor import serving
from tests.ports import free_port

ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")


class Manager:
    """An Alertmanager, and a webhook behind it."""

    def __init__(self, url, behind):
        self.url, self.behind = url, behind

    def alerts(self, **query):
        """Return those that are active."""
        found = httpx.get(f"{self.url}/api/v2/alerts", params=query, timeout=5).json()
        return [one for one in found if one["status"]["state"] == "active"]

    def passed_on(self):
        """Return what it told its own webhook last, by incident."""
        told = [alert for got in self.behind.got for alert in got.json["alerts"]]
        return {alert["labels"]["incident"]: alert["status"] for alert in told}

    def groups(self):
        return httpx.get(f"{self.url}/api/v2/alerts/groups", timeout=5).json()


@contextlib.contextmanager
def alertmanager(folder):
    """Run a real Alertmanager on loopback, with a webhook of the test's own behind it."""
    if ALERTMANAGER is None:
        pytest.skip("no Alertmanager here (apt-get install prometheus-alertmanager)")
    with serving("webhook") as behind:
        port = free_port()
        config = folder / "alertmanager.yml"
        config.write_text(
            "route: {receiver: behind, group_by: [alertname, target], group_wait: 300ms, group_interval: 500ms}\n"
            f"receivers: [{{name: behind, webhook_configs: [{{url: '{behind.url}/am'}}]}}]\n"
        )
        flags = [
            f"--config.file={config}",
            f"--storage.path={folder / 'am'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        with running([ALERTMANAGER, *flags], port):
            yield Manager(f"http://127.0.0.1:{port}", behind)


@contextlib.contextmanager
def running(command, port):
    """Run one of them until the test is over; it is ready when it begins."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=1).status_code == 200:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)
