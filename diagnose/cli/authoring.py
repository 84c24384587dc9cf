"""``diagnose rules draft`` and ``diagnose rules runbook``: from a line to a rule, from rules to pages for people."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnose.cli.place import add_common
from diagnose.errors import InputError

if TYPE_CHECKING:
    from diagnose.engine.lines import Line
    from diagnose.engine.templates import Template
    from diagnose.model.knowledge import Knowledge

_MOST_AROUND = 10_000
"""Lines on either side of a sample in which its like and near misses are looked for."""


def add(commands: Any) -> None:
    """Register the commands."""
    draft = commands.add_parser(
        "draft",
        help="write a rule skeleton from a line that no rule knows",
        description="Write a rule skeleton from a line that no rule knows: the first kind of error that the report "
        "would show as unexplained, or the one that you name.",
    )
    draft.add_argument("file", metavar="FILE", help="a log")
    which = draft.add_mutually_exclusive_group()
    which.add_argument("--line", type=int, metavar="N", help="the line, from 1")
    which.add_argument("--template", metavar="TEXT", help="part of an unexplained line or of its template")
    draft.add_argument("-o", "--output", type=Path, metavar="F.yaml", help="write here (default: standard output)")
    add_common(draft, knowledge=True)
    draft.set_defaults(run=run_draft)
    runbook = commands.add_parser("runbook", help="write a page for people about each cause")
    runbook.add_argument("-o", "--output", type=Path, metavar="DIR", help="write all pages here, and an index")
    runbook.add_argument("cause", nargs="?", metavar="CAUSE", help="print this page only")
    add_common(runbook, knowledge=True)
    runbook.set_defaults(run=run_runbook)


def _known(args: argparse.Namespace) -> Knowledge:
    from diagnose.catalog import load

    return load.load([Path(one) for one in (*args.rules, *args.remedies)])


def run_draft(args: argparse.Namespace) -> int:
    """Write the skeleton and say what is next."""
    from diagnose.catalog.draft import draft

    if args.file == "-" or Path(args.file).is_dir():
        raise InputError(f"{args.file}: a draft is made from one file. Name a log file.")
    if args.output and args.output.exists():
        raise InputError(f"{args.output} is there already. Name a new file.")
    template = None if args.line else _chosen(args)
    number = args.line or (template.line if template else 1)
    sample, others = _lines(args.file, number)
    made = draft(sample, others, template.template if template else "")
    if template is None and (knows := _who_knows(args, sample)):
        print(f"diagnose: line {number} is known already: {', '.join(knows)}", file=sys.stderr)
    if args.output is None:
        sys.stdout.write(made.text)
        return 0
    try:
        args.output.write_text(made.text, encoding="utf-8")
    except OSError as problem:
        raise InputError(f"{args.output}: {problem.strerror}. Name a file that can be written.") from problem
    print(
        f"{args.output} written from line {number}. What is left to do: diagnose rules lint {args.output}\n"
        f"Its tests: diagnose rules test {made.id} --rules {args.output}"
    )
    return 0


def _chosen(args: argparse.Namespace) -> Template:
    """Find the unexplained line that is meant; name the others."""
    from diagnose import offline
    from diagnose.catalog import cache
    from diagnose.report.clean import visible

    known = _known(args)
    found = offline.diagnose([args.file], knowledge=known, matcher=cache.matcher(known)).unexplained
    wanted = [one for one in found if not args.template or args.template in f"{one.template}\n{one.sample}"]
    told = "".join(f"\n  --line {one.line}  {visible(one.sample)[:120]}" for one in found[:8])
    if not wanted:
        what = f"no unexplained line has {args.template!r} in it" if args.template else "every error here has its rule"
        raise InputError(f"{what}. Name a line with --line N.{told}")
    if len(wanted) > 1:
        print(f"diagnose: {len(found)} kinds of unexplained lines; this is the first of:{told}", file=sys.stderr)
    return wanted[0]


def _who_knows(args: argparse.Namespace, sample: Line) -> list[str]:
    """Name the rules that a line fires already."""
    from diagnose.catalog import cache, check

    known = _known(args)
    return sorted({one.rule_id for one in check.found_by(known, cache.matcher(known), sample.text)})


def _lines(file: str, number: int) -> tuple[Line, list[Line]]:
    """Read a line and those around it."""
    from diagnose.catalog.draft import as_line
    from diagnose.profiles import fastdeploy
    from diagnose.sources.logfiles import open_logs

    sample, others = None, []
    for log in open_logs([file], target="draft", stream_of=fastdeploy.stream_of, is_log=fastdeploy.is_log):
        for piece in log.chunks():
            if piece.first_line > number + _MOST_AROUND:
                break
            for place, raw in enumerate(piece.data.split(b"\n"), piece.first_line):
                if place == number:
                    sample = as_line(raw)
                elif abs(place - number) <= _MOST_AROUND and raw.strip():
                    others.append(as_line(raw))
    if sample is None or not sample.message.strip():
        raise InputError(f"{file} has no line {number} with text. Count from 1.")
    return sample, others


def run_runbook(args: argparse.Namespace) -> int:
    """Write all pages in both languages or in ``--lang``, or print one."""
    from diagnose.catalog import runbook
    from diagnose.cli.place import language

    known = _known(args)
    if args.cause:
        if args.cause not in runbook.causes(known):
            raise InputError(f"no page for {args.cause!r}. There are: {', '.join(runbook.causes(known))}.")
        sys.stdout.write(runbook.page(args.cause, known, language(args)))
        return 0
    if args.output is None:
        raise InputError("where to? Give a folder with -o DIR, or a CAUSE to print one page.")
    pages = runbook.pages(known, [args.lang] if args.lang else ["en", "zh"])
    for name, text in pages.items():
        path = args.output / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as problem:
            raise InputError(f"{path}: {problem.strerror}. Name a folder that can be written.") from problem
    print(f"{len(pages)} pages in {args.output}")
    return 0
