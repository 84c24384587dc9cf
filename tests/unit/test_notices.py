"""Who is told what, and when: the decisions, turn by turn, without a clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnose.model import codec
from diagnose.model.effect import SaveIncident
from diagnose.model.incident import State, Try
from diagnose.model.rule import Severity
from diagnose.notices import asks, decide
from diagnose.notices.book import Book
from diagnose.notices.config import Alerts
from diagnose.notices.decide import World
from diagnose.notices.question import AskAck, AskDrill, AskSilence, AskUnsilence
from diagnose.testing import NOON, finding, incident, knowledge, remedy, rule

OOM, CRASH, DISK = "gpu_oom_runtime", "worker_crash", "disk_full"
KNOWN = knowledge(
    rule("gpu.oom", cause=OOM, explains=(CRASH,)), rule("worker.crash", cause=CRASH), rule("disk", cause=DISK), remedy()
)
CHAT = {"kind": "feishu", "name": "chat", "url": {"env": "X"}}
HOOK = {"kind": "webhook", "name": "hook", "url": "http://127.0.0.1"}
PAGER = {"kind": "pagerduty", "name": "pager", "routing_key": {"env": "X"}}
MANAGER = {"kind": "alertmanager", "name": "am", "url": "http://127.0.0.1"}


class Desk:
    """The alert path's decisions, with a clock that a test turns."""

    def __init__(self, *receivers, **more):
        self.incidents, self.book, self.now = {}, Book(), NOON
        self.posts = []
        config = codec.convert({"receivers": list(receivers or [CHAT]), **more}, Alerts)
        self.world = World(config=config, knowledge=KNOWN, host="h", find=self.incidents.get)

    def save(self, *incidents):
        self.incidents |= {one.id: one for one in incidents}
        effects = [SaveIncident(incident=one) for one in incidents]
        self.book, _ = decide.heard(self.book, effects, self.world, self.now)
        return self.turn()

    def turn(self):
        self.book, posts = decide.turn(self.book, self.world, self.now)
        self.posts += posts
        return [(one.receiver, one.kind, one.facts.incident) for one in posts]

    def wait(self, seconds, each=0.5):
        """Let time pass, and return what is told meanwhile, with the second of it."""
        told, start = [], self.now
        while self.now < start + timedelta(seconds=seconds):
            self.now += timedelta(seconds=each)
            told += [((self.now - NOON).total_seconds(), *one) for one in self.turn()]
        return told

    def again(self):
        """Be a new daemon that reads what the old one wrote."""
        text = codec.encode(msgspec.structs.replace(self.book, look=None))
        self.book = decide.begun(codec.decode(text, Book), self.incidents.values(), self.world, self.now)


def one(name="a", cause=OOM, *, state=State.OPEN, severity=Severity.CRITICAL, target="default", at=NOON, **more):
    made = incident(finding(f"r.{cause}", cause=cause, severity=severity, target=target, at=at), id=name, state=state)
    return msgspec.structs.replace(made, **more)


def over(made, state=State.RESOLVED):
    return msgspec.structs.replace(made, state=state)


# --- grouping, merging, once


def test_the_first_notice_comes_within_five_seconds_and_later_changes_are_merged():
    desk = Desk()
    assert desk.save(one(state=State.PENDING)) == []
    assert desk.wait(5) == [(4.0, "chat", "fire", "a")]
    desk.save(one(state=State.ACTING))
    desk.now += timedelta(seconds=2)
    desk.save(one(state=State.VERIFYING))
    told = desk.wait(60)
    assert told == [(34.0, "chat", "fire", "a")]
    assert desk.posts[-1].facts.face.value == "treated"


def test_incidents_of_one_group_go_out_together_and_those_of_another_by_themselves():
    desk = Desk()
    desk.save(one("a", CRASH), one("b", CRASH), one("c", DISK))
    desk.wait(5)
    groups = {}
    for post in desk.posts:
        groups.setdefault(post.group, set()).add(post.facts.incident)
    assert groups == {"chat/default/worker_crash": {"a", "b"}, "chat/default/disk_full": {"c"}}
    assert [post.others for post in desk.posts] == [0, 0, 0]


