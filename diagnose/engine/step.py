"""One turn of the mind: state and observations in, state and effects out. It knows no clock, no world."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from diagnose.engine import correlate, incidents, orders, planner, recovery, signals, targets, verify, way_back, window
from diagnose.engine.absorb import absorb
from diagnose.engine.brakes import Hold
from diagnose.engine.planner import Act, Exhausted, Suggest
from diagnose.engine.policy import Policy
from diagnose.engine.signals import Signal
from diagnose.engine.state import State
from diagnose.engine.targets import Target
from diagnose.engine.verify import Verdict
from diagnose.model.effect import Effect, KnownGood, Perform, SaveIncident
from diagnose.model.finding import Finding
from diagnose.model.incident import Incident, Intent, Plan, Try
from diagnose.model.incident import State as Stands
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import RECOVERED, LogMatch, Observation, Order, Outcome
from diagnose.model.remedy import Remedy
from diagnose.model.rule import Severity

_CLOSED_KEPT = 20
"""Incidents that are over and in memory still, beside those whose changes are in force; the journal has them all."""

_ACTS_KEPT = 100
_TRIED_KEPT = 20
_ROLLED_BACK = ("rolled-back", "rollback-failed")


def step(
    state: State,
    observations: Sequence[Observation],
    *,
    knowledge: Knowledge,
    policy: Policy,
    now: datetime,
) -> tuple[State, tuple[Effect, ...]]:
    """Take one turn.

    A turn without observations and effects leaves the state as it was, so a journal of the turns that
    had either is enough to live the same life again.
    """
    turn = _Turn(state, knowledge, policy, now)
    turn.see(observations)
    turn.think()
    return turn.result()


class _Turn:
    """One turn's working memory; nothing of it is left behind but its result."""

    def __init__(self, state: State, knowledge: Knowledge, policy: Policy, now: datetime) -> None:
        self.before, self.knowledge, self.policy, self.now = state, knowledge, policy, now
        self.targets = dict(state.targets)
        self.incidents = dict(state.incidents)
        self.intents = dict(state.intents)
        self.windows = state.windows
        self.cleared: set[tuple[str, str]] = set()
        self.soon: set[str] = set()
        self.effects: list[Effect] = []

    # --- what was seen

    def see(self, observations: Sequence[Observation]) -> None:
        heard: list[LogMatch | Signal] = []
        for observation in observations:
            name = observation.target
            target = self.targets.get(name, Target(name=name))
            told = targets.observe(target, observation, self.policy)
            self.targets[name] = told.target
            self.effects += told.effects
            heard += told.signals
            if isinstance(observation, LogMatch):
                heard.append(signals.on_our_clock(observation, self.now))
            elif isinstance(observation, Outcome):
                self._outcome(observation)
            elif isinstance(observation, Order):
                self._obey(observation)
            if told.target.generation != target.generation:
                self.windows = window.forget(self.windows, name, told.target.generation - 1)
            if told.effects:
                self.windows = window.with_phase(
                    self.windows, name, told.target.generation, targets.serving(told.target)
                )
        lines = [one for one in heard if isinstance(one, LogMatch)]
        self.cleared = {(one.target, rule) for one in lines for rule in window.cleared([one])}
        self.windows, findings = window.feed(self.windows, self.knowledge, heard)
        for name, target in self.targets.items():
            own = [one for one in findings if one.target == name and one.attempt >= target.generation - 1]
            if own:
                undoing = next((one for one in self.intents.values() if one.target == name and one.undo), None)
                self.incidents |= absorb(self.incidents, own, target, self.knowledge, now=self.now, undoing=undoing)

    def _outcome(self, outcome: Outcome) -> None:
        intent = self.intents.pop(outcome.intent_id, None)
        if intent is None:
            return
        target = self.targets[intent.target]
        trial = target.trial if target.trial and target.trial.intent_id == intent.id else None
        runs = target.starts[-1] if target.starts else None
        begun = runs is not None and runs.generation > intent.generation and runs.spec == intent.plan.after
        if outcome.ok or begun:  # what runs is in force, however the act ended
            target = msgspec.structs.replace(target, overlays=intent.plan.overlays)
        if not outcome.ok:
            slipped = target.slipped or target.phase == "stopped"
            target = msgspec.structs.replace(target, trial=None if trial else target.trial, slipped=slipped)
            if not intent.undo and not _cut_short(outcome):
                rung = max(intent.plan.rung, target.climbed.get(intent.plan.remedy_id, 0))
                climbed = {**target.climbed, intent.plan.remedy_id: rung}
                target = msgspec.structs.replace(target, climbed=climbed)
            if intent.undo and _cut_short(outcome):  # it did not fail: it is taken up again at once
                recoveries = tuple(at for at in target.recoveries if at != intent.at)
                target = msgspec.structs.replace(target, recoveries=recoveries)
        self.targets[intent.target] = target
        if incident := self.incidents.get(intent.incident_id):
            self.incidents[incident.id] = self._told(incident, intent, outcome, on_trial=trial is not None)
        if trial and not outcome.ok and not _cut_short(outcome):
            self._perform(way_back.undone(target, trial, now=self.now), target)

    def _told(self, incident: Incident, intent: Intent, outcome: Outcome, *, on_trial: bool) -> Incident:
        """Write down how an intent went, and what that means for its incident."""
        for result in outcome.results:
            incident = incidents.note(
                incident,
                "step",
                at=self.now,
                action=result.action,
                text=result.text,
                text_zh=result.zh,
                ok=str(result.ok).lower(),
            )
        why = next((result.text for result in outcome.results if not result.ok), "")
        if on_trial:
            kind = "trial" if outcome.ok else "interrupted" if _cut_short(outcome) else "trial-failed"
            return incidents.note(incident, kind, at=self.now, why=why)
        if intent.undo:
            good, bad = ("recovered", "recovery-failed") if intent.plan.remedy_id == "recovery" else _ROLLED_BACK
            return incidents.note(incident, good if outcome.ok else bad, at=self.now)
        if outcome.ok:
            return incidents.move(incident, Stands.VERIFYING, at=self.now, kind="verifying")
        how = "interrupted" if _cut_short(outcome) else "failed"
        incident = incidents.with_try(incident, intent.id, how)
        return incidents.move(incident, Stands.OPEN, at=self.now, kind=how, why=why)

    def _obey(self, order: Order) -> None:
        """Do what a person asks, or say why not."""
        target = self.targets[order.target]
        incident = self._owner(order, target)
        done = orders.obey(order, incident, target, self.knowledge, self.policy, busy=self._busy(target), now=self.now)
        self.targets[target.name] = done.target
        if done.incident:
            self.incidents[done.incident.id] = done.incident
        if done.intent:
            self._perform(done.intent, done.target)
        self.effects.append(done.answer)

    def _owner(self, order: Order, target: Target) -> Incident | None:
        """Return the incident that an order names; else that in which it is written down: it is to help, or undoes."""
        if order.incident:
            named = self.incidents.get(order.incident)
            return named if named and named.target == target.name else None
        if order.kind == "restart":
            live = [one for one in self.incidents.values() if one.target == target.name and incidents.is_open(one)]
            return max(live, key=lambda one: (one.last_seen, one.id), default=None)
        return self.incidents.get(target.overlays[-1].incident_id) if target.overlays else None

    # --- what follows from it

    def think(self) -> None:
        for incident in sorted(self.incidents.values(), key=lambda one: (one.first_seen, one.id)):
            target = self.targets.get(incident.target)
            if target is None or incident.state not in incidents.LIVE:
                continue
            advance = {
                Stands.PENDING: self._pending,
                Stands.OPEN: self._open,
                Stands.VERIFYING: self._verifying,
                Stands.EXHAUSTED: self._exhausted,
            }.get(incident.state)
            if advance:
                self.incidents[incident.id] = advance(incident, target)
        for name in self.targets:
            self._try(self.targets[name])
            self._recover(self.targets[name])
            self._offer(self.targets[name])
            self.targets[name] = self._proven(self.targets[name])

    def _pending(self, incident: Incident, target: Target) -> Incident:
        quiet = self.now - incident.timeline[-1].at >= self.policy.settle
        long = self.now - incident.timeline[0].at >= self.policy.settle_most
        if not quiet and not long:
            return incident
        incident = incidents.move(incident, Stands.OPEN, at=self.now, kind="settled", cause=incident.cause)
        return self._open(incident, target)

    def _open(self, incident: Incident, target: Target) -> Incident:
        if why := self._is_cleared(incident, target):
            return incidents.move(incident, Stands.RESOLVED, at=self.now, kind="cleared", why=why)
        if incident.severity is Severity.INFO:
            return incident
        decision = planner.decide(
            incident, target, self.knowledge, self.policy, busy=self._busy(target, incident), now=self.now
        )
        if isinstance(decision, Act):
            return self._act(incident, target, decision.plan)
        if isinstance(decision, Exhausted):
            return incidents.move(incident, Stands.EXHAUSTED, at=self.now, kind="escalated")
        if isinstance(decision, Suggest) and self._ends_soon(decision.hold, incident):
            self.soon.add(target.name)
        held = decision.hold.reason if isinstance(decision, Suggest) else "rejected" if incident.rejected else "advice"
        made = decision.plan if isinstance(decision, Suggest) else None
        if incident.held == held:
            return incident if _same(incident.plan, made) else msgspec.structs.replace(incident, plan=made)
        until = decision.hold.until if isinstance(decision, Suggest) else None
        incident = incidents.note(incident, "held", at=self.now, reason=held, until=until.isoformat() if until else "")
        return msgspec.structs.replace(incident, held=held, plan=made)

    def _ends_soon(self, hold: Hold, incident: Incident) -> bool:
        """Say whether a brake lets go in a moment: by its time, or since the proof comes after the line that told."""
        if hold.reason == "uncorroborated":
            return self.now - incident.timeline[-1].at <= self.policy.settle_most
        return hold.until is not None and hold.until - self.now <= recovery.SOON

    def _act(self, incident: Incident, target: Target, made: Plan) -> Incident:
        number = len(incident.tries) + 1
        intent = Intent(
            id=f"{incident.id}-{number}",
            incident_id=incident.id,
            target=target.name,
            generation=target.generation,
            at=self.now,
            plan=made,
        )
        _, _, changes = planner.said(made)
        incident = incidents.move(
            incident,
            Stands.ACTING,
            at=self.now,
            kind="acting",
            remedy=made.remedy_id,
            rung=str(made.rung + 1),
            change="; ".join(changes),
        )
        one = Try(intent_id=intent.id, remedy_id=made.remedy_id, rung=made.rung, at=self.now, changes=changes)
        self._perform(intent, target)
        return msgspec.structs.replace(incident, tries=(*incident.tries, one), plan=made)

    def _perform(self, intent: Intent, target: Target) -> None:
        if not intent.undo:
            acts = (*target.acts, (self.now, intent.plan.restarts))[-_ACTS_KEPT:]
            before = target.tried.get(intent.plan.remedy_id, ())
            tried = {**target.tried, intent.plan.remedy_id: (*before, self.now)[-_TRIED_KEPT:]}
            self.targets[target.name] = msgspec.structs.replace(target, acts=acts, tried=tried)
        self.intents[intent.id] = intent
        self.effects.append(Perform(intent=intent))

    def _verifying(self, incident: Incident, target: Target) -> Incident:
        current = incidents.running(incident)
        remedy = self.knowledge.remedies.get(current.remedy_id) if current else None
        if current is None or remedy is None:
            return incidents.move(incident, Stands.OPEN, at=self.now, kind="failed", why="remedy-gone")
        judged = verify.judge(
            incident.findings,
            remedy,
            target,
            self.policy,
            since=current.at,
            now=self.now,
            cured=incident,
        )
        if judged.verdict is Verdict.WELL:
            incident = incidents.with_try(incident, current.intent_id, "kept")
            self.targets[target.name] = msgspec.structs.replace(target, good=target.overlays)
            return incidents.move(incident, Stands.RESOLVED, at=self.now, kind="resolved")
        if judged.verdict is Verdict.WAIT:
            return self._noted(incident, target)
        seen = {**target.seen, "probe": self.now} if judged.reason == "late" else target.seen  # silence is proof, too
        climbed = {**target.climbed, current.remedy_id: max(current.rung, target.climbed.get(current.remedy_id, 0))}
        self.targets[target.name] = target = msgspec.structs.replace(target, seen=seen, climbed=climbed)
        self.soon.add(target.name)  # what to do next is decided first
        incident = incidents.with_try(incident, current.intent_id, "failed")
        incident = incidents.move(incident, Stands.OPEN, at=self.now, kind="failed", why=judged.reason)
        return self._relead(incident, remedy, target, current)

    def _noted(self, incident: Incident, target: Target) -> Incident:
        """Write down that the server is ready again, once."""
        told = {entry.kind for entry in incident.timeline if entry.at >= incident.tries[-1].at}
        if target.phase == "ready" and "ready" not in told:
            probe = target.probes.get("completion")
            return incidents.note(
                incident,
                "ready",
                at=self.now,
                tokens=str(probe.tokens) if probe else "",
                seconds=f"{probe.seconds:.2f}" if probe else "",
            )
        return incident

    def _relead(self, incident: Incident, remedy: Remedy, target: Target, current: Try) -> Incident:
        """Take the newest start's root cause as the cause that is left to cure."""
        new = [one for one in incident.findings if verify.counts_against(one, remedy, current.at, target, incident)]
        if not new:
            return msgspec.structs.replace(incident, attempt=target.generation)
        return _led_by(incident, new, self.knowledge, self.now)

    def _recover(self, target: Target) -> None:
        """Undo what failed, or start again what is down, once nothing else is under way or soon to be."""
        if target.name in self.soon or self._busy(target):
            return
        own = [one for one in self.incidents.values() if one.target == target.name]
        due = recovery.due(target, own, self.policy, now=self.now)
        if due is None:
            return
        if due.why:
            self.incidents[due.incident.id] = incidents.note(due.incident, due.why, at=self.now)
        if due.plan.restarts:
            times = (*target.recoveries, self.now)[-_TRIED_KEPT:]
            self.targets[target.name] = target = msgspec.structs.replace(target, recoveries=times)
        self._perform(due.intent(target, now=self.now), target)

    def _try(self, target: Target) -> None:
        """Judge settings that a person had put back: what does not work is laid again."""
        trial = target.trial
        if trial is None or trial.intent_id in self.intents:
            return
        live = [one for one in self.incidents.values() if one.target == target.name and one.state in incidents.LIVE]
        findings = [finding for one in live for finding in one.findings]
        judged = verify.judge(findings, way_back.WAY_BACK, target, self.policy, since=trial.at, now=self.now)
        if judged.verdict is Verdict.WAIT:
            return
        well = judged.verdict is Verdict.WELL
        good = target.overlays if well else target.good
        self.targets[target.name] = target = msgspec.structs.replace(target, trial=None, good=good)
        if incident := self.incidents.get(trial.incident_id):
            kind = "trial-held" if well else "trial-failed"
            self.incidents[incident.id] = incidents.note(incident, kind, at=self.now, why=judged.reason)
        if not well:
            self._perform(way_back.undone(target, trial, now=self.now), target)

    def _offer(self, target: Target) -> None:
        """See whether the operator's own settings would fit again."""
        if not target.overlays or target.phase != "ready" or self._busy(target) or not self._calm(target):
            return
        owner = self.incidents.get(target.overlays[-1].incident_id)
        if owner is None:
            return
        found = way_back.consider(target, owner, self.policy, self.now)
        self.targets[target.name], self.incidents[owner.id] = found.target, found.incident
        if found.intent:
            self._perform(found.intent, found.target)

    def _calm(self, target: Target) -> bool:
        """Say whether no trouble of the target is open."""
        return not any(incidents.is_open(one) for one in self.incidents.values() if one.target == target.name)

    def _exhausted(self, incident: Incident, target: Target) -> Incident:
        if why := self._is_cleared(incident, target):
            return incidents.move(incident, Stands.RESOLVED, at=self.now, kind="cleared", why=why)
        return incident

    def _is_cleared(self, incident: Incident, target: Target) -> str:
        """Say how the trouble ended by itself or by other hands, or nothing."""
        rule = self.knowledge.rules.get(incident.rule_id)
        if rule is None:
            return ""
        ends, last = rule.clears, incident.last_seen
        served = target.ready_at if target.phase == "ready" else None
        if ends.ready and served and (incident.attempt < target.generation or served > last):
            return "ready"
        probe = target.probes.get(ends.probe) if ends.probe else None
        if probe and probe.answer == "ok" and probe.at > last:
            return "probe"
        if (target.name, rule.id) in self.cleared:
            return "pattern"
        if ends.quiet and self.now - last >= ends.quiet and target.phase not in {"failed", "starting"}:
            return "quiet"
        sense = incident.findings[0].labels.get("source", "") if ends.sees == "source" else ends.sees
        if sense and sense not in target.blind:
            return "sees"
        return ""

    def _busy(self, target: Target, incident: Incident | None = None) -> bool:
        """Say whether anything but this incident's own remedy is under way."""
        treated = {Stands.ACTING, Stands.VERIFYING}
        return (
            target.trial is not None
            or any(intent.target == target.name for intent in self.intents.values())
            or any(
                other.state in treated and other.target == target.name
                for other in self.incidents.values()
                if incident is None or other.id != incident.id
            )
        )

    def _proven(self, target: Target) -> Target:
        """Take a start that has stood well for long as the one to go back to."""
        if target.phase != "ready" or target.since is None:
            return target
        if target.good == target.overlays and not target.recoveries and not target.climbed:
            return target
        if self._calm(target) and self.now - target.since >= self.policy.stable_after:
            self.effects.append(KnownGood(target=target.name, at=self.now))
            return msgspec.structs.replace(target, good=target.overlays, recoveries=(), climbed={})
        return target

    # --- what comes out

    def result(self) -> tuple[State, tuple[Effect, ...]]:
        for one in list(self.incidents.values()):
            if one.target in self.targets:
                self.incidents[one.id] = targets.compared(one, self.targets[one.target])
        saved = [
            SaveIncident(incident=one) for name, one in self.incidents.items() if self.before.incidents.get(name) != one
        ]
        laid = {overlay.incident_id for target in self.targets.values() for overlay in target.overlays}
        closed = sorted(
            (one for one in self.incidents.values() if one.state not in incidents.LIVE and one.id not in laid),
            key=lambda one: one.last_seen,
        )
        for old in closed[:-_CLOSED_KEPT]:
            del self.incidents[old.id]
        performed = [effect for effect in self.effects if isinstance(effect, Perform)]
        others = [effect for effect in self.effects if not isinstance(effect, Perform)]
        state = State(targets=self.targets, windows=self.windows, incidents=self.incidents, intents=self.intents)
        return state, (*others, *saved, *performed)


def _cut_short(outcome: Outcome) -> bool:
    """Say whether a daemon before this one left it without end."""
    return any(result.action == RECOVERED for result in outcome.results)


def _same(before: Plan | None, after: Plan | None) -> bool:
    return (before and planner.said(before)) == (after and planner.said(after))


def _led_by(incident: Incident, findings: Sequence[Finding], knowledge: Knowledge, now: datetime) -> Incident:
    first, *others = correlate.group(findings, knowledge)
    new = [*first.findings, *(finding for group in others for finding in group.findings)]
    kept = [one for one in incident.findings if one.attempt != first.lead.attempt]
    return incidents.update(incident, (*new, *kept), at=now)
