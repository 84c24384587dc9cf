"""Lint: what loads but is unwise; and the tests that travel inside rules and remedies."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone

import msgspec
import re2

from diagnose.catalog import draft
from diagnose.engine import cards, plan, rates, signals, window
from diagnose.engine.correlate import Group
from diagnose.engine.incidents import begin
from diagnose.engine.match import Carry, Matcher
from diagnose.engine.scan import loosened, refused
from diagnose.engine.signals import Signal
from diagnose.engine.targets import Target
from diagnose.model.causes import CAUSES
from diagnose.model.finding import Evidence, Finding
from diagnose.model.knowledge import Knowledge
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import GpuSample, LogLines, LogMatch, ServerFacts
from diagnose.model.remedy import Advice, Remedy
from diagnose.model.rule import LogTest, Rule, Severity, When, pattern_leaves
from diagnose.model.text import Duration

_NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
_LEAST_TESTS = 2
_LEAST_LITERAL = 4
_FIELD = re.compile(r"\{(\w+)\}")
_EVENT_LABELS = {"role", "code", "signal", "phase", "answer", "status", "workers", "stage", "source", "pid"}
_EVENT_LABELS |= {"after_ready", "repetitive", "value", "gpu", "place"}
_QUOTED = (
    'INFO     2026-01-01 12:00:00,000 4177  serving_chat.py[line:97] request: {"model": "default", "messages": '
    '[{"role": "user", "content": "'
)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something unwise, and what to do about it."""

    item: str
    message: str
    cure: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A test inside a file that does not hold."""

    item: str
    test: str
    expected: str
    actual: str


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """How the tests went."""

    rules: int
    remedies: int
    hits: int
    misses: int
    failures: tuple[Failure, ...]


# --- lint


def lint(knowledge: Knowledge, only: Knowledge | None = None) -> list[Problem]:
    """Say what is unwise in rules and remedies, or in those of ``only``, among all that is known."""
    told = only or knowledge
    rules = [rule for name, rule in knowledge.rules.items() if name in told.rules]
    problems = [problem for rule in rules for problem in _rule(rule, knowledge)]
    problems += _refused(rules)
    problems += [
        problem for name, one in knowledge.remedies.items() if name in told.remedies for problem in _remedy(one)
    ]
    circle = find_circle(knowledge)
    if circle and any(rule.cause in circle for rule in rules):
        problems.append(
            Problem(
                item=circle[0],
                message=f"explains goes in a circle: {' -> '.join(circle)}",
                cure="A cause explains its echoes only; take one of these out",
            )
        )
    return problems


def _refused(rules: Sequence[Rule]) -> Iterator[Problem]:
    """Name patterns that only the slow engine can search for; with one of them no database is kept."""
    wanted = [(rule.id, pattern) for rule in rules for pattern in _searched(rule)]
    slow = set(refused([pattern for _, pattern in wanted]))
    for item, pattern in wanted:
        if pattern in slow:
            yield Problem(
                item=item,
                message=f"pattern {pattern!r}: Hyperscan refuses it",
                cure="Take out what may be empty, large counted repeats and inline flags other than (?i)",
            )


def _searched(rule: Rule) -> list[str]:
    leaves = [leaf.pattern for leaf in pattern_leaves(rule.when)]
    return [pattern for pattern in (*leaves, rule.clears.pattern) if pattern]


def _rule(rule: Rule, knowledge: Knowledge) -> Iterator[Problem]:
    def problem(message: str, cure: str) -> Problem:
        return Problem(item=rule.id, message=message, cure=cure)

    for cause in (rule.cause, *rule.explains):
        if cause not in CAUSES:
            yield problem(f"unknown cause {cause!r}", "Use a class of diagnose/model/causes.py")
    if rule.cause == "client_error" and rule.severity is not Severity.INFO:
        yield problem("a client_error is no trouble of the server", "Give it the severity info")
    for name in rule.remedies:
        if name not in knowledge.remedies:
            yield problem(f"unknown remedy {name!r}", "See diagnose remedies list")
    if len(rule.tests.hits) < _LEAST_TESTS or len(rule.tests.misses) < _LEAST_TESTS:
        yield problem("too few tests", f"Give at least {_LEAST_TESTS} hits and {_LEAST_TESTS} misses")
    for message, cure in draft.unfinished(rule):
        yield problem(message, cure)
    for name in sorted({*_samples(rule.when)} - cards.NAMES - rates.NAMES):
        kin = sorted(one for one in cards.NAMES | rates.NAMES if one.partition(".")[0] == name.partition(".")[0])
        cure = f"Use one of {', '.join(kin)}" if kin else "They begin with gpu., server., process., host. or logs."
        yield problem(f"unknown sample {name!r}", cure)
    yield from _patterns_and_groups(rule)


def _samples(when: When) -> Iterator[str]:
    if when.sample:
        yield when.sample
    for child in (*when.all, *when.any, *when.sequence, *([when.absent] if when.absent else [])):
        yield from _samples(child)


def _patterns_and_groups(rule: Rule) -> Iterator[Problem]:
    groups = set(rule.key)
    for pattern in _searched(rule):
        for message, cure in _pattern(pattern):
            yield Problem(item=rule.id, message=f"pattern {pattern!r}: {message}", cure=cure)
        groups |= set(re.findall(r"\(\?P<(\w+)>", pattern))
    named = {field for text in (rule.title, rule.fix) for both in (text.en, text.zh) for field in _FIELD.findall(both)}
    if unknown := named - groups - _EVENT_LABELS:
        yield Problem(
            item=rule.id,
            message=f"title or fix name {', '.join(sorted(unknown))}",
            cure="Name only groups of this rule's patterns",
        )


def _pattern(pattern: str) -> Iterator[tuple[str, str]]:
    try:
        compiled = re2.compile(pattern, options=_quiet())
    except re2.error as error:
        yield f"RE2 refuses it: {error}", "No look-around, back-references or possessive repeats"
        return
    if compiled.search(""):
        yield "matches the empty text", "Anchor it on fixed words"
    if re.search(r"(^|[^\\])\.[*+]\$?$", pattern) or re.match(r"\^?\.[*+]", pattern):
        yield "begins or ends in an open .*", "Take it out: a pattern is searched, not matched whole"
    if any(ord(char) > 127 for cls in re.findall(r"\[[^\]]*\]", pattern) for char in cls):
        yield "has non-ASCII in a character class", "Write an alternation: (?:甲|乙)"
    literals = re.split(r"\\[A-Za-z]|\(\?P<\w+>|\(\?\w*:?|[\[\](){}|.*+?^$]", loosened(pattern))
    if max((len(one.replace("\\", "").encode()) for one in literals), default=0) < _LEAST_LITERAL:
        yield "has no fixed text to speak of", f"Anchor it on at least {_LEAST_LITERAL} fixed characters"


def _quiet() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    return options


def _remedy(remedy: Remedy) -> Iterator[Problem]:
    for cause in (*remedy.cures, *remedy.expects):
        if cause not in CAUSES:
            yield Problem(
                item=remedy.id,
                message=f"unknown cause {cause!r}",
                cure="Use a class of diagnose/model/causes.py",
            )
    for test in remedy.tests:
        if not 1 <= test.rung <= len(remedy.ladder):
            yield Problem(item=remedy.id, message=f"test {test.name!r}: no rung {test.rung}", cure="Count from 1")


def find_circle(knowledge: Knowledge) -> list[str]:
    """Return causes that explain each other in a circle, the first again at the end; empty where none do."""
    graph: dict[str, set[str]] = {}
    for rule in knowledge.rules.values():
        graph.setdefault(rule.cause, set()).update(rule.explains)
    done: set[str] = set()

    def walk(cause: str, path: list[str]) -> list[str]:
        if cause in path:
            return [*path[path.index(cause) :], cause]
        if cause in done:
            return []
        for echo in sorted(graph.get(cause, ())):
            if found := walk(echo, [*path, cause]):
                return found
        done.add(cause)
        return []

    return next((found for cause in sorted(graph) if (found := walk(cause, []))), [])


# --- tests inside the files


def run_tests(knowledge: Knowledge, matcher: Matcher, only: Sequence[str] = ()) -> Tested:
    """Run the tests of all rules and remedies, or of those named."""
    rules = [one for one in knowledge.rules.values() if not only or one.id in only]
    remedies = [one for one in knowledge.remedies.values() if not only or one.id in only]
    failures = [failure for rule in rules for failure in _rule_failures(rule, knowledge, matcher)]
    failures += [failure for remedy in remedies for failure in _remedy_failures(remedy)]
    return Tested(
        rules=len(rules),
        remedies=len(remedies),
        hits=sum(len(rule.tests.hits) for rule in rules),
        misses=sum(len(rule.tests.misses) for rule in rules),
        failures=tuple(failures),
    )


def found_by(knowledge: Knowledge, matcher: Matcher, test: str | LogTest) -> list[Finding]:
    """Return all findings that a test's log and events give."""
    test = LogTest(log=test) if isinstance(test, str) else test
    log = _scan(matcher, test.log, test.stream) if test.log else []
    events = [_event(dict(event), second) for second, event in enumerate(test.events)]
    before = [one for one in events if one.at < _NOON]
    after = [one for one in events if one.at >= _NOON]
    observations: list[LogMatch | Signal] = [*before, *log, *after]
    windows = window.Windows()
    for place, phase in _phases(test.events).items():
        windows = window.with_phase(windows, "test", place, phase)
    return window.feed(windows, knowledge, observations)[1]


