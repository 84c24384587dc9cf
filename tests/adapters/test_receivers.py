"""Each receiver against a server that answers as its vendor does."""

from __future__ import annotations

import base64
import json
import time
from datetime import datetime, timezone

import pytest

from diagnose import outbox
from diagnose.errors import ConfigError
from diagnose.model.rule import Severity
from diagnose.notices.message import Message
from diagnose.notices.question import AskResend
from diagnose.receivers import dingtalk, feishu, make, webhook, wecom
from diagnose.receivers.outcome import Reply, by_status, retry_after
from diagnose.receivers.secrets import hidden
from diagnose.testing import NOON
from tests.adapters.alert_path import alerts, live, trouble
from tests.adapters.vendor import GOOD, serving

KINDS = sorted(GOOD)
CHATS = ["slack", "feishu", "dingtalk", "wecom", "infoflow"]
HOSTILE = "<!channel> <@all> <at id=all></at> [free](http://evil.example) *b* `c` & ![x](y)"


@pytest.fixture
def vendor(request):
    with serving(request.param) as one:
        yield one


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def receiver(kind, vendor, monkeypatch, path="/hook/SECRETTOKEN", **more):
    """Configure a receiver of a kind at the vendor; secrets are in variables."""
    monkeypatch.setenv("TEST_URL", vendor.url + path)
    monkeypatch.setenv("TEST_KEY", "R" * 32)
    if kind in {"webhook", "alertmanager"}:
        where = {"url": vendor.url + (path if kind == "webhook" else "")}
    elif kind == "pagerduty":
        where = {"url": vendor.url, "routing_key": {"env": "TEST_KEY"}}
    else:
        where = {"url": {"env": "TEST_URL"}}
    return {"kind": kind, "name": "it", **where, **more}


def told(kind, got):
    """Return the words of one message, for people."""
    body = got.json
    if kind == "slack":
        return body["text"] + body["attachments"][0]["blocks"][0]["text"]["text"]
    if kind == "feishu":
        return body["card"]["header"]["title"]["content"] + body["card"]["elements"][0]["text"]["content"]
    if kind in {"dingtalk", "wecom"}:
        return json.dumps(body["markdown"], ensure_ascii=False)
    return json.dumps(body, ensure_ascii=False)


def both(kind):
    return pytest.param(kind, kind, id=kind)


# --- one life: fires, ends, under one key


@pytest.mark.parametrize(("kind", "vendor"), [both(kind) for kind in KINDS], indirect=["vendor"])
def test_an_incident_is_told_and_its_end_reaches_the_same_receiver_with_the_same_key_after_a_restart(
    kind, vendor, tmp_path, monkeypatch
):
    config = alerts(receiver(kind, vendor, monkeypatch))
    one = trouble("a1b2c3d4")

    async def fires(path):
        path.save(one)
        await path.until(lambda: vendor.taken, "the alert")

    async def ends(path):
        path.end(one)
        await path.until(lambda: len(vendor.taken) == 2, "the end")

    live(tmp_path, config, fires)
    live(tmp_path, config, ends)
    first, last = vendor.taken
    keys = [_key(kind, got) for got in (first, last)]
    assert keys[0]
    assert keys[0] == keys[1]
    assert [_is_end(kind, got) for got in (first, last)] == [False, True]
    assert all("application/json" in got.headers["content-type"] for got in vendor.taken)
    seen = outbox.read(tmp_path)
    assert (seen.waiting, seen.dead, seen.health["it"].sent) == ({}, {}, 2)


def _key(kind, got):
    body = got.json
    if kind == "webhook":
        return body["alerts"][0]["key"]
    if kind == "alertmanager":
        return body[0]["labels"]
    if kind == "pagerduty":
        return body["dedup_key"]
    return "a1b2c3d4" in told(kind, got)


def _is_end(kind, got):
    body = got.json
    if kind == "webhook":
        return body["status"] == "resolved"
    if kind == "alertmanager":
        return body[0]["endsAt"] <= datetime.now(timezone.utc).isoformat()
    if kind == "pagerduty":
        return body["event_action"] == "resolve"
    return "resolved" in told(kind, got)


# --- delivered is what the vendor calls so

