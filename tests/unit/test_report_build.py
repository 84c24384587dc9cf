from __future__ import annotations

import json
from datetime import timedelta

import pytest

from diagnose import testing
from diagnose.engine.templates import Template
from diagnose.model.incident import Entry, State
from diagnose.model.launch import Overlay
from diagnose.model.remedy import Advice, Risk, Rung
from diagnose.model.rule import Severity
from diagnose.report.build import Scanned, build, change_text, encode
from diagnose.testing import NOON, both, finding, incident, knowledge, plan, remedy, rule

SCANNED = Scanned(files=3, bytes=123, lines=45, seconds=0.02)
KINDS = (Template(template="odd <num>", count=4, sample="odd 7", source="workerlog.0", line=99),)


def report(*incidents, known=None, lang="en", unexplained=(), skipped=()):
    return build(
        target="default",
        generated_at=NOON,
        scanned=SCANNED,
        incidents=incidents,
        knowledge=known or knowledge(rule()),
        unexplained=unexplained,
        lang=lang,
        skipped=skipped,
    )


def cures(*incidents, known):
    return report(*incidents, known=known).incidents[0].remedies


def test_the_json_has_exactly_the_promised_keys():
    echo = finding("worker.launch", cause="worker_launch_failed")
    known = knowledge(rule(command="nvidia-smi"), remedy())

    told = json.loads(encode(report(incident(finding(), echo), known=known, unexplained=KINDS)))

    assert list(told) == ["schema", "generated_at", "target", "scanned", "incidents", "unexplained"]
    assert told["schema"] == "diagnose.report/1"
    assert told["generated_at"] == "2026-03-01T12:00:00Z"
    assert told["scanned"] == {"files": 3, "bytes": 123, "lines": 45, "seconds": 0.02}
    assert told["unexplained"] == [
        {"template": "odd <num>", "count": 4, "sample": "odd 7", "source": "workerlog.0", "line": 99}
    ]
    (one,) = told["incidents"]
    assert set(one) == {
        *("id", "target", "cause", "title", "severity", "confidence", "state", "attempt", "first_seen"),
        *("last_seen", "summary", "why", "fix", "evidence", "consequences", "remedies", "timeline"),
    }
    assert (one["cause"], one["severity"], one["state"]) == ("gpu_oom_load", "critical", "open")
    assert [set(piece) for piece in one["evidence"]] == [{"source", "line", "at", "text"}]
    assert [(echo["cause"], set(echo)) for echo in one["consequences"]] == [
        ("worker_launch_failed", {"cause", "evidence"})
    ]
    assert {frozenset(cure) for cure in one["remedies"]} == {
        frozenset({"id", "mode", "risk", "why", "change", "command"})
    }
    assert [set(event) for event in one["timeline"]] == [{"at", "event"}]


def test_a_healthy_log_gives_an_empty_list():
    assert json.loads(encode(report()))["incidents"] == []


def test_what_could_not_be_read_is_told():
    told = json.loads(encode(report(skipped=["a.gz: cut off in the middle"])))

    assert told["skipped"] == ["a.gz: cut off in the middle"]


def test_notes_stand_behind_all_else_and_the_engines_order_is_kept():
    def one(name, severity):
        return incident(finding(severity=severity), id=name)

    told = report(one("note", Severity.INFO), one("root", Severity.ERROR), one("second", Severity.CRITICAL))

    assert [each.id for each in told.incidents] == ["root", "second", "note"]


def test_the_summary_is_one_sentence_of_title_proof_and_state():
    (one,) = report(incident(finding(proof=["Out of memory"]))).incidents

    assert one.summary == ('Out of GPU memory while loading: log/workerlog.0:812 says "Out of memory"; open.')


def test_the_chinese_summary_reads_naturally():
    (one,) = report(incident(finding(proof=["Out of memory"])), lang="zh").incidents

    assert one.summary == "加载阶段显存不足：log/workerlog.0:812 显示“Out of memory”，尚未解决。"


