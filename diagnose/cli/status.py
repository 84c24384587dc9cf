"""``diagnose status``: where the servers stand, and what the daemon would do next and why it waits."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from diagnose.cli.place import add_common, language, state_dir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from rich.console import Console

    from diagnose.model.knowledge import Knowledge
    from diagnose.model.text import Lang
    from diagnose.notices.book import Silence
    from diagnose.web.standing import Standing, Status, Taker


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "status", help="phase of the server, its command's changes, open incidents, what comes next"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_common(parser, state=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it; exit 1 where an incident is open."""
    from rich.console import Console

    from diagnose.agent import lock
    from diagnose.model import codec

    folder, lang = state_dir(args), language(args)
    told = standing(folder, lang)
    if args.json:
        sys.stdout.write(codec.encode(told).decode() + "\n")
    else:
        console = Console(highlight=False)
        show_daemon(console, lock.holder(folder), told.at, lang)
        for one in told.targets:
            show(console, one, lang)
        show_alerts(console, told.receivers, told.silences, lang)
    return int(any(one.incidents for one in told.targets))


def standing(folder: Path, lang: Lang) -> Status:
    """Ask the daemon where everything stands; the journal where none answers.

    Raises:
        JournalError: Neither can tell.
    """
    from diagnose import journal, outbox
    from diagnose.agent import given
    from diagnose.cli import ask
    from diagnose.web import paths
    from diagnose.web import standing as web

    if told := ask.look(folder, paths.STATUS, web.Status, lang=lang):
        return told
    seen = journal.read(folder)
    return web.status(
        seen.state,
        seen.incidents,
        outbox.read(folder),
        at=seen.at,
        unused=given.unused_of(seen.kept, seen.state),
        knowledge=_knowledge(),
        lang=lang,
    )


def _knowledge() -> Knowledge:
    """Load the rules, which give titles; without them incidents are called by their class."""
    from diagnose.catalog import load
    from diagnose.errors import RuleFileError
    from diagnose.model.knowledge import Knowledge

    try:
        return load.load(())
    except RuleFileError:  # lint tells of it; it must not hide where the server stands
        return Knowledge(rules={}, remedies={}, marks={}, digest="")


def show_alerts(console: Console, takers: Sequence[Taker], silences: Sequence[Silence], lang: Lang) -> None:
    """Say which receivers fail, what waits or was put aside, and what is silenced; nothing where all is well."""
    from rich.text import Text

    from diagnose.cli.alerts import trouble
    from diagnose.cli.silence import line

    for text, colour in trouble(takers, lang):
        console.print(Text(text, style=colour))
    for silence in silences:
        console.print(Text(line(silence, lang), style="yellow"))


def show_daemon(console: Console, pid: int | None, at: datetime | None, lang: Lang) -> None:
    """Say whether a daemon looks after these servers now, or when one did."""
    from diagnose.report import texts

    when = texts.moment(at) if at else "-"
    if pid is None:
        told = (
            f"守护进程未在运行；以下为 {when} 的状态"
            if lang == "zh"
            else f"no daemon runs; this was the state at {when}"
        )
        console.print(told, style="yellow")
    else:
        console.print(f"守护进程 {pid} 正在监视" if lang == "zh" else f"watched by process {pid}")


def numbers_line(numbers: Mapping[str, float], lang: Lang) -> str:
    """Say what the server does now, by its own numbers."""
    running, waiting = numbers["server.requests_running"], numbers.get("server.requests_waiting", 0.0)
    pace, cache = numbers.get("server.tokens_per_second", 0.0), numbers.get("server.cache_usage_ratio", 0.0)
    first = numbers.get("server.canary_first_token_seconds")
    if lang == "zh":
        said = f"{running:.0f} 个请求运行中，{waiting:.0f} 个等待，{pace:.0f} token/s，KV Cache {cache:.0%}"
        return said if first is None else f"{said}，探测请求 {first:.2f} 秒出首个 token"
    said = f"{running:.0f} requests running, {waiting:.0f} waiting, {pace:.0f} tokens/s, KV cache {cache:.0%} in use"
    return said if first is None else f"{said}, our own first token after {first:.2f} s"