REFUSALS = [
    ("slack", (400, b"invalid_payload"), "dead"),
    ("slack", (404, b"no_service"), "dead"),
    ("slack", (200, b"no_text"), "again"),
    ("slack", (429, b"", {"Retry-After": "0"}), "again"),
    ("feishu", (200, b'{"code":19021,"msg":"sign match fail"}'), "again"),
    ("feishu", (200, b'{"code":19024,"msg":"Key Words Not Found"}'), "again"),
    ("feishu", (200, b'{"code":9499,"msg":"Bad Request"}'), "dead"),
    ("feishu", (200, b"<html>"), "again"),
    ("dingtalk", (200, b'{"errcode":310000,"errmsg":"keywords not in content"}'), "again"),
    ("wecom", (200, b'{"errcode":93000,"errmsg":"invalid webhook url"}'), "again"),
    ("wecom", (200, b'{"errcode":40058,"errmsg":"bad argument"}'), "dead"),
    ("infoflow", (200, b'{"errcode":40000,"errmsg":"no"}'), "again"),
    ("pagerduty", (400, b'{"status":"invalid event","errors":["x"]}'), "dead"),
    ("pagerduty", (200, b'{"status":"success"}'), "again"),
    ("pagerduty", (429, b"{}"), "again"),
    ("webhook", (503, b"down"), "again"),
    ("webhook", (422, b"no"), "dead"),
    ("alertmanager", (500, b"down"), "again"),
    ("alertmanager", (400, b"bad labels"), "dead"),
]


@pytest.mark.parametrize(
    ("kind", "vendor", "answer", "then"),
    [
        pytest.param(kind, kind, answer, then, id=f"{kind} {answer[0]} {answer[1].decode()[:24]}")
        for kind, answer, then in REFUSALS
    ],
    indirect=["vendor"],
)
def test_a_refusal_is_seen_and_either_tried_again_or_put_aside_and_shown(
    kind, vendor, answer, then, tmp_path, monkeypatch
):
    vendor.answers = [answer]
    config = alerts(receiver(kind, vendor, monkeypatch))

    async def life(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: vendor.got and not path.waiting)

    live(tmp_path, config, life)
    seen = outbox.read(tmp_path)
    if then == "again":
        assert (len(vendor.got), seen.dead, seen.health["it"].since) == (2, {}, None)
    else:
        assert (len(vendor.got), seen.dead) == (1, {"it": 1})
        assert seen.health["it"].since is not None
        assert outbox.posts(tmp_path, state="dead")[0].error


@pytest.mark.parametrize(("kind", "vendor"), [both("feishu")], indirect=["vendor"])
def test_what_was_put_aside_is_sent_again_when_a_person_says_so(kind, vendor, tmp_path, monkeypatch):
    vendor.answers = [(200, b'{"code":9499,"msg":"Bad Request"}')]

    async def life(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: vendor.got and not path.waiting)
        said = await path.alerting.ask(AskResend(by="me"))
        assert (said.ok, said.params) == (True, {"count": "1"})
        await path.until(lambda: vendor.taken)
        assert not (await path.alerting.ask(AskResend(by="me"))).ok

    live(tmp_path, alerts(receiver(kind, vendor, monkeypatch)), life)
    assert outbox.read(tmp_path).dead == {}


@pytest.mark.parametrize(("kind", "vendor"), [both("slack"), both("webhook"), both("pagerduty")], indirect=["vendor"])
def test_too_fast_waits_as_long_as_the_receiver_asks_and_merges_what_came_meanwhile(
    kind, vendor, tmp_path, monkeypatch
):
    vendor.answers = [(429, b"", {"Retry-After": "1"})]
    one, two = trouble("a1b2c3d4"), trouble("b1b2c3d4")

    async def life(path):
        path.save(one)
        await path.until(lambda: vendor.got)
        path.save(two)
        await path.until(lambda: vendor.taken and not path.waiting)

    live(tmp_path, alerts(receiver(kind, vendor, monkeypatch)), life)
    assert vendor.got[1].at - vendor.got[0].at >= 0.95
    words = "".join(told(kind, got) for got in vendor.taken)
    assert "a1b2c3d4" in words
    assert "b1b2c3d4" in words
    assert len(vendor.taken) == (2 if kind == "pagerduty" else 1)


