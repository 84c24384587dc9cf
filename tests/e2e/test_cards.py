"""Cards that fail under a running server: told in time, named as the root, and nobody is the worse for it."""

from __future__ import annotations

import json
import time

import pytest

from diagnose.lab.gpus import report_xid, set_reading
from diagnose.model.observation import XidEvent
from tests.e2e.conftest import FITS

pytestmark = pytest.mark.timeout(100)


def causes(seen):
    return {one.cause: one for one in seen.incidents if one.state.value != "history"}


def test_a_card_that_fails_is_named_within_a_second_and_one_that_is_hot_while_it_is(site):
    here = site(gpu_gib=8)
    daemon = here.daemon(*FITS)
    here.wait_phase("ready")
    cards = here.folder / "gpus"

    set_reading(cards, 0, celsius=93, slowdown_celsius=90, slowed=["thermal"])
    hot = here.wait(lambda seen: "gpu_thermal" in causes(seen), "heat", 60)
    assert "93 °C; slowed down by heat" in causes(hot)["gpu_thermal"].findings[0].evidence[0].text
    _, words = here.diagnose("status", "--state-dir", str(here.state))
    assert "93 °C; slowed down by heat" in words
    _, words = here.diagnose("status", "--state-dir", str(here.state), "--json")
    (card,) = json.loads(words)["targets"][0]["gpus"]
    assert (card["celsius"], card["state"], card["wrong"]) == (93, "ok", ["slowed down by heat"])

    began = time.monotonic()
    report_xid(cards, 0, 79)
    lost = here.wait(lambda seen: "gpu_lost" in causes(seen), "a lost card", 10)
    assert time.monotonic() - began < 3, "a second and what a busy machine takes"
    assert causes(lost)["gpu_lost"].rule_id == "gpu.lost.xid79"
    assert here.answers(), "the server was left alone"

    here.stop(daemon)
    events = [one for turn in here.turns() for one in turn.observations if isinstance(one, XidEvent)]
    assert [one.xid for one in events] == [79]


def test_a_sense_that_goes_blind_is_stated_once_and_all_else_goes_on(site):
    here = site(gpu_gib=8)
    daemon = here.daemon(*FITS)
    here.wait_phase("ready")
    card = here.folder / "gpus" / "gpu0.json"
    kept = card.read_text()

    card.write_text("{")
    blind = here.wait(lambda seen: "gpu" in seen.state.targets["default"].blind, "blindness", 30)
    found = here.wait(lambda seen: "gpu_not_visible" in causes(seen), "its finding", 10)
    assert causes(found)["gpu_not_visible"].rule_id == "gpu.telemetry.driver-fails"
    assert blind.state.targets["default"].phase == "ready"
    assert here.answers()

    card.write_text(kept)
    here.wait(lambda seen: "gpu" not in seen.state.targets["default"].blind, "sight", 30)
    here.wait(lambda seen: causes(seen)["gpu_not_visible"].state.value == "resolved", "its end", 30)
    here.stop(daemon)
    told = [one for turn in here.turns() for one in turn.observations if getattr(one, "source", "") == "gpu"]
    assert len(told) == 2, "silent once, and seeing once"
