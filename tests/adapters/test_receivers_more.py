"""Receivers that are more than one POST: PagerDuty, Alertmanager, mail, apprise, templates of the site."""

from __future__ import annotations

import email
import email.policy
import importlib.util
import re
import socketserver
import threading
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pytest
import yaml

from diagnose import outbox
from diagnose.errors import ConfigError
from diagnose.model import codec
from diagnose.model.effect import Perform
from diagnose.model.incident import Intent
from diagnose.model.incident import State as Stands
from diagnose.model.rule import Severity
from diagnose.notices.config import Alerts
from diagnose.notices.question import AskAck
from diagnose.receivers import make
from diagnose.receivers.pagerduty import MOST_BYTES, fitted
from diagnose.testing import plan
from tests.adapters.alert_path import alerts, live, trouble
from tests.adapters.prometheus import alertmanager
from tests.adapters.vendor import serving


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ROUTING_KEY", "R" * 32)


@pytest.fixture
def pager():
    with serving("pagerduty") as vendor:
        yield vendor


def on_call(pager):
    return {"kind": "pagerduty", "name": "pager", "url": pager.url, "routing_key": {"env": "ROUTING_KEY"}}


# --- PagerDuty


def test_pagerduty_is_triggered_acknowledged_and_resolved_under_one_key_and_sees_each_remedy(pager, tmp_path):
    one = msgspec.structs.replace(trouble("a1b2c3d4"), plan=plan(("--max-num-seqs", "128", "32")))
    intent = Intent(
        id="a1b2c3d4-1",
        incident_id=one.id,
        target="default",
        generation=1,
        at=datetime.now(timezone.utc),
        plan=plan(("--max-num-seqs", "128", "32")),
    )

    async def life(path):
        path.save(one)
        await path.until(lambda: len(pager.taken) == 1)
        path._effects.append(Perform(intent=intent))
        await path.until(lambda: len(pager.taken) == 2)
        assert (await path.alerting.ask(AskAck(by="mei", incident=one.id))).ok
        await path.until(lambda: len(pager.taken) == 3)
        path.end(one)
        await path.until(lambda: len(pager.taken) == 4)

    live(tmp_path, alerts(on_call(pager)), life)
    fired, changed, acked, ended = (got.json for got in pager.taken)
    assert [one["event_action"] for one in (fired, acked, ended)] == ["trigger", "acknowledge", "resolve"]
    assert {one["dedup_key"] for one in (fired, acked, ended)} == {"diagnose/gpu-07/default/a1b2c3d4"}
    assert fired["payload"]["severity"] == "critical"
    assert fired["payload"]["source"] == "gpu-07"
    assert fired["payload"]["class"] == "gpu_oom_load"
    assert "Out of memory error on GPU 0" in fired["payload"]["custom_details"]["proof"]
    assert pager.taken[1].path == "/v2/change/enqueue"
    assert changed["payload"]["summary"] == "gpu-07/default: --max-num-seqs 128 -> 32"


def test_of_an_event_that_is_too_large_the_details_go_first():
    event = {"routing_key": "k", "payload": {"summary": "it", "custom_details": {"text": "x" * MOST_BYTES}}}
    body = msgspec.json.decode(fitted(event))
    assert body["payload"] == {"summary": "it", "custom_details": {"error": "left out: too large"}}


# --- Alertmanager


@pytest.fixture
def manager(tmp_path):
    with alertmanager(tmp_path) as it:
        yield it


