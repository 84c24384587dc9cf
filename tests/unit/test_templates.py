from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.engine.templates import Miner, is_frame, mask, mine
from diagnose.model.observation import Hit, LogMatch

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def line(text, number=1, block=()):
    return LogMatch(
        target="default",
        source="log/workerlog.0",
        stream="worker",
        line=number,
        at=NOON,
        dated=True,
        attempt=1,
        text=text,
        level="ERROR",
        hits=(Hit("@error", 0),),
        block=block,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("took 15.5GB of 80 GiB", "took <num> of <num> GiB", id="numbers and units"),
        pytest.param("at 0x7ffd12 in 9f86d081884c7d659a2f", "at <hex> in <hex>", id="hex"),
        pytest.param("id 123e4567-e89b-12d3-a456-426614174000 x", "id <uuid> x", id="uuid"),
        pytest.param("open /data/model-1/a.bin failed", "open <path> failed", id="path"),
        pytest.param("peer 10.0.0.7:51122 gone", "peer <ip> gone", id="address and port"),
        pytest.param("GET http://host:80/a/b?q=1 failed", "GET <url> failed", id="url"),
        pytest.param("KeyError: 'lm head' in \"a b\"", "KeyError: <str> in <str>", id="quoted strings"),
        pytest.param("can't find what isn't there", "can't find what isn't there", id="apostrophes"),
        pytest.param("fp16 on cuda graph layer12", "fp16 on cuda graph layer12", id="names with digits"),
        pytest.param(
            "[2025-12-04 18:18:17,261] [   ERROR] trainer.py:33 - boom 7",
            "trainer.py:<num> - boom <num>",
            id="the logger's head goes",
        ),
        pytest.param("权重 12 加载失败", "权重 <num> 加载失败", id="Chinese"),
    ],
)
def test_what_varies_is_masked(text, expected):
    assert mask(text) == expected


def test_lines_of_one_kind_become_one_template_with_the_first_as_sample():
    found = mine([line(f"rank {rank} lost its shard", rank) for rank in (7, 8, 9)])

    assert [(one.template, one.count, one.sample, one.line) for one in found] == [
        ("rank <num> lost its shard", 3, "rank 7 lost its shard", 7)
    ]


def test_words_that_differ_behind_the_first_become_wildcards():
    found = mine([line(f"broken shard {name} of rank 3", 1) for name in ("alpha", "beta")])

    assert [(one.template, one.count) for one in found] == [("broken shard <*> of rank <num>", 2)]


def test_unlike_lines_stay_apart():
    found = mine([line("scheduler lost its queue"), line("tokenizer has no vocabulary")])

    assert [one.count for one in found] == [1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):",
        '  File "/opt/worker.py", line 12, in main',
        "    ^^^^^^^^",
        "During handling of the above exception, another exception occurred:",
    ],
)
def test_frames_of_a_traceback_do_not_count(text):
    assert is_frame(text)
    assert mine([line(text)]) == ()


def test_the_exception_that_ended_a_traceback_leads_over_noise():
    noise = [line(f"retry {number} of the pool", number) for number in range(9)]
    end = line("WeirdError: gone", 99, block=("Traceback (most recent call last):", "WeirdError: gone"))

    assert [one.sample for one in mine([*noise, end])] == ["WeirdError: gone", "retry 0 of the pool"]


def test_the_least_recently_used_template_goes():
    miner = Miner(most=2)
    for text in ("alpha is lost", "beta was found here", "alpha is lost", "gamma never came to us"):
        miner.feed(line(text))

    assert {one.sample for one in miner.templates()} == {"alpha is lost", "gamma never came to us"}
    assert miner.forgotten == 1


WORDS = st.sampled_from(["load", "fails", "rank", "7", "0x1f", "/a/b", "'x'", "KeyError:", "10.0.0.1", "词"])
LINES = st.lists(st.lists(WORDS, max_size=6).map(" ".join) | st.text(max_size=80), max_size=60)


@given(LINES)
def test_no_line_is_lost_or_counted_twice(texts):
    fed = [line(text) for text in texts if not is_frame(text)]

    assert sum(one.count for one in mine(fed)) == len(fed)


@given(LINES.flatmap(lambda texts: st.tuples(st.just(texts), st.permutations(texts))))
def test_the_order_of_feeding_does_not_lose_counts(both):
    one, other = ([line(text) for text in texts] for texts in both)

    assert sum(t.count for t in mine(one)) == sum(t.count for t in mine(other))


@given(LINES, st.integers(min_value=1, max_value=5))
def test_the_bound_holds_and_what_went_is_counted(texts, most):
    miner = Miner(most)
    taken = sum(miner.feed(line(text)) for text in texts)

    assert len(miner.templates()) <= most
    assert sum(one.count for one in miner.templates()) + miner.forgotten == taken
