"""One root cause: who explains whom."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from diagnose.engine import correlate
from diagnose.model import codec
from diagnose.model.finding import Evidence, Finding
from diagnose.model.knowledge import Knowledge
from diagnose.model.rule import Rule, Severity

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
TEXT = {"en": "x", "zh": "x"}
EXPLAINS = {
    "gpu_oom_load": ["worker_launch_failed", "hang_on_load"],
    "worker_launch_failed": ["hang_on_load", "upstream_unreachable"],
    "hang_on_load": [],
    "upstream_unreachable": [],
    "port_in_use": ["worker_launch_failed"],
    "client_error": [],
}


def _rule(cause):
    return codec.convert(
        {
            "id": f"rule.{cause}",
            "cause": cause,
            "title": TEXT,
            "why": TEXT,
            "fix": TEXT,
            "when": {"pattern": "x"},
            "clears": {"ready": True},
            "explains": EXPLAINS[cause],
            "tests": {"hits": [], "misses": []},
        },
        Rule,
    )


KNOWLEDGE = Knowledge(
    rules={f"rule.{cause}": _rule(cause) for cause in EXPLAINS}, remedies={}, marks={}, digest="correlate"
)


def seen(cause, seconds=0.0, *, confidence=0.9, severity=Severity.CRITICAL, source="log"):
    at = NOON + timedelta(seconds=seconds)
    return Finding(
        rule_id=f"rule.{cause}",
        cause=cause,
        target="t",
        attempt=1,
        at=at,
        last_at=at,
        severity=severity,
        confidence=confidence,
        labels={},
        evidence=(Evidence(source=source, line=1, at=at, text=cause),),
    )


def roots(*findings):
    return [group.lead.cause for group in correlate.group(findings, KNOWLEDGE)]


def test_the_deepest_cause_leads_and_its_echoes_stand_behind_it():
    findings = [seen("hang_on_load", 9), seen("worker_launch_failed", 5), seen("gpu_oom_load", 0)]
    (group,) = correlate.group(findings, KNOWLEDGE)
    assert [one.cause for one in group.findings] == ["gpu_oom_load", "worker_launch_failed", "hang_on_load"]


def test_an_echo_of_an_echo_belongs_to_the_first_cause():
    assert roots(seen("upstream_unreachable", 60), seen("worker_launch_failed", 5), seen("gpu_oom_load")) == [
        "gpu_oom_load"
    ]


def test_what_came_long_before_its_cause_is_no_echo():
    assert roots(seen("worker_launch_failed", 0), seen("gpu_oom_load", 400)) == [
        "worker_launch_failed",
        "gpu_oom_load",
    ]


def test_files_written_late_may_tell_the_echo_first():
    assert roots(seen("worker_launch_failed", 0), seen("gpu_oom_load", 60)) == ["gpu_oom_load"]


def test_quiet_of_minutes_makes_two_troubles():
    groups = correlate.group([seen("gpu_oom_load", 0), seen("gpu_oom_load", 3600)], KNOWLEDGE)
    assert len(groups) == 2


def test_a_hint_beside_a_sure_cause_is_no_trouble_of_its_own():
    assert roots(seen("gpu_oom_load"), seen("upstream_unreachable", confidence=0.5)) == ["gpu_oom_load"]


def test_wrong_requests_never_lead():
    wrong = seen("client_error", 0, confidence=0.99, severity=Severity.INFO)
    assert roots(wrong, seen("hang_on_load", 5, confidence=0.5))[0] == "hang_on_load"


def test_two_causes_that_do_not_explain_each_other_are_two_troubles_the_surer_first():
    assert roots(seen("port_in_use", 5, confidence=0.97), seen("gpu_oom_load", 0)) == [
        "port_in_use",
        "gpu_oom_load",
    ]


def test_repeats_are_counted_and_the_first_proof_stays():
    (finding,) = correlate.merge([seen("gpu_oom_load", at) for at in range(50)], KNOWLEDGE)
    assert finding.count == 50
    assert finding.evidence[0].at == NOON
    assert len(finding.evidence) <= 20


CAUSES = st.sampled_from(sorted(EXPLAINS))


def test_a_hint_that_only_says_of_a_line_what_a_surer_rule_says_is_left_out():
    sure = seen("gpu_oom_load")
    vague = replace(seen("hang_on_load", confidence=0.3), evidence=sure.evidence)
    (group,) = correlate.group([sure, vague], KNOWLEDGE)
    assert [one.cause for one in group.findings] == ["gpu_oom_load"]


@given(st.lists(st.tuples(CAUSES, st.integers(0, 2000), st.floats(0.3, 1.0)), min_size=1, max_size=12))
def test_every_finding_is_in_exactly_one_trouble_and_nobody_leads_whom_its_own_trouble_explains(raw):
    findings = [seen(cause, at, confidence=sure) for cause, at, sure in raw]
    groups = correlate.group(findings, KNOWLEDGE)
    told = sum(finding.count for group in groups for finding in group.findings)
    assert told == len(findings)
    for group in groups:
        assert not any(correlate.explains(one, group.lead, KNOWLEDGE) for one in group.findings)


@given(st.lists(st.tuples(CAUSES, st.integers(0, 500)), min_size=1, max_size=8), st.randoms())
def test_the_order_in_which_files_are_read_does_not_matter(raw, random):
    findings = [seen(cause, at) for cause, at in raw]
    shuffled = list(findings)
    random.shuffle(shuffled)
    assert roots(*findings) == roots(*shuffled)
