"""At least once, whatever receivers, disks and kills do."""

from __future__ import annotations

import collections
import json
import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from diagnose import outbox
from diagnose.journal import Journal
from diagnose.model.rule import Severity
from diagnose.notices.book import Book
from diagnose.notices.post import Post
from diagnose.outbox import DEAD, SENT, Outbox
from diagnose.testing import NOON
from tests.adapters.alert_path import alerts, live, trouble
from tests.adapters.vendor import GOOD, serving

ROOT = Path(__file__).parents[2]


def post(name="1", receiver="chat", kind="fire", at=NOON):
    return Post(
        id=f"{receiver}/{name}", receiver=receiver, key=name, group=receiver, kind=kind, at=at, severity=Severity.ERROR
    )


def written(book, box, *posts):
    also = box.saving(Book(), Book(), posts)
    book.write(also)
    box.take(posts, kept=True)


def test_what_waits_is_there_after_a_restart_and_what_was_taken_is_not(tmp_path):
    book = Journal(tmp_path)
    box = Outbox(book, ["chat"], NOON)
    written(book, box, post("1"), post("2"), post("3"))
    one, two, _ = box.rows["chat"]
    box.settle([one], SENT, box.health["chat"], NOON)
    box.settle([two], DEAD, box.health["chat"], NOON, "refused")
    again = Outbox(book, ["chat"], NOON)
    assert [row.post.id for row in again.rows["chat"]] == ["chat/3"]
    assert [(one.state, one.error) for one in outbox.posts(tmp_path)] == [
        ("waiting", ""),
        ("dead", "refused"),
        ("sent", ""),
    ]
    again.prune(NOON + timedelta(days=1))
    assert [one.state for one in outbox.posts(tmp_path)] == ["waiting", "dead"]
    book.close()


def test_what_waits_for_a_receiver_that_is_gone_is_put_aside_with_the_reason(tmp_path):
    book = Journal(tmp_path)
    box = Outbox(book, ["chat", "old"], NOON)
    written(book, box, post("1", "old"))
    Outbox(book, ["chat"], NOON)
    assert outbox.posts(tmp_path, state="dead")[0].error == "no such receiver in the configuration any more"
    book.close()


def test_a_disk_that_takes_nothing_keeps_nobody_quiet_and_is_caught_up_with(tmp_path):
    book = Journal(tmp_path)
    box = Outbox(book, ["chat"], NOON)
    lost = post("1")
    assert box.take([lost], kept=False) == {"chat"}
    assert [row.post.id for row in box.rows["chat"]] == ["chat/1"]
    also = box.saving(Book(), Book(), [post("2")])
    book.write(also)
    box.take([post("2")], kept=True)
    assert {one.post.id for one in outbox.posts(tmp_path)} == {"chat/1", "chat/2"}
    box.settle(box.rows["chat"][:], SENT, box.health["chat"], NOON)
    assert {one.state for one in outbox.posts(tmp_path)} == {"sent"}
    book.close()


def test_a_journal_of_an_earlier_version_has_nothing_to_tell(tmp_path):
    book = Journal(tmp_path)
    for table in ("posts", "alert_book", "receivers"):
        book._db.execute(f"DROP TABLE {table}")
    book.close()
    assert outbox.read(tmp_path) == outbox.Seen()
    Journal(tmp_path).close()
    assert outbox.read(tmp_path) == outbox.Seen()


def test_a_message_too_old_to_be_sent_is_put_aside(tmp_path):
    with serving("webhook") as vendor:
        vendor.choose = lambda _: (503, b"down")
        config = alerts({"kind": "webhook", "name": "it", "url": vendor.url}, give_up_after="200ms")

        async def life(path):
            path.save(trouble("a1b2c3d4"))
            await path.until(lambda: outbox.read(tmp_path).dead)

        live(tmp_path, config, life)
    assert outbox.posts(tmp_path)[0].error.startswith("HTTP 503")


@pytest.mark.timeout(240)
def test_through_a_thousand_failures_and_many_kills_all_is_told_or_shown_and_every_end_arrives(tmp_path):
    chance = random.Random(7)
    failures = collections.Counter()

    def choose(body):
        ends = b'"resolve' in body
        luck = chance.random()
        if luck < 0.30:
            return GOOD["pagerduty" if b"routing_key" in body else "webhook"]
        if luck < 0.31:
            failures["time-out"] += 1
            return None
        if luck < 0.60:
            failures["429"] += 1
            return (429, b"", {"Retry-After": "0"})
        if luck < 0.64 and not ends:
            failures["refused"] += 1
            return (422, b"never") if b"routing_key" not in body else (400, b'{"status":"invalid event"}')
        failures["5xx"] += 1
        return (500, b"trouble")

    with serving("webhook") as hook, serving("pagerduty") as pager:
        hook.choose = pager.choose = choose
        kills = 0
        command = [sys.executable, "-m", "tests.adapters.alert_life", str(tmp_path), hook.url, pager.url, "250"]
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            life = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
            try:
                _, words = life.communicate(timeout=chance.uniform(0.9, 1.9) if kills < 15 else 100)
            except subprocess.TimeoutExpired:
                life.kill()
                life.communicate()
                kills += 1
                continue
            assert life.returncode == 0, words.decode()
            break
    assert sum(failures.values()) >= 1000, failures
    assert kills >= 10
    told = outbox.posts(tmp_path, most=10_000)
    assert {one.state for one in told} <= {"sent", "dead"}
    assert all(one.error for one in told if one.state == "dead")
    assert sum(one.state == "dead" for one in told) > 0
    for name, vendor, keys in (("hook", hook, _hook_ids), ("pager", pager, _pager_ids)):
        mine = [one for one in told if one.post.receiver == name]
        ends = {one.post.key for one in mine if one.post.kind == "end"}
        assert ends == {one.post.key for one in mine if one.post.kind == "fire"}, "all that was told ended"
        assert all(one.state == "sent" for one in mine if one.post.kind == "end")
        arrived = [keys(got.body) for got in vendor.got if got.status in {200, 202}]
        assert {key for key, end in set().union(*arrived) if end} == ends
        assert _repeats(arrived) <= kills
    print(dict(failures), "kills", kills, "news", len(told))


def _hook_ids(body):
    return {(one["key"], one["status"] == "resolved") for one in json.loads(body)["alerts"]}


def _pager_ids(body):
    event = json.loads(body)
    return {(event["dedup_key"], event["event_action"] == "resolve")}


def _repeats(arrived):
    """Count messages that tell something that an earlier one told."""
    seen, repeats = set(), 0
    for news in arrived:
        repeats += bool(news & seen)
        seen |= news
    return repeats
