"""From signals to findings: which rule's condition holds, counted, lasting, in order or absent.

What was seen is kept per rule, attempt and key, bounded, as plain values: a journal can keep it, and
the same signals give the same findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from diagnose.engine import signals
from diagnose.engine.signals import Signal
from diagnose.model.finding import Evidence, Finding
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import LogMatch
from diagnose.model.rule import CLEARING_LEAF, Rule, When

_KEPT = 24
"""Signals remembered per leaf: more than any count that a rule may ask for is no use."""

MOST_MEMORIES = 2000
"""Rules times keys that are remembered at once; the oldest go first."""

_EVIDENCE = 8
"""Pieces of evidence in one finding."""


class Seen(msgspec.Struct, frozen=True):
    """One signal that a leaf remembers."""

    at: datetime
    evidence: Evidence
    labels: Mapping[str, str]
    fresh: bool


class Memory(msgspec.Struct, frozen=True):
    """What one rule has seen of one attempt and key: leaf number to signals, oldest first."""

    leaves: Mapping[int, tuple[Seen, ...]] = {}


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """All that must be remembered between signals.

    Attributes:
        phases: ``target/attempt`` to ``starting`` or ``ready``, as far as marks or the daemon told.
        memories: ``target/attempt/rule/key`` to what was seen.
    """

    phases: Mapping[str, str] = {}
    memories: Mapping[str, Memory] = {}


def feed(
    windows: Windows, knowledge: Knowledge, observations: Sequence[LogMatch | Signal]
) -> tuple[Windows, list[Finding]]:
    """Take what was seen, in order, and tell which rules hold now.

    A rule that goes on holding gives a finding again for each signal that speaks of it; who takes
    them counts repeats by their fingerprint.
    """
    index = _index(knowledge)
    phases, memories = dict(windows.phases), dict(windows.memories)
    findings: list[Finding] = []
    for observation in observations:
        if isinstance(observation, LogMatch):
            place = f"{observation.target}/{observation.attempt}"
            _mark_phase(phases, place, observation)
            signal = signals.of_log(observation, phases.get(place, ""))
        else:
            signal = observation
        for rule, leaf, labels in _touched(index, signal):
            finding = _take(memories, rule, leaf, signal, labels, index.trees[rule.id])
            if finding:
                findings.append(finding)
    return Windows(phases=phases, memories=memories), findings


def cleared(matches: Sequence[LogMatch]) -> set[str]:
    """Name the rules whose ``clears.pattern`` was seen."""
    return {hit.rule_id for match in matches for hit in match.hits if hit.leaf == CLEARING_LEAF}


def forget(windows: Windows, target: str, before_attempt: int) -> Windows:
    """Drop what was remembered of attempts that are over."""

    def kept(place: str) -> bool:
        of, attempt = place.split("/", 2)[:2]
        return of != target or int(attempt) >= before_attempt

    return Windows(
        phases={place: phase for place, phase in windows.phases.items() if kept(place)},
        memories={place: memory for place, memory in windows.memories.items() if kept(place)},
    )


def forget_changed(windows: Windows, before: Knowledge, after: Knowledge) -> Windows:
    """Drop what was remembered of rules whose condition is another now: their leaves mean something else."""
    same = {name for name, rule in after.rules.items() if name in before.rules and before.rules[name].when == rule.when}
    memories = {place: memory for place, memory in windows.memories.items() if place.split("/", 3)[2] in same}
    return msgspec.structs.replace(windows, memories=memories)


def with_phase(windows: Windows, target: str, attempt: int, phase: str) -> Windows:
    """Note the phase that the daemon knows of an attempt (``starting`` or ``ready``)."""
    return msgspec.structs.replace(windows, phases={**windows.phases, f"{target}/{attempt}": phase})


# --- the rules, prepared once for each state of knowledge


class _Node(msgspec.Struct, frozen=True):
    """A condition with the numbers of its leaves: pattern leaves as hits name them, others from 1000."""

    when: When
    leaf: int | None
    children: tuple[_Node, ...]
    absent: _Node | None


class _Index(msgspec.Struct, frozen=True):
    rules: Mapping[str, Rule]
    trees: Mapping[str, _Node]
    by_event: Mapping[str, tuple[tuple[Rule, int, When], ...]]


_OTHER_LEAVES = 1000
_prepared: dict[str, _Index] = {}


def _index(knowledge: Knowledge) -> _Index:
    """Prepare the rules; the last few states of knowledge are kept ready."""
    if knowledge.digest not in _prepared:
        while len(_prepared) > 3:
            _prepared.pop(next(iter(_prepared)))
        trees: dict[str, _Node] = {}
        by_event: dict[str, list[tuple[Rule, int, When]]] = {}
        for rule in knowledge.rules.values():
            trees[rule.id] = _number(rule.when, iter(range(_OTHER_LEAVES)), iter(range(_OTHER_LEAVES, 9999)))
            for node in _leaves(trees[rule.id]):
                name = _event_of(node.when)
                if name and node.leaf is not None:
                    by_event.setdefault(name, []).append((rule, node.leaf, node.when))
        _prepared[knowledge.digest] = _Index(
            dict(knowledge.rules), trees, {name: tuple(found) for name, found in by_event.items()}
        )
    return _prepared[knowledge.digest]


def _event_of(when: When) -> str:
    """Name the signal that a leaf without pattern waits for."""
    if when.sample:
        return f"sample.{when.sample}"
    return f"probe.{when.probe}" if when.probe else when.event or ""


def _number(when: When, patterns: Iterator[int], others: Iterator[int]) -> _Node:
    leaf = next(patterns) if when.pattern else None
    if when.event or when.probe or when.sample:
        leaf = next(others)
    children = tuple(_number(child, patterns, others) for child in (*when.all, *when.any, *when.sequence))
    absent = _number(when.absent, patterns, others) if when.absent else None
    return _Node(when, leaf, children, absent)


def _leaves(node: _Node) -> Iterator[_Node]:
    if node.leaf is not None:
        yield node
    for child in (*node.children, *((node.absent,) if node.absent else ())):
        yield from _leaves(child)


# --- one signal


def _mark_phase(phases: dict[str, str], place: str, match: LogMatch) -> None:
    names = {hit.rule_id for hit in match.hits if hit.rule_id.startswith("@")}
    if "@ready" in names:
        phases[place] = "ready"
    elif names - {"@error", "@fatal", "@traceback", "@stopping"} and place not in phases:
        phases[place] = "starting"


def _touched(index: _Index, signal: Signal) -> Iterator[tuple[Rule, int, Mapping[str, str]]]:
    """Yield the rules that this signal speaks to, with the leaf and the labels that it fills."""
    for hit in signal.hits:
        rule = index.rules.get(hit.rule_id)
        if rule and hit.leaf != CLEARING_LEAF and _phase_counts(rule, signal):
            yield rule, hit.leaf, hit.labels
    for rule, leaf, when in index.by_event.get(signal.name, ()):
        if _phase_counts(rule, signal):
            ours = all(signal.labels.get(name, "") in values for name, values in when.where.items())
            if ours and _beyond(when, signal):
                yield rule, leaf, signal.labels
            elif when.for_ if signal.value is None else ours:  # it no longer lasts: what must last starts anew
                yield rule, -leaf - 1, signal.labels


def _beyond(when: When, signal: Signal) -> bool:
    """Say whether a number is beyond what its rule allows; all that is no number counts."""
    if signal.value is None:
        return True
    above = when.above is None or signal.value > when.above
    return above and (when.below is None or signal.value < when.below)


def _phase_counts(rule: Rule, signal: Signal) -> bool:
    return not rule.phase or signal.phase in rule.phase


def _take(
    memories: dict[str, Memory],
    rule: Rule,
    leaf: int,
    signal: Signal,
    labels: Mapping[str, str],
    tree: _Node,
) -> Finding | None:
    """Remember the signal and see whether the rule's condition holds now."""
    base = f"{signal.target}/{signal.attempt}/{rule.id}/"
    keyed = bool(rule.key) and all(name in labels for name in rule.key)
    place = base + (",".join(labels[name] for name in rule.key) if keyed else "")
    if leaf < 0:
        over = -leaf - 1
        if place in memories and over in memories[place].leaves:
            rest = {number: seen for number, seen in memories[place].leaves.items() if number != over}
            memories[place] = Memory(rest)
        return None
    seen = Seen(signal.at, signal.evidence, labels, signal.fresh)
    memories[place] = _remember(memories.pop(place, Memory()), leaf, seen)  # the newest stand last
    if len(memories) > MOST_MEMORIES:
        del memories[next(iter(memories))]
    leaves = dict(memories[place].leaves)
    if keyed and base in memories:
        for number, shared in memories[base].leaves.items():
            leaves[number] = leaves.get(number, ()) + shared
    proof = _holds(tree, leaves)
    return _finding(rule, signal, proof) if proof else None


