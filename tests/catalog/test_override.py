"""What a host and its configuration change of what is shipped."""

from __future__ import annotations

import pytest

from diagnose.agent import wiring
from diagnose.agent.config import Config
from diagnose.catalog import load
from diagnose.errors import ConfigError
from diagnose.model.remedy import Mode
from diagnose.model.text import Duration

SHIPPED = "gpu.thermal.slowdown"
RULE = """
id: {id}
cause: gpu_thermal
title: {{en: {title}, zh: 本站规则}}
why: {{en: Ours., zh: 本站。}}
fix: {{en: Ours., zh: 本站。}}
when: {{pattern: 'our card is hot'}}
clears: {{quiet: 1h}}
tests: {{hits: [], misses: []}}
"""


def folder(tmp_path, name, title, rule_id=SHIPPED):
    made = tmp_path / name
    made.mkdir()
    (made / "ours.yaml").write_text(RULE.format(id=rule_id, title=title), encoding="utf-8")
    return made


def test_a_host_s_rule_replaces_the_shipped_one_whole(tmp_path):
    host = folder(tmp_path, "rules.d", "of this host")

    rules = load.read_files(load.files(host=[host])).rules

    assert rules[SHIPPED].title.en == "of this host"
    assert rules[SHIPPED].key == (), "nothing of the shipped one is left"
    assert "gpu.lost.xid79" in rules


def test_a_configured_folder_has_the_last_word(tmp_path):
    host = folder(tmp_path, "rules.d", "of this host")
    site = folder(tmp_path, "site", "of this site")

    assert load.read_files(load.files([site], host=[host])).rules[SHIPPED].title.en == "of this site"


def test_a_host_without_folders_has_what_is_shipped(tmp_path):
    assert load.files(host=[tmp_path / "rules.d"]) == load.files(host=[])


def test_the_digest_is_that_of_what_would_be_loaded(tmp_path):
    site = folder(tmp_path, "site", "of this site")

    assert load.digest([site]) == load.load([site]).digest != load.load().digest


def read(tmp_path, overrides):
    path = tmp_path / "diagnose.yaml"
    path.write_text(f"overrides:\n  {overrides}\n", encoding="utf-8")
    return wiring.knowledge_of(load.read_config(path, Config))


def test_the_configuration_changes_single_fields(tmp_path):
    known = read(tmp_path, "server.fit-memory: {mode: suggest, cooldown: 2m}")

    changed = known.remedies["server.fit-memory"]
    assert (changed.mode, changed.cooldown) == (Mode.SUGGEST, Duration(minutes=2))
    assert changed.ladder == load.load().remedies["server.fit-memory"].ladder


@pytest.mark.parametrize("value", ["0.6", '"0.6"'])
def test_numbers_need_no_quotes(tmp_path, value):
    assert read(tmp_path, f"{SHIPPED}: {{confidence: {value}}}").rules[SHIPPED].confidence == 0.6


def test_a_switch_is_a_switch(tmp_path):
    assert read(tmp_path, f"{SHIPPED}: {{untrusted: true}}").rules[SHIPPED].untrusted is True


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("{mode: auto}", "has no field 'mode'"),
        ("{id: another}", "has no field 'id'"),
        ("{confidence: 7}", "confidence is above 0 and at most 1"),
        ("{severity: bad}", "severity"),
        ("{title: x}", "title"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_cure(tmp_path, fields, problem):
    with pytest.raises(ConfigError, match=problem):
        read(tmp_path, f"{SHIPPED}: {fields}")


def test_what_a_site_adds_can_be_overridden_too(tmp_path):
    site = folder(tmp_path, "site", "new", "site.hot")

    known = load.load([site], {"site.hot": {"status": "experimental"}})

    assert known.rules["site.hot"].status == "experimental"
