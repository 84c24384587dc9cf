"""``diagnose remedies``: what can be done, what would be done here, and a person's word on it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from diagnose.cli import ask
from diagnose.cli.place import add_common, language, state_dir
from diagnose.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from diagnose.engine.brakes import Hold
    from diagnose.model.incident import Plan
    from diagnose.model.knowledge import Knowledge
    from diagnose.model.text import Lang


def add(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser(
        "remedies", help="list remedies; plan one for an incident, approve, reject or undo it"
    )
    commands = parser.add_subparsers(dest="remedies_command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="all remedies, by what they cure")
    listing.add_argument("--json", action="store_true", help="for programs")
    add_common(listing, knowledge=True)
    listing.set_defaults(run=run_list)
    show = commands.add_parser("show", help="one remedy with its ladder")
    show.add_argument("id", metavar="ID")
    add_common(show, knowledge=True)
    show.set_defaults(run=run_show)
    plan = commands.add_parser(
        "plan",
        help="the exact change for an incident, the sums behind it, each brake's verdict; touches nothing",
    )
    plan.add_argument("incident", metavar="INCIDENT", nargs="?", help="its id (default: the newest that is open)")
    add_common(plan, state=True, knowledge=True)
    plan.set_defaults(run=run_plan)
    for kind, what in _ORDERS.items():
        order = commands.add_parser(kind, help=what)
        order.add_argument(
            "incident", metavar="INCIDENT", nargs="?", help="its id, or its beginning (default: the one that waits)"
        )
        if kind == "approve":
            ask.add_lasting(order, "--for", "how long the approval holds if other brakes delay the act (default: 1h)")
        add_common(order, state=True)
        order.set_defaults(run=run_order, order=kind)
    history = commands.add_parser("history", help="the last starts of the server: what changed, how far they came")
    ask.add_target(history)
    history.add_argument("--json", action="store_true", help="for programs")
    add_common(history, state=True)
    history.set_defaults(run=run_history)
    rollback = commands.add_parser(
        "rollback",
        help="put back what remedies changed, restart, and prove it; what does not work is laid again",
    )
    rollback.add_argument(
        "incident", metavar="INCIDENT", nargs="?", help="only what this incident changed (default: all)"
    )
    ask.add_target(rollback)
    add_common(rollback, state=True)
    rollback.set_defaults(run=run_rollback)


_ORDERS = {
    "approve": "let the plan that waits be carried out (mode approve); the other brakes hold on",
    "reject": "this remedy is not wanted for this incident: it is not asked again",
    "apply": "carry out the plan now, whatever the mode and the budgets say",
}


def run_order(args: argparse.Namespace) -> int:
    """Say yes or no to the plan of an incident."""
    from diagnose import journal

    incident = ask.one_incident(journal.read(state_dir(args)), args.incident)
    return ask.tell(args, args.order, target=incident.target, incident=incident.id)


def run_rollback(args: argparse.Namespace) -> int:
    """Put back what remedies changed."""
    from diagnose import journal

    snapshot = journal.read(state_dir(args))
    if args.incident is None:
        return ask.tell(args, "rollback", target=ask.one_target(snapshot, args.target))
    incident = ask.one_incident(snapshot, args.incident)
    return ask.tell(args, "rollback", target=incident.target, incident=incident.id)


def run_history(args: argparse.Namespace) -> int:
    """Print the last starts."""
    from diagnose import journal
    from diagnose.cli import generations

    snapshot = journal.read(state_dir(args))
    target = snapshot.state.targets[ask.one_target(snapshot, args.target)]
    if args.json:
        sys.stdout.write(generations.as_json(target))
    else:
        generations.show(target, language(args))
    return 0


def _known(args: argparse.Namespace) -> Knowledge:
    from diagnose.agent import wiring
    from diagnose.agent.config import Config

    return wiring.knowledge_of(Config(), args.rules, args.remedies)


def run_list(args: argparse.Namespace) -> int:
    """Print all remedies."""
    from rich.console import Console
    from rich.table import Table

    from diagnose.model import codec

    known = _known(args).remedies
    if args.json:
        sys.stdout.write(codec.encode(list(known.values())).decode() + "\n")
        return 0
    lang = language(args)
    table = Table("id", "risk", "mode", "cures", "title", box=None)
    for remedy in sorted(known.values(), key=lambda one: one.id):
        row = (
            remedy.id,
            remedy.risk.value,
            remedy.mode.value,
            ", ".join(remedy.cures),
            remedy.title.in_(lang),
        )
        table.add_row(*row)
    Console(highlight=False).print(table)
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print one remedy."""
    from rich.console import Console
    from rich.text import Text

    from diagnose.actuators.hands import action_of

    known = _known(args).remedies
    if args.id not in known:
        raise InputError(f"no remedy {args.id!r}. See diagnose remedies list.")
    remedy, lang, console = known[args.id], language(args), Console(highlight=False)
    console.print(Text(f"{remedy.id}: {remedy.title.in_(lang)}", style="bold"))
    console.print(Text(remedy.why.in_(lang).strip()))
    console.print(Text(f"risk {remedy.risk.value}, mode {remedy.mode.value}, cures {', '.join(remedy.cures)}"))
    for number, rung in enumerate(remedy.ladder, start=1):
        console.print(Text(f"{number}. {rung.rung.in_(lang)}: {', '.join(map(action_of, rung.steps))}"))
    return 0