def test_a_real_alertmanager_shows_groups_and_resolves_our_alerts(manager, tmp_path):
    one, two = trouble("a1b2c3d4"), trouble("b1b2c3d4")
    other = trouble("c1b2c3d4", "disk_full", severity=Severity.ERROR)
    config = alerts({"kind": "alertmanager", "name": "am", "url": manager.url, "resend_every": "200ms"})

    async def life(path):
        path.save(one, two, other)
        await path.until(lambda: len(manager.alerts()) == 3, "three alerts")
        shown = {alert["labels"]["incident"]: alert for alert in manager.alerts()}
        assert shown["a1b2c3d4"]["labels"]["alertname"] == "gpu_oom_load"
        assert shown["a1b2c3d4"]["labels"]["severity"] == "critical"
        assert "Out of memory error on GPU 0" in shown["a1b2c3d4"]["annotations"]["proof"]
        assert sorted(len(group["alerts"]) for group in manager.groups()) == [1, 2]
        await path.until(lambda: len(manager.passed_on()) == 3, "and passes them on")
        path.end(one)
        path.end(two)
        await path.until(lambda: len(manager.alerts()) == 1, "two resolved")
        await path.until(
            lambda: sorted(manager.passed_on().values()) == ["firing", "resolved", "resolved"], "their end"
        )

    live(tmp_path / "state", config, life)
    assert manager.passed_on() == {"a1b2c3d4": "resolved", "b1b2c3d4": "resolved", "c1b2c3d4": "firing"}


def test_what_fires_is_sent_to_an_alertmanager_again_and_again_and_so_is_the_end(tmp_path):
    one = trouble("a1b2c3d4")
    with serving("alertmanager") as vendor:
        config = alerts({"kind": "alertmanager", "name": "am", "url": vendor.url, "resend_every": "100ms"})

        async def life(path):
            path.save(one)
            await path.until(lambda: len(vendor.taken) >= 3)
            path.end(one)
            await path.until(lambda: sum(_ends_now(got) for got in vendor.taken) >= 2)

        live(tmp_path, config, life)
    assert len({tuple(sorted(got.json[0]["labels"].items())) for got in vendor.taken}) == 1
    assert len(outbox.posts(tmp_path)) == 2, "what is said again is not kept"


def _ends_now(got):
    return got.json[0]["endsAt"] <= datetime.now(timezone.utc).isoformat()


def test_an_alert_whose_cause_becomes_known_ends_under_its_old_labels(tmp_path):
    one = trouble("a1b2c3d4", "worker_crash")
    with serving("alertmanager") as vendor:
        config = alerts({"kind": "alertmanager", "name": "am", "url": vendor.url})

        async def life(path):
            path.save(one)
            await path.until(lambda: len(vendor.taken) == 1)
            path.save(msgspec.structs.replace(one, cause="gpu_oom_runtime"))
            await path.until(lambda: len(vendor.taken) == 2)

        live(tmp_path, config, life)
    old, new = vendor.taken[1].json
    now = datetime.now(timezone.utc).isoformat()
    assert (old["labels"]["alertname"], old["endsAt"] <= now) == ("worker_crash", True)
    assert (new["labels"]["alertname"], new["endsAt"] > now) == ("gpu_oom_runtime", True)


def test_the_webhook_of_an_alertmanager_is_written_as_version_4(tmp_path):
    one = trouble("a1b2c3d4")
    with serving("webhook") as vendor:
        config = alerts({"kind": "webhook", "name": "am", "url": vendor.url, "format": "alertmanager"})

        async def life(path):
            path.save(one)
            await path.until(lambda: len(vendor.taken) == 1)
            path.end(one)
            await path.until(lambda: len(vendor.taken) == 2)

        live(tmp_path, config, life)
    fired, ended = (got.json for got in vendor.taken)
    assert fired.keys() == {
        "version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels",
        "commonAnnotations", "externalURL", "alerts",
    }  # fmt: skip
    assert (fired["version"], fired["status"], ended["status"]) == ("4", "firing", "resolved")
    assert fired["groupKey"] == ended["groupKey"]
    before, after = fired["alerts"][0], ended["alerts"][0]
    assert (before["endsAt"], before["fingerprint"]) == ("0001-01-01T00:00:00Z", after["fingerprint"])
    assert after["endsAt"] > after["startsAt"]
    assert len(before["fingerprint"]) == 16


# --- mail


