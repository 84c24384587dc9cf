"""The example configuration that ships can be used as it is."""

from __future__ import annotations

import msgspec

from diagnose.agent.config import Config
from diagnose.catalog import load
from diagnose.cli.main import main
from diagnose.model.remedy import Mode


def test_the_example_configuration_is_one():
    config = load.read_config(load.shipped("service") / "diagnose.example.yaml", Config)
    assert config.targets[0].name == "ernie-21b"
    assert config.policy.mode is Mode.SUGGEST


def test_its_overrides_fit_something():
    config = load.read_config(load.shipped("service") / "diagnose.example.yaml", Config)
    known = load.load(overrides=config.overrides)
    assert msgspec.structs.asdict(known.remedies["server.fit-memory"])["mode"] is Mode.APPROVE


def test_the_check_finds_a_receiver_whose_secret_is_not_there(tmp_path, capsys, monkeypatch):
    file = tmp_path / "diagnose.yaml"
    file.write_text(
        "targets: [{name: a, attach: 8000}]\n"
        "alerts: {receivers: [{kind: feishu, name: x, url: {env: DIAGNOSE_TEST_URL}}]}\n"
    )
    monkeypatch.delenv("DIAGNOSE_TEST_URL", raising=False)
    assert main(["config", "check", str(file)]) == 2
    assert "DIAGNOSE_TEST_URL is empty" in capsys.readouterr().err
    monkeypatch.setenv("DIAGNOSE_TEST_URL", "https://127.0.0.1/hook")
    assert main(["config", "check", str(file)]) == 0
