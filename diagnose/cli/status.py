"""``diagnose status``: where the servers stand, and what the daemon would do next and why it waits."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from diagnose.cli.place import add_common, language, state_dir

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from diagnose.engine.targets import Target
    from diagnose.journal import Snapshot
    from diagnose.model.incident import Incident
    from diagnose.model.text import Lang


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

    from diagnose import journal
    from diagnose.agent import lock
    from diagnose.engine.incidents import LIVE

    snapshot = journal.read(state_dir(args))
    live = [one for one in snapshot.incidents if one.state in LIVE and one.severity.value != "info"]
    if args.json:
        sys.stdout.write(as_json(snapshot, live))
    else:
        console = Console(highlight=False)
        show_daemon(console, lock.holder(state_dir(args)), snapshot.at, language(args))
        for target in snapshot.state.targets.values():
            show(console, target, [one for one in live if one.target == target.name], language(args))
    return 1 if live else 0


def as_json(snapshot: Snapshot, live: list[Incident]) -> str:
    """Spell the status as JSON (``diagnose.status/1``)."""
    import json

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
            "gpus": [
                {"index": g.index, "name": g.name, "total_bytes": g.total_bytes, "used_bytes": g.used_bytes}
                for g in one.gpus.values()
            ],
            "incidents": [
                {"id": i.id, "cause": i.cause, "state": i.state.value, "held": i.held}
                for i in live
                if i.target == one.name
            ],
        }
        for one in snapshot.state.targets.values()
    ]
    at = snapshot.at.isoformat() if snapshot.at else None
    return json.dumps({"schema": "diagnose.status/1", "at": at, "targets": targets}, ensure_ascii=False) + "\n"


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


def show(console: Console, target: Target, live: list[Incident], lang: Lang) -> None:
    """Print one target for a person."""
    from rich.text import Text

    from diagnose.launch.spec import change
    from diagnose.report import texts

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
    for gpu in target.gpus.values():
        used, total = gpu.used_bytes / 2**30, gpu.total_bytes / 2**30
        console.print(Text(f"  GPU {gpu.index} {gpu.name}: {used:.2f} / {total:.2f} GiB"))
    for incident in live:
        name = texts.cause_name(incident.cause, lang)
        console.print(Text(f"  {incident.id}  {name}: {texts.STATES[incident.state].in_(lang)}", style="red"))
        if incident.held:
            console.print(Text(f"    {texts.hold_text(incident.held, {}, lang)}"))
    if not live:
        console.print(Text("  " + ("没有未解决的事件" if zh else "no open incident"), style="green"))
