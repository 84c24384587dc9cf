"""A person's word: approve, reject, apply, put back, pause, resume; through the commands, to the running daemon."""

from __future__ import annotations

import json

import httpx
import pytest

from diagnose.web.place import NAME, short_path
from tests.e2e.conftest import FITS, TOO_LARGE

JSON = {"content-type": "application/json"}
pytestmark = pytest.mark.timeout(100)


def held(site, reason):
    return next(
        one
        for one in site.wait(
            lambda seen: any(one.held == reason for one in seen.incidents), f"an incident held by {reason}"
        ).incidents
        if one.held == reason
    )


def say(site, *arguments):
    """Run a command that talks to the daemon."""
    return site.diagnose(*arguments, "--state-dir", str(site.state), "--lang", "en")


def kinds(incident):
    return [entry.kind for entry in incident.timeline]


def test_a_plan_waits_for_a_person_and_is_carried_out_once_approved(site):
    here = site(mode="approve")
    here.daemon(*TOO_LARGE)
    waiting = held(here, "approve")
    assert here.starts() == 1
    status, words = say(here, "remedies", "plan", waiting.id)
    assert status == 0
    assert "a person has to approve the plan" in words
    status, words = say(here, "remedies", "approve", waiting.id[:4], "--for", "10m")
    assert (status, "Approved: server.fit-memory starts now." in words) == (0, True), words
    cured = here.wait_incident("resolved", "open")
    while cured.state.value == "open":  # a second rung asks again
        assert say(here, "remedies", "approve")[0] == 0
        cured = here.wait_incident("resolved", "open")
    assert "approve" in kinds(cured)
    assert here.answers()


def test_a_rejected_remedy_is_not_asked_again_for_this_incident(site):
    here = site(mode="approve")
    here.daemon(*TOO_LARGE)
    waiting = held(here, "approve")
    status, words = say(here, "remedies", "reject")
    assert (status, words.startswith("Rejected: server.fit-memory")) == (0, True), words
    there = held(here, "rejected") if waiting.rule_id.endswith("capture") else here.snapshot().incidents[0]
    assert there.rejected == ("server.fit-memory",)
    assert not there.plan or there.plan.remedy_id != "server.fit-memory"
    assert here.starts() == 1


def test_in_suggest_mode_an_approval_is_refused_with_the_cure_and_an_order_is_obeyed(site):
    here = site(mode="suggest")
    here.daemon(*TOO_LARGE)
    waiting = held(here, "suggest")
    status, words = say(here, "remedies", "approve", waiting.id)
    assert (status, f"diagnose remedies apply {waiting.id}" in words) == (2, True), words
    assert say(here, "remedies", "apply", waiting.id)[0] == 0
    here.wait(lambda seen: seen.state.targets["default"].generation == 2, "a second start")


def test_while_paused_nothing_is_touched_and_after_resume_it_is(site):
    here = site(faults=["worker-killed@2#1"], gpu_gib=8)
    here.daemon(*FITS)
    here.wait_phase("ready")
    status, words = say(here, "pause", "--for", "10m", "--why", "driver upgrade")
    assert (status, words.startswith("Paused")) == (0, True), words
    assert held(here, "paused").state.value == "open"
    _, words = say(here, "status")
    assert "driver upgrade" in words
    told = json.loads(say(here, "status", "--json")[1])["targets"][0]
    assert told["paused"]["why"] == "driver upgrade"
    assert here.starts() == 1
    assert say(here, "resume")[0] == 0
    here.wait_incident("resolved")
    assert here.starts() == 2
    assert say(here, "resume") == (2, "Nothing is paused.\n")


def test_what_remedies_changed_is_put_back_and_laid_again_where_it_does_not_work(cured):
    changed = cured.target().overlays
    daemon = cured.daemon(*TOO_LARGE)
    try:
        cured.wait(lambda _: (cured.state / NAME).exists(), "the daemon's socket")
        status, words = say(cured, "remedies", "rollback")
        assert (status, "The server is restarted with the settings put back" in words) == (0, True), words
        seen = cured.wait(
            lambda seen: (
                any("rolled-back" in kinds(one) for one in seen.incidents)
                and seen.state.targets["default"].phase == "ready"
            ),
            "the changes laid again",
        )
        assert seen.state.targets["default"].overlays == changed
        history = next(one for one in seen.incidents if "rollback" in kinds(one))
        assert [one for one in kinds(history) if one in {"rollback", "trial", "trial-failed", "rolled-back"}] == [
            "rollback",
            "trial",
            "trial-failed",
            "rolled-back",
        ]
        assert cured.answers()
    finally:
        cured.stop(daemon)


