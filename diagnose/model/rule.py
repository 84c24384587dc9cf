"""Knowledge: what a trouble looks like. The YAML of ``rules/`` decodes straight into these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Literal

import msgspec

from diagnose.model.text import Duration, Text


class Severity(str, Enum):
    """How bad it is, from a note to an outage."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info to 3 for critical."""
        return list(Severity).index(self)


Status = Literal["experimental", "stable", "deprecated"]
Phase = Literal["starting", "ready"]


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition: one leaf (``pattern``, ``event``, ``probe`` or ``sample``) or one knot of conditions.

    Attributes:
        pattern: A regular expression in the syntax that RE2 and Hyperscan share, searched in the
            message of a line; ``^`` is the message's start, behind time stamps and prefixes.
        unless: A pattern that must not be found in the same line.
        streams: The kinds of log where the line counts; empty for all but ``data``.
        levels: Log levels that count (``ERROR``, ``WARNING`` ...); a line without level counts always.
        event: ``process.exit``, ``process.stall``, ``source.silent``; offline ``text.answer``: a file that is no log.
        probe: ``health`` or ``completion``.
        sample: A number that is measured, as ``server.stalled_seconds`` (docs/writing-rules.md lists them).
        above, below: The sample counts while it is beyond this; one that is not ends what went before.
        where: For events, probes and samples: label to the values that count. Labels: ``role``, ``code``,
            ``signal``, ``phase``, ``answer``, ``status``, ``workers``, ``repetitive``, ``after_ready``.
        all, any, sequence: Conditions that must hold together, one of them, or in that order.
        absent: A condition that must not have held before, in the same attempt.
        count, within: How often in how long; ``within`` also bounds ``all`` and ``sequence``.
        stays: Once a line was seen, this pattern holds for the rest of that start; for context such as "it served".
        for_: How long it must last (``for`` in YAML); for probes, events and samples.
    """

    pattern: str | None = None
    unless: str | None = None
    streams: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    event: str | None = None
    probe: str | None = None
    sample: str | None = None
    above: float | None = None
    below: float | None = None
    where: Mapping[str, tuple[str, ...]] = {}
    all: tuple[When, ...] = ()
    any: tuple[When, ...] = ()
    sequence: tuple[When, ...] = ()
    absent: When | None = None
    count: int = 1
    within: Duration = Duration(minutes=5)
    stays: bool = False
    for_: Duration = msgspec.field(default=Duration(0), name="for")

    def __post_init__(self) -> None:
        kinds = [self.pattern, self.event, self.probe, self.sample, self.all, self.any, self.sequence]
        if sum(bool(kind) for kind in kinds) != 1:
            raise ValueError("a condition is exactly one of pattern, event, probe, sample, all, any, sequence")
        if bool(self.sample) == (self.above is None and self.below is None):
            raise ValueError("a sample is compared: give it above or below, and nothing else has them")
        if self.stays and not self.pattern:
            raise ValueError("only a pattern can stay: put stays beside it")
        if self.count < 1:
            raise ValueError("count is 1 or more")


class Clears(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the trouble ends: the first of these that happens.

    Attributes:
        ready: The server becomes ready in a later attempt, proven by a completion.
        probe: This probe answers ``ok``.
        pattern: A log line says so.
        quiet: Nothing was seen of it for so long.
        sees: This sense sees again: ``gpu``, or ``source``: the one that the finding is about.
    """

    ready: bool = False
    probe: str | None = None
    pattern: str | None = None
    quiet: Duration | None = None
    sees: Literal["gpu", "source"] | None = None

    def __post_init__(self) -> None:
        if not (self.ready or self.probe or self.pattern or self.quiet or self.sees):
            raise ValueError("say how the trouble ends: ready, probe, pattern, quiet or sees")


class LogTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test inside a rule: a log, or events, that must (not) make the rule fire.

    Attributes:
        log: One or more lines.
        stream: The kind of log it stands in.
        events: Structured observations: a name and its labels, e.g.
            ``{event: process.exit, role: worker, signal: "9", phase: ready}``.
        labels: What the finding's labels must contain (hits only).
        name: What it shows.
    """

    log: str = ""
    stream: str = "unknown"
    events: tuple[Mapping[str, str], ...] = ()
    labels: Mapping[str, str] = {}
    name: str = ""


class RuleTests(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hits and near misses. A plain string is a log in stream ``unknown``."""

    hits: tuple[str | LogTest, ...]
    misses: tuple[str | LogTest, ...]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When these symptoms, then this cause.

    Attributes:
        id: Which concrete failure, dotted: ``gpu.oom.paddle-allocator``.
        cause: The class (``diagnose/model/causes.py``); several rules may share one.
        title: What it is, in a few words; may name groups: ``GPU {gpu} is out of memory``.
        why: What happens and why; a paragraph.
        fix: What to do about it, ready to be followed; may name groups.
        command: The command that cures or shows more, where there is one.
        confidence: How surely these symptoms mean this cause, 0 to 1. Ranks rules that tie.
        phase: The rule counts only in these phases of the attempt; empty for any.
        key: Labels that tell one trouble of this rule from another: a finding for each value.
        explains: Causes that are echoes of this one.
        corroborate: Kinds of observation of which one must be seen too, before a remedy may act.
        untrusted: The line can carry text of users: never acted upon.
        remedies: Remedies to prefer over those that cure the cause in general.
    """

    id: str
    cause: str
    title: Text
    why: Text
    fix: Text
    when: When
    clears: Clears
    tests: RuleTests
    command: str = ""
    severity: Severity = Severity.ERROR
    confidence: float = 0.9
    status: Status = "stable"
    since: str = "0.1.0"
    references: tuple[str, ...] = ()
    false_positives: str = ""
    phase: tuple[Phase, ...] = ()
    key: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()
    corroborate: tuple[Literal["exit", "probe", "gpu", "stall", "load"], ...] = ()
    untrusted: bool = False
    remedies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise ValueError("confidence is above 0 and at most 1")


def pattern_leaves(when: When) -> Iterator[When]:
    """Yield the leaves with a pattern, in reading order: knots before `absent`.

    The place in this order is the ``leaf`` of a `diagnose.model.observation.Hit`.
    """
    if when.pattern:
        yield when
    for child in (*when.all, *when.any, *when.sequence):
        yield from pattern_leaves(child)
    if when.absent:
        yield from pattern_leaves(when.absent)


CLEARING_LEAF = -1
"""The ``leaf`` of a hit of ``clears.pattern``."""
