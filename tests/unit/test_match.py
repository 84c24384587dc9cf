"""From bytes to matched lines: both engines, and the plain way of trying each pattern on each line, agree."""

from __future__ import annotations

import re
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.engine.match import Carry, Matcher
from diagnose.engine.scan import loosened, scanner
from diagnose.model.knowledge import Knowledge, Mark
from diagnose.model.observation import LogLines
from diagnose.model.rule import CLEARING_LEAF, Clears, Rule, RuleTests, When
from diagnose.model.text import Text

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
SOME = Text(en="a", zh="b")
BOTH = ["hyperscan", "re2"]
OOM = "Out of memory error on GPU 3. Cannot allocate 2.5GB memory"


def rule(name, when, **fields):
    fields = {"clears": Clears(ready=True), **fields}
    return Rule(
        id=name,
        cause="unknown",
        title=SOME,
        why=SOME,
        fix=SOME,
        when=when,
        tests=RuleTests(hits=(), misses=()),
        **fields,
    )


def known(*rules, marks=None):
    return Knowledge(rules={one.id: one for one in rules}, remedies={}, marks=marks or {}, digest="test")


KNOWN = known(
    rule("oom", When(pattern=r"Out of memory error on GPU (?P<gpu>\d+)\. Cannot allocate (?P<size>\S+) memory")),
    rule("start", When(pattern=r"^begins here")),
    rule("end", When(pattern=r"ends there$")),
    rule("spaces", When(pattern=r"one\s+two")),
    rule("not-x", When(pattern=r"left[^x]right")),
    rule("any", When(pattern=r"don.t do that")),
    rule("tail", When(pattern=r"failed: (?P<why>.+)")),
    rule("open", When(pattern=r"opened .*")),
    rule("caseless", When(pattern=r"(?i)port (?:already )?in use")),
    rule("chinese", When(pattern=r"显存不足.{0,3}退出")),
    rule("either", When(any=(When(pattern="tick tick"), When(pattern="tock tock")))),
    rule("boundary", When(pattern=r"\bkilled\b")),
    rule("unless", When(pattern="Connection reset", unless="by client")),
    rule("ended", When(pattern="never seen"), clears=Clears(pattern="all is well")),
)
MATCHERS = {engine: Matcher(KNOWN, engine=engine) for engine in BOTH}


def lines_of(text, *, stream="worker", **fields):
    data = text if isinstance(text, bytes) else text.encode()
    fields = {"target": "t", "source": "workerlog.0", "first_line": 1, "read_at": NOON, **fields}
    return LogLines(stream=stream, data=data, **fields)


def scan(text, *, matcher=MATCHERS["hyperscan"], carry=None, **fields):
    return matcher.scan(lines_of(text, **fields), carry or Carry())[0]


def found(matches):
    return {(one.line, hit.rule_id, hit.leaf) for one in matches for hit in one.hits if not hit.rule_id.startswith("@")}


def plainly(text):
    """Try each pattern on each line with Python's own engine; for lines that are their own message."""

    def search(pattern, text):
        return re.search(pattern, text, re.ASCII)

    told = set()
    for number, line in enumerate(re.split(r"\n", text), start=1):
        pieces = line.split("\r")
        for one in KNOWN.rules.values():
            leaves = [one.when] if one.when.pattern else one.when.any
            for leaf, when in enumerate(leaves):
                for piece in pieces:
                    if search(when.pattern, piece) and not (when.unless and search(when.unless, piece)):
                        told.add((number, one.id, leaf))
            if one.clears.pattern and any(search(one.clears.pattern, piece) for piece in pieces):
                told.add((number, one.id, CLEARING_LEAF))
    return told


WORDS = st.sampled_from(
    [
        OOM,
        "begins here",
        "ends there",
        "one",
        "two",
        "left right",
        "left甲right",
        "leftxright",
        "don't do that",
        "don\u2019t do that",
        "failed: ",
        "opened ",
        "Port In Use",
        "显存不足，，退出",
        "tick tick",
        "tock tock",
        "killed",
        "overkilled",
        "Connection reset",
        "by client",
        "all is well",
        " ",
        "\t",
        "\r",
        "\n",
        "\n\n",
        "é",
        "$1",
    ]
)


@given(st.lists(WORDS, max_size=40))
def test_both_engines_find_what_trying_each_pattern_on_each_line_finds(words):
    text = "".join(words)
    expected = plainly(text)

    assert found(scan(text, matcher=MATCHERS["hyperscan"])) == expected
    assert found(scan(text, matcher=MATCHERS["re2"])) == expected


