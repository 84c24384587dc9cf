"""``diagnose alerts``: what was told to whom, what could not be told, and whose an incident is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diagnose.cli import ask
from diagnose.cli.place import add_common, language, state_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from diagnose.model.text import Lang
    from diagnose.notices.question import Ask, Said
    from diagnose.outbox import Letterhead, Seen

_PATIENCE_S = 30.0


def add(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "alerts",
        help="what was told to whom; acknowledge an incident; send again what failed",
        epilog="Exit 1 where a receiver fails or messages were put aside.",
    )
    commands = parser.add_subparsers(dest="alerts_command", required=True, metavar="COMMAND")
    shown = commands.add_parser("list", help="news that was told or waits, newest first")
    shown.add_argument("--state", choices=("waiting", "sent", "dead"), default="", help="only these; dead: put aside")
    shown.add_argument("--receiver", default="", metavar="NAME", help="only to this receiver")
    shown.add_argument("--json", action="store_true", help="for programs")
    shown.set_defaults(run=run_list)
    taken = commands.add_parser("ack", help="an incident is yours: no more news of it, but when it is worse or over")
    taken.add_argument("incident", metavar="INCIDENT", help="its id, or the beginning of it")
    taken.set_defaults(run=run_ack)
    resend = commands.add_parser("resend", help="send again what was put aside")
    resend.add_argument("receiver", nargs="?", default="", metavar="RECEIVER", help="only to this one")
    resend.set_defaults(run=run_resend)
    for one in (shown, taken, resend):
        add_common(one, state=True)


def run_list(args: argparse.Namespace) -> int:
    """Print the list; 1 where a receiver fails or messages were put aside."""
    from diagnose import outbox
    from diagnose.cli.output import drawn, screen_width, write

    folder, lang = state_dir(args), language(args)
    seen = outbox.read(folder)
    found = outbox.posts(folder, state=args.state, receiver=args.receiver)
    if args.json:
        write(as_json(seen, found), None)
    else:
        write(drawn(_table(found, lang), screen_width()), None)
    return int(bool(seen.dead) or any(one.since for one in seen.health.values()))


def run_ack(args: argparse.Namespace) -> int:
    """Acknowledge an incident."""
    from diagnose.notices.question import AskAck

    return tell(args, AskAck(by=ask.who(), incident=named(state_dir(args), args.incident)))


def named(folder: Path, name: str) -> str:
    """Return the id of the open incident that begins so; the name itself where none or several do."""
    from diagnose import outbox

    found = [one.id for one in outbox.read(folder).book.alerts.values() if not one.over and one.id.startswith(name)]
    return found[0] if len(found) == 1 else name


def run_resend(args: argparse.Namespace) -> int:
    """Send again what was put aside."""
    from diagnose.notices.question import AskResend

    return tell(args, AskResend(by=ask.who(), receiver=args.receiver))


def tell(args: argparse.Namespace, asked: Ask) -> int:
    """Ask the daemon and print its answer; 0 done, 2 refused.

    Raises:
        InputError: No daemon looks after the state folder.
    """
    from diagnose.notices import asks

    said = put(state_dir(args), asked)
    print(asks.answer(said, language(args)))
    return ask.EXIT_OBEYED if said.ok else ask.EXIT_REFUSED


def put(folder: Path, asked: Ask) -> Said:
    """Ask the daemon of a state folder.

    Raises:
        InputError: None answers, or it does not understand.
    """
    from diagnose.notices.question import Said
    from diagnose.web.api import ALERTS

    return ask.post(folder, ALERTS, asked, Said)


def as_json(seen: Seen, found: Sequence[Letterhead]) -> str:
    """Spell receivers and news as JSON (``diagnose.alerts/1``)."""
    import json

    news = [
        {
            "id": one.post.id,
            "receiver": one.post.receiver,
            "kind": one.post.kind,
            "key": one.post.key,
            "severity": one.post.severity.value,
            "at": one.post.at.isoformat(),
            "state": one.state,
            "done_at": one.done_at.isoformat() if one.done_at else None,
            "tries": one.tries,
            "error": one.error,
        }
        for one in found
    ]
    told = {"schema": "diagnose.alerts/1", "receivers": receivers(seen), "news": news}
    return json.dumps(told, ensure_ascii=False) + "\n"


def receivers(seen: Seen) -> list[dict[str, Any]]:
    """Say how each receiver does, for programs."""
    names = sorted({*seen.health, *seen.waiting, *seen.dead})
    healths = [(name, seen.health.get(name)) for name in names]
    return [
        {
            "name": name,
            "failing_since": health.since.isoformat() if health and health.since else None,
            "error": health.error if health else "",
            "next_try": health.next.isoformat() if health and health.since and health.next else None,
            "sent": health.sent if health else 0,
            "last_sent": health.last.isoformat() if health and health.last else None,
            "note": health.note if health else "",
            "waiting": seen.waiting.get(name, 0),
            "put_aside": seen.dead.get(name, 0),
        }
        for name, health in healths
    ]


def trouble(seen: Seen, lang: Lang) -> list[tuple[str, str]]:
    """Say which receivers fail, and what was put aside: a line and its colour each."""
    from diagnose.report import texts
    from diagnose.report.clean import visible

    zh, lines = lang == "zh", []
    for one in receivers(seen):
        name, health = one["name"], seen.health.get(one["name"])
        if health and health.since:
            since = texts.moment(health.since)
            words = f"自 {since} 起无法送达" if zh else f"takes nothing since {since}"
            waits = f"，{one['waiting']} 条等待" if zh else f", {one['waiting']} wait"
            lines.append((visible(f"{name}: {words}{waits}: {health.error}"), "red"))
        if count := one["put_aside"]:
            words = f"{count} 条发送失败，已搁置；重新发送" if zh else f"{count} put aside; send them again with"
            lines.append((f"{name}: {words}: diagnose alerts resend", "red"))
        if one["note"]:
            lines.append((visible(f"{name}: {one['note']}"), "yellow"))
    return lines


def _table(found: Sequence[Letterhead], lang: Lang) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from diagnose.report import texts
    from diagnose.report.clean import visible

    if not found:
        return Text("没有通知" if lang == "zh" else "nothing was told")
    table = Table(box=None, pad_edge=False, show_header=False)
    for place in range(4):
        table.add_column(overflow="fold", no_wrap=place < 3)
    for one in found:
        style = {"dead": "red", "waiting": "yellow"}.get(one.state, "")
        title = one.post.facts.title if one.post.facts else one.post.change.title if one.post.change else ""
        error = f" ({one.error})" if one.error else ""
        table.add_row(
            Text(texts.moment(one.post.at), style="dim"),
            Text(one.post.receiver, style="bold"),
            Text(f"{one.state} {one.post.kind}", style=style),
            Text(visible(f"{title}{error}")),
        )
    return table
