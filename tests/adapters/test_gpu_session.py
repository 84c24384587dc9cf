"""What cards and driver tell, on its way from the reader through the daemon's side of a server, to the screen."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone

import pytest
from rich.console import Console

from diagnose.agent.config import Probes, TargetConfig
from diagnose.agent.session import Session
from diagnose.catalog import load
from diagnose.cli import status
from diagnose.controllers.process import ProcessController
from diagnose.engine.match import Matcher
from diagnose.engine.targets import Target
from diagnose.lab.gpus import make_gpus, report_xid, set_reading
from diagnose.model.observation import GpuSample, LogLines, LogMatch, XidEvent
from diagnose.sources.gpu import LabReader
from diagnose.web.standing import standing

MATCHER = Matcher(load.read_files([load.shipped("rules"), load.shipped("remedies")]))
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


class Clock:
    def now(self):
        return NOON


@pytest.fixture
def cards(tmp_path):
    return make_gpus(tmp_path / "gpus", 2, 80 << 30, "Lab 80G")


@pytest.fixture
def session(tmp_path, cards):
    session = Session(
        config=TargetConfig(command=("python", "-m", "api_server"), cwd=str(tmp_path)),
        probes=Probes(),
        grace=timedelta(seconds=1),
        state_dir=tmp_path,
        matcher=MATCHER,
        controller=ProcessController(),
        gpu=LabReader(cards),
        clock=Clock(),
        keep=lambda _name, _value: None,
    )
    session.cards.poll((), NOON)
    return session


def told(session, seconds):
    return session._cards_told(NOON + timedelta(seconds=seconds))


def test_an_error_of_the_driver_becomes_the_finding_that_a_kernel_line_would_be(session, cards):
    report_xid(cards, 1, 79)
    (event,) = told(session, 0)
    assert isinstance(event, XidEvent)
    (line,) = told(session, 0.5)
    assert isinstance(line, LogMatch)
    assert {(hit.rule_id, hit.labels["gpu"]) for hit in line.hits} == {("gpu.lost.xid79", "0000:02:00")}


@pytest.mark.parametrize("xid", [13, 31, 48, 63, 74, 94, 119, 149])
def test_each_kind_of_error_meets_a_rule(session, cards, xid):
    report_xid(cards, 0, xid)
    told(session, 0)
    (line,) = told(session, 0.5)
    assert {hit.labels.get("xid", str(xid)) for hit in line.hits if not hit.rule_id.startswith("@")} == {str(xid)}


def test_what_the_kernel_s_log_told_is_told_once(session, cards):
    text = (
        b"2026-03-01T12:00:00+00:00 host kernel: NVRM: Xid (PCI:0000:02:00): 79, pid=4, GPU has fallen off the bus.\n"
    )
    report_xid(cards, 1, 79)
    told(session, 0)
    read_at = NOON + timedelta(seconds=0.2)
    kernel = LogLines(target="t", source="kernel", stream="kernel", first_line=1, data=text, read_at=read_at)
    assert any(hit.rule_id == "gpu.lost.xid79" for match in session.logs.match(kernel) for hit in match.hits)
    assert told(session, 1) == []


def shown(target, lang="en"):
    console = Console(file=io.StringIO(), width=200, color_system=None)
    status.show(console, standing(target, [], None, lang), lang)
    return console.file.getvalue()


def test_status_shows_a_line_a_card_with_what_is_wrong(session, cards):
    set_reading(cards, 0, celsius=91, busy_ratio=0.98, slowed=["thermal"])
    set_reading(cards, 1, state="lost", error="GPU is lost\x1b[2J")
    samples = [one for one in session.cards.poll((), NOON) if isinstance(one, GpuSample)]
    target = Target(name="t", gpus={one.label: one for one in samples})

    lines = [line.strip() for line in shown(target).splitlines() if "GPU" in line]
    assert lines == [
        "GPU 0 Lab 80G: 0.00 / 80.00 GiB, 98 % busy, 91 °C; slowed down by heat",
        "GPU 1 Lab 80G; lost: the driver cannot reach it (GPU is lost\\x1b[2J)",
    ]
    assert "GPU 0 Lab 80G: 0.00 / 80.00 GiB, 利用率 98%, 91 °C; 因过热降频" in shown(target, "zh")


def test_status_says_that_the_cards_cannot_be_seen():
    assert "GPU: cannot be seen: no driver" in shown(Target(name="t", blind={"gpu": "no driver"}))