def test_a_server_that_a_person_has_mended_is_started_again_on_their_word(site):
    here = site()
    hidden = here.model.rename(here.model.with_suffix(".away"))
    here.daemon(*FITS)
    held(here, "advice")
    here.wait_phase("failed")
    assert here.starts() == 1
    assert "start it again: diagnose restart --target default" in say(here, "status")[1]
    hidden.rename(here.model)
    status, words = say(here, "restart")
    assert (status, words.startswith("The server is started again")) == (0, True), words
    seen = here.wait_phase("ready")
    mended = seen.incidents[0]
    assert "restart" in kinds(mended)
    assert not mended.tries
    here.wait_incident("resolved")
    assert here.starts() == 2
    first = here.target().pid
    assert say(here, "pause")[0] == 0
    assert say(here, "restart")[0] == 2
    assert say(here, "resume")[0] == 0
    assert say(here, "restart")[0] == 0, "one that serves may be restarted, too"
    here.wait(lambda seen: seen.state.targets["default"].pid not in {0, first}, "another process")
    here.wait_phase("ready")


def test_orders_nobody_can_carry_out_are_refused_in_one_line_with_a_cure(site):
    here = site()
    status, words = say(here, "pause")
    assert (status, "Start the daemon first" in words, words.count("\n")) == (2, True, 1), words
    daemon = here.daemon(*FITS)
    here.wait_phase("ready")
    assert say(here, "remedies", "rollback")[1].startswith("No remedy has changed the settings")
    assert "no incident waits for a person" in say(here, "remedies", "approve")[1]
    assert "no target 'other'" in say(here, "pause", "--target", "other")[1]
    assert "is over at once" in say(here, "pause", "--for", "0s")[1]
    with (
        short_path(here.state) as path,
        httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://diagnose") as client,
    ):
        assert client.post("/v1/orders", content=b"{", headers=JSON).status_code == 422
        assert client.post("/v1/orders", content=b"x" * 100_000, headers=JSON).status_code == 413
        assert client.post("/v1/orders", json={"target": "x", "kind": "pause", "by": "me"}).status_code == 404
    assert (here.state / NAME).stat().st_mode & 0o777 == 0o660
    here.stop(daemon)
    assert not (here.state / NAME).exists()
    status, words = say(here, "pause")
    assert (status, "no daemon answers" in words, words.count("\n")) == (2, True, 1), words


def test_an_answer_that_runs_in_circles_can_be_handed_in_and_its_text_is_not_kept(site):
    here = site()
    here.daemon(*FITS)
    here.wait_phase("ready")
    looping = "the secret word is swordfish and then " * 60
    with (
        short_path(here.state) as path,
        httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://diagnose") as client,
    ):
        sound = {"target": "default", "text": "Red, orange and yellow are three colours of the rainbow."}
        assert client.post("/v1/outputs", json=sound).json() == {"repetition": 0.0, "repetitive": False}
        answer = client.post("/v1/outputs", json={"target": "default", "text": looping, "request_id": "chatcmpl-7"})
        assert answer.json()["repetitive"] is True
        assert client.post("/v1/outputs", json={"target": "default"}).status_code == 422
        assert client.post("/v1/outputs", json={**sound, "target": "x"}).status_code == 404
        assert client.get("/v1/outputs").status_code == 405
    seen = here.wait(lambda seen: seen.incidents, "an incident")
    assert [one.cause for one in seen.incidents] == ["repetition"]
    assert "chatcmpl-7" in seen.incidents[0].findings[0].evidence[0].text
    assert not any(b"swordfish" in file.read_bytes() for file in here.state.rglob("*") if file.is_file())
    assert here.starts() == 1
