"""What goes into the next message, and when: limits are kept by merging, the gravest goes first."""

from __future__ import annotations

import collections
import random
from datetime import timedelta

import pytest

from diagnose.model import codec
from diagnose.model.effect import SaveIncident
from diagnose.model.incident import State
from diagnose.model.rule import Severity
from diagnose.notices import decide, pack
from diagnose.notices.book import Book
from diagnose.notices.config import Alerts
from diagnose.notices.decide import World
from diagnose.notices.markup import WECOM
from diagnose.notices.message import Writer
from diagnose.notices.pack import Batch, Row
from diagnose.notices.post import Post
from diagnose.testing import NOON, finding, incident, knowledge

SECOND = timedelta(seconds=1)


def receiver(kind="dingtalk", **more):
    where = {"routing_key": {"env": "X"}} if kind == "pagerduty" else {"url": {"env": "X"}}
    return codec.convert({"receivers": [{"kind": kind, "name": "it", **where, **more}]}, Alerts).receivers[0]


def row(name, group="g", *, kind="fire", severity=Severity.ERROR, at=0.0):
    when = NOON + timedelta(seconds=at)
    return Row(
        post=Post(id=f"{name}@{at}", receiver="it", key=name, group=group, kind=kind, at=when, severity=severity)
    )


def names(batch):
    return [one.post.key for one in batch.rows]


def test_a_group_is_one_message_and_the_gravest_group_goes_first():
    rows = [row("a", "g1"), row("b", "g2", severity=Severity.CRITICAL), row("c", "g1"), row("d", "g3", kind="end")]
    first = pack.pick(rows, [], receiver(), NOON)
    assert (names(first), first.merged) == (["b"], False)
    left = [one for one in rows if one not in first.rows]
    assert names(pack.pick(left, [NOON], receiver(), NOON + SECOND)) == ["a", "c"]


def test_many_groups_at_once_are_merged_into_one_message():
    rows = [row(f"n{number}", f"g{number}") for number in range(30)]
    batch = pack.pick(rows, [], receiver(), NOON)
    assert (len(batch.rows), batch.merged) == (30, True)
    assert pack.pick(rows, [NOON], receiver(), NOON + SECOND) == NOON + timedelta(minutes=1) / 18, (
        "not one after another"
    )


@pytest.mark.parametrize(
    ("kind", "severity", "sent", "waits"),
    [
        ("fire", Severity.CRITICAL, 17, False),
        ("fire", Severity.CRITICAL, 18, True),
        ("fire", Severity.WARNING, 13, False),
        ("fire", Severity.WARNING, 14, True),
        ("end", Severity.CRITICAL, 14, True),
    ],
    ids=["room for one", "the limit", "three quarters", "the last quarter is for the worst", "an end is not"],
)
def test_the_limit_of_a_minute_is_kept_and_its_last_quarter_is_left_to_the_worst(kind, severity, sent, waits):
    used = [NOON - timedelta(seconds=50) + place * SECOND for place in range(sent)]
    picked = pack.pick([row("a", kind=kind, severity=severity)], used, receiver(), NOON)
    assert isinstance(picked, Batch) is not waits
    if waits:
        assert NOON < picked <= NOON + timedelta(minutes=1)


def test_a_clock_that_is_put_back_stops_nothing():
    used = [NOON + timedelta(hours=1)] * 50
    assert isinstance(pack.pick([row("a")], used, receiver(), NOON), Batch)
    assert isinstance(pack.pick([row(f"n{place}", f"g{place}") for place in range(30)], used, receiver(), NOON), Batch)


def test_a_pager_gets_each_incident_by_itself_in_order_and_newer_news_of_a_kind_overtakes_older():
    rows = [row("a", at=0), row("a", at=1), row("a", kind="end", at=2), row("b", severity=Severity.CRITICAL, at=3)]
    told = []
    while rows:
        batch = pack.pick(rows, [], receiver("pagerduty"), NOON)
        told.append([one.post.id for one in batch.rows])
        rows = [one for one in rows if one not in batch.rows]
    assert told == [["b@3"], ["a@0", "a@1"], ["a@2"]]


