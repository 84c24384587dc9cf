"""The daemon is killed (-9) at random moments, under load: nothing is lost or done twice, and it is back at once.

``DIAGNOSE_KILLS=1000`` kills it so often; what was seen then stands in docs/performance.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sqlite3
import statistics
import threading
import time
from collections import Counter

import pytest

from diagnose.agent import lock
from diagnose.catalog import load
from diagnose.journal import FILE
from diagnose.model.observation import LogMatch
from tests.e2e.conftest import FITS, configured, intents
from tests.e2e.test_crash_points import mains

KILLS = int(os.environ.get("DIAGNOSE_KILLS", "20"))
SEED = int(os.environ.get("DIAGNOSE_SEED", "1"))
EVERY_WORKER = 12
"""Kills of the daemon between two deaths of a worker."""

CURE = 6.0
"""Seconds in which a dead worker is seen, and the server ended and started again: a kill meets any moment of it."""

pytestmark = pytest.mark.timeout(120 + 6 * KILLS)

RULE = """
id: site.mark
cause: client_error
severity: info
confidence: 0.9
title: {en: A mark, zh: 标记}
why: {en: It is counted., zh: 用于计数。}
fix: {en: None is needed., zh: 无需处理。}
when: {pattern: 'SiteMark: number \\d+ of the load'}
clears: {quiet: 1h}
tests: {hits: [], misses: []}
"""
IDLE = "INFO     2026-01-01 10:15:03,118 41772 engine.py[line:97] idle line {number} of the server\n"
MARK = re.compile(r"SiteMark: number (\d+) of the load")


class Load(threading.Thread):
    """Writes numbered lines among others into a log that is rotated now and then; each of them must be seen once."""

    def __init__(self, folder, chance):
        super().__init__(name="load")
        self.path, self.chance = folder / "site.log", chance
        self.count, self.idle, self.rotations = 0, 0, 0
        self._ended = threading.Event()
        folder.mkdir(exist_ok=True)

    def run(self):
        while not self._ended.wait(0.05):
            with self.path.open("a") as file:
                for _ in range(self.chance.randrange(2)):  # so few that the matcher's limit for one read is not met
                    self.count += 1
                    file.write(f"SiteMark: number {self.count} of the load\n")
                self.idle += 200  # no two lines alike: a file that repeats another one passes for its copy
                file.writelines(IDLE.format(number=number) for number in range(self.idle - 200, self.idle))
            if self.chance.random() < 0.02:
                self.rotations += 1
                self.path.rename(self.path.with_name(f"site.log.{self.rotations}"))

    def end(self):
        self._ended.set()
        self.join()
        self.path.touch()  # where a rotation was the last that happened


def last_turn(here):
    with contextlib.closing(sqlite3.connect(f"file:{here.state / FILE}?mode=ro", uri=True)) as db:
        return db.execute("SELECT at FROM state").fetchone()


def back(here, daemon, began, before):
    """Return after how many seconds the daemon was back: it holds the lock, and a turn of its own is in the journal."""
    while lock.holder(here.state) != daemon.pid or last_turn(here) == before:
        assert daemon.poll() is None, here.words()
        assert time.monotonic() - began < 30, here.words()
        time.sleep(0.01)
    return time.monotonic() - began


def turns_of(here):
    """Return all turns; the journal may be large, and no daemon holds it."""
    turns = here.turns()
    marks = Counter(
        int(found[1])
        for turn in turns
        for seen in turn.observations
        if isinstance(seen, LogMatch) and (found := MARK.search(seen.text))
    )
    return turns, marks


def unbraked(folder):
    """Spell a configuration in which budgets hold nothing back, and the load's rule is known."""
    for name in ("rules", "remedies"):
        (folder / name).mkdir()
    (folder / "rules" / "site.yaml").write_text(RULE)
    shipped = load.shipped("remedies") / "server" / "restart.yaml"
    again = shipped.read_text().replace("cooldown: 10s", "cooldown: 1s\n  budget: {limit: 9999, per: 1h}")
    (folder / "remedies" / "restart.yaml").write_text(again)
    text = configured(rules=folder / "rules", hastened=()).replace("overrides:", f"remedies: [{folder / 'remedies'}]")
    limits = "restarts: {limit: 9999, per: 1h}\n  remedies: {limit: 9999, per: 1h}"
    return text.replace("policy:", f"policy:\n  {limits}")


def test_killed_at_random_moments_it_comes_back_and_loses_nothing_and_does_nothing_twice(site, record_property):
    chance = random.Random(SEED)
    here = site(gpu_gib=8)
    here.config.write_text(unbraked(here.folder))
    daemon = here.daemon(*FITS)
    here.wait_phase("ready")
    writer = Load(here.folder / "log", chance)
    writer.start()
    took, deaths = [], 0
    try:
        for number in range(KILLS):
            if number % EVERY_WORKER == EVERY_WORKER // 2 and (workers := here.processes(worker=True)):
                deaths += 1
                workers[0].kill()
                time.sleep(CURE * chance.random())
            else:
                time.sleep(chance.choice([0.0, 0.1, 1.0, 2.0]) * chance.random())
            here.kill(daemon)
            began, before = time.monotonic(), last_turn(here)
            daemon = here.daemon(*FITS)
            if chance.random() < 0.7:  # else it is killed while it starts
                took.append(back(here, daemon, began, before))
        back(here, daemon, began, before)
        here.wait(settled, "rest", 90)
        deaths += 1
        here.processes(worker=True)[0].kill()
        here.wait(lambda seen: bool(seen.state.intents), "a remedy: one at least is met by a kill")
        here.kill(daemon)
        daemon = here.daemon(*FITS)
    finally:
        writer.end()
    here.wait(settled, "rest", 90)
    time.sleep(2)
    here.stop(daemon)
    turns, marks = turns_of(here)
    done, target = intents(turns), here.target()
    told = {
        "kills": KILLS, "seconds until back": f"median {statistics.median(took):.2f}, most {max(took):.2f}",
        "lines": writer.count, "rotations": writer.rotations, "deaths of a worker": deaths, "remedies": len(done),
    }  # fmt: skip
    record_property("seen", json.dumps(told))
    print(json.dumps(told))
    assert sorted(marks) == list(range(1, writer.count + 1)), "no line is lost"
    assert set(marks.values()) == {1}, "none is seen twice"
    assert done
    assert len(set(done)) == len(done), "no intent is carried out twice"
    assert here.starts() == target.generation, "no start that nobody knows of"
    (server,) = mains(here)
    assert server.pid == target.pid
    assert here.answers()
    assert target.generation <= 1 + len(done) + deaths
    with contextlib.closing(sqlite3.connect(here.state / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def settled(seen):
    live = [one for one in seen.incidents if one.severity.value != "info" and one.state.value != "history"]
    return (
        seen.state.targets["default"].phase == "ready"
        and not seen.state.intents
        and all(one.state.value in {"resolved", "exhausted"} for one in live)
    )