def _remember(memory: Memory, leaf: int, seen: Seen) -> Memory:
    kept = memory.leaves.get(leaf, ())
    if len(kept) >= _KEPT:  # the first stays: it tells since when
        kept = (kept[0], *kept[2:])
    return Memory({**memory.leaves, leaf: (*kept, seen)})


def _finding(rule: Rule, signal: Signal, proof: tuple[Seen, ...]) -> Finding:
    labels: dict[str, str] = {}
    for seen in sorted(proof, key=lambda seen: seen.at):
        labels.update({name: value for name, value in seen.labels.items() if value})
    evidence: dict[tuple[str, int | None, str], Evidence] = {}
    for seen in sorted(proof, key=lambda seen: not seen.labels):  # what the texts name comes first
        evidence[seen.evidence.source, seen.evidence.line, seen.evidence.text] = seen.evidence
    return Finding(
        rule_id=rule.id,
        cause=rule.cause,
        target=signal.target,
        attempt=signal.attempt,
        at=min(seen.at for seen in proof),
        last_at=max(seen.at for seen in proof),
        severity=rule.severity,
        confidence=rule.confidence,
        labels=labels,
        evidence=tuple(evidence.values())[:_EVIDENCE],
        fresh=any(seen.fresh for seen in proof),
    )