def test_what_has_not_changed_is_told_once_and_again_only_after_the_repeat_interval():
    desk = Desk(repeat_interval="10m")
    desk.save(one())
    desk.wait(5)
    for _ in range(5):
        desk.save(one(last_seen=desk.now))  # more evidence is no news
    assert desk.wait(500, each=5) == []
    (again,) = desk.wait(200, each=5)
    assert again[1:] == ("chat", "fire", "a")
    assert desk.posts[-1].facts.repeated


def test_what_comes_and_goes_before_it_is_told_is_told_to_nobody_unless_a_remedy_was_tried():
    desk = Desk(CHAT, PAGER)
    desk.save(one("a"))
    desk.save(over(one("a"), State.HISTORY))
    assert desk.wait(60) == []
    cured = one("b", tries=(Try(intent_id="b-1", remedy_id="server.fit-memory", rung=0, at=NOON, result="kept"),))
    desk.save(cured)
    desk.save(over(cured))
    assert [told[1:] for told in desk.wait(60)] == [("chat", "end", "b")], "and a pager has nothing to end"
    assert desk.wait(60) == []


def test_one_that_waits_for_a_yes_needs_a_person():
    desk = Desk()
    desk.save(one(held="approve"))
    desk.wait(5)
    assert desk.posts[-1].facts.face.value == "person"


# --- the end


def test_the_end_reaches_whoever_was_told_though_routes_silences_and_the_daemon_are_others_by_then():
    desk = Desk(CHAT, HOOK)
    desk.save(one())
    desk.wait(5)
    keys = {post.key for post in desk.posts}
    desk.world = msgspec.structs.replace(
        desk.world, config=msgspec.structs.replace(desk.world.config, severity=Severity.CRITICAL, routes=())
    )
    silenced, said = asks.silence(desk.book, AskSilence(by="me", targets=("default",), until=NOON + timedelta(1)), NOON)
    assert said.ok
    desk.book = silenced
    desk.again()
    desk.save(over(one(severity=Severity.WARNING)))
    told = desk.wait(60)
    assert {(who, kind) for _, who, kind, _ in told} == {("chat", "end"), ("hook", "end")}
    assert {post.key for post in desk.posts} == keys


def test_an_incident_that_ended_while_no_daemon_ran_is_ended_at_the_next_start():
    desk = Desk()
    desk.save(one())
    desk.wait(5)
    desk.incidents.clear()
    desk.again()
    assert [told[2] for told in desk.wait(60)] == ["end"]


def test_a_receiver_that_wants_no_ends_gets_none():
    desk = Desk({**CHAT, "resolved": False})
    desk.save(one())
    desk.wait(5)
    desk.save(over(one()))
    assert desk.wait(700, each=5) == []
    assert desk.book.alerts == {}


def test_all_is_forgotten_in_the_end():
    desk = Desk(CHAT, MANAGER, PAGER)
    for number in range(5):
        desk.save(one(f"i{number}", CRASH))
    desk.wait(40)
    for number in range(5):
        desk.save(over(one(f"i{number}", CRASH)))
    desk.wait(800, each=10)
    assert (desk.book.alerts, desk.book.look) == ({}, None)


# --- quiet


def test_an_echo_is_quiet_while_its_cause_is_open_and_told_when_that_is_over():
    desk = Desk()
    desk.save(one("cause", OOM), one("echo", CRASH, severity=Severity.ERROR))
    assert [told[3] for told in desk.wait(60)] == ["cause"]
    assert desk.save(over(one("cause", OOM))) == [("chat", "fire", "echo")]
    assert [(told[2], told[3]) for told in desk.wait(60)] == [("end", "cause")]


def test_an_echo_that_is_graver_or_of_another_server_is_told():
    desk = Desk()
    desk.save(
        one("cause", OOM, severity=Severity.WARNING),
        one("graver", CRASH, severity=Severity.CRITICAL),
        one("elsewhere", CRASH, target="other", severity=Severity.WARNING),
    )
    assert {told[3] for told in desk.wait(60)} == {"cause", "graver", "elsewhere"}


def test_a_site_says_itself_what_keeps_what_quiet_on_the_whole_host():
    desk = Desk(inhibit=[{"by": [DISK], "quiet": [CRASH], "same": "host"}])
    desk.save(one("cause", DISK), one("echo", CRASH, target="other"))
    assert [told[3] for told in desk.wait(60)] == ["cause"]


