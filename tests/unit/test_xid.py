"""The driver's codes: what they are called, what they ask for, and that a burst is one trouble."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import get_args

import pytest

from diagnose.catalog import load
from diagnose.engine import examine
from diagnose.engine.match import Carry, Matcher
from diagnose.model.observation import LogLines
from diagnose.model.rule import Severity
from diagnose.profiles import xid
from diagnose.report.build import Scanned, build
from diagnose.testing import NOON, finding, incident, knowledge, rule

READ = datetime(2026, 8, 21, tzinfo=timezone.utc)

TEXTS = {
    13: "pid=4410, name=python, Graphics SM Warp Exception on (GPC 7, TPC 7, SM 0): Out Of Range Address",
    31: "pid=4410, name=python, Ch 00000016, intr 10000000. MMU Fault: ENGINE GRAPHICS faulted @ 0x0_00000000.",
    43: "pid=4410, name=python, Ch 00000010",
    45: "pid=4410, name=python, Ch 00000008",
    79: "pid=4410, name=python, GPU has fallen off the bus.",
    48: "pid='<unknown>', name=<unknown>, DBE (double bit error) ECC Error",
    94: "pid=4410, name=python, Contained: SM (0x1). RST: No, D-RST: No",
}


def report_line(code, clock, gpu="0000:41:00"):
    return f"[Thu Aug 20 {clock} 2026] NVRM: Xid (PCI:{gpu}): {code}, {TEXTS[code]}"


@pytest.fixture(scope="module")
def shipped():
    known = load.read_files([load.shipped("rules"), load.shipped("remedies")])
    return known, Matcher(known)


def diagnosed(shipped, *lines):
    known, matcher = shipped
    log = LogLines(
        target="host",
        source="dmesg.log",
        stream="kernel",
        first_line=1,
        data="\n".join(lines).encode() + b"\n",
        read_at=READ,
        generation=None,
    )
    return examine.examine(matcher.scan(log, Carry())[0], known).incidents


# --- the catalogue


def test_each_code_stands_once():
    codes = [code for code, *_ in xid._SINGLE] + [code for *_, codes in xid.ENGINES for code in codes]

    assert len(codes) == len(set(codes))


def test_each_action_has_its_text_and_each_text_is_used():
    used = {entry.action for entry in xid.ENTRIES.values()}

    assert used == set(xid.ACTIONS) == set(get_args(xid.Action))


@pytest.mark.parametrize("entry", xid.ENTRIES.values(), ids=lambda entry: str(entry.code))
def test_names_are_short_and_of_both_languages(entry):
    assert len(entry.name.en) < 80
    assert len(entry.name.zh) < 40
    assert not entry.name.en.endswith(".")
    assert not re.search(r"[一-鿿]", entry.name.en)
    assert re.search(r"[一-鿿]", entry.name.zh)
    assert entry.advice is xid.ACTIONS[entry.action]


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (13, "check_app"),
        (45, "look_before"),
        (63, "reset_later"),
        (74, "check_nvlink"),
        (79, "reboot"),
        (94, "restart_app"),
        (95, "reset_gpu"),
        (119, "reset_gpu"),
        (134, "restart_app"),
        (154, "follow_driver"),
    ],
)
def test_well_known_codes_ask_for_what_the_driver_s_maker_says(code, action):
    assert xid.explain(code).action == action


@pytest.mark.parametrize("code", [0, 7, 56, 100_000, -1])
def test_a_code_that_means_nothing_is_not_explained(code):
    assert xid.explain(code) is None


def test_every_code_that_a_rule_names_is_explained(shipped):
    known, _ = shipped
    pattern = re.compile(r"\): (?:\(\?P<xid>|\(\?:)?([\d|]{2,})\)?")
    text = "\n".join(str(rule.when) for rule in known.rules.values())
    named = {int(code) for found in pattern.finditer(text) for code in found[1].strip("|").split("|")}

    assert named
    assert {code for code in named if xid.explain(code) is None} == set()


def test_no_command_resets_a_card_that_was_not_named(shipped):
    commands = [rule.command for rule in shipped[0].rules.values() if "--gpu-reset" in rule.command]

    assert commands
    assert all("-i {gpu}.0" in command for command in commands)


# --- in a report


def told(code, lang="en"):
    lead = finding("gpu.xid", cause="gpu_xid", labels={"xid": code, "gpu": "0000:41:00"}, proof=["Xid"])
    known = knowledge(rule("gpu.xid", cause="gpu_xid"))
    made = build(
        target="t",
        generated_at=NOON,
        scanned=Scanned(),
        incidents=[incident(lead)],
        knowledge=known,
        unexplained=(),
        lang=lang,
    )
    return made.incidents[0]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_report_says_what_the_code_stands_for_and_asks_for(lang):
    shown, entry = told("119", lang), xid.explain(119)

    assert shown.title.endswith(entry.name.in_(lang))
    assert entry.name.in_(lang) in shown.summary
    assert shown.fix == entry.advice.in_(lang)
    assert shown.remedies[0].why == entry.advice.in_(lang)


@pytest.mark.parametrize("code", ["", "7", "9" * 5000, "²", "79; rm -rf /", "-1"])
def test_of_an_unknown_code_the_rule_says_what_it_knows(code):
    shown = told(code)

    assert shown.title == "Out of GPU memory while loading"
    assert shown.fix == "Use fewer bytes a weight."


# --- bursts


def test_the_lost_gpu_leads_its_burst(shipped):
    lines = [report_line(code, f"16:24:{50 + place}") for place, code in enumerate((13, 31, 43, 45, 79))]

    (one,) = diagnosed(shipped, *lines)

    assert (one.cause, one.rule_id) == ("gpu_lost", "gpu.lost.xid79")
    assert {other.cause for other in one.findings} == {"gpu_lost", "gpu_xid"}


@pytest.mark.parametrize("first", [45, 43, 13], ids=str)
def test_an_echo_never_leads_wherever_it_stands(shipped, first):
    for codes in ([first, 94], [94, first]):
        lines = [report_line(code, f"16:24:{50 + place}") for place, code in enumerate(codes)]

        (one,) = diagnosed(shipped, *lines)

        assert one.cause == "gpu_ecc"


def test_a_page_fault_leads_the_teardown_that_follows(shipped):
    (one,) = diagnosed(shipped, report_line(45, "16:24:50"), report_line(31, "16:24:50"))

    assert one.rule_id == "gpu.xid.program"


def test_two_bursts_ten_minutes_apart_are_two_troubles(shipped):
    bursts = [report_line(code, f"16:{minute}:0{code % 10}") for minute in (20, 30) for code in (13, 45)]

    seen = diagnosed(shipped, *bursts)

    assert [one.cause for one in seen] == ["gpu_xid", "gpu_xid"]
    assert len({one.first_seen for one in seen}) == 2


@pytest.mark.parametrize("cards", [("0000:41:00", "0000:41:00"), ("0000:41:00", "0000:c1:00")], ids=["one", "two"])
def test_bursts_two_minutes_apart_are_one_trouble_of_the_host(shipped, cards):
    clocks = ("16:20:00", "16:22:00")

    (one,) = diagnosed(shipped, *[report_line(31, clock, card) for clock, card in zip(clocks, cards, strict=True)])

    assert one.last_seen.minute - one.first_seen.minute == 2


def test_a_burst_goes_on_until_three_minutes_of_silence(shipped):
    clocks = ("16:20:00", "16:22:30", "16:25:00", "16:28:30")

    seen = diagnosed(shipped, *[report_line(31, clock) for clock in clocks])

    assert sorted((one.first_seen.minute, one.last_seen.minute) for one in seen) == [(20, 25), (28, 28)]


def test_work_torn_down_early_is_a_warning_at_most(shipped):
    for one in diagnosed(shipped, report_line(45, "16:20:00"), report_line(45, "16:20:01")):
        assert one.severity.rank <= Severity.WARNING.rank
        assert one.confidence < 0.5


def test_other_programs_on_other_cards_keep_the_lead_with_the_memory_error(shipped):
    lines = [
        report_line(45, "16:20:00"),
        report_line(48, "16:20:00"),
        report_line(94, "16:20:01"),
        report_line(45, "16:20:02", "0000:c1:00"),
    ]

    (one,) = diagnosed(shipped, *lines)

    assert one.cause == "gpu_ecc"