@pytest.mark.parametrize("vendor", ["webhook"], indirect=True)
def test_a_receiver_that_does_not_answer_or_is_gone_is_tried_again_and_shown(vendor, tmp_path, monkeypatch):
    vendor.answers = [None]

    async def life(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: path.alerting.outbox.health["it"].since, "the failure")
        assert outbox.read(tmp_path).waiting == {"it": 1}
        await path.until(lambda: vendor.taken)

    live(tmp_path, alerts(receiver("webhook", vendor, monkeypatch, timeout="200ms")), life)
    gone = trouble("c1b2c3d4")

    async def nobody(path):
        path.save(gone)
        await path.until(lambda: path.alerting.outbox.health["it"].tries > 2)

    live(tmp_path, alerts({"kind": "webhook", "name": "it", "url": "http://127.0.0.1:9"}), nobody)
    assert "onnect" in outbox.read(tmp_path).health["it"].error


# --- signatures


def test_feishu_signs_with_time_and_secret_as_the_key():
    assert feishu.sign(1700000000, "demo-secret") == "mYHw2R2SOm8Rw/sne3lQdmz4sOfntKR+1P/8RKKTwmA="


def test_dingtalk_signs_with_the_secret_as_the_key():
    assert dingtalk.sign(1700000000001, "SECdemo") == "PTs+dsurGspsy8LSQV/Ud2CTvBpozdeoue2U2fgKqxI="