class _Mailbox(socketserver.StreamRequestHandler):
    """As much SMTP as it takes; ``server.answers`` holds what DATA is answered, in turn."""

    def handle(self):
        self.say("220 here")
        while line := self.rfile.readline():
            word = line.decode().strip().upper()
            if word.startswith("EHLO"):
                self.say("250 here")
            elif word.startswith("RCPT") and b"nobody@" in line:
                self.say("550 no such person")
            elif word == "DATA":
                self.say("354 go on")
                lines = []
                while (line := self.rfile.readline()) not in {b".\r\n", b""}:
                    lines.append(line)
                answer = self.server.answers.pop(0) if self.server.answers else "250 taken"
                self.say(answer)
                if answer.startswith("250"):
                    self.server.mails.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))
            elif word == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")

    def say(self, line):
        self.wfile.write(f"{line}\r\n".encode())


@pytest.fixture
def mailbox():
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), _Mailbox) as server:
        server.mails, server.answers = [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def mail(mailbox, *to):
    host, port = mailbox.server_address
    return {
        "kind": "email", "name": "mail", "server": host, "port": port, "tls": "none",
        "sender": "diagnose@example.org", "to": list(to or ["oncall@example.org"]),
    }  # fmt: skip


def test_mail_is_one_thread_an_incident_in_the_language_of_its_reader(mailbox, tmp_path):
    one = trouble("a1b2c3d4")

    async def life(path):
        path.save(one)
        await path.until(lambda: len(mailbox.mails) == 1)
        path.end(one)
        await path.until(lambda: len(mailbox.mails) == 2)

    live(tmp_path, alerts({**mail(mailbox), "lang": "zh"}), life)
    first, last = mailbox.mails
    assert str(first["Subject"]) == "[严重] gpu-07/default: 加载阶段显存不足"
    assert last["In-Reply-To"] == first["Message-ID"]
    assert "Out of memory error on GPU 0" in first.get_content()
    assert "已恢复" in str(last["Subject"])


def test_mail_that_is_put_off_is_sent_again_refused_mail_is_put_aside_and_unknown_people_are_noted(mailbox, tmp_path):
    mailbox.answers = ["451 later"]

    async def later(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: mailbox.mails)

    live(tmp_path / "1", alerts(mail(mailbox)), later)
    mailbox.answers = ["554 no"]

    async def never(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: path.alerting.outbox.health["mail"].error and not path.waiting)

    live(tmp_path / "2", alerts(mail(mailbox)), never)
    assert outbox.read(tmp_path / "2").dead == {"mail": 1}

    async def some(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: path.alerting.outbox.health["mail"].sent)

    live(tmp_path / "3", alerts(mail(mailbox, "oncall@example.org", "nobody@example.org")), some)
    assert outbox.read(tmp_path / "3").health["mail"].note == "not taken for nobody@example.org"


# --- the long tail


@pytest.mark.filterwarnings("default::DeprecationWarning")  # apprise's own
def test_without_apprise_its_receivers_are_refused_with_the_cure_and_with_it_they_are_served(tmp_path, monkeypatch):
    with serving("webhook") as vendor:
        monkeypatch.setenv("APPRISE_URL", vendor.url.replace("http://", "json://") + "/hook")
        config = alerts({"kind": "apprise", "name": "tail", "url": {"env": "APPRISE_URL"}})
        if importlib.util.find_spec("apprise") is None:
            with pytest.raises(ConfigError, match=r"pip install 'fastdeploy-diagnose\[apprise\]'"):
                make.sender(config.receivers[0], config)
            return

        async def life(path):
            path.save(trouble("a1b2c3d4"))
            await path.until(lambda: vendor.taken)

        live(tmp_path, config, life)
        assert "a1b2c3d4" in vendor.taken[0].body.decode()


# --- templates of the site

OWN = """{% extends "default" %}
{% block title %}{{ alerts[0].host }} !! {{ alerts[0].title }}{% endblock %}
{% block body %}{% for a in alerts %}{{ b(a.tag) }} {{ a.proof }} {{ time(a.started) }}{% endfor %}{% endblock %}
"""


def chat(vendor, monkeypatch, tmp_path, text):
    monkeypatch.setenv("TEST_URL", vendor.url + "/hook")
    file = tmp_path / "own.jinja"
    file.write_text(text)
    return alerts({"kind": "slack", "name": "it", "url": {"env": "TEST_URL"}, "template": str(file)})


def test_a_template_of_the_site_is_used_and_what_it_shows_is_escaped(tmp_path, monkeypatch):
    with serving("slack") as vendor:
        config = chat(vendor, monkeypatch, tmp_path, OWN)

        async def life(path):
            path.save(trouble("a1b2c3d4", proof="<!channel> it failed"))
            await path.until(lambda: vendor.taken)

        live(tmp_path / "state", config, life)
    body = vendor.taken[0].json
    assert body["blocks"][0]["text"]["text"] == "gpu-07 !! Out of GPU memory while loading"
    assert body["attachments"][0]["blocks"][0]["text"]["text"].startswith("*critical* &lt;!channel&gt; it failed")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{% block body %}{{ alerts[0].nothing_there }}{% endblock %}", id="an unknown name"),
        pytest.param("{% block body %}{{ ''.__class__.__mro__ }}{% endblock %}", id="out of the sandbox"),
    ],
)
def test_a_template_that_fails_keeps_no_alert_back_and_is_shown(text, tmp_path, monkeypatch):
    with serving("slack") as vendor:
        config = chat(vendor, monkeypatch, tmp_path, text)

        async def life(path):
            path.save(trouble("a1b2c3d4"))
            await path.until(lambda: path.alerting.outbox.health["it"].sent)

        live(tmp_path / "state", config, life)
    assert "Out of memory error on GPU 0" in vendor.taken[0].body.decode()
    assert outbox.read(tmp_path / "state").health["it"].note.startswith("template: ")


