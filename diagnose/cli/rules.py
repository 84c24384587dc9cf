"""``diagnose rules``: list, show, lint, test, match, schema; draft and runbook stand in their own module."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnose.cli import authoring
from diagnose.cli.place import add_common, language
from diagnose.errors import InputError

if TYPE_CHECKING:
    from diagnose.model.knowledge import Knowledge


def add(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser("rules", help="list, check, test and try rules")
    commands = parser.add_subparsers(dest="rules_command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="all rules, by what they find")
    listing.add_argument("--json", action="store_true", help="for programs")
    add_common(listing, knowledge=True)
    listing.set_defaults(run=run_list)
    show = commands.add_parser("show", help="one rule")
    show.add_argument("id", metavar="ID")
    add_common(show, knowledge=True)
    show.set_defaults(run=run_show)
    lint = commands.add_parser("lint", help="say what is unwise; with PATH only what stands there")
    lint.add_argument("paths", nargs="*", metavar="PATH", type=Path)
    add_common(lint, knowledge=True)
    lint.set_defaults(run=run_lint)
    test = commands.add_parser("test", help="run the tests inside rules and remedies")
    test.add_argument("ids", nargs="*", metavar="ID")
    add_common(test, knowledge=True)
    test.set_defaults(run=run_test)
    match = commands.add_parser("match", help="show which line of a log fires which rule")
    match.add_argument("file", metavar="FILE", help="- for standard input")
    add_common(match, knowledge=True)
    match.set_defaults(run=run_match)
    schema = commands.add_parser("schema", help="JSON Schema of rule and remedy files, for editors")
    schema.add_argument("kind", choices=("rule", "remedy"), nargs="?", default="rule")
    schema.set_defaults(run=run_schema)
    authoring.add(commands)


def _known(args: argparse.Namespace, *, fresh: bool = False) -> Knowledge:
    from diagnose.catalog import load

    return load.load([Path(one) for one in (*args.rules, *args.remedies)], fresh=fresh)


def run_list(args: argparse.Namespace) -> int:
    """Print all rules."""
    from diagnose.model import codec

    rules = sorted(_known(args).rules.values(), key=lambda rule: (rule.cause, rule.id))
    if args.json:
        sys.stdout.write(codec.encode(rules).decode() + "\n")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("cause", "id", "severity", "sure", "title", box=None)
    for rule in rules:
        table.add_row(
            rule.cause,
            rule.id,
            rule.severity.value,
            f"{rule.confidence:.2f}",
            rule.title.in_(language(args)),
        )
    Console(highlight=False).print(table)
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print one rule as JSON."""
    import msgspec

    from diagnose.model import codec

    rules = _known(args).rules
    if args.id not in rules:
        raise InputError(f"no rule {args.id!r}. See diagnose rules list.")
    sys.stdout.write(msgspec.json.format(codec.encode(rules[args.id]), indent=2).decode() + "\n")
    return 0


def run_lint(args: argparse.Namespace) -> int:
    """Print what is unwise; exit 1 where anything is."""
    from diagnose.catalog import check, load

    own = load.read_files(args.paths) if args.paths else None
    known = load.load([*map(Path, (*args.rules, *args.remedies)), *args.paths], fresh=True)
    told = own or known
    problems = check.lint(known, own)
    for problem in problems:
        print(f"{problem.item}: {problem.message}. {problem.cure}.")
    print(f"{len(told.rules)} rules, {len(told.remedies)} remedies, {len(problems)} problems")
    return 1 if problems else 0


def run_test(args: argparse.Namespace) -> int:
    """Run the embedded tests and print the counts; exit 1 where one fails."""
    from diagnose.catalog import cache, check

    known = _known(args, fresh=True)
    if unknown := set(args.ids) - {*known.rules, *known.remedies}:
        raise InputError(f"no rule or remedy {', '.join(sorted(unknown))}. See diagnose rules list.")
    done = check.run_tests(known, cache.matcher(known), args.ids)
    for failure in done.failures:
        print(f"FAILED {failure.item}: expected {failure.expected}, got {failure.actual}\n       {failure.test}")
    print(
        f"{done.rules} rules, {done.remedies} remedies: {done.hits} hits and {done.misses} near misses, "
        f"{len(done.failures)} failed"
    )
    return 1 if done.failures else 0


def run_match(args: argparse.Namespace) -> int:
    """Print line number, rule and line for each hit."""
    from rich.console import Console
    from rich.text import Text

    from diagnose.catalog import cache
    from diagnose.engine.match import Carry
    from diagnose.profiles import fastdeploy
    from diagnose.report.clean import visible
    from diagnose.sources.logfiles import open_logs

    known = _known(args)
    matcher, console, found = cache.matcher(known), Console(highlight=False), 0
    logs = open_logs([args.file], target="match", stream_of=fastdeploy.stream_of, is_log=fastdeploy.is_log)
    for log in logs:
        carry = Carry()
        for piece in log.chunks():
            matches, carry = matcher.scan(piece, carry)
            for match in matches:
                for hit in match.hits:
                    found += 1
                    text = f"{match.source}:{match.line}  {hit.rule_id}  {visible(match.text)}"
                    console.print(Text(text), soft_wrap=True)
    return 1 if found else 0


def run_schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    import msgspec

    from diagnose.catalog import schema
    from diagnose.model.remedy import Remedy
    from diagnose.model.rule import Rule

    kind = Remedy if args.kind == "remedy" else Rule
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(schema.of(kind)), indent=2).decode() + "\n")
    return 0
