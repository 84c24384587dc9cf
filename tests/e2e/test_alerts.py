"""People are told: through the daemon as its users run it, to servers that answer as vendors do."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from tests.adapters.vendor import serving
from tests.e2e.conftest import FITS, TOO_LARGE

pytestmark = pytest.mark.timeout(100)

ALERTS = """
alerts:
  host: gpu-07
  group_wait: {wait}
  group_interval: 1s
  retry: {{first: 200ms, most: 1s}}
  receivers:
    - {{kind: feishu, name: oncall, url: {{env: FEISHU_URL}}, secret: {{env: FEISHU_SECRET}}, lang: zh}}
    - {{kind: webhook, name: hook, url: "{hook}/alerts"}}
"""


@pytest.fixture
def told():
    """Give the two vendors behind the receivers."""
    with serving("feishu") as feishu, serving("webhook") as hook:
        yield feishu, hook


def with_alerts(here, told, more="", wait="4s"):
    feishu, hook = told
    here.config.write_text(here.config.read_text() + ALERTS.format(hook=hook.url, wait=wait) + more)
    here.env |= {"FEISHU_URL": f"{feishu.url}/open-apis/bot/v2/hook/t0k3n", "FEISHU_SECRET": "demo"}
    here.env["NO_PROXY"] = "127.0.0.1"
    return here


def until(true, what, seconds=40):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def events(hook):
    return [event for got in hook.taken for event in got.json["alerts"]]


def say(site, *arguments):
    return site.diagnose(*arguments, "--state-dir", str(site.state), "--lang", "en")


def test_a_trouble_is_told_within_seconds_and_its_end_reaches_both_though_the_daemon_was_killed_between(site, told):
    here = with_alerts(site(), told, wait="600ms")  # the lab's servers are cured sooner than real ones
    feishu, hook = told
    daemon = here.daemon(*TOO_LARGE)
    until(lambda: hook.taken and feishu.taken, "the alert")
    here.kill(daemon)
    first = events(hook)[0]
    incident = here.snapshot().state.incidents[first["incident"]]
    opened = next(entry.at for entry in incident.timeline if entry.kind == "opened")
    sent = hook.taken[0].json["sent_at"]
    assert (_seconds(sent) - opened.timestamp()) <= 5.0
    assert (first["cause"], first["host"], first["status"]) == ("gpu_oom_load", "gpu-07", "firing")
    assert "Out of memory error on GPU 0" in first["evidence"]["text"]
    assert first["command"].startswith("diagnose ")
    card = feishu.taken[0].json["card"]
    assert "显存" in card["header"]["title"]["content"]
    here.daemon(*TOO_LARGE)
    here.wait_incident("resolved")
    until(lambda: any(one["status"] == "resolved" for one in events(hook)), "the end")
    until(lambda: feishu.taken[-1].json["card"]["header"]["template"] == "green", "the end in the chat")
    mine = [one for one in events(hook) if one["incident"] == first["incident"]]
    assert {one["key"] for one in mine} == {first["key"]}
    assert mine[-1]["status"] == "resolved"
    assert any("--" in line for line in mine[-1]["done"]), "what was changed is told"
    ids = [one["id"] for one in events(hook)]
    assert len(ids) - len(set(ids)) <= 1, "at most one is told twice for a kill"


def _seconds(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_a_drill_goes_the_whole_way_and_says_who_took_it_and_who_did_not(site, told):
    here = with_alerts(site(), told)
    feishu, hook = told
    status, words = say(here, "drill", "gpu_oom_load")
    assert (status, "Start the daemon first" in words) == (2, True), words
    here.daemon(*FITS)
    here.wait_phase("ready")
    status, words = say(here, "drill", "gpu_oom_load", "--for", "1s")
    assert status == 0, words
    for line in ("oncall: alert taken", "oncall: end taken", "hook: alert taken", "hook: end taken"):
        assert line in words
    assert "演练" in feishu.taken[0].json["card"]["header"]["title"]["content"]
    assert [(one["practice"], one["status"]) for one in events(hook)] == [(True, "firing"), (True, "resolved")]
    assert here.snapshot().incidents == (), "practice is no incident"
    feishu.answers = [(200, b'{"code":9499,"msg":"Bad Request"}')] * 2
    status, words = say(here, "drill", "disk_full", "--for", "1s", "--receiver", "oncall")
    assert (status, "oncall: alert not taken: code 9499: Bad Request" in words) == (1, True), words
    assert say(here, "drill", "no_such_cause")[0] == 2
    status, words = say(here, "status")
    assert "oncall: 2 put aside; send them again with: diagnose alerts resend" in words
    receivers = {one["name"]: one for one in json.loads(say(here, "status", "--json")[1])["receivers"]}
    assert (receivers["oncall"]["put_aside"], receivers["hook"]["sent"]) == (2, 2)
    assert say(here, "alerts", "list", "--state", "dead")[0] == 1
    status, words = say(here, "alerts", "resend", "oncall")
    assert (status, words) == (0, "2 messages go out again.\n")
    until(lambda: len(feishu.taken) == 3, "both again, in one message")


def test_what_is_silenced_is_found_and_told_to_nobody_until_the_silence_ends(site, told):
    here = with_alerts(site(faults=["worker-killed@2#1"], gpu_gib=8, mode="suggest"), told)
    _, hook = told
    here.daemon(*FITS)
    here.wait_phase("ready")
    status, words = say(here, "silence", "add", "--target", "default", "--for", "10m", "--why", "load test")
    assert (status, words.startswith("Silence ")) == (0, True), words
    found = here.wait(lambda seen: any(one.held == "suggest" for one in seen.incidents), "the incident").incidents[0]
    assert "load test" in say(here, "status")[1]
    time.sleep(5)
    assert hook.got == []
    name = json.loads(say(here, "silence", "list", "--json")[1])["silences"][0]["id"]
    assert say(here, "silence", "end", name) == (0, f"Silence {name} is over.\n")
    until(lambda: hook.taken, "the alert")
    assert "diagnose remedies apply" in events(hook)[0]["asked"]
    status, words = say(here, "alerts", "ack", found.id[:4])
    assert (status, words.startswith(f"Incident {found.id} is yours")) == (0, True), words
    until(lambda: events(hook)[-1]["kind"] == "ack", "the acknowledgement")
    assert say(here, "silence", "add", "--cause", "disk_full") == (
        2,
        "Nothing of that is open now, so a silence until it is resolved would end at once. Give a time: --for 2h\n",
    )
    assert "Give --cause" in say(here, "silence", "add")[1]


def test_a_receiver_that_is_down_is_shown_and_a_daemon_without_receivers_says_so(site, told):
    more = '    - {kind: webhook, name: down, url: "http://127.0.0.1:9/x"}\n'
    here = with_alerts(site(), told, more)
    daemon = here.daemon(*FITS)
    here.wait_phase("ready")
    assert say(here, "drill", "disk_full", "--no-wait", "--receiver", "down", "--for", "1m")[0] == 0
    line = until(lambda: next((one for one in say(here, "status")[1].split("\n") if "down: takes" in one), ""), "it")
    assert "1 wait" in line
    here.stop(daemon)
    other = site()
    other.daemon(*FITS)
    other.wait_phase("ready")
    status, words = say(other, "drill", "disk_full")
    assert (status, "has no alerts: receivers" in words) == (2, True), words


def test_a_configuration_without_its_secret_is_refused_in_one_line_with_the_cure(site, told):
    here = with_alerts(site(), told)
    del here.env["FEISHU_SECRET"]
    daemon = here.daemon(*FITS)
    assert daemon.wait(30) == 2
    assert "the variable FEISHU_SECRET is empty. Set it where the daemon is started" in here.words()
    assert "Traceback" not in here.words()
