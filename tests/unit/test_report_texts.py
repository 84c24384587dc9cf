from __future__ import annotations

import pytest

from diagnose.model.incident import Entry, State
from diagnose.report.clean import fill, stripped, visible
from diagnose.report.texts import EVENTS, HOLDS, STATES, cause_name, entry_text, hold_text
from diagnose.testing import NOON


def told(kind, lang="en", **params):
    return entry_text(Entry(at=NOON, kind=kind, params=params), lang)


def test_a_step_is_told_in_the_readers_language_and_an_error_in_its_own_words():
    done = {"action": "ipc.clean", "ok": "true", "text": "removed 2 leftovers", "text_zh": "已清理 2 项残留"}
    assert told("step", "en", **done) == "step ipc.clean: removed 2 leftovers"
    assert told("step", "zh", **done) == "步骤 ipc.clean：已清理 2 项残留"
    assert told("step", "zh", **{**done, "ok": "false", "text": "no room", "text_zh": ""}).endswith("no room")


@pytest.mark.parametrize(
    ("kind", "params", "en", "zh"),
    [
        (
            "opened",
            {"cause": "host_oom", "rule": "x"},
            "first sign: Out of host memory",
            "首次发现：主机内存不足",
        ),
        (
            "cause",
            {"cause": "host_oom", "before": "worker_crash"},
            "root cause is now: Out of host memory (was: A worker crashed)",
            "根因更正为：主机内存不足（此前：工作进程崩溃）",
        ),
        (
            "acting",
            {"remedy": "r", "rung": "1", "change": "--a 1 -> 2"},
            "carrying out r, rung 1: --a 1 -> 2",
            "执行 r 第 1 级：--a 1 -> 2",
        ),
        (
            "acting",
            {"remedy": "r", "rung": "1", "change": ""},
            "carrying out r, rung 1",
            "执行 r 第 1 级",
        ),
        (
            "step",
            {"action": "ipc.clean", "text": "2 removed", "ok": "true"},
            "step ipc.clean: 2 removed",
            "步骤 ipc.clean：2 removed",
        ),
        (
            "step",
            {"action": "ipc.clean", "text": "denied", "ok": "false"},
            "step ipc.clean failed: denied",
            "步骤 ipc.clean 失败：denied",
        ),
        ("failed", {"why": "late"}, "that did not help: it was not ready in time", None),
        ("failed", {"why": "spawn: ENOENT"}, "that did not help: spawn: ENOENT", None),
        ("cleared", {"why": "quiet"}, None, "未经处置自行恢复：足够长时间内未再出现"),
        ("held", {"reason": "approve", "until": ""}, "waits: a person has to approve the plan", None),
        ("moonwalk", {"a": "1", "b": ""}, "moonwalk: a=1", "moonwalk: a=1"),
        ("moonwalk", {}, "moonwalk", "moonwalk"),
    ],
)
def test_entries_become_sentences(kind, params, en, zh):
    assert en is None or told(kind, **params) == en
    assert zh is None or told(kind, "zh", **params) == zh


def test_every_state_kind_and_reason_has_words_in_both_languages():
    assert set(STATES) == set(State)
    for table in (STATES, EVENTS, HOLDS):
        assert all(text.en != text.zh for text in table.values())


@pytest.mark.parametrize("reason", HOLDS)
def test_a_hold_says_why_and_until_when(reason):
    until = hold_text(reason, {"until": NOON.isoformat(), "detail": "3/15m"}, "zh")

    assert until.endswith("（至少到 2026-03-01 12:00:00 UTC）")
    assert "{" not in until


@pytest.mark.parametrize(
    ("alias", "reason"),
    [("not-fresh", "stale"), ("no-remedy", "advice"), ("needs-approval", "approve")],
)
def test_other_names_of_a_reason_are_understood(alias, reason):
    assert hold_text(alias, {}, "en") == hold_text(reason, {}, "en")


def test_unknown_words_are_shown_as_they_are():
    assert hold_text("full-moon", {"until": "later"}, "en") == "full-moon (until later at least)"
    assert cause_name("of_a_later_version", "zh") == "of_a_later_version"


def test_control_characters_never_come_through():
    assert told("moonwalk", a="x\x1b[31m\n\u202ey") == "moonwalk: a=x[31m y"
    assert visible("a\tb\x00\u2028\ud800é 中\u3000") == "a   b\\x00\\u2028\\ud800é 中\u3000"
    assert stripped("x" * 500) == "x" * 119 + "…"
    assert fill("a {b}{c}", {"b": "{c}", "c": "1"}) == "a {c}1"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("rank {x} {y} died", "rank died"),
        ("rank {x}, {y}", "rank,"),
        ("{x} died", "died"),
        ("died （{x}）。", "died。"),
        ("see ss -l 'sport = :{port}' && ls . ({x})", "see ss -l 'sport = :80' && ls ."),
    ],
)
def test_a_place_without_a_label_is_left_out_and_nothing_else_is_touched(text, filled):
    assert fill(text, {"port": "80"}) == filled