def test_a_silence_holds_until_its_time_and_nothing_is_lost_by_it():
    desk = Desk()
    desk.book, said = asks.silence(
        desk.book, AskSilence(by="me", causes=(OOM,), until=NOON + timedelta(seconds=30)), NOON
    )
    desk.save(one("a", OOM), one("b", DISK))
    told = desk.wait(60)
    assert [(incident, at >= 30) for at, _, _, incident in told] == [("b", False), ("a", True)]
    assert said.ok
    assert desk.book.silences == {}


def test_a_silence_until_resolved_ends_with_the_last_one_that_it_covers():
    desk = Desk()
    assert not asks.silence(desk.book, AskSilence(by="me", incident="a"), NOON)[1].ok
    desk.save(one("a"))
    desk.book, said = asks.silence(desk.book, AskSilence(by="me", incident="a"), NOON)
    assert said.ok
    assert desk.wait(60) == []
    desk.save(over(one("a")))
    assert desk.wait(60) == []
    assert desk.book.silences == {}


def test_a_silence_can_be_ended_by_hand():
    desk = Desk()
    desk.save(one())
    desk.book, said = asks.silence(desk.book, AskSilence(by="me", incident="a"), NOON)
    desk.book, ended = asks.unsilence(desk.book, AskUnsilence(by="me", id=said.id), NOON)
    assert ended.ok
    assert not asks.unsilence(desk.book, AskUnsilence(by="me", id=said.id), NOON)[1].ok
    assert [told[3] for told in desk.wait(5)] == ["a"]


@pytest.mark.parametrize(
    ("window", "quiet"),
    [
        ({"hours": {"from": "11:00", "to": "13:00"}}, True),
        ({"hours": {"from": "13:00", "to": "14:00"}}, False),
        ({"hours": {"from": "22:00", "to": "13:00", "days": ["sat"]}}, True),
        ({"hours": {"from": "11:00", "to": "13:00", "days": ["mon"]}}, False),
        ({"since": "2026-03-01T19:00:00+08:00", "until": "2026-03-01T21:00:00+08:00"}, True),
        ({"since": "2026-03-01T12:30:00+00:00", "until": "2026-03-01T21:00:00+08:00"}, False),
        ({"hours": {"from": "11:00", "to": "13:00"}, "targets": ["other"]}, False),
    ],
    ids=str,
)
def test_a_maintenance_window_keeps_what_it_names_quiet_while_it_is_on(window, quiet):
    """Noon of these tests is a Sunday, in UTC."""
    desk = Desk(maintenance=[{"name": "weekly", **window}])
    desk.save(one())
    assert (desk.wait(10) == []) is quiet


def test_who_acknowledged_hears_no_more_of_it_but_what_is_worse_and_the_end():
    desk = Desk(CHAT, PAGER, repeat_interval="1m")
    desk.save(one(severity=Severity.ERROR))
    desk.wait(5)
    desk.book, said = asks.ack(desk.book, AskAck(by="mei", incident="a"), desk.now)
    assert said.ok
    assert {told[1:3] for told in desk.wait(5)} == {("chat", "ack"), ("pager", "ack")}
    desk.save(one(severity=Severity.ERROR, state=State.ACTING))
    assert desk.wait(300) == [], "no reminders, no news"
    desk.save(one(severity=Severity.ERROR, state=State.EXHAUSTED))
    assert {told[2] for told in desk.wait(60)} == {"fire"}
    desk.save(over(one(severity=Severity.ERROR)))
    assert {told[2] for told in desk.wait(60)} == {"end"}
    assert not asks.ack(desk.book, AskAck(by="mei", incident="a"), desk.now)[1].ok


# --- routes


@pytest.mark.parametrize(
    ("made", "to"),
    [
        (one(severity=Severity.CRITICAL), {"pager", "chat"}),
        (one(severity=Severity.ERROR), {"chat"}),
        (one(cause=DISK, severity=Severity.CRITICAL), {"hook"}),
        (one(target="lab", severity=Severity.CRITICAL), set()),
        (one(severity=Severity.INFO), set()),
    ],
    ids=["critical", "error", "by cause", "by target: nobody", "info"],
)
def test_routes_lead_by_severity_cause_and_target_the_first_that_fits_counts(made, to):
    desk = Desk(
        CHAT,
        HOOK,
        PAGER,
        routes=[
            {"targets": ["lab"], "to": []},
            {"causes": [DISK], "to": ["hook"]},
            {"severity": "critical", "to": ["pager"], "go_on": True},
            {"to": ["chat"]},
        ],
    )
    desk.save(made)
    assert {told[1] for told in desk.wait(10)} == to


