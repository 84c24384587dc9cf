"""The daemon is killed (-9) at each step of a remedy; the next one finds a world that it can go on from."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time

import psutil
import pytest

from diagnose.engine.plan import effective
from diagnose.journal import FILE
from diagnose.model import codec
from diagnose.ports import Handle
from tests.e2e.conftest import FITS, TOO_LARGE, intents

pytestmark = pytest.mark.timeout(100)

THOROUGH = bool(os.environ.get("DIAGNOSE_ALL_SCENARIOS"))
SPY = """#!/bin/sh
touch "$(dirname "$0")/spied"
exec sleep 2
"""
"""A py-spy that takes its time: the evidence is half written for so long."""


class Failing:
    """One way to need a remedy, and what must hold once it was carried out."""

    def __init__(self, name, *, flags, starts=2, changed, **site):
        self.name, self.flags, self.starts, self.changed, self.site = name, flags, starts, changed, site

    def __repr__(self):
        return self.name


START = Failing("a start that fails", flags=TOO_LARGE, changed=True, era="2.6", gpu_gib=3, load_seconds=0.6)
SERVING = Failing(
    "a server whose worker died", flags=FITS, changed=False, era="2.4", gpu_gib=8, faults=["worker-segv@0.3#1"]
)
ROLLBACK = Failing(
    "remedies that do not help",
    flags=FITS,
    starts=4,
    changed=False,
    era="2.6",
    gpu_gib=8,
    faults=["oom-serving@1.5#3"],
)


# --- when to kill


def until(true_of, seconds=40):
    """Wait closely: what is waited for may last milliseconds."""
    deadline = time.monotonic() + seconds
    while not true_of():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.001)


def state(here):
    seen = here.snapshot()
    return seen.state if seen else None


def in_state(here, *names):
    now = state(here)
    return bool(now) and any(one.state.value in names for one in now.incidents.values())


def before_the_intent(here):
    until(lambda: in_state(here, "pending", "open", "acting"))


def while_evidence_is_kept(here):
    until((here.folder / "bin" / "spied").exists)
    assert state(here).intents, "the intent is on disk before anything is done"


def while_the_old_server_is_stopped(here):
    until(lambda: any((here.state / "evidence").glob("[!.]*")))


def between_stop_and_start(here):
    until(lambda: state(here) and state(here).intents and any((here.state / "evidence").glob("[!.]*")))
    until(lambda: not here.processes())


def after_the_start(here):
    until((here.state / "run" / "default" / "generation-2" / "console.log").exists)


def while_it_is_proven(here):
    until(lambda: in_state(here, "verifying"))


def while_it_is_rolled_back(here):
    until(lambda: state(here) and any(one.undo for one in state(here).intents.values()), seconds=60)


def after_the_rollback(here):
    until((here.state / "run" / "default" / "generation-4" / "console.log").exists, seconds=60)


# --- before and after


def prepared(site, failing, *, spy=False, memory_stays=False, frozen=False):
    """Set a site up such that the step in question takes long enough to be hit."""
    given = dict(failing.site)
    faults = [*given.pop("faults", ()), *(["zombie-memory:seconds=7#1"] if memory_stays else [])]
    here = site(faults=faults, grace="1s" if frozen else "4s", **given)
    quick = "holds_for: 4s\n  stable_after: 300ms" if failing is ROLLBACK else "holds_for: 1s"
    text = here.config.read_text().replace("holds_for: 1s", quick)
    text = text.replace("overrides:", "overrides:\n  server.lower-memory-use: {cooldown: 200ms}")
    here.config.write_text(text)
    if spy:
        (here.folder / "bin").mkdir()
        program = here.folder / "bin" / "py-spy"
        program.write_text(SPY)
        program.chmod(0o755)
        here.env["PATH"] = f"{program.parent}{os.pathsep}{here.env.get('PATH', os.defpath)}"
    return here


def freeze(here):
    """Stop the main process in its tracks: it heeds no SIGTERM, and its stop takes the whole grace."""
    until(lambda: here.snapshot() and here.snapshot().state.targets and here.processes(worker=True))
    os.kill(here.target().pid, signal.SIGSTOP)


def mains(here):
    """Return the main processes of all servers of this site."""
    found = []
    for one in here.processes():
        with contextlib.suppress(psutil.Error):
            words = one.cmdline()
            parent = one.parent()
            forked = parent is not None and parent.cmdline() == words
            if any("api_server" in word for word in words[:4]) and not forked:
                found.append(one)
    return found


def assert_consistent(here, failing, starts):
    """What must hold after any crash, once the next daemon has brought things to their end."""
    target, kept = here.target(), here.snapshot().kept
    (server,) = mains(here)
    handle = codec.decode(kept["handle/default"], Handle)
    assert server.pid == target.pid == handle.pid, "one server, and it is the one in the journal"
    assert tuple(server.cmdline()) == effective(target).argv == target.starts[-1].spec.argv, "as the overlays say"
    assert bool(target.overlays) == failing.changed, "no overlay is lost, none is left over"
    assert here.starts() == target.generation == starts, "no start too many"
    assert not here.snapshot().state.intents, "nothing is left half done"
    done = intents(here.turns())
    assert len(set(done)) == len(done), "no intent is carried out twice"
    assert_journal_whole(here)
    assert_evidence_whole(here)


def assert_journal_whole(here):
    with contextlib.closing(sqlite3.connect(here.state / FILE)) as book:
        assert book.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def assert_evidence_whole(here):
    """A folder under its final name has all: the command is written last, and says so."""
    folders = [one for one in (here.state / "evidence").iterdir() if not one.name.startswith(".")]
    for folder in folders:
        assert json.loads((folder / "launch.json").read_text())["argv"]
        assert {"processes.txt", "stacks.txt", "gpus.json", "logs"} <= {one.name for one in folder.iterdir()}
    told = {
        entry.params["text"].rpartition(" ")[2]
        for incident in here.snapshot().incidents
        for entry in incident.timeline
        if entry.kind == "step" and entry.params["action"] == "evidence.keep" and entry.params["ok"] == "true"
    }
    assert told <= {str(folder) for folder in folders}, "what is said to be kept is there"


def crash(here, failing, moment, delay, starts):
    """Kill the daemon at that moment, start the next, and wait until all is well."""
    first = here.daemons[-1]
    moment(here)
    time.sleep(delay)
    here.kill(first)
    assert_journal_whole(here)
    second = here.daemon(*failing.flags)
    here.wait(
        lambda seen: (
            not seen.state.intents
            and seen.state.targets["default"].phase == "ready"
            and seen.state.targets["default"].generation == starts
            and all(one.state.value in {"resolved", "exhausted", "history"} for one in seen.incidents)
        ),
        "an end",
        60,
    )
    here.stop(second)
    return here


DELAYS = (0.0, 0.02, 0.1, 0.3) if THOROUGH else (0.0,)


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize(
    ("failing", "moment", "makes"),
    [
        pytest.param(failing, moment, makes, id=f"{failing}, {moment.__name__}")
        for failing in (START, SERVING)
        for moment, makes in (
            (before_the_intent, {}),
            (while_evidence_is_kept, {"spy": True}),
            (while_the_old_server_is_stopped, {"frozen": True}),
            (between_stop_and_start, {"memory_stays": True}),
            (after_the_start, {}),
            (while_it_is_proven, {}),
        )
        if (failing, moment) != (START, while_evidence_is_kept)  # it has ended: nobody is left to be asked for stacks
    ],
)
def test_a_daemon_that_is_killed_at_any_step_of_a_remedy_is_followed_by_one_that_brings_it_to_its_end(
    site, failing, moment, makes, delay
):
    here = prepared(site, failing, **makes)
    here.daemon(*failing.flags)
    if makes.get("frozen"):
        freeze(here)
    once_more = (failing, moment) == (START, before_the_intent)  # the server has ended, and nothing was decided yet
    starts = failing.starts + once_more
    crash(here, failing, moment, delay, starts)
    assert here.answers()
    assert_consistent(here, failing, starts)


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("moment", [while_it_is_rolled_back, after_the_rollback])
def test_a_daemon_that_is_killed_while_it_rolls_back_is_followed_by_one_that_goes_back_to_the_good_settings(
    site, moment, delay
):
    here = prepared(site, ROLLBACK)
    here.daemon(*ROLLBACK.flags)
    crash(here, ROLLBACK, moment, delay, ROLLBACK.starts)
    assert here.answers()
    assert_consistent(here, ROLLBACK, ROLLBACK.starts)