def test_a_webhook_is_signed_as_standard_webhooks_are():
    """The example of the specification."""
    when = datetime.fromtimestamp(1614265330, timezone.utc)
    signed = webhook.signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", when, b'{"test": 2432232314}'
    )
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signed["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize(("kind", "vendor"), [both("feishu"), both("dingtalk"), both("webhook")], indirect=["vendor"])
def test_signatures_stand_where_the_vendor_looks_for_them(kind, vendor, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("SECdemo\n")
    where = "/robot/send?access_token=t0k3n" if kind == "dingtalk" else "/hook/t0k3n"
    config = alerts(receiver(kind, vendor, monkeypatch, where, secret={"file": str(secret)}))

    async def life(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: vendor.taken)

    live(tmp_path / "state", config, life)
    got = vendor.taken[0]
    if kind == "feishu":
        assert got.json["sign"] == feishu.sign(int(got.json["timestamp"]), "SECdemo")
        assert abs(int(got.json["timestamp"]) - time.time()) < 60
    elif kind == "dingtalk":
        assert got.query["access_token"] == where.rsplit("=", 1)[-1]
        assert got.query["sign"] == dingtalk.sign(int(got.query["timestamp"]), "SECdemo"), "encoded once"
        assert abs(int(got.query["timestamp"]) / 1000 - time.time()) < 60
    else:
        when = datetime.fromtimestamp(int(got.headers["webhook-timestamp"]), timezone.utc)
        again = webhook.signature("SECdemo", got.headers["webhook-id"], when, got.body)
        assert got.headers["webhook-signature"] == again["webhook-signature"]
        assert base64.b64decode(again["webhook-signature"].removeprefix("v1,"))


# --- text of logs, limits of size


@pytest.mark.parametrize(("kind", "vendor"), [both(kind) for kind in CHATS], indirect=["vendor"])
def test_log_text_calls_nobody_and_links_nowhere(kind, vendor, tmp_path, monkeypatch):
    async def life(path):
        path.save(trouble("a1b2c3d4", proof=HOSTILE))
        await path.until(lambda: vendor.taken)

    live(tmp_path, alerts(receiver(kind, vendor, monkeypatch)), life)
    words = told(kind, vendor.taken[0])
    for live_markup in ("<!channel>", "<@all>", "<at id=all>", "[free](http", "![x](y)"):
        if kind == "slack" and live_markup.startswith(("[", "!")):
            continue  # no markup there
        assert live_markup not in words
    assert "free" in words


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(("kind", "vendor"), [both(kind) for kind in CHATS], indirect=["vendor"])
def test_a_hundred_incidents_with_long_chinese_lines_stay_within_the_limits(kind, vendor, lang, tmp_path, monkeypatch):
    many = [trouble(f"{number:08x}", proof="显存不足&<>" * 90) for number in range(100)]

    async def life(path):
        path.save(*many)
        await path.until(lambda: vendor.taken and not path.waiting)

    live(tmp_path, alerts(receiver(kind, vendor, monkeypatch), lang=lang), life)
    assert len(vendor.taken) == 1
    got = vendor.taken[0]
    got.body.decode()  # no character is cut in two
    body = got.json
    if kind == "wecom":
        assert len(body["markdown"]["content"].encode()) <= 4096
    elif kind == "slack":
        assert len(body["attachments"][0]["blocks"][0]["text"]["text"]) <= 3000
        assert len(body["blocks"][0]["text"]["text"]) <= 150
    else:
        assert len(got.body) <= 20_000
    assert ("more" if lang == "en" else "另有") in told(kind, got), "what is left out is counted"


@pytest.mark.parametrize(("kind", "vendor"), [both("feishu"), both("dingtalk")], indirect=["vendor"])
def test_the_keyword_that_a_bot_asks_for_stands_in_a_message_however_long_its_title_is(
    kind, vendor, tmp_path, monkeypatch
):
    async def life(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: vendor.taken)

    live(tmp_path, alerts(receiver(kind, vendor, monkeypatch, keyword="告警"), host="h" * 400), life)
    assert "… 告警" in told(kind, vendor.taken[0])


@pytest.mark.parametrize(
    ("called", "more"),
    [
        pytest.param(True, {}, id="critical"),
        pytest.param(False, {"severity": Severity.ERROR}, id="less than critical"),
        pytest.param(False, {"over": True}, id="its end"),
        pytest.param(False, {"practice": True}, id="a drill"),
    ],
)
def test_people_are_called_by_name_for_what_is_critical_and_real(called, more):
    url = {"env": "TEST_URL"}
    ding, lark, group = alerts(
        {"kind": "dingtalk", "name": "d", "url": url, "mobiles": ["13800000000"]},
        {"kind": "feishu", "name": "f", "url": url, "mention_all": True},
        {"kind": "wecom", "name": "w", "url": url, "mentions": ["mei"]},
    ).receivers
    said = Message(**{"title": "t", "body": "b", "severity": Severity.CRITICAL, "over": False, **more})
    assert (dingtalk.body(said, ding)["at"]["atMobiles"] == ["13800000000"]) is called
    assert ("<at id=all>" in json.dumps(feishu.body(said, lark))) is called
    assert ("<@mei>" in json.dumps(wecom.body(said, group))) is called


# --- secrets


@pytest.mark.parametrize("path", ["/hook/SECRETTOKEN", "/send?key=SECRETTOKEN"])
@pytest.mark.parametrize(("kind", "vendor"), [both(kind) for kind in CHATS], indirect=["vendor"])
def test_secrets_are_never_in_what_people_see(kind, vendor, path, tmp_path, monkeypatch):
    vendor.answers = [(200, b'{"code":19021,"errcode":19021,"msg":"token SECRETTOKEN is wrong"}')]

    async def life(path):
        path.save(trouble("a1b2c3d4"))
        await path.until(lambda: path.alerting.outbox.health["it"].error)

    live(tmp_path, alerts(receiver(kind, vendor, monkeypatch, path), retry={"first": "1m"}), life)
    assert "token *** is wrong" in outbox.read(tmp_path).health["it"].error
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"SECRETTOKEN" not in stored
    assert hidden("https://x.example/a/b?key=1 and abcdef", ["abcdef"]) == "https://x.example/*** and ***"


@pytest.mark.parametrize(
    ("secret", "told"),
    [
        pytest.param({"env": "NOT_THERE_AT_ALL"}, "NOT_THERE_AT_ALL is empty", id="no variable"),
        pytest.param({"file": "/nonexistent/secret"}, "Put the secret there", id="no file"),
    ],
)
def test_a_secret_that_is_not_there_is_said_with_its_cure(secret, told):
    config = alerts({"kind": "slack", "name": "it", "url": secret})
    with pytest.raises(ConfigError, match=told):
        make.sender(config.receivers[0], config)


# --- answers, judged


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=204), None),
        (Reply(status=301), "barred"),
        (Reply(status=401), "barred"),
        (Reply(status=400), "refused"),
        (Reply(status=408), "later"),
        (Reply(status=429), "later"),
        (Reply(status=502), "later"),
    ],
    ids=lambda one: str(getattr(one, "status", one)),
)
def test_a_status_says_whether_to_try_again(reply, kind):
    judged = by_status(reply)
    assert (judged.kind if judged else None) == kind


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7", 7),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sun, 01 Mar 2026 11:00:30 GMT", 0),
        ("Sun, 01 Mar 99999999999999999999 12:00:30 GMT", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(given, seconds):
    wait = retry_after(Reply(status=429, headers={"retry-after": given}, at=NOON))
    assert (wait.total_seconds() if wait is not None else None) == seconds
