"""``diagnose alerts``: what was told to whom, what could not be told, and whose an incident is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diagnose.cli import ask
from diagnose.cli.place import add_common, language, state_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from diagnose.model.text import Lang
    from diagnose.outbox import Letterhead
    from diagnose.web.standing import Taker


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
    from diagnose.model import codec
    from diagnose.web import shapes, standing, told

    folder, lang = state_dir(args), language(args)
    takers = standing.receivers(outbox.read(folder))
    found = outbox.posts(folder, state=args.state, receiver=args.receiver)
    if args.json:
        write(codec.encode(shapes.Told(receivers=takers, news=tuple(map(told.news, found)))).decode() + "\n", None)
    else:
        write(drawn(_table(found, lang), screen_width()), None)
    return int(any(one.put_aside or one.failing_since for one in takers))


def run_ack(args: argparse.Namespace) -> int:
    """Acknowledge an incident."""
    from diagnose.web import paths

    return ask.said(ask.put(args, "POST", paths.ACK.format(id=args.incident), {"by": ask.who()}))


def run_resend(args: argparse.Namespace) -> int:
    """Send again what was put aside."""
    from diagnose.web import paths

    return ask.said(ask.put(args, "POST", paths.RESEND, {"by": ask.who(), "receiver": args.receiver}))


def trouble(takers: Sequence[Taker], lang: Lang) -> list[tuple[str, str]]:
    """Say which receivers fail, and what was put aside: a line and its colour each."""
    from diagnose.report import texts
    from diagnose.report.clean import visible

    zh, lines = lang == "zh", []
    for one in takers:
        if one.failing_since:
            since = texts.moment(one.failing_since)
            words = f"自 {since} 起无法送达" if zh else f"takes nothing since {since}"
            waits = f"，{one.waiting} 条等待" if zh else f", {one.waiting} wait"
            lines.append((visible(f"{one.name}: {words}{waits}: {one.error}"), "red"))
        if one.put_aside:
            words = (
                f"{one.put_aside} 条发送失败，已搁置；重新发送"
                if zh
                else f"{one.put_aside} put aside; send them again with"
            )
            lines.append((f"{one.name}: {words}: diagnose alerts resend", "red"))
        if one.note:
            lines.append((visible(f"{one.name}: {one.note}"), "yellow"))
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