@given(
    st.lists(
        st.sampled_from([OOM.encode(), b"tick tick", b"\xff", b"\xe6\x98", b"\x00", b"\x1b[31m", b"\n", b"\r", b" "])
    )
)
def test_both_engines_agree_on_any_bytes(parts):
    data = b"".join(parts)
    first, second = (scan(data, matcher=MATCHERS[engine]) for engine in BOTH)

    assert [(one.line, one.text, one.hits) for one in first] == [(one.line, one.text, one.hits) for one in second]


@given(st.lists(WORDS, max_size=30), st.lists(st.integers(min_value=0, max_value=60)))
def test_pieces_of_a_file_give_the_same_lines_as_the_whole(words, cuts):
    rows = "".join(words).split("\n")
    whole = scan("\n".join(rows))
    carry, told, at = Carry(), [], 0
    for cut in [*sorted(cut for cut in cuts if cut < len(rows)), len(rows)]:
        if cut > at:
            data = "".join(f"{row}\n" for row in rows[at:cut])
            matches, carry = MATCHERS["hyperscan"].scan(lines_of(data, first_line=at + 1), carry)
            told += matches
            at = cut

    assert [(one.line, one.text, one.hits) for one in told] == [(one.line, one.text, one.hits) for one in whole]


def test_named_groups_become_labels():
    (match,) = scan(f"some line\n{OOM}\n", first_line=100)

    assert match.line == 101
    assert [(hit.rule_id, hit.labels) for hit in match.hits] == [("oom", {"gpu": "3", "size": "2.5GB"})]


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(f"{OOM}\r\n", OOM, id="CRLF"),
        pytest.param(OOM, OOM, id="no line end"),
        pytest.param(f"\x1b[31mOut of \x1b[1mmemory\x1b[0m{OOM[13:]}\n", OOM, id="colours within"),
        pytest.param(f"\0\0\0{OOM[:20]}\0{OOM[20:]}\n", OOM, id="NUL"),
        pytest.param(b"\xff\xfe " + OOM.encode() + b" \xe6", f"\ufffd\ufffd {OOM} \ufffd", id="not UTF-8"),
        pytest.param(f" 10%|# | 1/9\r{OOM}\r 20%|## | 2/9\n", OOM, id="between progress bars"),
        pytest.param(f"{'x' * 200}\r{OOM}\r{'y' * 300}\n", OOM, id="a short piece between long ones"),
        pytest.param(f"Sep  2 10:15:03 h fd[7]: begins#012{OOM}#012ends", OOM, id="joined by syslog"),
        pytest.param(f"fd-1  | (EngineCore pid=7) {OOM}\n", OOM, id="carried"),
    ],
)
def test_a_line_is_found_and_shown_as_people_read_it(engine, data, text):
    (match,) = scan(data, matcher=MATCHERS[engine])

    assert [hit.rule_id for hit in match.hits] == ["oom"]
    assert match.text == text


def test_a_line_of_a_megabyte_is_shown_around_the_hit():
    (match,) = scan(f"{'x' * 30_000} {OOM} {'y' * 1_000_000}\nnext\n")

    assert OOM in match.text
    assert len(match.text) <= 4096


def test_a_line_of_a_megabyte_does_not_hide_the_next():
    matches = scan(f"{'x' * 1_000_000}\n{OOM}\n")

    assert [one.line for one in matches] == [2]


@pytest.mark.parametrize("engine", BOTH)
def test_a_match_never_crosses_lines(engine):
    matches = scan("one\ntwo\none  \n  two\none two\n", matcher=MATCHERS[engine])

    assert [one.line for one in matches] == [5]


@pytest.mark.parametrize(
    ("prefix", "hit"),
    [
        pytest.param("", True, id="bare"),
        pytest.param("INFO     2025-09-02 10:15:03,118 41772 engine.py[line:211] ", True, id="behind a prefix"),
        pytest.param("INFO     2025-09-02 10:15:03,118 41772 engine.py[line:211] it ", False, id="within a message"),
    ],
)
def test_a_caret_is_the_start_of_the_message(prefix, hit):
    assert bool(scan(f"{prefix}begins here")) is hit


def test_a_pattern_may_name_what_stands_before_the_message():
    knowledge = known(rule("named", When(pattern=r"engine\.py\[line:\d+\] it (?:broke|fell)")))

    (match,) = scan("ERROR    2025-09-02 10:15:03,118 7 engine.py[line:2] it fell", matcher=Matcher(knowledge))

    assert "named" in {hit.rule_id for hit in match.hits}