def test_labels_are_filled_in_and_unknown_ones_left_out():
    known = knowledge(rule(title=both("GPU {gpu} is full ({size}) in {stage}.")))

    (one,) = report(incident(finding(labels={"gpu": "3\x1b[31m\n"})), known=known).incidents

    assert one.title == "GPU 3[31m is full in."


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("8188", "fuser -k 8188/tcp", id="a plain word"),
        pytest.param("1; rm -rf /", "fuser -k <port>/tcp", id="a shell's words stay out"),
        pytest.param("$(id)", "fuser -k <port>/tcp", id="an expansion stays out"),
        pytest.param("--all", "fuser -k <port>/tcp", id="an option stays out"),
        pytest.param("", "fuser -k <port>/tcp", id="nothing known"),
    ],
)
def test_text_of_logs_never_makes_a_command(value, expected):
    known = knowledge(rule(command="fuser -k {port}/tcp"))

    advice = cures(incident(finding(labels={"port": value})), known=known)[0]

    assert (advice.id, advice.command) == ("advice", expected)


def test_the_rules_advice_leads_then_its_own_remedies_then_the_gentlest():
    known = knowledge(
        rule(remedies=["b.preferred"]),
        remedy("z.gentle", risk=Risk.HARMLESS),
        remedy("a.harsh", risk=Risk.DESTRUCTIVE),
        remedy("b.preferred"),
        remedy("c.old", status="deprecated"),
        remedy("d.other", cures=["host_oom"]),
    )

    assert [one.id for one in cures(incident(), known=known)] == [*("advice", "b.preferred", "z.gentle", "a.harsh")]


def test_a_plan_shows_its_changes_sums_and_command_without_secrets():
    made = plan(
        ("--max-num-seqs", "32", "16"),
        ("--quantization", None, "wint4"),
        ("--enable-mtp", "", None),
        after=["server", "--api-key", "sk-1", "--auth-token=abc", "--max-num-batched-tokens", "64"],
        arithmetic=[both("60 + 8 < 70 GiB")],
    )

    cure = cures(incident(plan=made, held="approve", state=State.OPEN), known=knowledge(rule(), remedy()))[1]

    assert cure.change == ("--max-num-seqs 32 -> 16", "--quantization wint4", "- --enable-mtp")
    assert cure.why.endswith("60 + 8 < 70 GiB")
    assert cure.mode == "approve"
    assert cure.command == "server --api-key '***' '--auth-token=***' --max-num-batched-tokens 64"


def test_a_remedy_of_advice_shows_its_command():
    rung = Rung(rung=both("by hand"), steps=(Advice(text=both("reboot"), command="sudo reboot"),))

    assert cures(incident(), known=knowledge(rule(), remedy(ladder=[rung])))[1].command == "sudo reboot"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, "wint4", "--q wint4"),
        (None, "", "--q"),
        ("a", "b", "--q a -> b"),
        ("a", None, "- --q a"),
        ("", None, "- --q"),
    ],
)
def test_changes_are_spelled_as_on_the_command_line(before, after, expected):
    assert change_text(Overlay(flag="--q", before=before, after=after, incident_id="x", at=NOON)) == expected


def test_the_newest_starts_finding_proves_the_cause():
    older, newer = (finding(attempt=n, proof=[f"boom {n}"]) for n in (1, 2))

    (one,) = report(incident(older, newer)).incidents

    assert [piece.text for piece in one.evidence] == ["boom 2"]


def test_consequences_of_one_class_stand_together():
    late = [
        finding("x", cause="worker_crash", proof=["gone 1"]),
        finding("y", cause="nccl_comm", proof=["timeout"]),
        finding("z", cause="worker_crash", at=NOON + timedelta(seconds=1), proof=["gone 2"]),
    ]

    (one,) = report(incident(finding(), *late)).incidents

    assert [(echo.cause, [p.text for p in echo.evidence]) for echo in one.consequences] == [
        ("worker_crash", ["gone 1", "gone 2"]),
        ("nccl_comm", ["timeout"]),
    ]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_failure_that_no_rule_knows_still_says_what_to_do(lang):
    odd = incident(finding("unknown", cause="unknown", proof=["WeirdError: 7"]))

    (one,) = report(odd, lang=lang).incidents

    assert one.title and one.why and one.fix  # noqa: PT018 - one promise
    assert "WeirdError: 7" in one.summary


def test_the_timeline_is_in_the_readers_language():
    entries = [Entry(at=NOON, kind="settled", params={"cause": "gpu_oom_load"})]

    assert report(incident(timeline=entries), lang="zh").incidents[0].timeline[0].event == (
        "根因已确定：加载阶段显存不足"
    )


def test_undecodable_names_do_not_break_the_json():
    odd = incident(finding(proof=[testing.evidence("x \udcff", source="log/\udce9")]))

    assert json.loads(encode(report(odd)))["incidents"][0]["evidence"][0]["source"] == "log/?"