def test_groups_of_an_alertmanager_webhook_stay_apart_however_many_wait():
    rows = [row(f"n{number}", f"g{number}") for number in range(900)]
    hook = receiver("webhook", url="http://x", format="alertmanager")
    batch = pack.pick(rows, [], hook, NOON)
    assert (names(batch), batch.merged) == (["n0"], False)


def test_a_webhook_takes_a_hundred_at_once_whole_incidents_the_gravest_first():
    rows = [row(f"n{number}", severity=Severity.CRITICAL if number == 200 else Severity.ERROR) for number in range(250)]
    batch = pack.pick(rows, [], receiver("webhook", url="http://x"), NOON)
    assert (len(batch.rows), batch.rows[0].post.key) == (100, "n200")


@pytest.mark.parametrize("kind", ["dingtalk", "wecom", "slack", "feishu", "infoflow"])
def test_a_site_can_lower_the_limit_of_a_vendor_and_never_raise_it(kind):
    assert receiver(kind, per_minute=5).limit == 5
    assert receiver(kind, per_minute=10_000).limit == receiver(kind).limit
    if kind in {"dingtalk", "wecom"}:
        assert receiver(kind).limit <= 20


def test_the_pause_doubles_up_to_its_limit_and_half_of_it_is_chance():
    first, most = timedelta(seconds=1), timedelta(seconds=10)
    assert [pack.pause(tries, first, most, 1.0).total_seconds() for tries in (1, 2, 3, 4, 5, 500)] == [
        1,
        2,
        4,
        8,
        10,
        10,
    ]
    assert pack.pause(3, first, most, 0.0).total_seconds() == 2.0


@pytest.mark.timeout(300)
def test_a_storm_of_ten_thousand_incidents_gives_at_most_twenty_messages_a_minute_the_worst_first():
    """Ten thousand incidents of 40 servers come in ten turns and end in twenty later ones; nothing is lost."""
    kind, markup, chance = "wecom", WECOM, random.Random(1)
    chat = receiver(kind)
    config = codec.convert({"receivers": [{"kind": kind, "name": "it", "url": {"env": "X"}}]}, Alerts)
    incidents = {}
    world = World(config=config, knowledge=knowledge(), host="h", find=incidents.get)
    writer = Writer(markup, "zh", config.zone)
    causes = ["gpu_oom_load", "gpu_xid", "disk_full", "worker_crash", "nccl_comm", "overload_503"]
    for number in range(10_000):
        lead = finding(
            "r", cause=chance.choice(causes), target=f"t{number % 40}", severity=chance.choice(list(Severity)[1:])
        )
        incidents[f"{number:08x}"] = incident(lead, id=f"{number:08x}")
    left, book, rows, used, sent, now = list(incidents), Book(), [], [], [], NOON
    states, firing = {}, set(incidents)
    for turn in range(125):
        now += timedelta(seconds=1 if turn < 55 else 4)
        effects = [SaveIncident(incident=incidents[left.pop()]) for _ in range(min(len(left), 1000))]
        if turn > 54:
            for name in sorted(firing)[:500]:
                firing.discard(name)
                incidents[name] = _over(incidents[name])
                effects.append(SaveIncident(incident=incidents[name]))
        book, _ = decide.heard(book, effects, world, now)
        book, posts = decide.turn(book, world, now)
        rows += [Row(post=one) for one in posts]
        while isinstance(batch := pack.pick(rows, used, chat, now), Batch):
            used, worst = [*used, now], max(one.post.rank for one in rows)
            assert max(one.post.rank for one in batch.rows) == worst, "the worst goes first"
            if turn % 10 == 0:
                assert len(writer.write(batch.posts, 4096).body.encode()) <= 4096
            gone = {id(one) for one in batch.rows}
            rows = [one for one in rows if id(one) not in gone]
            states |= {one.post.key: one.post.kind for one in batch.rows}
            sent.append(len(batch.rows))
    assert len(states) == 10_000
    assert set(states.values()) == {"end"}
    assert rows == []
    busiest = max(sum(1 for at in used if start <= at < start + timedelta(minutes=1)) for start in used)
    assert busiest <= 20, collections.Counter(sent)


def _over(made):
    return incident(*made.findings, id=made.id, state=State.RESOLVED)