def _scan(matcher: Matcher, log: str, stream: str) -> list[LogMatch]:
    lines = LogLines(
        target="test",
        source="test.log",
        stream=stream,
        first_line=1,
        data=log.encode("utf-8", errors="surrogateescape") + b"\n",
        read_at=_NOON,
        generation=1,
    )
    return matcher.scan(lines, Carry())[0]


def _event(event: dict[str, str], second: int) -> Signal:
    probe, sample = event.pop("probe", ""), event.pop("sample", "")
    name = event.pop("event", f"probe.{probe}")
    after = str(event.pop("at", f"{second}s"))
    offset = Duration.parse(after.removeprefix("-")).total_seconds() * (-1 if after.startswith("-") else 1)
    labels = {key: str(value) for key, value in event.items()}
    if sample:
        at, value = _NOON + timedelta(seconds=offset), float(labels.pop("value"))
        phase = labels.get("phase", "")
        return signals.of_sample(target="test", attempt=1, at=at, name=sample, value=value, labels=labels, phase=phase)
    return signals.of_event(
        target="test", attempt=1, at=_NOON + timedelta(seconds=offset), name=name, labels=labels, text=name
    )


def _phases(events: Sequence[Mapping[str, str]]) -> dict[int, str]:
    named = [event["phase"] for event in events if event.get("phase") in {"starting", "ready"}]
    return {1: named[0]} if named else {}


