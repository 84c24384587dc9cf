"""The HTML report: one file, all of the incident, and text of logs stays text."""

from __future__ import annotations

import random
import shutil
import subprocess
from datetime import timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import msgspec
import pytest

from diagnose.engine.templates import Template
from diagnose.model.incident import Entry, State
from diagnose.model.mark import Mark
from diagnose.model.observation import GpuSample, Numbers
from diagnose.model.surroundings import Change, Comparison
from diagnose.model.text import Text
from diagnose.report import charts, measured, page
from diagnose.report.build import Scanned, build
from diagnose.report.period import summarize
from diagnose.testing import NOON, both, evidence, finding, incident, knowledge, plan, remedy, rule

PIECES = (
    "<script>document.title='pwned'</script>", "<img src=x onerror=document.title='pwned'>", "</pre></article>",
    "{{ 7*7 }}", "{% raw %}", "&lt;b&gt;", "<!channel>", "<!--", "-->", "]]>", "'\"", "javascript:alert(1)", "\x1b[31m",
    "\u202e", "\x00", "<svg/onload=alert(1)>", "<style>*{display:none}</style>", "<a href=//evil>", "<iframe>", "中文",
    "<base href='http://evil/'>", "<meta http-equiv=refresh content='0;url=http://evil'>", "@import 'x'",
)  # fmt: skip


def hostile(count):
    chance = random.Random(7)
    return ["".join(chance.choice(PIECES) for _ in range(chance.randrange(1, 5))) for _ in range(count)]


def spelled(lang="en", *, texts=("boom",), **drawn):
    proofs = [
        finding(proof=tuple(texts[place : place + 1]), at=NOON + timedelta(seconds=place))
        for place in range(len(texts))
    ]
    found = incident(
        *proofs[:8],
        plan=plan(("--max-num-seqs", "128", "64"), remedy_id="server.lower-memory-use"),
        state=State.RESOLVED,
        timeline=[Entry(at=NOON, kind="opened", params={"cause": "gpu_oom_load"})]
        + [Entry(at=NOON, kind="step", params={"action": one, "text": one, "ok": "true"}) for one in texts[8:]],
    )
    report = build(
        target="default",
        generated_at=NOON,
        scanned=Scanned(),
        incidents=[found],
        knowledge=knowledge(rule(), remedy()),
        unexplained=(),
        lang=lang,
    )
    return page.render(report, lang=lang, **drawn)


class Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {
            (name, value) for name, value in attrs if name in {"src", "href", "style"} or name[:2] == "on"
        }

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_tells_cause_proof_cure_and_course_in_the_readers_language(lang):
    text = spelled(lang)
    for part in ("log/workerlog.0:812", "boom", "--max-num-seqs 128 -&gt; 64", "a1b2c3d4"):
        assert part in text
    words = ("Evidence", "What happened", "resolved") if lang == "en" else ("证据", "经过", "已解决")
    assert all(word in text for word in words)


def test_five_hundred_hostile_strings_stay_text():
    texts = hostile(500)
    seen = Seen(spelled(texts=texts))
    assert seen.attributes == set()
    assert seen.tags.isdisjoint({"script", "img", "iframe", "a", "base", "link", "object", "embed", "form"})
    assert "{{ 7*7 }}" in "".join(seen.text)
    assert "\x1b" not in "".join(seen.text)
    assert "\u202e" not in "".join(seen.text)


def test_hostile_strings_stay_text_wherever_a_report_may_hold_them():
    texts = iter(hostile(600))
    found = []
    for number in range(40):
        shown = finding(proof=[next(texts)], labels={"gpu": next(texts)}, target=next(texts))
        echo = finding("x", cause="worker_crash", proof=[evidence(next(texts), source=next(texts))])
        changed = Change(kind="env", name=next(texts), before=next(texts), after=next(texts))
        one = incident(
            shown,
            echo,
            id=f"{number:08x}",
            plan=plan((next(texts), next(texts), next(texts)), after=["x", next(texts)]),
        )
        found.append(msgspec.structs.replace(one, compared=Comparison(since=NOON, changes=(changed,))))
    said = {one.id: Mark(by=next(texts), at=NOON, verdict="wrong", note=next(texts)) for one in found[:10]}
    odd = Template(template=next(texts), count=1, sample=next(texts), source=next(texts), line=1)
    report = build(
        target=next(texts),
        generated_at=NOON,
        scanned=Scanned(),
        incidents=found,
        knowledge=knowledge(rule(title=both("card {gpu}"), command="run {gpu}"), remedy()),
        unexplained=[odd],
        lang="en",
        skipped=[next(texts)],
        period=summarize(found, since=NOON, until=NOON, marks=said),
        marks=said,
    )
    seen = Seen(page.render(report, lang="en"))
    assert seen.attributes == set()
    assert seen.tags.isdisjoint({"script", "img", "iframe", "a", "base", "link", "object", "embed", "form", "svg", "b"})
    assert {"\x1b", "\u202e", "\x00"}.isdisjoint("".join(seen.text))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_runs_nothing_of_what_logs_say(tmp_path):
    file = tmp_path / "report.html"
    file.write_text(spelled(texts=hostile(60)), encoding="utf-8")
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*browser, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert "<title>Diagnosis of default</title>" in done.stdout


def sample(second, used):
    return GpuSample(
        target="default", at=NOON + timedelta(seconds=second), index=0, name="x", total_bytes=80 << 30,
        used_bytes=used << 30, own_bytes=0, busy_ratio=0.5,
    )  # fmt: skip


def test_what_was_measured_around_the_incident_is_drawn_with_its_moments():
    seen = [sample(second, second) for second in range(0, 60, 10)]
    seen += [
        Numbers(target="default", at=NOON + timedelta(seconds=n), values={"server.requests_waiting": float(n)})
        for n in range(5)
    ]
    found = incident(timeline=[Entry(at=NOON + timedelta(seconds=30), kind="acting")])
    made = measured.around(found, seen, "en")
    assert [chart.title.en for chart in made] == ["GPU memory", "GPU work", "Requests"]
    drawn = ET.fromstring(charts.draw(made[0]))  # noqa: S314 - our own drawing
    points = drawn.find("polyline").get("points").split()
    assert len(points) == 6
    assert "80 GiB" in [one.text for one in drawn.iter("text")]
    assert "remedy" in [one.text for one in drawn.iter("text")]
    assert "<svg" in spelled(charts={"a1b2c3d4": made})


def test_others_measurements_and_lone_points_are_not_drawn():
    found = incident()
    other = [GpuSample(target="other", at=NOON, index=0, name="x", total_bytes=1, used_bytes=1, own_bytes=0)] * 9
    assert measured.around(found, [*other, sample(1, 1)], "en") == ()


def test_names_in_a_chart_cannot_leave_it():
    line = [(NOON, 1.0), (NOON + timedelta(seconds=1), 2.0)]
    drawn = charts.draw(
        charts.Chart(
            title=Text("x", "x"), unit="<u>", lines={"</svg><script>": line, "b": line}, marks=((NOON, "<i>"),)
        )
    )
    assert "<script>" not in drawn
    ET.fromstring(drawn)  # noqa: S314 - our own drawing
