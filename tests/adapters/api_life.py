"""A daemon behind its door: journal, mind, alert path and API as they are, without a server to look after."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import anyio
import httpx
import msgspec

from diagnose.agent.alerting import Alerting
from diagnose.agent.config import Config, Probes, TargetConfig
from diagnose.agent.house import House
from diagnose.agent.loop import Daemon
from diagnose.agent.session import Session
from diagnose.agent.vitals import Tally
from diagnose.controllers.process import ProcessController
from diagnose.engine.match import Matcher
from diagnose.engine.state import State
from diagnose.engine.targets import Target
from diagnose.journal import Journal, Turn
from diagnose.model.effect import SaveIncident
from diagnose.model.incident import Incident
from diagnose.ports import GpuUnavailableError
from diagnose.receivers import make
from diagnose.testing import knowledge, remedy, rule
from diagnose.web import api, door
from diagnose.web.place import NAME, Http, short_path
from tests.adapters.alert_path import alerts

COMMAND = ("python", "-m", "fastdeploy.entrypoints.openai.api_server", "--model", "m", "--api-key", "s3cr3t-key")
TOKEN = "0123456789abcdef" * 2
KNOWN = knowledge(rule(), remedy())


class NoCards:
    def read(self, _pids):
        raise GpuUnavailableError("no driver")

    def xids(self, _after=0):
        return ()


class SystemClock:
    def now(self):
        return datetime.now(timezone.utc)


class Life:
    """What a test may do with it."""

    def __init__(self, daemon: Daemon, folder: Path, address: tuple[str, int]) -> None:
        self.daemon, self.folder = daemon, folder
        self.url = "http://{}:{}".format(*address)

    @contextlib.contextmanager
    def socket(self) -> Iterator[httpx.Client]:
        """Ask through the socket in the state folder."""
        with (
            short_path(self.folder) as path,
            httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://diagnose") as client,
        ):
            yield client

    def tcp(self, token: str = TOKEN, **headers: str) -> httpx.Client:
        """Ask over TCP."""
        given = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers={**given, **headers}, trust_env=False)


@contextlib.contextmanager
def living(
    folder: Path, *incidents: Incident, receivers: Sequence[dict] = (), token: bool = True, names: Sequence[str] = ()
) -> Iterator[Life]:
    """Live for the length of a test; the incidents are in the journal when it begins."""
    journal, clock = Journal(folder), SystemClock()
    now = clock.now()
    target = Target(name="default", phase="ready", since=now, generation=1, pid=4711)
    state = State(targets={"default": target}, incidents={one.id: one for one in incidents})
    saved = tuple(SaveIncident(incident=one) for one in incidents)
    journal.record(Turn(at=now, observations=(), effects=saved), state, {})
    (folder / "token").write_text(TOKEN + "\n")
    listener = door.bound("127.0.0.1", 0)
    address = listener.getsockname()
    listener.close()
    http = Http(listen="{}:{}".format(*address), token_file=str(folder / "token") if token else "", names=tuple(names))
    config = Config(targets=(TargetConfig(command=COMMAND, cwd=str(folder)),), alerts=alerts(*receivers), http=http)
    session = Session(
        config=config.targets[0],
        probes=Probes(),
        grace=timedelta(seconds=1),
        state_dir=folder,
        matcher=Matcher(KNOWN),
        controller=ProcessController(),
        gpu=NoCards(),
        clock=clock,
        keep=journal.keep,
    )
    session.desired = session._command()
    alerting = (
        Alerting(config.alerts, make.senders(config.alerts), journal, targets=["default"], clock=clock)
        if receivers
        else None
    )
    tally = Tally(journal.state())
    daemon = Daemon(
        config=config,
        knowledge=KNOWN,
        journal=journal,
        sessions={"default": session},
        clock=clock,
        watcher=tally.note,
        alerts=alerting,
    )
    daemon.state = msgspec.structs.replace(
        daemon.state, targets={"default": msgspec.structs.replace(target, desired=session.desired)}
    )
    up, over = threading.Event(), threading.Event()

    async def life() -> None:
        async with anyio.create_task_group() as tasks:
            if alerting:
                alerting.begin(daemon.state, KNOWN)
                tasks.start_soon(alerting.run)
            tasks.start_soon(
                door.serve,
                api.app(House(daemon, folder, tally)),
                folder,
                http,
                lambda why: daemon.tell_silent("http", why),
            )
            while not over.is_set():
                with daemon.pulse.beat():
                    daemon._turn(tasks)
                if not up.is_set() and (folder / NAME).exists():
                    up.set()
                await anyio.sleep(0.005)
            tasks.cancel_scope.cancel()

    thread = threading.Thread(target=anyio.run, args=(life,))
    thread.start()
    try:
        assert up.wait(20)
        here = Life(daemon, folder, address)
        with here.tcp() as client:
            _until_it_answers(client)
        yield here
    finally:
        over.set()
        thread.join()
        session.close()
        journal.close()


def _until_it_answers(client: httpx.Client) -> None:
    for _ in range(200):
        with contextlib.suppress(httpx.ConnectError):
            if client.get("/healthz").status_code == 200:
                return
        threading.Event().wait(0.02)
    raise AssertionError("the API does not answer")