def _rule_failures(rule: Rule, knowledge: Knowledge, matcher: Matcher) -> Iterator[Failure]:
    for test in rule.tests.hits:
        own = [one for one in found_by(knowledge, matcher, test) if one.rule_id == rule.id]
        labels = {} if isinstance(test, str) else test.labels
        if not own:
            yield _failure(rule, test, "a hit", "no finding")
        elif wrong := {
            name: own[-1].labels.get(name) for name, value in labels.items() if own[-1].labels.get(name) != str(value)
        }:
            yield _failure(rule, test, f"labels {dict(labels)}", str(wrong))
        quoted = _quoted(test)
        if quoted and any(one.rule_id == rule.id for one in found_by(knowledge, matcher, quoted)):
            yield _failure(rule, quoted, "nothing: it stands in a user's prompt", "a finding")
    for test in rule.tests.misses:
        if any(one.rule_id == rule.id for one in found_by(knowledge, matcher, test)):
            yield _failure(rule, test, "a near miss", "a finding")


def _quoted(test: str | LogTest) -> LogTest | None:
    """Put a hit's text into a user's prompt, as FastDeploy logs it."""
    log = test if isinstance(test, str) else test.log
    if not log:
        return None
    escaped = log.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return LogTest(log=f'{_QUOTED}{escaped}"}}]}}', stream="api")


def _failure(rule: Rule, test: str | LogTest, expected: str, actual: str) -> Failure:
    named = test if isinstance(test, str) else test.name or test.log or str(test.events)
    return Failure(item=rule.id, test=" ".join(named.split())[:160], expected=expected, actual=actual)


def _remedy_failures(remedy: Remedy) -> Iterator[Failure]:
    from diagnose.capacity.parse import parse_bytes  # noqa: PLC0415 (only where remedies are tested)
    from diagnose.capacity.shapes import known_shape  # noqa: PLC0415
    from diagnose.launch.flags import accepted  # noqa: PLC0415

    for test in remedy.tests:
        spec = LaunchSpec(argv=tuple(shlex.split(test.command)))
        facts = ServerFacts(
            target="test",
            at=_NOON,
            version=None,
            flags=accepted(None),
            flags_from="table",
            model=known_shape(test.model) if test.model else None,
        )
        gpus = {}
        if test.gpu_memory:
            total = parse_bytes(test.gpu_memory)
            gpus["0"] = GpuSample(
                target="test", at=_NOON, index=0, name="test", total_bytes=total, used_bytes=0, own_bytes=0
            )
        target = Target(name="test", generation=1, desired=spec, facts=facts, gpus=gpus)
        made = plan.build(
            remedy, test.rung - 1, _incident(test.cause or remedy.cures[0], test.labels), target, now=_NOON
        )
        changes = tuple(f"{one.flag} {one.before or '-'} -> {one.after or '-'}" for one in made.changes) if made else ()
        advice = all(isinstance(step, Advice) for step in remedy.ladder[test.rung - 1].steps)
        if changes != test.expect and not (advice and not test.expect):
            yield Failure(item=remedy.id, test=test.name, expected=str(test.expect), actual=str(changes))


def _incident(cause: str, labels: Mapping[str, str]):  # type: ignore[no-untyped-def] # noqa: ANN202
    finding = Finding(
        rule_id="test",
        cause=cause,
        target="test",
        attempt=1,
        at=_NOON,
        last_at=_NOON,
        severity=Severity.CRITICAL,
        confidence=0.9,
        labels=labels,
        evidence=(Evidence(source="test.log", line=1, at=_NOON, text="test"),),
    )
    return begin(Group(findings=(finding,)), at=_NOON)
