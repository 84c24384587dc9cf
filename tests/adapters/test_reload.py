"""Rules that change under a running daemon: good ones come into force, bad ones are told of once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import anyio
import pytest

from diagnose.agent import wiring
from diagnose.agent.config import Config, TargetConfig
from diagnose.agent.reload import Reload, refuse_circles, rules
from diagnose.catalog import load
from diagnose.engine.match import Carry, Matcher
from diagnose.model.effect import SaveIncident
from diagnose.model.observation import LogLines
from diagnose.model.text import Duration
from diagnose.notices.question import AskDrill
from tests.adapters.vendor import serving

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

RULE = """
id: site.licence.{name}
cause: {cause}
title: {{en: The licence expired, zh: 许可证已过期}}
why: {{en: It was not renewed., zh: 未续期。}}
fix: {{en: Renew it., zh: 请续期。}}
when: {{pattern: '{pattern}'}}
clears: {{quiet: 1h}}
explains: {explains}
tests: {{hits: [], misses: []}}
"""


def rule(name="expired", pattern="SiteLicence: expired", cause="invalid_argument", explains="[]"):
    return RULE.format(name=name, pattern=pattern, cause=cause, explains=explains)


class Daemon:
    """Keeps what a reload gives, as the daemon does."""

    def __init__(self, knowledge):
        self.knowledge, self.matcher, self.told = knowledge, Matcher(knowledge), []
        self.seen = []

    def use(self, knowledge, matcher):
        self.knowledge, self.matcher = knowledge, matcher

    def tell_silent(self, source, reason):
        self.told.append((source, reason))

    def tell_sees(self, source):
        self.seen.append(source)

    def fires(self, line):
        piece = LogLines(
            target="t", source="a.log", stream="unknown", first_line=1, data=line.encode() + b"\n", read_at=NOW,
            generation=1,
        )  # fmt: skip
        found = self.matcher.scan(piece, Carry())[0]
        return [hit.rule_id for match in found for hit in match.hits if not hit.rule_id.startswith("@")]


class Site:
    """A folder of rules, and who watches it."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "site.yaml"
        self.daemon = Daemon(load.read_files([folder]))
        self.reload = self.watch()

    def watch(self, **options):
        return Reload(rules(self.state, self.read, began=self.state()), **options)

    def state(self):
        files = sorted(self.folder.iterdir()) if self.folder.is_dir() else ["gone"]
        return str([(str(one), one.stat().st_ino, one.stat().st_mtime_ns) for one in files if one != "gone"] or files)

    def read(self):
        known = load.read_files([self.folder])
        refuse_circles(known, [self.file])
        return known, Matcher(known)

    def look(self, times=2):
        async def looks():
            for _ in range(times):
                await self.reload.look(self.daemon)

        anyio.run(looks)

    def write(self, text):
        draft = self.folder / "draft.tmp"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.file)  # another inode: another state, whatever the clock says


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "rules.d"
    folder.mkdir()
    return Site(folder)


LINE = "SiteLicence: expired on Monday"


def test_a_good_change_comes_into_force(site):
    assert site.daemon.fires(LINE) == []

    site.write(rule())
    site.look()

    assert site.daemon.fires(LINE) == ["site.licence.expired"]
    assert site.daemon.told == []


def test_what_is_still_being_written_waits_until_it_rests(site):
    site.write(rule())
    site.look(times=1)
    assert site.daemon.fires(LINE) == []

    site.look(times=1)
    assert site.daemon.fires(LINE) == ["site.licence.expired"]


def test_who_asks_need_not_wait(site):
    site.write(rule())

    anyio.run(lambda: site.reload.look(site.daemon, at_once=True))

    assert site.daemon.fires(LINE) == ["site.licence.expired"]


def test_a_rule_that_is_taken_away_fires_no_more(site):
    site.write(rule())
    site.look()
    site.file.unlink()
    site.look()

    assert site.daemon.fires(LINE) == []


BAD = [
    pytest.param("id: [", "site.yaml:2", id="no YAML"),
    pytest.param(rule(pattern="(?!x)y"), "site.yaml:7", id="a pattern that RE2 refuses"),
    pytest.param("id: site.half\n", "missing", id="half a rule"),
    pytest.param(
        rule("a", "alpha licence", "gpu_lost", "[gpu_xid]")
        + "---"
        + rule("b", "beta licence", "gpu_xid", "[gpu_lost]"),
        "explains goes in a circle: gpu_",
        id="a circle",
    ),
]


@pytest.mark.parametrize(("text", "problem"), BAD)
def test_a_bad_change_is_told_once_and_the_old_rules_stay_in_force(site, text, problem):
    site.write(rule())
    site.look()
    old = site.daemon.knowledge

    site.write(text)
    site.look(times=4)

    assert site.daemon.knowledge is old
    assert site.daemon.fires(LINE) == ["site.licence.expired"]
    ((source, reason),) = site.daemon.told
    assert source == "rules"
    assert str(site.file) in reason
    assert problem in reason


def test_a_circle_is_told_with_the_line_of_the_rule(site):
    circle = (
        rule("a", "alpha licence", "gpu_xid", "[gpu_lost]") + "---" + rule("b", "beta one", "gpu_lost", "[gpu_xid]")
    )
    site.write("# ours" + circle)
    site.look()

    ((_, reason),) = site.daemon.told
    assert f"{site.file}:2: explains goes in a circle" in reason