def test_a_template_that_cannot_be_read_is_said_at_the_start(tmp_path, monkeypatch):
    with serving("slack") as vendor:
        config = chat(vendor, monkeypatch, tmp_path, "line one\n{% block body %}{{ x")
    with pytest.raises(ConfigError, match=r"own.jinja:2: .*extends 'default'"):
        make.sender(config.receivers[0], config)


def test_the_examples_of_the_documentation_can_be_used(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    given = yaml.safe_load(page.split("```yaml")[1].split("```")[0])["alerts"]
    assert len(alerts(*given.pop("receivers"), **{**given, "host": "h"}).routes) == 3
    with serving("slack") as vendor:
        config = chat(vendor, monkeypatch, tmp_path, page.split("```jinja")[1].split("```")[0].strip())

        async def life(path):
            path.save(trouble("a1b2c3d4"))
            await path.until(lambda: path.alerting.outbox.health["it"].sent)

        live(tmp_path / "state", config, life)
    assert outbox.read(tmp_path / "state").health["it"].note == ""
    assert "*[critical]* Out of GPU memory" in vendor.taken[0].body.decode()
    shipped = (Path(__file__).parents[2] / "service" / "diagnose.example.yaml").read_text(encoding="utf-8")
    commented = re.sub(r"^# ?", "", shipped[shipped.index("# alerts:") :], flags=re.MULTILINE)
    assert codec.convert(yaml.safe_load(commented)["alerts"], Alerts).receivers


def test_an_incident_that_is_history_by_the_time_it_would_be_told_is_told_to_nobody(pager, tmp_path):
    one = trouble("a1b2c3d4")

    async def life(path):
        path.save(one)
        path.turn()
        path.save(msgspec.structs.replace(one, state=Stands.HISTORY))
        await path.until(lambda: not path.alerting.book.alerts)

    live(tmp_path, alerts(on_call(pager), group_wait="1s"), life)
    assert pager.got == []
