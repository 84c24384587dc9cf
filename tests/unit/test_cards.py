"""Cards in numbers and words, and what the mind makes of them with the shipped rules."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from diagnose.catalog import check, load
from diagnose.engine import cards, targets
from diagnose.engine.policy import Policy
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.engine.targets import Target
from diagnose.engine.window import Windows, feed
from diagnose.model import codec
from diagnose.model.incident import State as Stands
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import (
    GpuProcess,
    GpuSample,
    Hit,
    LogMatch,
    Observation,
    ProcessExit,
    ServerStarted,
    SourceSees,
    SourceSilent,
    XidEvent,
)
from diagnose.model.rule import When

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
GIB = 1 << 30
SHIPPED = load.read_files([load.shipped("rules"), load.shipped("remedies")])
STARTED = ServerStarted(
    target="t", at=NOON, generation=1, pid=7, how="spawned", spec=LaunchSpec(argv=("python", "-m", "api_server"))
)


def at(seconds):
    return NOON + timedelta(seconds=seconds)


def sample(seconds=0.0, index=0, **fields):
    plain = {"name": "L20", "total_bytes": 48 * GIB, "used_bytes": 40 * GIB, "own_bytes": 40 * GIB}
    where = {"uuid": f"GPU-{index}", "pci": f"0000:{65 + index:02x}:00"}
    return GpuSample(target="t", at=at(seconds), index=index, **{**plain, **where, **fields})


def lived(*observations):
    """Live through observations, each at its time, and a while of quiet turns after; return state and turns."""
    state, turns = State(), []
    policy = Policy()
    for one in observations:
        state, effects = step(state, [one], knowledge=SHIPPED, policy=policy, now=one.at)
        turns.append((state, effects))
    last = observations[-1].at
    for second in range(1, 20):
        state, effects = step(state, [], knowledge=SHIPPED, policy=policy, now=last + timedelta(seconds=second))
        turns.append((state, effects))
    return state, turns


def live_ones(state):
    return [one for one in state.incidents.values() if one.state in {Stands.PENDING, Stands.OPEN}]


# --- numbers


def test_what_a_card_does_not_tell_has_no_number():
    plain = cards.numbers(sample())
    assert plain == {
        "gpu.absent": 0,
        "gpu.unreadable": 0,
        "gpu.lost": 0,
        "gpu.memory_used_ratio": 40 / 48,
        "gpu.memory_other_ratio": 0,
        "gpu.memory_leftover_ratio": 0,
    }
    assert "gpu.memory_used_ratio" not in cards.numbers(sample(total_bytes=0))


@pytest.mark.parametrize(
    ("state", "name"),
    [("lost", "gpu.lost"), ("gone", "gpu.lost"), ("absent", "gpu.absent"), ("unreadable", "gpu.unreadable")],
)
def test_of_a_card_that_cannot_be_read_only_that_is_told(state, name):
    told = cards.numbers(sample(state=state, celsius=70))
    assert {key for key, value in told.items() if value} == {name}
    assert set(told) == {"gpu.lost", "gpu.absent", "gpu.unreadable"}


def test_what_counts_up_is_told_as_growth_too():
    first, then = sample(ecc_uncorrected=3, pcie_replays=10), sample(ecc_uncorrected=5, pcie_replays=2)
    assert "gpu.ecc_uncorrected_new" not in cards.numbers(first)
    told = cards.numbers(then, first)
    assert (told["gpu.ecc_uncorrected"], told["gpu.ecc_uncorrected_new"]) == (5, 2)
    assert told["gpu.pcie_replays_new"] == 0


def test_memory_of_others_is_told_apart():
    processes = (
        GpuProcess(pid=1, used_bytes=24 * GIB, name="worker_process.py", whose="own"),
        GpuProcess(pid=2, used_bytes=12 * GIB, name="train.py"),
        GpuProcess(pid=3, used_bytes=6 * GIB, name="worker_process.py", whose="leftover"),
        GpuProcess(pid=4, used_bytes=None, name="x"),
    )
    told = cards.numbers(sample(processes=processes))
    assert (told["gpu.memory_other_ratio"], told["gpu.memory_leftover_ratio"]) == (0.25, 0.125)
    by_name = {one.name: one for one in cards.of_card(sample(processes=processes), None, 1, "ready")}
    assert by_name["sample.gpu.memory_other_ratio"].labels["pid"] == "2"
    assert by_name["sample.gpu.memory_leftover_ratio"].labels["process"] == "worker_process.py"
    assert "train.py (2)" in by_name["sample.gpu.memory_other_ratio"].evidence.text


def sampled(when: When):
    yield from [when.sample] if when.sample else []
    for child in (*when.all, *when.any, *when.sequence, *([when.absent] if when.absent else [])):
        yield from sampled(child)


def test_rules_ask_for_numbers_that_there_are():
    asked = {name for rule in SHIPPED.rules.values() for name in sampled(rule.when) if name.startswith("gpu.")}
    assert asked - cards.NAMES == set()


def test_a_card_goes_through_the_journal_unchanged():
    told = (sample(celsius=70, slowed=("thermal",), processes=(GpuProcess(pid=1, used_bytes=None),)),)
    assert codec.decode(codec.encode(told), tuple[Observation, ...]) == told


# --- words


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "GPU 0 L20: 40.00 / 48.00 GiB"),
        ({"state": "lost", "error": "GPU is lost"}, "GPU 0 L20; lost: the driver cannot reach it (GPU is lost)"),
        ({"state": "gone"}, "GPU 0000:41:00 L20; gone: the driver no longer lists it"),
        ({"slowed": ("thermal", "power_cap")}, "GPU 0 L20: 40.00 / 48.00 GiB; slowed down by heat"),
        ({"pcie_width": 8, "pcie_most_width": 16}, "GPU 0 L20: 40.00 / 48.00 GiB; PCIe x8 / x16"),
        ({"nvlinks": 17, "nvlinks_most": 18}, "GPU 0 L20: 40.00 / 48.00 GiB; 1 NVLinks down"),
        ({"remap_pending": True}, "GPU 0 L20: 40.00 / 48.00 GiB; needs a reset to replace bad memory"),
    ],
)
def test_a_card_in_one_line(fields, expected):
    assert cards.described(sample(**fields)) == expected


# --- proof beside log lines


@pytest.mark.parametrize(
    ("before", "now", "proof"),
    [
        pytest.param({}, {}, False, id="well"),
        pytest.param({}, {"used_bytes": int(47.5 * GIB)}, True, id="full"),
        pytest.param({}, {"state": "lost"}, True, id="lost"),
        pytest.param({"ecc_uncorrected": 1}, {"ecc_uncorrected": 1}, False, id="errors of long ago"),
        pytest.param({"ecc_uncorrected": 1}, {"ecc_uncorrected": 2}, True, id="a new error"),
        pytest.param({}, {"slowed": ("thermal",)}, False, id="hot: slow, but well"),
    ],
)
def test_what_a_card_proves(before, now, proof):
    target = Target(name="t")
    for one in (sample(0, **before), sample(1, **now)):
        target = targets.observe(target, one, Policy()).target
    assert ("gpu" in target.seen) is proof


@pytest.mark.parametrize(("xid", "proof"), [(79, True), (48, True), (45, False), (14, False), (4711, True)])
def test_an_error_of_the_driver_is_proof_where_it_means_trouble(xid, proof):
    event = XidEvent(target="t", at=NOON, index=0, pci="0000:41:00", xid=xid)
    assert ("gpu" in targets.observe(Target(name="t"), event, Policy()).target.seen) is proof


def test_cards_that_got_other_numbers_leave_no_ghosts():
    target = Target(name="t")
    moved = sample(1, 1, uuid="GPU-2", pci="0000:43:00", ecc_uncorrected=5)
    for one in (sample(0, 1), sample(0, 2, ecc_uncorrected=5), moved, sample(1, 1, state="gone")):
        told = targets.observe(target, one, Policy())
        target = told.target
    assert {name: card.uuid for name, card in target.gpus.items()} == {"1": "GPU-2", "0000:42:00": "GPU-1"}
    assert "gpu" in target.seen  # the lost one, not errors of another card

    later = targets.observe(target, sample(3600, 1, uuid="GPU-2", pci="0000:43:00"), Policy()).target
    assert list(later.gpus) == ["1"]


# --- what the mind makes of it


def test_a_lost_card_explains_everything_below_it():
    lost = [sample(second, 1, state="lost", error="GPU is lost") for second in (0, 1, 2)]
    crash = ProcessExit(target="t", at=at(3), generation=1, role="worker", pid=8, code=-6)
    end = ProcessExit(target="t", at=at(4), generation=1, role="main", pid=7, code=1)
    state, _ = lived(STARTED, *lost, crash, end)
    (incident,) = live_ones(state)
    assert incident.cause == "gpu_lost"
    assert incident.rule_id == "gpu.telemetry.lost"
    assert incident.findings[0].labels["gpu"] == "1"


def matched(seconds, rule_id, text, **labels):
    return LogMatch(
        target="t",
        source="nvml",
        stream="kernel",
        line=1,
        at=at(seconds),
        dated=False,
        attempt=1,
        text=text,
        level=None,
        hits=(Hit(rule_id, 0, labels),),
    )


def test_a_lost_card_and_its_xid_are_one_trouble():
    line = matched(1, "gpu.lost.xid79", "NVRM: Xid (PCI:0000:42:00): 79, told by NVML of GPU 1", gpu="0000:42:00")
    state, _ = lived(STARTED, line, sample(2, 1, state="lost"))
    assert [one.cause for one in live_ones(state)] == ["gpu_lost"]


def test_a_neighbour_explains_that_memory_ran_out():
    other = (GpuProcess(pid=4711, used_bytes=20 * GIB, name="train.py"),)
    seen = [sample(second, processes=other) for second in (0, 2, 4, 6)]
    text = "Out of memory error on GPU 0. Cannot allocate 2.000000GB memory on GPU 0"
    rule = SHIPPED.rules["gpu.telemetry.neighbour"]
    hits = tuple(Hit(name, 0, {}) for name in (rule.id, "gpu.oom.load"))
    oom = msgspec.structs.replace(matched(5, rule.id, text), hits=hits, source="log/workerlog.0", stream="worker")
    state, _ = lived(STARTED, *seen[:3], oom, seen[3])
    (incident,) = live_ones(state)
    assert (incident.cause, incident.rule_id) == ("gpu_memory_taken", "gpu.telemetry.neighbour")
    assert incident.findings[0].labels["pid"] == "4711"
    assert any("train.py (4711)" in proof.text for proof in incident.findings[0].evidence)


def test_heat_explains_that_answers_are_slow_and_ends_when_it_is_cool_again():
    hot = [sample(second, celsius=91, slowdown_celsius=90, slowed=("thermal",)) for second in range(0, 40, 10)]
    target = Target(name="t", generation=1, ready_at=NOON, phase="ready")
    found = [signal for one in hot for signal in targets.observe(target, one, Policy()).signals]
    _, findings = feed(Windows(), SHIPPED, found)
    assert {one.rule_id for one in findings} == {"gpu.telemetry.thermal"}
    assert "91 °C; slowed down by heat" in findings[0].evidence[0].text
    assert "overload_503" in SHIPPED.rules["gpu.telemetry.thermal"].explains


@pytest.mark.parametrize(
    ("kind", "cause", "severity"),
    [
        ("missing", "blind_spot", "info"),
        ("failed", "gpu_not_visible", "warning"),
        ("mismatch", "nvml_mismatch", "error"),
        ("hangs", "gpu_lost", "error"),
    ],
)
def test_a_sense_that_goes_blind_is_one_trouble_until_it_sees_again(kind, cause, severity):
    silent = SourceSilent(target="t", at=at(1), source="gpu", reason="no driver answers", kind=kind)
    state, _ = lived(STARTED, silent)
    (incident,) = live_ones(state)
    assert (incident.cause, incident.severity.value, len(incident.findings)) == (cause, severity, 1)
    assert state.targets["t"].blind == {"gpu": "no driver answers"}

    state, _ = lived(STARTED, silent, SourceSees(target="t", at=at(20), source="gpu"), sample(20))
    assert live_ones(state) == []
    assert state.targets["t"].blind == {}


def test_lint_names_the_numbers_that_there_are():
    wrong = msgspec.structs.replace(SHIPPED.rules["gpu.telemetry.lost"], when=When(sample="gpu.temperature", above=90))
    (problem,) = check.lint(msgspec.structs.replace(SHIPPED, rules={wrong.id: wrong}, remedies={}))
    assert "gpu.temperature" in problem.message
    assert "gpu.celsius" in problem.cure


def test_the_manual_names_every_number():
    manual = (Path(__file__).parents[2] / "docs" / "writing-rules.md").read_text(encoding="utf-8")
    section = manual.partition("## Numbers of the cards\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([a-z_]+)`", section))
    assert {name.removeprefix("gpu.").removesuffix("_new") for name in cards.NAMES} <= told
