"""What a daemon that is held up itself, or out of descriptors, hears and sees says nothing about its server."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime, timezone

import anyio

from diagnose.agent.config import Config, TargetConfig
from diagnose.agent.loop import Daemon
from diagnose.journal import Journal
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import ProbeResult

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


class Clock:
    def now(self):
        return NOON


class Server:
    """Answers as it is told to; the daemon may be held up meanwhile."""

    def __init__(self, *answers, blocked=0.0):
        self.answers, self.blocked = list(answers), blocked

    async def ask(self):
        if self.blocked:
            time.sleep(self.blocked)  # noqa: ASYNC251 - the whole loop is held up, as by a slow disk
            self.blocked = 0.0
        answer = self.answers.pop(0)
        return ProbeResult(target="t", at=NOON, generation=1, probe="health", answer=answer, seconds=0.0)


def heard(folder, server, *, turns=True):
    """Return what the daemon takes for the server's answer while it takes its turns."""
    known = Knowledge(rules={}, remedies={}, marks={}, digest="held up")
    config = Config(targets=(TargetConfig(name="t", attach=1),))
    daemon = Daemon(config=config, knowledge=known, journal=Journal(folder), sessions={}, clock=Clock())

    async def life():
        async with anyio.create_task_group() as tasks:
            if turns:
                tasks.start_soon(daemon._take_turns, tasks)
                await anyio.sleep(0.1)
            try:
                return await daemon._unspoilt(server.ask)
            except TimeoutError as error:
                return error
            finally:
                tasks.cancel_scope.cancel()

    try:
        return anyio.run(life)
    finally:
        daemon.journal.close()


def test_a_bad_answer_while_the_daemon_was_held_up_is_asked_for_again(tmp_path):
    assert heard(tmp_path, Server("timeout", "ok", blocked=1.5)).answer == "ok"


def test_a_bad_answer_in_time_counts(tmp_path):
    assert heard(tmp_path, Server("timeout", "ok")).answer == "timeout"


def test_a_good_answer_counts_however_late(tmp_path):
    assert heard(tmp_path, Server("ok", "timeout", blocked=1.5)).answer == "ok"


def test_a_daemon_that_never_comes_to_its_turns_says_so(tmp_path):
    server = Server("timeout", "timeout", "timeout", blocked=1.5)
    assert "held up itself" in str(heard(tmp_path, server, turns=False))


LOOKS = """
import os, resource, sys, time
import anyio
from datetime import datetime, timezone
from diagnose.controllers import procfs
from diagnose.controllers.process import ProcessController
from diagnose.model.launch import LaunchSpec
from diagnose.ports import Handle
from diagnose.sources.http import HealthProbe

me = procfs.stat(os.getpid())
handle = Handle(target="t", generation=1, pid=me.pid, ticks=me.ticks, started=0.0, boot_id=procfs.boot_id(),
                instance="", spec=LaunchSpec(argv=()))
looks = [lambda: procfs.stat(me.pid), lambda: procfs.environ(me.pid), procfs.boot_id,
         lambda: ProcessController().poll_exit(handle), lambda: ProcessController().adopt(handle)]

async def ask():
    probe = HealthProbe(target="t", base_url="http://127.0.0.1:9")
    now = datetime.now(timezone.utc)
    assert (await probe.ask(now, 1)).answer == "refused"
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    for look in looks:
        try:
            seen = look()
        except OSError as error:
            print(error.strerror)
        else:
            print("saw", seen)
    try:
        print("heard", (await probe.ask(now, 1)).answer)
    except OSError as error:
        print(error.strerror)

anyio.run(ask)
"""


def test_without_descriptors_a_live_process_is_not_dead_and_a_port_not_closed():
    done = subprocess.run([sys.executable, "-c", LOOKS], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["Too many open files"] * 6, done.stderr