def run_plan(args: argparse.Namespace) -> int:
    """Print what would be done about an incident, and what keeps it from being done."""
    from datetime import datetime, timezone

    from rich.console import Console

    from diagnose import journal
    from diagnose.engine import brakes, planner
    from diagnose.engine.incidents import LIVE
    from diagnose.engine.policy import Policy
    from diagnose.model import codec

    snapshot, knowledge, lang = journal.read(state_dir(args)), _known(args), language(args)
    wanted = [one for one in snapshot.incidents if args.incident in {None, one.id}]
    live = [one for one in wanted if one.state in LIVE] if args.incident is None else wanted
    if not live:
        named = f"no incident {args.incident!r}" if args.incident else "no open incident"
        raise InputError(f"{named}. See diagnose incidents.")
    incident, now, console = live[0], datetime.now(timezone.utc), Console(highlight=False)
    target = snapshot.state.targets[incident.target]
    if incident.state not in LIVE:
        console.print(f"incident {incident.id} is over ({incident.state.value}); see diagnose incidents {incident.id}")
        return 0
    policy = codec.decode(snapshot.kept["policy"], Policy) if "policy" in snapshot.kept else Policy()
    shown = False
    for remedy, _, plan in planner.possible(incident, target, knowledge, now):
        consent = planner.consent_to(plan, incident, now)
        busy = bool(snapshot.state.intents)
        holds = brakes.holds(incident, remedy, target, knowledge, policy, busy=busy, now=now, consent=consent)
        show_plan(console, plan, holds, lang)
        shown = True
    if not shown:
        console.print("nothing that can be done automatically is left; see diagnose report for advice")
    return 0


def show_plan(console: Console, plan: Plan, holds: list[Hold], lang: Lang) -> None:
    """Print one plan for a person."""
    from rich.text import Text

    from diagnose.launch.spec import diff
    from diagnose.report import texts

    console.print(Text(f"{plan.remedy_id}, {plan.rung + 1}: {plan.title.in_(lang)}", style="bold"))
    for change in diff(plan.before, plan.after):
        console.print(Text(f"  {change}", style="yellow"))
    for line in plan.arithmetic:
        console.print(Text(f"  {line.in_(lang)}", style="dim"))
    for hold in holds:
        params = {"detail": hold.detail, "until": hold.until.isoformat() if hold.until else ""}
        console.print(Text(f"  ✗ {texts.hold_text(hold.reason, params, lang)}", style="red"))
    if not holds:
        console.print(Text("  ✓ " + ("没有限制" if lang == "zh" else "no brake holds it"), style="green"))
