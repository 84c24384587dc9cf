"""``diagnose drill``: a marked practice alert through the whole path, to see that people are reached."""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from diagnose.cli import ask
from diagnose.cli.place import add_common, language, state_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diagnose.outbox import Letterhead

_MORE_S = 30.0
_LOOK_S = 0.2


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "drill",
        help="send a practice alert through the whole path, and say whether each receiver took it",
        description="Tells the receivers of a practice incident, and a little later of its end; both are marked as a "
        "drill. Nothing else is touched. Exit 0 where all took both, 1 where one did not.",
        epilog="example: diagnose drill gpu_oom_load",
    )
    parser.add_argument("cause", metavar="CAUSE", help="a class of cause; diagnose rules list names them")
    ask.add_target(parser)
    parser.add_argument("--receiver", default="", metavar="NAME", help="only this one, whatever the routes say")
    parser.add_argument(
        "--severity", choices=("warning", "error", "critical"), default="critical", help="for the routes"
    )
    ask.add_lasting(parser, "--for", "when it ends (default: 5s)")
    parser.add_argument("--no-wait", action="store_true", help="do not wait to see whether it arrives")
    add_common(parser, state=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for a drill, and watch it arrive."""
    from diagnose import journal
    from diagnose.web import paths

    folder, lang = state_dir(args), language(args)
    lasting = args.lasting or timedelta(seconds=5)
    drill = {
        "by": ask.who(),
        "cause": args.cause,
        "target": ask.one_target(journal.read(folder), args.target),
        "severity": args.severity,
        "for": ask.spelled(lasting),
        "receiver": args.receiver,
    }
    reply = ask.put(args, "POST", paths.DRILLS, drill)
    status = ask.said(reply)
    if not reply.ok or args.no_wait:
        return status
    return watch(folder, reply.id, reply.params["names"].split(", "), lasting, zh=lang == "zh")


def watch(folder: Path, incident: str, names: Sequence[str], lasting: timedelta, *, zh: bool) -> int:
    """Tell how the drill's news fare, as it becomes known; 1 where some did not arrive."""
    from diagnose import outbox

    told: set[str] = set()
    deadline = time.monotonic() + lasting.total_seconds() + _MORE_S
    while True:
        news = outbox.posts(folder, incident=incident)
        for one in reversed(news):
            if one.post.id not in told and (one.state != outbox.WAITING or one.error):
                told.add(one.post.id)
                print(_line(one, zh=zh))
        done = [one for one in news if one.state != outbox.WAITING]
        ended = {one.post.receiver for one in done if one.post.kind == "end"}
        if ended >= set(names) and len(done) == len(news):
            return int(any(one.state == outbox.DEAD for one in news))
        if time.monotonic() > deadline:
            return _missing(folder, names, ended, zh=zh)
        time.sleep(_LOOK_S)


def _line(one: Letterhead, *, zh: bool) -> str:
    from diagnose import outbox

    what = {"fire": ("alert", "告警"), "end": ("end", "恢复")}.get(one.post.kind, (one.post.kind,) * 2)[zh]
    if one.state == outbox.SENT and one.done_at:
        seconds = (one.done_at - one.post.at).total_seconds()
        return f"{one.post.receiver}: {what} " + (
            f"已送达，用时 {seconds:.1f} 秒" if zh else f"taken after {seconds:.1f} s"
        )
    return f"{one.post.receiver}: {what} " + (f"未送达：{one.error}" if zh else f"not taken: {one.error}")


def _missing(folder: Path, names: Sequence[str], ended: set[str], *, zh: bool) -> int:
    from diagnose import outbox

    seen = outbox.read(folder)
    for name in names:
        if name not in ended:
            health = seen.health.get(name)
            why = health.error if health and health.error else "-"
            print(f"{name}: " + (f"仍在等待：{why}" if zh else f"still waits: {why}"))
    return 1