def show(console: Console, one: Standing, lang: Lang) -> None:
    """Print one server for a person."""
    from rich.text import Text

    from diagnose.report import texts

    zh = lang == "zh"
    since = texts.moment(one.since) if one.since else "-"
    colour = {"ready": "green", "failed": "red", "degraded": "yellow"}.get(one.phase, "")
    start = f"第 {one.generation} 代" if zh else f"generation {one.generation}"
    console.print(
        Text(f"{one.target}: ", style="bold") + Text(one.phase, style=colour),
        Text(f"{'自' if zh else 'since'} {since}, {start}, pid {one.pid}"),
    )
    _show_settings(console, one, zh=zh)
    _show_cards(console, one, zh=zh)
    if one.phase in {"ready", "degraded"} and "server.requests_running" in one.numbers:
        console.print(Text(f"  {numbers_line(one.numbers, lang)}"))
    if behind := one.numbers.get("logs.behind_bytes"):
        told = f"{behind / 1e6:.0f} MB 日志尚未读取" if zh else f"{behind / 1e6:.0f} MB of the logs wait to be read"
        console.print(Text(f"  {told}", style="yellow"))
    for incident in one.incidents:
        console.print(Text(f"  {incident.id}  {incident.title}: {texts.STATES[incident.state].in_(lang)}", style="red"))
        if incident.held:
            console.print(Text(f"    {incident.held_text}"))
    if one.phase == "failed" and any(incident.held in {"advice", "exhausted"} for incident in one.incidents):
        told = "修复后重新启动：" if zh else "once it is mended, start it again: "
        console.print(Text(f"  {told}diagnose restart --target {one.target}"))
    if not one.incidents:
        console.print(Text("  " + ("没有未解决的事件" if zh else "no open incident"), style="green"))
    _show_start(console, one, lang)


def _show_settings(console: Console, one: Standing, *, zh: bool) -> None:
    """Print what was changed of the command, and whether a person holds remedies back."""
    from rich.text import Text

    from diagnose.launch.spec import change
    from diagnose.report import texts

    for overlay in one.overlays:
        line = change(overlay.flag, overlay.before, overlay.after)
        console.print(Text(f"  {'已调整' if zh else 'changed'}: {line} ({overlay.incident})", style="yellow"))
    if pause := one.paused:
        until = texts.moment(pause.until) if pause.until else ("恢复前" if zh else "resumed")
        why = f": {pause.why}" if pause.why else ""
        told = f"已由 {pause.by} 暂停，直到 {until}" if zh else f"paused by {pause.by} until {until}"
        console.print(Text(f"  {told}{why}", style="yellow"))


def _show_cards(console: Console, one: Standing, *, zh: bool) -> None:
    from rich.text import Text

    from diagnose.report.clean import visible

    for gpu in one.gpus:
        title = f"  {visible(gpu.title)}: {', '.join(gpu.facts)}".rstrip(": ")
        console.print(Text(title) + Text("; ".join(["", *(visible(line) for line in gpu.wrong)]), style="yellow"))
    if reason := one.blind.get("gpu"):
        console.print(Text(f"  GPU: {'无法监测' if zh else 'cannot be seen'}: {visible(reason)}", style="yellow"))


def _show_start(console: Console, one: Standing, lang: Lang) -> None:
    """Print what of the present start is not as it was, or not as it was wished."""
    from rich.text import Text

    from diagnose.report import texts
    from diagnose.report.clean import visible

    if one.given_but_unused:
        told = texts.unused_text(one.pid or 0, one.given_but_unused, lang)
        console.print(Text(f"  {visible(told)}", style="yellow"))
    if one.changed:
        console.print(Text(f"  {visible(one.changed)}", style="yellow"))
