"""The HTTP API, over its socket and over TCP: what it tells, what it takes, and whom it does not serve."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from diagnose import journal
from diagnose.cli.main import main
from diagnose.model import codec
from diagnose.model.incident import State as Stands
from diagnose.model.rule import Severity
from diagnose.testing import finding, incident
from diagnose.web import openapi, paths
from tests.adapters.api_life import TOKEN, living

NOW = datetime.now(timezone.utc).replace(microsecond=0)
HOUR = timedelta(hours=1)
JSON = {"content-type": "application/json"}
PAUSE = {"kind": "pause", "by": "mei", "why": "driver upgrade", "for": "2h"}


def trouble(name, cause="gpu_oom_load", *, state=Stands.OPEN, severity=Severity.CRITICAL, ago=HOUR):
    return incident(finding(cause=cause, at=NOW - ago, severity=severity), id=name, state=state)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Give a daemon with three troubles, one of them over, and a receiver that nobody serves."""
    troubles = (
        trouble("a1b2c3d4"),
        trouble("a2b2c3d4", "disk_full", severity=Severity.WARNING, ago=2 * HOUR),
        trouble("b1b2c3d4", state=Stands.RESOLVED, ago=30 * HOUR),
    )
    hook = {"kind": "webhook", "name": "hook", "url": "http://127.0.0.1:9/x"}
    with living(tmp_path_factory.mktemp("api"), *troubles, receivers=[hook], names=["gpu-07.example"]) as life:
        yield life


@pytest.fixture
def tcp(here):
    with here.tcp() as client:
        yield client


# --- what it tells


def test_where_everything_stands_is_told_without_secrets(tcp):
    told = tcp.get(paths.STATUS).json()
    (server,) = told["targets"]
    assert (told["schema"], server["target"], server["phase"]) == ("diagnose.status/1", "default", "ready")
    assert {one["id"] for one in server["incidents"]} == {"a1b2c3d4", "a2b2c3d4"}
    assert "s3cr3t-key" not in str(told)
    assert server["command"][-2:] != ["--api-key", "s3cr3t-key"]
    assert [one["name"] for one in told["receivers"]] == ["hook"]
    in_chinese = tcp.get(paths.STATUS, params={"lang": "zh"}).json()
    assert "加载阶段显存不足" in {one["title"] for one in in_chinese["targets"][0]["incidents"]}, "as its rule says"


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        pytest.param({}, ["a1b2c3d4", "a2b2c3d4", "b1b2c3d4"], id="all, newest change first"),
        pytest.param({"open": "true"}, ["a1b2c3d4", "a2b2c3d4"], id="those that are not over"),
        pytest.param({"open": "false"}, ["b1b2c3d4"], id="those that are"),
        pytest.param({"severity": "error"}, ["a1b2c3d4", "b1b2c3d4"], id="the graver ones"),
        pytest.param({"cause": "disk_full"}, ["a2b2c3d4"], id="a cause"),
        pytest.param({"state": "resolved"}, ["b1b2c3d4"], id="a state"),
        pytest.param({"since": "3h"}, ["a1b2c3d4", "a2b2c3d4"], id="what changed lately"),
        pytest.param({"target": "other"}, [], id="another server"),
    ],
)
def test_incidents_are_listed_by_what_is_asked_for(tcp, query, ids):
    told = tcp.get(paths.INCIDENTS, params=query).json()
    assert sorted(one["id"] for one in told["incidents"]) == ids
    assert told["total"] == len(ids)


def test_of_a_long_list_the_newest_are_told_and_all_are_counted(tcp):
    told = tcp.get(paths.INCIDENTS, params={"limit": 1}).json()
    assert (told["total"], len(told["incidents"])) == (3, 1)


def test_one_incident_is_told_whole_by_the_beginning_of_its_id(tcp):
    told = tcp.get("/v1/incidents/b1").json()
    assert told["brief"]["state"] == "resolved"
    assert "Out of memory error on GPU 0" in told["incident"]["evidence"][0]["text"]
    assert tcp.get("/v1/incidents/a").json()["problem"] == "2 incidents begin with 'a'"
    missing = tcp.get("/v1/incidents/zzz")
    assert (missing.status_code, missing.json()["cure"]) == (
        404,
        "List them with diagnose incidents, or GET /v1/incidents.",
    )


