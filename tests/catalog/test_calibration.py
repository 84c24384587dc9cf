"""What confidence means: of real failures, those that are told as sure are right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from diagnose import offline
from diagnose.catalog import cache, load

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "corpus-dev.jsonl"
BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)

pytestmark = pytest.mark.skipif(not CORPUS.exists(), reason=f"the corpus of real failures is not here: {CORPUS}")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Diagnose each case as a user would hand it over; give case and incidents, the root cause first."""
    folder = tmp_path_factory.mktemp("cases")
    known = load.load()
    matcher = cache.matcher(known)
    cases = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines() if line.strip()]
    told = []
    for number, case in enumerate(cases):
        path = folder / f"{number}.log"
        path.write_text(case["log"] + "\n", encoding="utf-8")
        told.append((case, offline.diagnose([str(path)], knowledge=known, matcher=matcher).incidents))
    return told


def test_what_is_told_as_sure_is_right(answers, capsys):
    counts, right = Counter(), Counter()
    for case, incidents in answers:
        if not incidents or case["confidence"] == "low":
            continue
        first = incidents[0]
        place = max(one for one in BINS if first.confidence >= one)
        counts[place] += 1
        right[place] += first.cause in {case["expected"], *case["also"]}
    with capsys.disabled():
        print("\nconfidence  incidents  right")
        for place in sorted(counts):
            print(f"{place:>10.2f}  {counts[place]:>9}  {right[place]:>5}")
    sure = sum(counts[place] for place in counts if place >= 0.9)
    assert sum(right[place] for place in right if place >= 0.9) >= 0.97 * sure


def test_root_causes_are_named_and_healthy_logs_left_alone(answers):
    hits, wrong, missed = Counter(), Counter(), Counter()
    for case, incidents in answers:
        first = incidents[0].cause if incidents else "none"
        if case["expected"] == "none":
            assert not incidents, case["id"]
        elif case["confidence"] != "low":
            hits[case["expected"]] += first == case["expected"]
            missed[case["expected"]] += first != case["expected"]
            wrong[first] += first not in {case["expected"], *case["also"]}
    scores = [2 * hits[one] / (2 * hits[one] + wrong[one] + missed[one]) for one in hits]
    assert sum(scores) / len(scores) >= 0.95
