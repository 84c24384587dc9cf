"""``diagnose config``: check a configuration, show it with its defaults, give its schema to editors."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from diagnose.model.remedy import Remedy


def add(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser("config", help="check, show or describe the daemon's configuration")
    commands = parser.add_subparsers(dest="config_command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="say whether a file can be used, and what else to write where not")
    check.add_argument("file", metavar="FILE")
    check.set_defaults(run=run_check)
    show = commands.add_parser("show", help="the configuration in force, defaults included")
    show.add_argument("file", metavar="FILE", nargs="?")
    show.set_defaults(run=run_show)
    schema = commands.add_parser("schema", help="JSON Schema for editors")
    schema.set_defaults(run=run_schema)


def run_check(args: argparse.Namespace) -> int:
    """Try the file and what it names, rules, commands, secrets, templates; 1 where something is amiss."""
    from diagnose.agent import wiring
    from diagnose.agent.config import Config, refuse_unknown_targets
    from diagnose.catalog import load, trust
    from diagnose.catalog.load import read_config
    from diagnose.launch.flags import imaginary
    from diagnose.launch.spec import fastdeploy_part
    from diagnose.receivers import check

    config = read_config(Path(args.file), Config)
    trust.refuse_others([Path(args.file), *load.site_files([Path(one) for one in (*config.rules, *config.remedies)])])
    knowledge = wiring.knowledge_of(config)
    if config.targets:
        refuse_unknown_targets(config.alerts, [one.name for one in config.targets], args.file)
    amiss = [*check.troubles(config.alerts, knowledge, datetime.now(timezone.utc))]
    if config.http.token_file:
        config.http.token()
        amiss += [told for told in (check.exposed(Path(config.http.token_file)),) if told]
    for remedy, name in unlisted_commands(knowledge.remedies.values(), config.commands):
        amiss.append(f"{remedy} runs the command {name}, which is not allowed here. List it under commands.")
    for told in amiss:
        print(f"{args.file}: {told}")
    wrong = len(amiss)
    for target in config.targets:
        if target.command:
            fastdeploy_part(target.command)
        for problem in imaginary(target.command, target.env) if target.command else ():
            wrong += 1
            print(f"{args.file}: {target.name}: {problem.word}: {problem.why.en}. {problem.fix.en}")
    print(
        f"{args.file}: {len(config.targets)} targets, mode {config.policy.mode.value}, "
        f"{len(knowledge.rules)} rules, {len(knowledge.remedies)} remedies"
    )
    return 1 if wrong else 0


def unlisted_commands(remedies: Iterable[Remedy], allowed: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield remedy and name of each command that a remedy runs and nobody allows."""
    from diagnose.model.remedy import OperatorCommand

    for remedy in remedies:
        for step in (step for rung in remedy.ladder for step in rung.steps):
            if isinstance(step, OperatorCommand) and step.command not in allowed:
                yield remedy.id, step.command


def run_show(args: argparse.Namespace) -> int:
    """Print the configuration as JSON."""
    import msgspec

    from diagnose.agent.config import Config
    from diagnose.catalog.load import read_config
    from diagnose.model import codec

    config = read_config(Path(args.file), Config) if args.file else Config()
    sys.stdout.write(msgspec.json.format(codec.encode(config), indent=2).decode() + "\n")
    return 0


def run_schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    del args
    import msgspec

    from diagnose.agent.config import Config
    from diagnose.catalog import schema

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(schema.of(Config)), indent=2).decode() + "\n")
    return 0