@pytest.mark.parametrize(
    ("levels", "line", "hit"),
    [
        pytest.param(("ERROR",), "LAUNCH ERROR 2025-10-21 11:09:40,812 it broke", True, id="the level asked for"),
        pytest.param(("ERROR",), "LAUNCH INFO 2025-10-21 11:09:40,812 it broke", False, id="another"),
        pytest.param(("ERROR",), "it broke", True, id="none told"),
        pytest.param(("WARNING",), "W1021 11:07:22.496299 63891 a.cc:1] it broke", True, id="spelt otherwise"),
    ],
)
def test_levels_bind_a_pattern(levels, line, hit):
    matcher = Matcher(known(rule("r", When(pattern="it broke", levels=levels))))

    assert ("r" in {hit.rule_id for one in scan(line, matcher=matcher) for hit in one.hits}) is hit


@pytest.mark.parametrize(
    ("streams", "stream", "hit"),
    [
        pytest.param((), "worker", True, id="any"),
        pytest.param((), "data", False, id="any but the users' own text"),
        pytest.param(("data",), "data", True, id="asked for"),
        pytest.param(("worker",), "kernel", False, id="another"),
        pytest.param(("worker",), "unknown", True, id="nobody knows which"),
    ],
)
def test_streams_bind_a_pattern(streams, stream, hit):
    matcher = Matcher(known(rule("r", When(pattern="it broke", streams=streams))))

    line = "ERROR    2025-09-02 10:15:03,118 7 engine.py[line:2] it broke"
    assert ("r" in {hit.rule_id for one in scan(line, matcher=matcher, stream=stream) for hit in one.hits}) is hit


DATED = "INFO     2025-09-02 10:15:03,000 7 engine.py[line:2] working"
AT = datetime(2025, 9, 2, 10, 15, 3, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        pytest.param(
            f"LAUNCH ERROR 2025-10-21 11:09:40,000 {OOM}",
            AT.replace(month=10, day=21, hour=11, minute=9, second=40),
            id="its own",
        ),
        pytest.param(f"{DATED}\nbare\nbare\n{OOM}", AT, id="above"),
        pytest.param(f"{DATED}\nINFO:     no date here\n{OOM}", AT, id="above a record without date"),
        pytest.param(f"{OOM}\nbare\n{DATED}", AT, id="below"),
        pytest.param(f"bare\n{OOM}\nbare", None, id="nowhere"),
        pytest.param(f"{DATED}\n" + "bare\n" * 500 + OOM, None, id="too far above"),
    ],
)
def test_a_line_without_date_takes_the_nearest(text, at):
    (match,) = scan(text)

    assert (match.at, match.dated) == ((at, True) if at else (NOON, False))


def test_a_date_is_carried_into_the_next_piece():
    _, carry = MATCHERS["hyperscan"].scan(lines_of(f"{DATED}\n"), Carry())

    (match,) = scan(f"{OOM}\n", carry=carry, first_line=2)

    assert (match.at, match.dated, match.line) == (AT, True, 2)


def test_a_start_mark_begins_a_new_attempt():
    marks = {"@start": Mark(pattern="Modified FLAGS detected"), "@ready": Mark(pattern="now ready")}
    matcher = Matcher(known(*KNOWN.rules.values(), marks=marks))
    text = f"{OOM}\nModified FLAGS detected\nnow ready\nnow ready\n{OOM}\nModified FLAGS detected\nnow ready\n"

    told = [(one.line, one.hits[0].rule_id, one.attempt) for one in scan(text, matcher=matcher)]

    assert told == [
        (1, "oom", 1),
        (2, "@start", 2),
        (3, "@ready", 2),
        (5, "oom", 2),
        (6, "@start", 3),
        (7, "@ready", 3),
    ]


def test_where_launches_are_counted_the_marks_do_not_count():
    matcher = Matcher(known(*KNOWN.rules.values(), marks={"@start": Mark(pattern="Modified FLAGS detected")}))

    told = [one.attempt for one in scan(f"Modified FLAGS detected\n{OOM}", matcher=matcher, generation=7)]

    assert told == [7, 7]


