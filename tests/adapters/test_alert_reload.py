"""Who is told changes while the daemon runs: what waits is kept, and a file that cannot be used changes nothing."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import msgspec
import pytest

from diagnose import outbox
from diagnose.agent.config import Config, TargetConfig, governed
from diagnose.agent.reload import Reload, of_config
from diagnose.agent.wiring import _senders
from diagnose.catalog import load
from diagnose.engine.policy import Policy
from diagnose.model.remedy import Mode
from diagnose.model.text import Duration
from diagnose.notices.config import Alerts
from diagnose.receivers import make
from tests.adapters.alert_path import alerts, live, trouble
from tests.adapters.vendor import serving

NOBODY = "http://127.0.0.1:9/x"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def hook(url, name="hook"):
    return {"kind": "webhook", "name": name, "url": url}


def use(path, *receivers, **more):
    config = alerts(*receivers, **more)
    path.alerting.use(config, make.senders(config))


def told(vendor):
    return [(one["incident"], one["status"]) for got in vendor.taken for one in got.json["alerts"]]


def test_what_waits_for_a_receiver_goes_where_the_changed_configuration_says(tmp_path):
    with serving("webhook") as vendor:

        async def life(path):
            path.save(trouble("a1b2c3d4"))
            await path.until(lambda: path.alerting.outbox.health["hook"].tries > 1, "failures")
            use(path, hook(vendor.url))
            await path.until(lambda: vendor.taken and not path.waiting, "what waited")
            path.end(trouble("a1b2c3d4"))
            await path.until(lambda: len(vendor.taken) == 2, "the end")

        live(tmp_path, alerts(hook(NOBODY), retry={"first": "20ms", "most": "1h"}), life)
    assert told(vendor) == [("a1b2c3d4", "firing"), ("a1b2c3d4", "resolved")]


def test_a_new_receiver_is_told_of_what_is_open_and_what_waits_for_one_that_is_gone_is_put_aside(tmp_path):
    with serving("webhook") as old, serving("webhook") as new:

        async def life(path):
            path.save(trouble("a1b2c3d4"))
            await path.until(lambda: old.taken and path.alerting.outbox.health["gone"].tries, "the first news")
            use(path, hook(old.url), hook(new.url, "new"))
            await path.until(lambda: new.taken, "the new one")
            await path.until(lambda: "gone" not in path.alerting.outbox.rows, "the other gone")
            path.end(trouble("a1b2c3d4"))
            await path.until(lambda: len(old.taken) == 2 and len(new.taken) == 2, "the end")

        live(tmp_path, alerts(hook(old.url), hook(NOBODY, "gone")), life)
    for vendor in (old, new):
        assert told(vendor) == [("a1b2c3d4", "firing"), ("a1b2c3d4", "resolved")]
    (put_aside,) = outbox.posts(tmp_path, state="dead", receiver="gone")
    assert put_aside.error == "no such receiver in the configuration any more"


def test_a_message_under_way_is_waited_for_and_not_sent_twice_when_the_configuration_changes(tmp_path):
    with serving("webhook") as vendor:
        begun = []

        def slowly(_body):
            begun.append(time.monotonic())
            time.sleep(0.3)
            return vendor.good

        vendor.choose = slowly

        async def life(path):
            path.save(trouble("a1b2c3d4"))
            await path.until(lambda: begun, "the message under way")
            use(path, hook(vendor.url), severity="error")
            await path.until(lambda: vendor.taken and not path.waiting, "it arrives")
            path.end(trouble("a1b2c3d4"))
            await path.until(lambda: len(vendor.taken) == 2, "the end")

        live(tmp_path, alerts(hook(vendor.url)), life)
    assert told(vendor) == [("a1b2c3d4", "firing"), ("a1b2c3d4", "resolved")]


# --- the file


class Keeper:
    def __init__(self):
        self.told, self.seen, self.governed = [], [], []

    def govern(self, config):
        self.governed.append(config)

    def tell_silent(self, source, reason):
        self.told.append((source, reason))

    def tell_sees(self, source):
        self.seen.append(source)


class Site:
    """A configuration file, and who goes by it."""

    def __init__(self, folder: Path):
        self.file, self.keeper, self.used = folder / "diagnose.yaml", Keeper(), []
        self.write("[]")
        self.reload = Reload(of_config(self.file, self.read, Alerts(), ["default"], _senders, self.used.append))

    def read(self):
        return load.read_config(self.file, Config)

    def write(self, receivers, more=""):
        draft = self.file.with_name("draft")
        draft.write_text(f"targets: [{{attach: 8000}}]\nalerts:\n  receivers: {receivers}\n{more}")
        draft.replace(self.file)

    def look(self):
        async def twice():
            await self.reload.look(self.keeper)
            await self.reload.look(self.keeper)

        anyio.run(twice)


HOOK = f'[{{kind: webhook, name: hook, url: "{NOBODY}"}}]'


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_receivers_that_are_written_into_the_file_come_into_force(site):
    site.look()
    assert site.used == []
    site.write(HOOK)
    site.look()
    ((config, senders),) = site.used
    assert ([one.name for one in config.receivers], list(senders)) == (["hook"], ["hook"])
    assert site.keeper.told == []


def test_what_takes_no_restart_is_taken_over_and_what_does_is_named():
    now = Config(targets=(TargetConfig(attach=8000),), lang="zh")
    changed = msgspec.structs.replace(
        now,
        policy=Policy(mode=Mode.OBSERVE),
        overrides={"server.fit-memory": {"mode": "suggest"}},
        rules=("more",),
        remedies=("more",),
        grace=Duration(seconds=1),
        targets=(TargetConfig(attach=8001),),
        alerts=Alerts(lang="en"),
    )
    taken, waits = governed(now, changed)
    assert waits == ("grace", "targets")
    assert taken == msgspec.structs.replace(
        now, policy=changed.policy, overrides=changed.overrides, rules=("more",), remedies=("more",)
    )
    assert governed(taken, taken) == (taken, ())


def test_a_template_that_changes_is_read_anew(site, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{% block body %}one{% endblock %}")
    site.write(f'[{{kind: webhook, name: hook, url: "{NOBODY}", template: {template}}}]')
    site.look()
    template.write_text("{% block body %}one and two{% endblock %}")
    site.look()
    assert len(site.used) == 2


@pytest.mark.parametrize(
    ("receivers", "more", "problem"),
    [
        pytest.param("[", "", "not valid YAML", id="no YAML"),
        pytest.param(HOOK, "  routes: [{to: [hok]}]\n", "routes[0].to: 'hok' is no receiver", id="no receiver"),
        pytest.param(
            HOOK,
            "  routes: [{targets: [x], to: [hook]}]\n",
            "alerts.routes[0].targets: 'x' is no target. Write one of: default.",
            id="no target",
        ),
        pytest.param(
            "[{kind: slack, name: it, url: {env: DIAGNOSE_NOT_SET}}]", "", "DIAGNOSE_NOT_SET is empty", id="no secret"
        ),
    ],
)
def test_a_file_that_cannot_be_used_keeps_the_old_and_is_told_once_until_it_is_put_right(
    site, receivers, more, problem
):
    site.write(receivers, more)
    site.look()
    site.look()
    ((source, reason),) = site.keeper.told
    assert source == "configuration"
    assert problem in reason
    assert site.used == site.keeper.governed == []
    site.write(HOOK)
    site.look()
    assert (len(site.used), site.keeper.seen) == (1, ["configuration"])
