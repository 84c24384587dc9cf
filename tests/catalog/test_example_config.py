"""The example configuration that ships can be used as it is."""

from __future__ import annotations

import msgspec

from diagnose.agent.config import Config
from diagnose.catalog import load
from diagnose.model.remedy import Mode


def test_the_example_configuration_is_one():
    config = load.read_config(load.shipped("service") / "diagnose.example.yaml", Config)
    assert config.targets[0].name == "ernie-21b"
    assert config.policy.mode is Mode.SUGGEST


def test_its_overrides_fit_something():
    config = load.read_config(load.shipped("service") / "diagnose.example.yaml", Config)
    known = load.load(overrides=config.overrides)
    assert msgspec.structs.asdict(known.remedies["server.fit-memory"])["mode"] is Mode.APPROVE
