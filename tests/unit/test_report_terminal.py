from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from diagnose.engine.templates import Template
from diagnose.model.incident import Entry, State
from diagnose.model.rule import Severity
from diagnose.report import terminal
from diagnose.report.build import Scanned, build
from diagnose.report.clean import visible
from diagnose.testing import NOON, both, evidence, finding, incident, knowledge, plan, remedy, rule

SCANNED = Scanned(files=3, bytes=5_300_000, lines=45_000, seconds=0.12)
HOSTILE = "[bold red]pay[/] \x1b[2J\x1b]0;owned\x07 <script>alert(1)</script> \u202e:smile: [link=x]y"


def shown(*incidents, lang="en", width=100, known=None, unexplained=(), skipped=()):
    report = build(
        target="default",
        generated_at=NOON,
        scanned=SCANNED,
        incidents=incidents,
        knowledge=known or knowledge(rule(command="nvidia-smi -q"), remedy()),
        unexplained=unexplained,
        lang=lang,
        skipped=skipped,
    )
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal.render(report, lang=lang, width=width), crop=False)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_first_line_is_the_root_cause_the_second_its_proof_then_what_helps():
    lines = shown(incident(finding(proof=["MemoryError: full"])))

    assert lines[:5] == [
        "✗ Out of GPU memory while loading",
        "  log/workerlog.0:812  MemoryError: full",
        "",
        "  Fix: Use fewer bytes a weight.",
        "    $ nvidia-smi -q",
    ]
    assert lines[-1] == "scanned 3 files, 45,000 lines, 5.1 MiB in 0.12 s"


def test_the_same_in_chinese():
    echo = finding("w", cause="worker_launch_failed", proof=["worker gone"])

    lines = shown(incident(finding(proof=["MemoryError: full"]), echo), lang="zh")

    assert lines[0] == "✗ 加载阶段显存不足"
    assert lines[1] == "  log/workerlog.0:812  MemoryError: full"
    assert "  处理办法：请降低权重的精度。" in lines
    assert "  工作进程启动失败，原因在其日志中  log/workerlog.0:812" in lines
    assert lines[-1] == "已扫描 3 个文件，45,000 行，5.1 MiB，用时 0.12 秒"


@pytest.mark.parametrize(("lang", "first"), [("en", "✓ nothing found"), ("zh", "✓ 未发现问题")], ids=["en", "zh"])
def test_a_healthy_log_says_what_was_looked_at(lang, first):
    lines = shown(lang=lang)

    assert lines[0] == first
    assert "45,000" in lines[-1]


def test_errors_that_no_rule_knows_are_not_called_healthy():
    odd = Template(template="odd", count=4, sample="odd thing", source="w.log", line=9)

    lines = shown(unexplained=[odd])

    assert lines[0].startswith("? ")
    assert "  w.log:9  ×4" in lines
    assert "    odd thing" in lines


def test_what_could_not_be_read_is_named():
    assert "  a.gz: cut off" in shown(skipped=["a.gz: cut off"])


def test_text_of_logs_is_shown_harmlessly():
    text = "\n".join(shown(incident(finding(proof=[HOSTILE])), width=200))

    assert not any(char in text for char in "\x1b\x07\u202e")
    assert r"[bold red]pay[/] \x1b[2J\x1b]0;owned\x07 <script>alert(1)</script> \u202e:smile: [link=x]y" in text


def test_a_long_line_is_cropped_around_what_tells_most():
    line = "2026-03-01 " + "x" * 300 + " MemoryError: full " + "y" * 300

    proof = shown(incident(finding(proof=[line])), width=80)[1]

    assert "MemoryError: full" in proof
    assert cell_len(proof) <= 80


def test_a_command_is_never_folded():
    command = "python -m server " + " ".join(f"--flag-{number} value" for number in range(30))

    assert f"    $ {command}" in shown(incident(), known=knowledge(rule(command=command)), width=60)


def test_changes_of_a_plan_stand_below_their_remedy():
    lines = shown(incident(plan=plan(("--max-num-seqs", "32", "16"))))

    place = lines.index("  server.lower-memory-use (answers or limits change for users, can run by itself)")
    assert lines[place + 1] == "      --max-num-seqs 32 -> 16"


def test_earlier_starts_stand_behind_and_notes_last():
    port = rule("net.port", cause="port_in_use", title=both("Port taken"))
    old = incident(finding("net.port", cause="port_in_use"), state=State.HISTORY, id="old")
    note = incident(finding("req", cause="client_error", severity=Severity.INFO), id="note")

    lines = shown(note, incident(), old, known=knowledge(rule(), port))

    assert lines[0] == "✗ Out of GPU memory while loading"
    assert lines.index("Earlier") < lines.index("Notes (the server is fine)")
    assert "  Port taken (in an earlier start)  log/workerlog.0:812" in lines


def test_only_notes_is_healthy():
    note = incident(finding("req", cause="client_error", severity=Severity.INFO))

    assert shown(note)[0] == "✓ nothing found"


def test_what_was_done_is_told():
    entries = [
        Entry(at=NOON, kind="opened", params={"cause": "gpu_oom_load"}),
        Entry(at=NOON, kind="held", params={"reason": "cooldown", "until": NOON.isoformat()}),
    ]

    said = "2026-03-01 12:00:00 UTC  waits: cooling down after the last try (until 2026-03-01 12:00:00 UTC"
    assert any(said in line for line in shown(incident(timeline=entries)))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_chinese_lines_keep_to_the_width(width):
    long = both("A fix.", "请降低显存占用，" * 30)
    proof = evidence("错误：显存不足 " * 40, source="日志/工作进程.0")

    lines = shown(incident(finding(proof=[proof])), lang="zh", width=width, known=knowledge(rule(fix=long)))

    assert max(cell_len(line) for line in lines) <= width


@given(st.text(max_size=200), st.integers(min_value=20, max_value=120))
def test_a_cropped_line_fits_and_draws_no_control(text, cells):
    cut = terminal.crop(visible(text), cells)

    assert cell_len(cut) <= cells
    assert visible(cut) == cut
