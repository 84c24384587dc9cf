"""What messages say, how they are cut, and what text of logs can do in them: nothing."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnose.catalog import load
from diagnose.errors import ConfigError
from diagnose.model import codec
from diagnose.model.causes import CAUSES
from diagnose.model.effect import SaveIncident
from diagnose.model.incident import Entry, State, Try
from diagnose.notices import asks, decide, markup, words
from diagnose.notices.book import Book, face_of
from diagnose.notices.config import Alerts
from diagnose.notices.cut import cut, cut_chars, size
from diagnose.notices.facts import facts_of
from diagnose.notices.message import Writer
from diagnose.notices.post import Post
from diagnose.notices.question import Said
from diagnose.testing import NOON, finding, incident, knowledge, plan, remedy, rule

UTC = timezone.utc
KNOWN = knowledge(rule(), remedy())
PLAN = plan(("--max-num-seqs", "128", "32"))
KEPT = Try(
    intent_id="x", remedy_id=PLAN.remedy_id, rung=0, at=NOON, result="kept", changes=("--max-num-seqs 128 -> 32",)
)
ACTED = Entry(
    at=NOON, kind="acting", params={"remedy": PLAN.remedy_id, "rung": "1", "change": "--max-num-seqs 128 -> 32"}
)


def facts(made=None, lang="en", known=KNOWN, **more):
    made = made or incident()
    config = codec.convert({"receivers": [{"kind": "webhook", "name": "a", "url": "http://x"}]}, Alerts)
    world = decide.World(config=config, knowledge=known, host="gpu-07", find=lambda _: made)
    opened = msgspec.structs.replace(made, state=State.OPEN)
    book, _ = decide.heard(Book(), [SaveIncident(incident=opened)], world, NOON)
    alert = msgspec.structs.replace(book.alerts[made.id], face=face_of(made), changed=NOON + timedelta(seconds=75))
    return msgspec.structs.replace(facts_of(alert, made, known, lang, host="gpu-07"), **more)


def post(told, name="a"):
    told = msgspec.structs.replace(told, key=name, incident=name)
    kind = "end" if told.over else "fire"
    return Post(id=name, receiver="a", key=name, group="g", kind=kind, at=NOON, severity=told.severity, facts=told)


def write(told, lang="en", style=markup.PLAIN, most=4096):
    return Writer(style, lang, UTC).write([post(told, told.incident)], most)


# --- what a colleague on call would say


def test_a_message_names_cause_proof_what_was_done_what_is_asked_and_where_to_look():
    made = incident(plan=PLAN, held="suggest", timeline=(ACTED,))
    told = write(facts(made))
    assert told.title == "[critical] gpu-07/default: Out of GPU memory while loading"
    assert told.body == (
        "The weights do not fit the card.\n"
        "Proof: log/workerlog.0:812\n"
        "ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 2.000000GB memory on GPU 0\n"
        "Done so far: carrying out server.lower-memory-use, rung 1: --max-num-seqs 128 -> 32\n"
        "Your part: decide whether to apply server.lower-memory-use (--max-num-seqs 128 -> 32): "
        "diagnose remedies apply a1b2c3d4. Nothing is done by itself.\n"
        "Look closer: diagnose remedies plan a1b2c3d4"
    )


def test_the_same_in_chinese():
    made = incident(plan=PLAN, state=State.VERIFYING, timeline=(ACTED,))
    told = write(facts(made, "zh"), "zh")
    assert told.title == "[严重，处置中] gpu-07/default: 加载阶段显存不足"
    assert "证据: log/workerlog.0:812" in told.body
    assert (
        "需要你做: 暂时无需操作：server.lower-memory-use（--max-num-seqs 128 -> 32）已执行，正在验证效果。" in told.body
    )


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        (incident(state=State.PENDING), "nothing yet: the cause is being settled."),
        (incident(state=State.ACTING, plan=PLAN), "is being carried out"),
        (incident(state=State.VERIFYING, plan=PLAN), "is being verified"),
        (incident(plan=PLAN, held="approve"), "diagnose remedies approve a1b2c3d4"),
        (incident(plan=PLAN, held="observe"), "diagnose remedies apply a1b2c3d4"),
        (incident(plan=PLAN, held="paused"), "diagnose resume"),
        (incident(plan=PLAN, held="cooldown"), "follows as soon as it may"),
        (incident(held="advice"), "nothing can be done automatically. Use fewer bytes a weight."),
        (incident(state=State.EXHAUSTED), "take over, all that could be tried was tried. Use fewer bytes"),
        (incident(state=State.RESOLVED), "nothing any more."),
        (incident(state=State.RESOLVED, tries=(KEPT,)), "diagnose remedies rollback a1b2c3d4"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_is_asked_of_the_reader_fits_the_state(made, asked):
    assert asked in facts(made).asked
    assert "{" not in facts(made).asked
    assert "{" not in facts(made, "zh").asked


def test_every_shipped_cause_can_be_told_in_both_languages():
    known = load.load()
    by_cause = {one.cause: one for one in known.rules.values()}
    writers = {lang: Writer(markup.PLAIN, lang, UTC) for lang in ("en", "zh")}
    for cause in CAUSES:
        found = by_cause.get(cause)
        made = incident(finding(found.id if found else "x", cause=cause))
        for lang in ("en", "zh"):
            told = writers[lang].write([post(facts(made, lang, known))], 4096)
            assert told.title
            assert "{" not in told.title + told.body.replace("{", "", told.body.count("${"))
            assert not told.note


def test_a_practice_alert_says_so_in_title_and_body():
    told = write(facts(practice=True))
    assert told.title.startswith("[PRACTICE] ")
    assert told.body.endswith("This is a drill. Nothing is wrong.")


def test_several_incidents_are_told_the_gravest_first_and_what_ended_last():
    many = [post(facts(), "b"), post(facts(incident(state=State.RESOLVED)), "c"), post(facts(), "a")]
    told = Writer(markup.PLAIN, "en", UTC).write(many, 20_000)
    assert told.title == "[critical] gpu-07: 2 open, 1 resolved"
    assert [line for line in told.body.split("\n") if line.startswith("[")] == [
        "[critical] default: Out of GPU memory while loading",
        "[critical] default: Out of GPU memory while loading",
        "[resolved] default: Out of GPU memory while loading",
    ]


def test_times_are_told_in_the_zone_of_the_site():
    shanghai = codec.convert({"timezone": "Asia/Shanghai"}, Alerts).zone
    many = [post(facts(), f"n{number}") for number in range(9)]
    assert "since 03-01 20:00:00" in Writer(markup.PLAIN, "en", shanghai).write(many, 9000).body


# --- cuts


@given(st.text(max_size=200), st.integers(0, 100))
def test_a_cut_is_never_longer_than_asked_and_never_in_the_middle_of_a_character(text, most):
    done = cut(text, most)
    assert size(done) <= most
    if size(text) <= most:
        assert done == text
    else:
        assert text.startswith(done.removesuffix("…").rstrip("…")) or done in {"…", ""}


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("显存不足", 12, "显存不足"),
        ("显存不足", 11, "显存…"),
        ("显存不足", 10, "显存…"),
        ("显存不足", 9, "显存…"),
        ("显存不足", 8, "显…"),
        ("显存不足", 3, "…"),
        ("显存不足", 2, ""),
        ("a显存", 6, "a…"),
        ("错误&amp;错误错误", 13, "错误…"),
        ("ab\\*cdef", 6, "ab…"),
    ],
)
def test_cuts_in_the_middle_of_chinese_text(text, most, expected):
    assert cut(text, most) == expected
    cut(text, most).encode()


def test_characters_are_counted_where_the_vendor_counts_them():
    assert cut_chars("显存不足", 3) == "显存…"
    assert cut_chars("显存", 3) == "显存"


@settings(max_examples=40)
@pytest.mark.parametrize(
    "style",
    [markup.PLAIN, markup.SLACK, markup.FEISHU, markup.DINGTALK, markup.WECOM],
    ids=["plain", "slack", "feishu", "dingtalk", "wecom"],
)
@given(st.lists(st.text(max_size=300), min_size=1, max_size=8), st.integers(200, 3000), st.sampled_from(["en", "zh"]))
def test_whatever_logs_hold_a_message_fits_and_is_whole(style, proofs, most, lang):
    many = [post(facts(proof=text, title=text[:50], lang=lang), f"n{place}") for place, text in enumerate(proofs)]
    told = Writer(style, lang, UTC).write(many, most)
    assert size(told.body) <= most
    assert "\n" not in told.title
    assert not told.note


# --- text of logs


@pytest.mark.parametrize(
    ("style", "given", "never"),
    [
        (markup.SLACK, "<!channel> & <@U1>", ["<!", "<@", "& "]),
        (markup.FEISHU, "<at id=all></at> **b** [a](b)", ["<at", "**b", "[a]("]),
        (markup.DINGTALK, "# h [a](http://b) ![i](u) **b**", ["[a](", "![i]", " **b"]),
        (markup.WECOM, "<@all> <font color='warning'> [a](http://b)", ["<@", "<font", "[a]("]),
    ],
    ids=["slack", "feishu", "dingtalk", "wecom"],
)
def test_nothing_in_a_log_line_is_markup(style, given, never):
    for shown in (style.escape(given), style.code(given), style.bold(given), style.quote(given)):
        assert not [one for one in never if one in shown]


# --- answers and tables


def test_every_answer_and_every_word_is_there_in_both_languages():
    given = {"id": "i", "what": "w", "until": "u", "count": "2", "name": "n", "names": "n", "x": "y"}
    for reason in asks.ANSWERS:
        for lang in ("en", "zh"):
            assert "{" not in asks.answer(Said(ok=True, reason=reason, params=given), lang)
    for table in (words.WORDS, words.FACES, words.SEVERITIES):
        assert all(text.en and text.zh for text in table.values())


# --- configuration


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"receivers": [{"kind": "slack", "name": "a", "url": "https://hooks"}]}, "Expected `object`, got `str`"),
        ({"receivers": [{"kind": "slack", "name": "a", "url": {}}]}, "read from a file or a variable"),
        ({"receivers": [{"kind": "pigeon", "name": "a"}]}, "pigeon"),
        ({"receivers": [{"kind": "webhook", "name": "a/b", "url": "x"}]}, "has a name of letters"),
        ({"receivers": [{"kind": "webhook", "name": "a", "url": "x"}] * 2}, "the same name"),
        ({"routes": [{"to": ["nobody"]}]}, r"routes\[0\].to: 'nobody' is no receiver"),
        ({"routes": [{"causes": ["bad_luck"]}]}, "no cause 'bad_luck'"),
        ({"inhibit": [{"by": ["bad_luck"], "quiet": []}]}, "no cause 'bad_luck'"),
        ({"routes": [{"hours": {"from": "9 o'clock"}}]}, "no time of day"),
        ({"timezone": "Moon/Sea"}, "no time zone 'Moon/Sea'"),
        ({"maintenance": [{"name": "m"}]}, "either hours, or since and until"),
        ({"maintenance": [{"name": "m", "since": "2026-03-01", "until": "2026-03-02"}]}, "names no zone"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_configuration_that_cannot_be_is_refused_with_its_cure(given, told):
    with pytest.raises(msgspec.ValidationError, match=told):
        codec.convert(given, Alerts)


def test_a_template_that_cannot_be_is_refused():
    for text in ("{% for %}", "plain words", "{% block other %}{% endblock %}"):
        with pytest.raises(ConfigError, match="replace its blocks title and body"):
            Writer(markup.PLAIN, "en", UTC, own=text, name="own.jinja")


def test_hours_over_midnight_belong_to_the_day_on_which_they_begin():
    hours = codec.convert(
        {"maintenance": [{"name": "m", "hours": {"from": "22:00", "to": "02:00", "days": ["fri"]}}]}, Alerts
    )
    window = hours.maintenance[0]
    friday = datetime(2026, 3, 6, tzinfo=UTC)
    held = [hour for hour in range(72) if window.holds(friday + timedelta(hours=hour), UTC)]
    assert held == [22, 23, 24, 25]