TRACEBACK = """Traceback (most recent call last):
  File "worker.py", line 3, in main
    load()
ValueError: weights differ"""
CHAINED = f"""{TRACEBACK}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "worker.py", line 9, in main
    give_up()
RuntimeError: gave up"""
PADDLE = f"""Traceback (most recent call last):
  File "worker.py", line 3, in main
    load()
MemoryError:

--------------------------------------
C++ Traceback (most recent call last):
--------------------------------------
0   paddle::memory::Alloc(phi::Place const&, unsigned long)
1   common::enforce::GetCurrentTraceBackString()

----------------------
Error Message Summary:
----------------------
ResourceExhaustedError:

{OOM}"""


def unexplained(text, **fields):
    matches = scan(text, **fields)
    return [one for one in matches if any(hit.rule_id == "@error" for hit in one.hits)]


@pytest.mark.parametrize(
    ("text", "deciding", "first"),
    [
        pytest.param(TRACEBACK, "ValueError: weights differ", "Traceback", id="a traceback"),
        pytest.param(CHAINED, "RuntimeError: gave up", "Traceback", id="a chain"),
        pytest.param(
            "\n".join(f"(EngineCore pid=7) {line}" for line in TRACEBACK.split("\n")),
            "ValueError: weights differ",
            "Traceback",
            id="behind a prefix on each line",
        ),
    ],
)
def test_the_end_of_a_traceback_is_an_error_with_its_block(text, deciding, first):
    last = unexplained(f"print\n\n{text}\n")[-1]

    assert last.text == deciding
    assert last.block[0].startswith(first)
    assert last.block[-1] == deciding
    assert len(last.block) == text.count("\n") + 1
    assert "@traceback" in {hit.rule_id for hit in last.hits}


def test_a_paddle_error_is_one_block():
    match = next(one for one in scan(f"print\n{PADDLE}\n") if "oom" in {hit.rule_id for hit in one.hits})

    assert match.block == tuple(PADDLE.split("\n"))


def test_a_block_that_came_in_pieces_is_whole():
    rows = CHAINED.split("\n")
    carry, told = Carry(), []
    for number, row in enumerate(rows, start=1):
        matches, carry = MATCHERS["hyperscan"].scan(lines_of(f"{row}\n", first_line=number), carry)
        told += matches

    assert told[-1].block == tuple(rows)


@pytest.mark.parametrize(
    "between",
    [
        pytest.param("", id="at once"),
        pytest.param("a print\n" * 30, id="later"),
        pytest.param("\n\nprint\n", id="after a gap"),
    ],
)
def test_a_line_after_a_traceback_is_not_of_its_block(between):
    (match,) = [one for one in scan(f"{TRACEBACK}\n\n{between}{OOM}\n") if one.text == OOM]

    assert match.block == ()


def test_a_block_is_bounded():
    frames = '  File "deep.py", line 3, in f\n' * 5000

    matches = scan(f"Traceback (most recent call last):\n{frames}RecursionError: too deep\n{OOM}\n")

    assert all(len(one.block) <= 200 for one in matches)


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        pytest.param("ERROR    2025-09-02 10:15:03,118 7 a.py[line:2] nobody knows this", "@error", id="level ERROR"),
        pytest.param("E0902 10:15:03.118000 7 a.cc:2] nobody knows this", "@error", id="glog"),
        pytest.param("terminate called after throwing an instance of 'std::bad_alloc'", "@fatal", id="C++"),
        pytest.param("FatalError: `Segmentation fault` is detected by the operating system.", "@fatal", id="a signal"),
    ],
)
def test_an_error_that_nobody_knows_is_marked(line, mark):
    (match,) = scan(line)

    assert {"@error", mark} <= {hit.rule_id for hit in match.hits}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("INFO     2025-09-02 10:15:03,118 7 a.py[line:2] no ERROR so far", id="a word in a message"),
        pytest.param("a.py:3: UserWarning: this is old", id="a warning"),
        pytest.param("WARNING  2025-09-02 10:15:03,118 7 a.py[line:2] slow", id="level WARNING"),
    ],
)
def test_what_is_no_error_is_not_marked(line):
    assert scan(line) == []


def test_a_storm_is_cut_short():
    matches = scan(f"{OOM}\n" * 100_000)

    assert 100 <= len(matches) < 50_000


@pytest.mark.parametrize("engine", BOTH)
def test_a_kept_database_finds_the_same(engine):
    first = Matcher(KNOWN, engine=engine)

    again = Matcher(KNOWN, engine=engine, database=first.dump())

    assert scan(OOM, matcher=again) == scan(OOM, matcher=first) != []


