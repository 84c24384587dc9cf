"""A week in numbers, for the morning's meeting."""

from __future__ import annotations

import io
from datetime import timedelta

import msgspec
import pytest
from rich.console import Console

from diagnose.model.incident import Entry, State, Try
from diagnose.model.mark import Mark
from diagnose.model.rule import Severity
from diagnose.report import markdown, page, terminal, words
from diagnose.report.build import Scanned, build, encode
from diagnose.report.period import Times, Tried, summarize
from diagnose.testing import NOON, finding, incident, knowledge

WEEK = NOON + timedelta(days=7)


def trouble(name, *, detect=2, repair=60, state=State.RESOLVED, cause="gpu_oom_load", rule="gpu.oom.load", results=()):
    opened = NOON + timedelta(seconds=detect)
    tries = [
        Try(intent_id=str(n), remedy_id="server.fit-memory", rung=n, at=opened, result=result)
        for n, result in enumerate(results)
    ]
    timeline = [
        Entry(at=opened, kind="opened", params={"cause": cause}),
        Entry(at=opened + timedelta(seconds=repair), kind="resolved"),
    ]
    return incident(finding(rule, cause=cause), id=name, state=state, timeline=timeline, tries=tries)


FOUND = [
    trouble("a", results=("failed", "kept")),
    trouble("b", detect=4, repair=120, results=("kept",)),
    trouble("c", detect=-3600, repair=600, cause="queue_timeout", rule="noisy"),
    trouble("d", cause="queue_timeout", rule="noisy"),
    trouble("e", cause="queue_timeout", rule="noisy"),
    trouble("f", state=State.OPEN, cause="worker_crash", rule="crash"),
]


def test_a_week_is_told_by_cause_time_remedy_and_noise():
    period = summarize(FOUND, since=NOON, until=WEEK)
    assert (period.incidents, period.open) == (6, 1)
    assert period.causes == (("queue_timeout", 3), ("gpu_oom_load", 2), ("worker_crash", 1))
    assert period.detected == Times(count=5, median=2.0, most=4.0), "a log with another clock is not measured"
    assert period.repaired == Times(count=5, median=60.0, most=600.0), "what is open is not repaired"
    assert period.remedies == (Tried(remedy="server.fit-memory", count=3, kept=2),)
    assert period.noisy == (("noisy", 3),)


def test_notes_do_not_count_and_nothing_is_no_period():
    note = msgspec.structs.replace(trouble("n"), severity=Severity.INFO)
    assert summarize([note], since=NOON, until=WEEK) is None
    assert summarize([], since=None, until=WEEK) is None


def test_without_a_beginning_the_first_trouble_is_it():
    assert summarize(FOUND, since=None, until=WEEK).since == NOON


def test_what_people_say_of_diagnoses_is_counted_and_names_the_rules_that_were_wrong():
    right, wrong = (Mark(by="mei", at=WEEK, verdict=verdict) for verdict in ("right", "wrong"))
    period = summarize(FOUND, since=NOON, until=WEEK, marks={"a": right, "c": wrong, "d": wrong, "gone": wrong})
    assert (period.right, period.wrong, period.mistaken) == (1, 2, (("noisy", 2),))
    for lang, told, rule in (
        ("en", ("diagnoses marked by people", "1 right, 2 wrong"), "marked wrong: 2; look at the rule"),
        ("zh", ("人工标记的诊断", "正确 1 次，有误 2 次"), "被标记有误 2 次，建议检查该规则"),
    ):
        rows = words.period_rows(period, lang)
        assert told in rows
        assert ("noisy", rule) in rows
    assert "diagnoses marked by people" not in dict(words.period_rows(summarize(FOUND, since=NOON, until=WEEK), "en"))


@pytest.mark.parametrize(
    ("lang", "told"),
    [
        ("en", "diagnosis marked wrong by mei, it was: GPU memory held by other processes: a notebook"),
        ("zh", "mei 标记诊断有误，实际原因：显存被其他进程占用: a notebook"),
    ],
)
def test_a_mark_stands_with_its_incident_in_every_format(lang, told):
    mark = Mark(by="mei", at=WEEK, verdict="wrong", cause="gpu_memory_taken", note="a notebook\x1b[2J <b>")
    made = build(
        target="default", generated_at=WEEK, scanned=Scanned(), incidents=[trouble("a", state=State.OPEN)],
        knowledge=knowledge(), unexplained=(), lang=lang, marks={"a": mark},
    )  # fmt: skip
    assert '"verdict": "wrong"' in encode(made)
    for text in (markdown.render(made, lang=lang), page.render(made, lang=lang), shown(made, lang)):
        assert told in text
        assert "\x1b" not in text
    assert "<b>" not in page.render(made, lang=lang)


def shown(report, lang):
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(terminal.render(report, lang=lang, width=200))
    return console.file.getvalue()


def test_the_period_stands_in_every_format():
    made = {
        lang: build(
            target="default", generated_at=WEEK, scanned=Scanned(), incidents=FOUND, knowledge=knowledge(),
            unexplained=(), lang=lang, period=summarize(FOUND, since=NOON, until=WEEK),
        )
        for lang in ("en", "zh")
    }  # fmt: skip
    assert '"noisy"' in encode(made["en"])
    assert "| server.fit-memory | 3 times, kept 2 |" in markdown.render(made["en"], lang="en")
    assert "执行 3 次，保留 2 次" in page.render(made["zh"], lang="zh")
    assert ("from there to the end", "median 1m, longest 10m") in words.period_rows(made["en"].period, "en")