def test_routes_lead_by_the_time_of_day_in_the_zone_of_the_site():
    desk = Desk(
        CHAT,
        PAGER,
        timezone="Asia/Shanghai",
        routes=[{"hours": {"from": "09:00", "to": "18:00"}, "to": ["chat"]}, {"to": ["pager"]}],
    )
    desk.save(one())
    assert {told[1] for told in desk.wait(10)} == {"pager"}, "it is eight in the evening there"
    desk.now = datetime(2026, 3, 2, 1, 30, tzinfo=timezone.utc)
    assert ("chat", "fire", "b") in desk.save(one("b")), "half past nine"


# --- drills


def test_a_drill_is_told_at_once_marked_ends_by_itself_and_touches_nothing_else():
    desk = Desk(CHAT, PAGER)
    desk.save(one("real", DISK))
    desk.book, said = asks.drill(desk.book, AskDrill(by="me", cause=OOM, target="default", seconds=3), desk.world, NOON)
    assert (said.ok, said.params["names"]) == (True, "chat, pager")
    told = [entry for entry in desk.wait(700, each=0.5) if entry[3] == said.id]
    assert [(at, kind) for at, who, kind, _ in told if who == "chat"] == [(0.5, "fire"), (3.0, "end")]
    drilled = [post for post in desk.posts if post.facts.incident == said.id]
    assert all(post.facts.practice and post.facts.labels["practice"] == "true" for post in drilled)
    assert desk.book.alerts.keys() == {"real"}


def test_a_drill_that_would_reach_nobody_or_names_nothing_is_refused():
    desk = Desk(CHAT, routes=[{"causes": [DISK], "to": ["chat"]}])

    def drill(**more):
        return asks.drill(desk.book, AskDrill(by="me", **{"cause": OOM, "target": "t", **more}), desk.world, NOON)[1]

    assert [drill().reason, drill(cause="x").reason, drill(receiver="y").reason] == [
        "no-route",
        "no-cause",
        "no-receiver",
    ]
    assert drill(receiver="chat").ok
    desk.book, _ = asks.silence(desk.book, AskSilence(by="me", causes=(OOM,), until=NOON + timedelta(1)), NOON)
    assert drill(receiver="chat").reason == "drill-silenced"
    desk.book, _ = asks.unsilence(desk.book, AskUnsilence(by="me", id=next(iter(desk.book.silences))), NOON)
    for lang in ("en", "zh"):
        assert "{" not in asks.answer(drill(receiver="y"), lang)


# --- whatever happens


_STATES = [State.PENDING, State.OPEN, State.ACTING, State.VERIFYING, State.EXHAUSTED, State.RESOLVED, State.HISTORY]
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from([OOM, CRASH, DISK]),
        st.sampled_from(_STATES),
        st.sampled_from(list(Severity)),
        st.floats(0, 60),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=100)
@given(_EVENTS)
def test_whoever_was_told_of_a_trouble_is_told_of_its_end_and_nobody_of_an_end_alone(events):
    desk = Desk(
        CHAT, PAGER, MANAGER, routes=[{"severity": "error", "to": ["pager", "am"], "go_on": True}, {"to": ["chat"]}]
    )
    ended = set()
    for name, cause, state, severity, seconds, restart in events:
        if name in ended:
            continue
        if state in {State.RESOLVED, State.HISTORY}:
            ended.add(name)
        desk.save(one(name, cause, state=state, severity=severity))
        desk.wait(seconds, each=2.0)
        if restart:
            desk.again()
    desk.save(*(over(one(name)) for name in "abcd" if name not in ended))
    desk.wait(200, each=2.0)
    last = {}
    for post in desk.posts:
        if post.kind in {"fire", "end"}:
            before = last.get((post.receiver, post.key))
            assert post.kind == "fire" or before == "fire"
            assert before != "end"
            last[post.receiver, post.key] = post.kind
    assert set(last.values()) <= {"end"}
    ids = [post.id for post in desk.posts]
    assert len(set(ids)) == len(ids)