def test_a_report_is_told_as_the_command_line_does(tcp):
    told = tcp.get(paths.REPORT, params={"since": "24h"}).json()
    assert told["schema"] == "diagnose.report/1"
    assert (told["period"]["incidents"], {one["id"] for one in told["incidents"]}) == (2, {"a1b2c3d4", "a2b2c3d4"})


def test_what_is_as_it_was_is_not_sent_again(tcp):
    first = tcp.get(paths.INCIDENTS)
    again = tcp.get(paths.INCIDENTS, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = tcp.get(paths.INCIDENTS, headers={"If-None-Match": '"else"'})
    assert other.status_code == 200
    assert tcp.head(paths.INCIDENTS).headers["etag"] == first.headers["etag"]


def test_the_daemon_says_that_it_turns_and_has_taken_up_its_servers(tcp):
    assert tcp.get(paths.HEALTH).json()["ok"] is True
    assert tcp.get(paths.READY).json() == {"ready": True, "targets": {"default": "ready"}}


def test_prometheus_is_told_numbers_that_follow_its_conventions(tcp):
    answer = tcp.get(paths.METRICS, headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {one.name: one for one in text_string_to_metric_families(answer.text)}
    found = {
        (one.labels["cause"], one.labels["severity"], one.labels["state"]): one.value
        for one in families["diagnose_incidents"].samples
    }
    assert found[("gpu_oom_load", "critical", "open")] == 1
    phases = {one.labels["phase"]: one.value for one in families["diagnose_server_phase"].samples}
    assert phases == {"stopped": 0, "starting": 0, "ready": 1, "degraded": 0, "failed": 0}
    (left,) = families["diagnose_restarts_left"].samples
    assert (left.labels, left.value) == ({"target": "default"}, 3)
    assert families["diagnose_turn_seconds"].type == "histogram"
    assert {"diagnose_build", "diagnose_outbox_messages", "process_resident_memory_bytes"} <= families.keys()
    assert tcp.get(paths.METRICS).headers["content-type"].startswith("text/plain")


def test_the_documentation_names_each_number_and_none_that_is_not_there(tcp):
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    families = text_string_to_metric_families(tcp.get(paths.METRICS, headers=accept).text)
    suffix = {"counter": "_total", "info": "_info"}
    told = {one.name + suffix.get(one.type, "") for one in families if one.name.startswith("diagnose_")}
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(diagnose_\w+)", page)) == told


def test_its_document_names_all_that_it_serves(tcp):
    assert tcp.get(paths.OPENAPI).json() == msgspec.json.decode(codec.encode(openapi.document()))
    named = set(openapi.document()["paths"])
    assert {value for name, value in vars(paths).items() if name.isupper() and isinstance(value, str)} == named


# --- what it takes


def test_an_order_is_put_to_the_mind_and_answered_in_words(here, tcp):
    answer = tcp.post(paths.ORDERS, json=PAUSE)
    assert (answer.status_code, answer.json()["ok"]) == (200, True)
    paused = tcp.get(paths.STATUS).json()["targets"][0]["paused"]
    assert (paused["by"], paused["why"]) == ("mei", "driver upgrade")
    with here.socket() as client:
        assert client.post(paths.ORDERS, json={"kind": "resume", "by": "mei"}).json()["ok"] is True
        again = client.post(paths.ORDERS, json={"kind": "resume", "by": "mei"}, params={"lang": "zh"})
    assert (again.status_code, again.json()["reason"]) == (409, "not-paused")
    assert "暂停" in again.json()["text"]


def test_an_order_to_no_server_or_plan_is_refused_with_what_there_is(tcp):
    answer = tcp.post(paths.ORDERS, json={**PAUSE, "target": "other"})
    assert (answer.status_code, answer.json()) == (
        404,
        {"problem": "no target 'other'", "cure": "Name one of: default."},
    )
    answer = tcp.post(paths.ORDERS, json={"kind": "approve", "by": "mei", "incident": "zzz"})
    assert (answer.status_code, answer.json()["reason"]) == (409, "no-incident")


def test_a_silence_is_made_listed_and_ended_and_an_incident_taken(tcp):
    made = tcp.post(
        paths.SILENCES, json={"by": "mei", "causes": ["disk_full"], "for": "1h", "why": "cleaning up"}
    ).json()
    (held,) = tcp.get(paths.SILENCES).json()["silences"]
    assert (held["id"], held["causes"]) == (made["id"], ["disk_full"])
    assert tcp.delete(f"/v1/silences/{made['id']}", params={"by": "mei"}).json()["ok"] is True
    assert tcp.get(paths.SILENCES).json()["silences"] == []
    assert tcp.delete(f"/v1/silences/{made['id']}", params={"by": "mei"}).status_code == 409
    assert tcp.post("/v1/incidents/a1/ack", json={"by": "mei"}).json()["ok"] is True
    assert tcp.get("/v1/incidents/a1").json()["brief"]["acknowledged_by"] == "mei"


def test_a_diagnosis_is_marked_and_reports_count_it(here, tcp):
    marked = "/v1/incidents/b1/mark"
    said = tcp.post(marked, json={"by": "mei", "verdict": "right"}).json()
    assert (said["reason"], said["id"]) == ("marked-right", "b1b2c3d4")
    said = tcp.post(
        marked, json={"by": "mei", "verdict": "wrong", "cause": "gpu_memory_taken", "note": "a notebook"}
    ).json()
    assert said["text"].endswith("marked wrong by mei, it was: GPU memory held by other processes: a notebook")
    told = tcp.get("/v1/incidents/b1").json()
    assert told["brief"]["mark"]["cause"] == told["incident"]["mark"]["cause"] == "gpu_memory_taken"
    period = tcp.get(paths.REPORT).json()["period"]
    assert (period["right"], period["wrong"], period["mistaken"]) == (0, 1, [["gpu.oom.load", 1]])
    assert journal.marks(here.folder)["b1b2c3d4"].note == "a notebook"
    for body, reason in (
        ({"verdict": "wrong", "cause": "no_such"}, "no-cause"),
        ({"verdict": "right", "cause": "gpu_lost"}, "cause-of-right"),
    ):
        answer = tcp.post(marked, json={"by": "mei", **body})
        assert (answer.status_code, answer.json()["reason"]) == (409, reason)
    assert tcp.post("/v1/incidents/zzz/mark", json={"by": "mei", "verdict": "right"}).status_code == 404


def test_the_command_line_marks_through_the_daemon_and_shows_it(here, capsys):
    state = ["--state-dir", str(here.folder)]
    assert main(["mark", "a2b2", "wrong", "--note", "a full backup", "--lang", "zh", *state]) == 0
    assert "标记诊断有误: a full backup" in capsys.readouterr().out
    main(["incidents", "a2b2", "--json", *state])
    assert json.loads(capsys.readouterr().out)["mark"]["note"] == "a full backup"
    assert main(["mark", "zzz", "right", *state]) == 2
    assert (
        capsys.readouterr().err
        == "diagnose: no incident 'zzz'. List them with diagnose incidents, or GET /v1/incidents.\n"
    )


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        pytest.param(b"{", 422, "not understood", id="no JSON"),
        pytest.param(b'{"kind": "stop", "by": "mei"}', 422, "Invalid enum value 'stop'", id="no such order"),
        pytest.param(b'{"kind": "pause", "by": "mei", "for": "soon"}', 422, "$.for", id="no length of time"),
        pytest.param(b'{"kind": "pause", "by": "mei", "or": 1}', 422, "unknown field `or`", id="a field too many"),
        pytest.param(b'{"kind": "pause", "by": ""}', 422, "$.by", id="nobody asks"),
        pytest.param(b"\xff\xfe", 422, "not understood", id="no text"),
        pytest.param(b" " * 70_000, 413, "too large", id="too much"),
    ],
)
def test_what_it_cannot_take_is_refused_with_a_cure(here, body, status, word):
    for client in (here.tcp(), httpx.Client(transport=httpx.HTTPTransport(uds=str(here.folder / "api.sock")))):
        with client:
            base = str(client.base_url) or "http://diagnose"
            answer = client.post(f"{base.rstrip('/')}{paths.ORDERS}", content=body, headers=JSON)
        assert (answer.status_code, word in answer.json()["problem"]) == (status, True), answer.text
        assert answer.json()["cure"]