# --- one condition


def _holds(node: _Node, leaves: Mapping[int, tuple[Seen, ...]]) -> tuple[Seen, ...]:
    """Return the proof that the condition holds, or nothing."""
    if node.absent and _holds(node.absent, leaves):
        return ()
    if node.leaf is not None:
        return _leaf_holds(node.when, leaves.get(node.leaf, ()))
    proofs = [_holds(child, leaves) for child in node.children]
    if node.when.any:
        return next((proof for proof in proofs if proof), ())
    if not all(proofs):
        return ()
    last = [max(seen.at for seen in proof) for proof in proofs]
    bound = [at for at, child in zip(last, node.children, strict=True) if not _stays(child)]
    if bound and max(bound) - min(bound) > node.when.within:
        return ()
    if node.when.sequence and last != sorted(last):
        return ()
    return tuple(seen for proof in proofs for seen in proof)


def _stays(node: _Node) -> bool:
    """Say whether all that a condition asks for is context that stays."""
    return node.when.stays or (bool(node.children) and all(_stays(child) for child in node.children))


def _leaf_holds(when: When, seen: tuple[Seen, ...]) -> tuple[Seen, ...]:
    if not seen:
        return ()
    if when.for_ > timedelta(0):
        return (seen[0], seen[-1]) if seen[-1].at - seen[0].at >= when.for_ else ()
    if when.count == 1:
        return seen[-1:]
    recent = [one for one in seen if seen[-1].at - one.at <= when.within]
    return tuple(recent[-when.count :]) if len(recent) >= when.count else ()