@pytest.mark.parametrize("database", [b"", b"x", b"\0" * 4096, Matcher(KNOWN).dump()[:100]])
def test_a_damaged_database_is_made_anew(database):
    assert scan(OOM, matcher=Matcher(KNOWN, database=database)) != []


def test_a_pattern_that_hyperscan_refuses_is_found_all_the_same():
    anchored = rule("anchored", When(pattern=r"^$|only this"))
    matcher = Matcher(known(anchored, *KNOWN.rules.values()), engine="hyperscan")

    told = found(scan(f"not that\n only this\n{OOM}\n", matcher=matcher))

    assert told == {(2, "anchored", 0), (3, "oom", 0)}
    assert matcher.dump() == b""


@pytest.mark.parametrize(
    "pattern",
    [
        r"^a\$b$",
        r"[^$^]x",
        r"[]^$]+x",
        r"\Aab\z",
        r"(?P<n>a|b$)c?",
        r"a\.*",
        r"甲+乙",
        r"x[[:alpha:]^]+",
        r"a{2,3}.{2,300}b",
    ],
)
def test_a_loosened_pattern_finds_all_that_the_pattern_finds(pattern):
    finder = scanner([pattern])
    lines = ["a$b", "ax", "^x", "]x", "ab", "bc", "ac", "a.", "a...", "甲甲乙", "xy^", "aa甲乙b", "aaab", "b"]

    for line in lines:
        if re.search(pattern.replace(r"\z", r"\Z").replace("[[:alpha:]^]", "[a-zA-Z^]"), line):
            assert list(finder.lines(line.encode())), (line, loosened(pattern))


def test_a_new_start_tells_again_what_was_told_in_a_piece_before():
    marks = {"@start": Mark(pattern="Modified FLAGS detected"), "@ready": Mark(pattern="now ready")}
    matcher = Matcher(known(*KNOWN.rules.values(), marks=marks))
    _, carry = matcher.scan(lines_of("now ready\n"), Carry())

    matches = scan("now ready\nModified FLAGS detected\nnow ready\nnow ready\n", matcher=matcher, carry=carry)

    assert [(one.line, one.hits[0].rule_id, one.attempt) for one in matches] == [(2, "@start", 2), (3, "@ready", 2)]


def test_a_storm_of_what_users_write_hides_nothing():
    request = f'INFO     2025-09-02 10:15:03,118 7 a.py[line:2] Chat Received request: {{"content": "{OOM}"}}\n'

    matches = scan(request * 300 + f"{OOM}\n")

    assert [(one.line, one.text) for one in matches] == [(301, OOM)]


def test_an_undated_record_is_seen_by_all_lines_below():
    text = f"ERROR:    it broke\n{OOM}\n{OOM}\n"

    assert [one.line for one in scan(text, stream="api") if one.text == OOM] == [2, 3]


def test_lines_of_docker_json_are_read_as_what_they_carry():
    said = f"\\u001b[31m{OOM[:13]}\\u001b[0m{OOM[13:]}\\n"
    row = f'{{"log":"{said}","stream":"stderr","time":"2025-09-02T10:15:03Z"}}'

    (match,) = scan(f"{row}\n")

    assert (match.text, match.at, match.hits[0].labels["gpu"]) == (OOM, AT, "3")


def test_what_ends_in_a_name_that_users_give_must_hold_without_it():
    matcher = Matcher(known(rule("r", When(pattern=r"refused.*Out of memory")), rule("s", When(pattern="support"))))

    text = f"refused, Unsupported model: [{OOM}], support [default]"

    assert {hit.rule_id for one in scan(text, matcher=matcher) for hit in one.hits} == {"s"}


def test_a_real_hit_behind_a_users_one_is_found():
    text = "ERROR    2025-09-02 10:15:03,118 7 a.py[line:2] Request cmpl-tick tick-0a1b2c3d-0000-4000-8000-1: tick tick"

    (match,) = scan(text)

    assert "either" in {hit.rule_id for hit in match.hits}


@pytest.mark.parametrize(
    "part",
    ['"GET ', "cmpl-", 'response: {"detail": ', "received request ", "cmpl-x-0a1b2c3d-0000- ", "model `", "#012", "\r"],
)
def test_a_line_of_malice_is_read_like_any(part):
    line = f"ERROR    2025-09-02 10:15:03,118 7 a.py[line:2] {OOM} {part * 100_000}"[: 1 << 20]

    matches = scan(f"{line}\n{OOM}\n")

    assert matches[-1].line == 2