def test_wrong_questions_paths_and_methods_are_refused_with_a_cure(tcp):
    for answer, status in (
        (tcp.get(paths.INCIDENTS, params={"severty": "error"}), 422),
        (tcp.get(paths.INCIDENTS, params={"limit": "0"}), 422),
        (tcp.get("/v1/nothing"), 404),
        (tcp.put(paths.ORDERS, json={}), 405),
    ):
        assert (answer.status_code, set(answer.json())) == (status, {"problem", "cure"})
    assert set(tcp.put(paths.SILENCES, json={}).headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


# --- whom it does not serve


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no token"),
        pytest.param({"Authorization": "Bearer " + TOKEN[:-1]}, 401, id="another token"),
        pytest.param({"Authorization": "Basic " + TOKEN}, 401, id="no bearer"),
        pytest.param({"Authorization": "Bearer tök".encode()}, 401, id="no ASCII"),
        pytest.param({"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}, 421, id="a name led here"),
        pytest.param(
            {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example:80@127.0.0.1"}, 421, id="no host at all"
        ),
        pytest.param({"Authorization": f"Bearer {TOKEN}", "Host": "[::1"}, 421, id="half an address"),
        pytest.param({"Authorization": f"Bearer {TOKEN}", "Host": "GPU-07.example:80"}, 200, id="a name of ours"),
        pytest.param({"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}, 403, id="another page"),
        pytest.param({"Authorization": f"Bearer {TOKEN}", "Origin": "null"}, 403, id="a page of nowhere"),
        pytest.param({"Authorization": f"Bearer {TOKEN}", "Sec-Fetch-Site": "cross-site"}, 403, id="told by a browser"),
        pytest.param({"Authorization": f"Bearer {TOKEN}", "Sec-Fetch-Site": "same-origin"}, 200, id="our own page"),
        pytest.param({"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/plain"}, 415, id="as a form can"),
    ],
)
def test_a_change_over_tcp_needs_the_token_our_name_json_and_no_page_of_others(here, headers, status):
    with here.tcp(token="") as client:
        answer = client.post(paths.ORDERS, json=PAUSE, headers=headers)
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["cure"]
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"


def test_over_loopback_reading_needs_no_token_and_no_page_of_another_name_may_read(here):
    with here.tcp(token="") as client:
        assert client.get(paths.INCIDENTS).status_code == 200
        assert client.get(paths.METRICS).status_code == 200
        assert client.get(paths.INCIDENTS, headers={"Host": "evil.example"}).status_code == 421
        assert "access-control-allow-origin" not in client.get(paths.STATUS, headers={"Origin": "http://x"}).headers


def test_a_new_token_counts_at_once_and_without_one_nothing_is_changed_over_tcp(tmp_path):
    with living(tmp_path) as life, life.tcp() as client:
        assert client.post(paths.ORDERS, json=PAUSE).status_code == 200
        (tmp_path / "token").write_text("f" * 32)
        assert client.post(paths.ORDERS, json=PAUSE).status_code == 401
        assert client.post(paths.ORDERS, json=PAUSE, headers={"Authorization": "Bearer " + "f" * 32}).status_code == 200
        (tmp_path / "token").write_text("short")
        refused = client.post(paths.ORDERS, json=PAUSE, headers={"Authorization": "Bearer short"})
        assert (refused.status_code, "less than 16" in refused.json()["problem"]) == (403, True)
    with living(tmp_path / "other", token=False) as life:
        with life.tcp() as client:
            answer = client.post(paths.ORDERS, json=PAUSE)
            assert (answer.status_code, "token_file" in answer.json()["cure"]) == (403, True)
        with life.socket() as client:
            assert client.post(paths.ORDERS, json=PAUSE).status_code == 200


def test_without_receivers_nobody_can_be_silenced_and_numbers_are_told_all_the_same(tmp_path):
    with living(tmp_path) as life, life.tcp() as client:
        answer = client.post(paths.SILENCES, json={"by": "mei"})
        assert (answer.status_code, answer.json()["reason"]) == (409, "no-alerts")
        assert "diagnose_rules 1.0" in client.get(paths.METRICS).text
