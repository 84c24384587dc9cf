"""Faults end to end, in real processes: found, rightly named, cured; and healthy servers are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios import runner
from tests.scenarios.fault_cases import FAULTS, HEALTHY
from tests.scenarios.runner import Result

pytestmark = pytest.mark.timeout(1800)

FOUND, NAMED, CURED = 0.98, 0.95, 0.80


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """Play what is to be played, two at a time, and print the table."""
    played = runner.play_all(runner.chosen(), Path(tmp_path_factory.mktemp("scenarios")))
    print(f"\n{runner.table(played)}\n\n{runner.summary(played)}")
    return played


def of(results: list[Result], *ends: str) -> list[Result]:
    return [one for one in results if one.case.end in ends]


def told(results: list[Result]) -> str:
    return "\n".join(f"{runner.table([one])}\n{one.words}" for one in results)


def test_at_least_25_distinct_faults_are_played_each_era_has_half_of_them_and_healthy_servers_are_there_too():
    played = runner.chosen()
    faults = {case.name for case in FAULTS}
    assert {case.name for case in played} >= faults | {case.name for case in HEALTHY}
    assert len(faults) >= 25
    assert len({case.name for case in HEALTHY}) >= 6
    for era in ("2.4", "2.6"):
        assert 2 * sum(case.era == era for case in played) >= len(played) - 2  # some know one era only


def test_nearly_all_faults_are_found(results: list[Result]):
    missed = [one for one in results if one.case.end != "calm" and not one.found]
    assert runner.shares(results)["found"] >= FOUND, told(missed)


def test_nearly_all_faults_are_rightly_named(results: list[Result]):
    wrong = [one for one in results if one.case.end != "calm" and not one.named]
    assert runner.shares(results)["named"] >= NAMED, told(wrong)


def test_most_of_what_can_be_cured_is_cured_without_a_person(results: list[Result]):
    ill = [one for one in of(results, "cured") if not one.cured]
    assert runner.shares(results)["cured"] >= CURED, told(ill)


def test_healthy_servers_are_left_alone(results: list[Result]):
    disturbed = [one for one in of(results, "calm") if one.acts or one.end != "calm"]
    assert not disturbed, told(disturbed)


def test_what_only_a_person_may_mend_is_shown_and_not_tried(results: list[Result]):
    tried = [one for one in of(results, "advice", "approve") if one.acts]
    assert not tried, told(tried)
    hidden = [one for one in of(results, "advice", "exhausted") if one.end != one.case.end]
    assert not hidden, told(hidden)


def test_the_change_that_a_person_is_asked_for_is_the_one_that_helps(results: list[Result]):
    asked = of(results, "approve")
    right = [one for one in asked if one.end == "approve" and one.planned]
    assert len(right) >= CURED * len(asked), told([one for one in asked if one not in right])
