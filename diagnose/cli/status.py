"""``diagnose status``: where the servers stand, and what the daemon would do next and why it waits."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from diagnose.cli.place import add_common, language, state_dir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from rich.console import Console

    from diagnose.agent.given import Unused
    from diagnose.engine.targets import Target
    from diagnose.journal import Snapshot
    from diagnose.model.incident import Incident
    from diagnose.model.text import Lang
    from diagnose.outbox import Seen


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

    from diagnose import journal, outbox
    from diagnose.agent import lock
    from diagnose.engine.incidents import LIVE

    snapshot = journal.read(state_dir(args))
    live = [one for one in snapshot.incidents if one.state in LIVE and one.severity.value != "info"]
    if args.json:
        sys.stdout.write(as_json(snapshot, live, outbox.read(state_dir(args))))
    else:
        console = Console(highlight=False)
        show_daemon(console, lock.holder(state_dir(args)), snapshot.at, language(args))
        for target in snapshot.state.targets.values():
            show(console, target, [one for one in live if one.target == target.name], language(args))
            show_start(console, target, unused_of(snapshot, target.name), language(args))
        show_alerts(console, outbox.read(state_dir(args)), language(args))
    return 1 if live else 0


def as_json(snapshot: Snapshot, live: list[Incident], told: Seen) -> str:
    """Spell the status as JSON (``diagnose.status/1``)."""
    import json

    from diagnose.cli.alerts import receivers
    from diagnose.engine import cards
    from diagnose.engine.plan import effective

    targets = [
        {
            "target": one.name,
            "phase": one.phase,
            "stage": one.stage,
            "since": one.since.isoformat() if one.since else None,
            "generation": one.generation,
            "pid": one.pid,
            "command": list(effective(one).argv),
            "overlays": [
                {"flag": o.flag, "before": o.before, "after": o.after, "incident": o.incident_id} for o in one.overlays
            ],
            "paused": {
                "by": one.pause.by,
                "why": one.pause.why,
                "until": one.pause.until and one.pause.until.isoformat(),
            }
            if one.pause
            else None,
            "gpus": [
                {
                    "index": g.index,
                    "cuda": g.ordinal,
                    "name": g.name,
                    "total_bytes": g.total_bytes,
                    "used_bytes": g.used_bytes,
                    "busy_ratio": g.busy_ratio,
                    "celsius": g.celsius,
                    "state": g.state,
                    "wrong": [trouble.en for trouble in cards.troubles(g)],
                }
                for g in one.gpus.values()
            ],
            "given_but_unused": list(unused.changes) if (unused := unused_of(snapshot, one.name)) else None,
            "numbers": dict(one.meters.latest),
            "blind": dict(one.blind),
            "incidents": [
                {"id": i.id, "cause": i.cause, "state": i.state.value, "held": i.held}
                for i in live
                if i.target == one.name
            ],
        }
        for one in snapshot.state.targets.values()
    ]
    at = snapshot.at.isoformat() if snapshot.at else None
    status = {"schema": "diagnose.status/1", "at": at, "targets": targets, "receivers": receivers(told)}
    return json.dumps(status, ensure_ascii=False) + "\n"


def unused_of(snapshot: Snapshot, name: str) -> Unused | None:
    """Return what the daemon was given for a target and did not use, since its server ran already."""
    from diagnose.agent.given import Unused
    from diagnose.model import codec

    kept = snapshot.kept.get(f"unused/{name}")
    unused = codec.decode(kept, Unused) if kept and kept != b"null" else None
    return unused if unused and unused.pid == snapshot.state.targets[name].pid else None


def show_start(console: Console, target: Target, unused: Unused | None, lang: Lang) -> None:
    """Print what of the present start is not as it was, or not as it was wished."""
    from rich.text import Text

    from diagnose.report import texts
    from diagnose.report.clean import visible

    if unused:
        told = texts.unused_text(unused.pid, unused.changes, lang)
        console.print(Text(f"  {visible(told)}", style="yellow"))
    compared = target.starts[-1].compared if target.starts else None
    if compared and compared.since and target.phase in {"starting", "failed"}:
        console.print(Text(f"  {visible(texts.changed_line(compared, lang))}", style="yellow"))


def show_alerts(console: Console, told: Seen, lang: Lang) -> None:
    """Say which receivers fail, what waits or was put aside, and what is silenced; nothing where all is well."""
    from rich.text import Text

    from diagnose.cli.alerts import trouble
    from diagnose.cli.silence import line

    for text, colour in trouble(told, lang):
        console.print(Text(text, style=colour))
    for silence in told.book.silences.values():
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
    if lang == "zh":
        return f"{running:.0f} 个请求运行中，{waiting:.0f} 个等待，{pace:.0f} token/s，KV Cache {cache:.0%}"
    return f"{running:.0f} requests running, {waiting:.0f} waiting, {pace:.0f} tokens/s, KV cache {cache:.0%} in use"


def show(console: Console, target: Target, live: list[Incident], lang: Lang) -> None:
    """Print one target for a person."""
    from rich.text import Text

    from diagnose.engine import cards
    from diagnose.launch.spec import change
    from diagnose.report import texts
    from diagnose.report.clean import visible

    zh = lang == "zh"
    since = texts.moment(target.since) if target.since else "-"
    colour = {"ready": "green", "failed": "red", "degraded": "yellow"}.get(target.phase, "")
    console.print(
        Text(f"{target.name}: ", style="bold") + Text(target.phase, style=colour),
        Text(
            f"{'自' if zh else 'since'} {since}, {'第' if zh else 'generation'} {target.generation}, pid {target.pid}"
        ),
    )
    for overlay in target.overlays:
        line = change(overlay.flag, overlay.before, overlay.after)
        console.print(Text(f"  {'已调整' if zh else 'changed'}: {line} ({overlay.incident_id})", style="yellow"))
    if pause := target.pause:
        until = texts.moment(pause.until) if pause.until else ("恢复前" if zh else "resumed")
        why = f": {pause.why}" if pause.why else ""
        told = f"已由 {pause.by} 暂停，直到 {until}" if zh else f"paused by {pause.by} until {until}"
        console.print(Text(f"  {told}{why}", style="yellow"))
    for gpu in target.gpus.values():
        facts, wrong = ", ".join(cards.shown(gpu, lang)), [visible(one.in_(lang)) for one in cards.troubles(gpu)]
        console.print(
            Text(f"  {visible(cards.named(gpu))}: {facts}".rstrip(": ")) + Text("; ".join(["", *wrong]), style="yellow")
        )
    if target.phase in {"ready", "degraded"} and "server.requests_running" in target.meters.latest:
        console.print(Text(f"  {numbers_line(target.meters.latest, lang)}"))
    if reason := target.blind.get("gpu"):
        console.print(Text(f"  GPU: {'无法监测' if zh else 'cannot be seen'}: {visible(reason)}", style="yellow"))
    for incident in live:
        name = texts.cause_name(incident.cause, lang)
        console.print(Text(f"  {incident.id}  {name}: {texts.STATES[incident.state].in_(lang)}", style="red"))
        if incident.held:
            console.print(Text(f"    {texts.hold_text(incident.held, {}, lang)}"))
    if not live:
        console.print(Text("  " + ("没有未解决的事件" if zh else "no open incident"), style="green"))