def test_the_same_problem_is_not_told_again_but_another_is(site):
    site.write("id: [")
    site.look()
    site.write("id: [")
    site.look()
    assert len(site.daemon.told) == 1

    site.write("\n\nid: [")
    site.look()
    assert len(site.daemon.told) == 2


def test_repaired_rules_come_into_force_and_the_trouble_is_over(site):
    site.write("id: [")
    site.look()
    site.write(rule())
    site.look()

    assert len(site.daemon.told) == 1
    assert site.daemon.seen == ["rules"]
    assert site.daemon.fires(LINE) == ["site.licence.expired"]


def test_a_problem_that_comes_back_is_told_again(site):
    for text in ("id: [", rule(), "id: ["):
        site.write(text)
        site.look()

    assert len(site.daemon.told) == 2


def test_a_folder_that_goes_is_told_and_may_come_back(site):
    away = site.folder.with_name("away")
    site.write(rule())
    site.look()

    site.folder.rename(away)
    site.look(times=3)
    assert site.daemon.fires(LINE) == ["site.licence.expired"]
    ((_, reason),) = site.daemon.told
    assert "no such file or folder" in reason

    away.rename(site.folder)
    site.look()
    assert len(site.daemon.told) == 1


# --- under the daemon itself


async def until(holds):
    """Wait until something holds that nothing tells of."""
    with anyio.fail_after(30):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(0.02)


@pytest.fixture
def server(tmp_path):
    """A process that stands for a server; its folder of logs is watched."""
    (tmp_path / "log").mkdir()
    program = tmp_path / "fastdeploy" / "entrypoints" / "openai" / "api_server.py"
    program.parent.mkdir(parents=True)
    program.write_text("import sys, time\ntime.sleep(60 if '--port' in sys.argv else 0)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdeploy.entrypoints.openai.api_server", "--port", "1"],
        cwd=tmp_path,
        env={**os.environ, "FD_LOG_DIR": str(tmp_path / "log")},
    )
    yield process
    process.kill()
    process.wait()


def test_the_daemon_judges_by_changed_rules_and_its_files_are_not_read_anew(tmp_path, site, server):
    log = tmp_path / "log" / "workerlog.0"
    target = TargetConfig(attach=server.pid)
    config = Config(targets=(target,), rules=(str(site.folder),), grace=Duration(seconds=1))
    seen = []

    def watcher(_state, effects):
        told = [one.incident for one in effects if isinstance(one, SaveIncident)]
        seen.extend(one for one in told if one.cause != "blind_spot")  # there may be no cards to watch here

    async def scenario(daemon):
        old = daemon.knowledge
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.run)
            await until(lambda: daemon.sessions["default"].logs.tail)
            with log.open("a") as file:
                file.write("SiteLicence: before\n")
            await until(lambda: daemon.sessions["default"].logs.carries)
            site.write(rule(pattern="SiteLicence: (?:before|expired)"))
            daemon.reload.now()
            await until(lambda: daemon.knowledge is not old)
            with log.open("a") as file:
                file.write(LINE + "\n")
            await until(lambda: seen)
            daemon.stop()

    with wiring.daemon(config, tmp_path / "state", watcher=watcher) as daemon:
        anyio.run(scenario, daemon)

    (finding,) = seen[-1].findings
    assert finding.rule_id == "site.licence.expired"
    assert [(proof.text, proof.line) for proof in finding.evidence] == [(LINE, 2)]
    assert server.poll() is None, "the server goes on"


def test_the_daemon_goes_by_what_is_written_into_its_configuration_while_it_runs(tmp_path, server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    file = tmp_path / "diagnose.yaml"
    file.write_text(f"targets: [{{attach: {server.pid}}}]\n")
    config = load.read_config(file, Config)
    ask = AskDrill(by="mei", cause="disk_full", target="default", seconds=60)

    async def scenario(daemon):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(daemon.run)
            await until(lambda: daemon.sessions["default"].logs.tail)
            assert daemon.alerts is None
            hook = f'{{kind: webhook, name: hook, url: "{vendor.url}"}}'
            file.write_text(f"{file.read_text()}alerts: {{group_wait: 10ms, receivers: [{hook}]}}\n")
            daemon.reload.now()
            await until(lambda: daemon.alerts)
            assert (await daemon.alerts.ask(ask)).ok
            await until(lambda: vendor.taken)
            file.write_text(f"{file.read_text()}overrides: {{memory.host.killed: {{severity: info}}}}\n")
            daemon.reload.now()
            await until(lambda: daemon.knowledge.rules["memory.host.killed"].severity.value == "info")
            daemon.stop()

    with (
        serving("webhook") as vendor,
        wiring.daemon(config, tmp_path / "state", watcher=lambda _state, _effects: None, file=file) as daemon,
    ):
        anyio.run(scenario, daemon)
    assert "disk_full" in {one["cause"] for got in vendor.taken for one in got.json["alerts"]}
    assert server.poll() is None, "the server goes on"


def test_sighup_asks_for_a_look(site):
    reload = site.watch(every=timedelta(hours=1), signals=lambda: True)

    async def scenario():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload.watch, site.daemon)
            await anyio.sleep(0.05)  # until the signal is received and no longer deadly
            assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
            site.write(rule())
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: site.daemon.fires(LINE))
            tasks.cancel_scope.cancel()

    anyio.run(scenario)
