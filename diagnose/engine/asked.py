"""Who asks for which pattern: rules and marks, each pattern once however many ask for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from diagnose.engine.scan import SHAPE
from diagnose.model.knowledge import Knowledge
from diagnose.model.rule import CLEARING_LEAF, When

_ERROR_HINT = (
    r"ERROR|CRITICAL|FATAL|Error Message Summary|terminate called|FatalError|"
    r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Exit|Failure|Timeout)(?::|$)|^E\d{4} |panicked at"
)
"""Roughly, an error known or not; stands last in `texts`."""


class Pattern(msgspec.Struct, frozen=True):
    """What is searched for once, whoever asks for it."""

    pattern: str
    unless: str | None
    streams: tuple[str, ...]
    levels: tuple[str, ...]


class Asked(msgspec.Struct):
    """Who asks for a pattern, and whether one match in a start tells them all."""

    hits: list[tuple[str, int]]
    once: bool = True


def fingerprint(knowledge: Knowledge) -> str:
    """Name the patterns that a matcher of this knowledge scans for: what its `Matcher.dump` fits."""
    return hashlib.sha256("\0".join([SHAPE, *texts(asked_of(knowledge))]).encode()).hexdigest()[:32]


def texts(patterns: Iterable[Pattern]) -> list[str]:
    """Return what is scanned for, in the order of the patterns; the last finds errors that nobody may know."""
    return [*(one.pattern for one in patterns), _ERROR_HINT]


def asked_of(knowledge: Knowledge) -> dict[Pattern, Asked]:
    """Gather the patterns of all marks and rules; the same one asked for twice is searched for once.

    A mark, what a rule wants absent, and what stays, tell nothing new by a second match in the same start:
    of an access log with a million good answers the first is enough.
    """
    asked: dict[Pattern, Asked] = {}

    def ask(pattern: Pattern, rule_id: str, leaf: int, *, once: bool) -> None:
        one = asked.setdefault(pattern, Asked([]))
        one.hits.append((rule_id, leaf))
        one.once = one.once and once

    for name, mark in knowledge.marks.items():
        base = name.partition(".")[0]
        ask(Pattern(mark.pattern, None, mark.streams, ()), base, 0, once=base not in {"@start", "@measured"})
    for rule in knowledge.rules.values():
        for number, (when, absent) in enumerate(_leaves(rule.when, absent=False)):
            pattern = Pattern(when.pattern or "", when.unless, when.streams, when.levels)
            ask(pattern, rule.id, number, once=absent or when.stays)
        if rule.clears.pattern:
            ask(Pattern(rule.clears.pattern, None, (), ()), rule.id, CLEARING_LEAF, once=False)
    return asked


def _leaves(when: When, *, absent: bool) -> Iterator[tuple[When, bool]]:
    """Yield the leaves with a pattern, in the order of `pattern_leaves`, and whether they are to be absent."""
    if when.pattern:
        yield when, absent
    for child in (*when.all, *when.any, *when.sequence):
        yield from _leaves(child, absent=absent)
    if when.absent:
        yield from _leaves(when.absent, absent=True)


def counts_in(pattern: Pattern, asked: Asked, stream: str) -> bool:
    """Say whether a pattern counts in a kind of log; rules count where nobody knows the kind."""
    if stream == "unknown" and not asked.hits[0][0].startswith("@"):
        return True
    return stream in pattern.streams if pattern.streams else stream != "data"
