"""The daemon as its users run it, asked over HTTP: what it counts and takes; a taken port does no harm."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from tests.e2e.conftest import FITS, TOO_LARGE
from tests.ports import free_port

pytestmark = pytest.mark.timeout(100)


def say(site, *arguments):
    return site.diagnose(*arguments, "--state-dir", str(site.state), "--lang", "en")


def listening(site, port):
    token = "0123456789" * 2
    (site.folder / "token").write_text(token)
    http = f'http: {{listen: "127.0.0.1:{port}", token_file: {site.folder / "token"}}}\n'
    site.config.write_text(site.config.read_text() + http)
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, headers={"Authorization": f"Bearer {token}"}
    )


def test_a_cure_is_ordered_and_counted_over_http(site):
    here = site(mode="suggest")
    with listening(here, free_port()) as api:
        here.daemon(*TOO_LARGE)
        waiting = here.wait(
            lambda seen: [one for one in seen.incidents if one.plan and one.state.value == "open"], "a plan"
        ).incidents[0]
        assert api.get("/readyz").json()["ready"] is True
        shown = api.get(f"/v1/incidents/{waiting.id}").json()
        assert (shown["brief"]["held"], shown["incident"]["cause"]) == ("suggest", "gpu_oom_load")
        order = {"kind": "apply", "by": "mei", "incident": waiting.id}
        assert api.post("/v1/orders", json=order).json()["ok"] is True
        here.wait_incident("resolved")
        numbers = api.get("/metrics").text
        assert 'diagnose_server_phase{phase="ready",target="default"} 1.0' in numbers
        kept = 'diagnose_remedies_total{outcome="kept",remedy="server.fit-memory",target="default"} 1.0'
        assert kept in numbers
        lines = next(line for line in numbers.splitlines() if line.startswith("diagnose_log_lines_total{"))
        assert float(lines.split()[-1]) > 10
        assert say(here, "mark", waiting.id, "right")[0] == 0
        assert api.get("/v1/report").json()["period"]["right"] == 1


def test_a_port_that_is_taken_is_told_and_the_daemon_goes_on_with_its_socket(site):
    here = site()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with listening(here, taken.getsockname()[1]):
            daemon = here.daemon(*FITS)
            here.wait_phase("ready")
            here.wait(lambda seen: "http" in seen.state.targets["default"].blind, "it is told")
    told = json.loads(say(here, "status", "--json")[1])["targets"][0]
    assert "Address already in use" in told["blind"]["http"]
    assert say(here, "pause")[0] == 0
    here.stop(daemon)
    assert json.loads(say(here, "status", "--json")[1])["targets"][0]["paused"], "out of the journal, where none runs"
