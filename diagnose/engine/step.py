"""One turn of the mind: state and observations in, state and effects out. It knows no clock, no world."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from diagnose.engine import correlate, incidents, plan, planner, targets, verify, window
from diagnose.engine.absorb import absorb
from diagnose.engine.planner import Act, Exhausted, Suggest
from diagnose.engine.policy import Policy
from diagnose.engine.signals import Signal
from diagnose.engine.state import State
from diagnose.engine.targets import Target
from diagnose.engine.verify import Verdict
from diagnose.launch.overlays import drop
from diagnose.launch.spec import change
from diagnose.model.effect import Effect, KnownGood, Perform, SaveIncident
from diagnose.model.finding import Finding
from diagnose.model.incident import Incident, Intent, Plan, Try
from diagnose.model.incident import State as Stands
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import RECOVERED, LogMatch, Observation, Outcome
from diagnose.model.remedy import EvidenceKeep, Remedy, ServerRestart
from diagnose.model.rule import Severity
from diagnose.model.text import Text

_CLOSED_KEPT = 50
_ACTS_KEPT = 100


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
        self.cleared: set[str] = set()
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
                heard.append(observation)
            elif isinstance(observation, Outcome):
                self._outcome(observation)
            if told.target.generation != target.generation:
                self.windows = window.forget(self.windows, name, told.target.generation - 1)
            if told.effects:
                self.windows = window.with_phase(
                    self.windows, name, told.target.generation, targets.serving(told.target)
                )
        self.cleared = window.cleared([one for one in heard if isinstance(one, LogMatch)])
        self.windows, findings = window.feed(self.windows, self.knowledge, heard)
        for name, target in self.targets.items():
            own = [one for one in findings if one.target == name and one.attempt >= target.generation - 1]
            if own:
                self.incidents |= absorb(self.incidents, own, target, self.knowledge, now=self.now)

    def _outcome(self, outcome: Outcome) -> None:
        intent = self.intents.pop(outcome.intent_id, None)
        incident = self.incidents.get(intent.incident_id) if intent else None
        if intent is None or incident is None:
            return
        for result in outcome.results:
            incident = incidents.note(
                incident,
                "step",
                at=self.now,
                action=result.action,
                text=result.text,
                ok=str(result.ok).lower(),
            )
        target = self.targets[intent.target]
        if outcome.ok:
            self.targets[intent.target] = msgspec.structs.replace(target, overlays=intent.plan.overlays)
        if intent.undo:
            kind = "rolled-back" if outcome.ok else "rollback-failed"
            incident = incidents.note(incident, kind, at=self.now)
        elif outcome.ok:
            incident = incidents.move(incident, Stands.VERIFYING, at=self.now, kind="verifying")
        else:
            cut_short = any(result.action == RECOVERED for result in outcome.results)
            how = "interrupted" if cut_short else "failed"
            incident = incidents.with_try(incident, intent.id, how)
            why = next((result.text for result in outcome.results if not result.ok), "")
            incident = incidents.move(incident, Stands.OPEN, at=self.now, kind=how, why=why)
        self.incidents[incident.id] = incident

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
        for name, target in self.targets.items():
            self.targets[name] = self._proven(target)

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
            incident, target, self.knowledge, self.policy, busy=self._busy(incident), now=self.now
        )
        if isinstance(decision, Act):
            return self._act(incident, target, decision.plan)
        if isinstance(decision, Exhausted):
            return self._escalate(incident, target)
        held = decision.hold.reason if isinstance(decision, Suggest) else "advice"
        made = decision.plan if isinstance(decision, Suggest) else None
        if incident.held == held and (incident.plan is None) == (made is None):
            return incident
        until = decision.hold.until if isinstance(decision, Suggest) else None
        incident = incidents.note(incident, "held", at=self.now, reason=held, until=until.isoformat() if until else "")
        return msgspec.structs.replace(incident, held=held, plan=made)

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
        changes = tuple(change(one.flag, one.before, one.after) for one in made.changes)
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
        restarted = any(isinstance(one, ServerRestart) for one in intent.plan.steps)
        acts = (*target.acts, (self.now, restarted))[-_ACTS_KEPT:]
        if not intent.undo:
            self.targets[target.name] = msgspec.structs.replace(target, acts=acts)
        self.intents[intent.id] = intent
        self.effects.append(Perform(intent=intent))

    def _verifying(self, incident: Incident, target: Target) -> Incident:
        current = incidents.running(incident)
        remedy = self.knowledge.remedies.get(current.remedy_id) if current else None
        if current is None or remedy is None:
            return incidents.move(incident, Stands.OPEN, at=self.now, kind="failed", why="remedy-gone")
        judged = verify.judge(incident, remedy, target, self.policy, since=current.at, now=self.now)
        if judged.verdict is Verdict.WELL:
            incident = incidents.with_try(incident, current.intent_id, "kept")
            self.targets[target.name] = msgspec.structs.replace(target, good=target.overlays)
            return incidents.move(incident, Stands.RESOLVED, at=self.now, kind="resolved")
        if judged.verdict is Verdict.WAIT:
            return self._noted(incident, target)
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
        new = [one for one in incident.findings if verify.counts_against(one, remedy, current.at, target)]
        if not new:
            return msgspec.structs.replace(incident, attempt=target.generation)
        return _led_by(incident, new, self.knowledge, self.now)

    def _escalate(self, incident: Incident, target: Target) -> Incident:
        incident = incidents.move(incident, Stands.EXHAUSTED, at=self.now, kind="escalated")
        good = drop(target.overlays, incident.id) if target.good is None else target.good
        if target.overlays == good:
            return incident
        from_spec = plan.effective(target)
        steps = (EvidenceKeep(), ServerRestart()) if target.good is not None else ()
        undo = Plan(
            remedy_id="rollback",
            rung=0,
            title=Text("Back to the last settings known to be good", "恢复到最近一次正常的设置"),
            steps=steps,
            before=from_spec,
            after=plan.effective(target, good),
            overlays=good,
        )
        intent = Intent(
            id=f"{incident.id}-undo",
            incident_id=incident.id,
            target=target.name,
            generation=target.generation,
            at=self.now,
            plan=undo,
            undo=True,
        )
        self._perform(intent, target)
        return incident

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
        if ends.ready and target.phase == "ready" and target.ready_at and target.ready_at > last:
            return "ready"
        probe = target.probes.get(ends.probe) if ends.probe else None
        if probe and probe.answer == "ok" and probe.at > last:
            return "probe"
        if rule.id in self.cleared:
            return "pattern"
        if ends.quiet and self.now - last >= ends.quiet and target.phase not in {"failed", "starting"}:
            return "quiet"
        return ""

    def _busy(self, incident: Incident) -> bool:
        treated = {Stands.ACTING, Stands.VERIFYING}
        return any(intent.target == incident.target for intent in self.intents.values()) or any(
            other.state in treated and other.target == incident.target
            for other in self.incidents.values()
            if other.id != incident.id
        )

    def _proven(self, target: Target) -> Target:
        """Take a start that has stood well for long as the one to go back to."""
        if target.phase != "ready" or target.since is None or target.good == target.overlays:
            return target
        calm = all(
            one.state not in incidents.LIVE or one.severity is Severity.INFO
            for one in self.incidents.values()
            if one.target == target.name
        )
        if calm and self.now - target.since >= self.policy.stable_after:
            self.effects.append(KnownGood(target=target.name, at=self.now))
            return msgspec.structs.replace(target, good=target.overlays)
        return target

    # --- what comes out

    def result(self) -> tuple[State, tuple[Effect, ...]]:
        saved = [
            SaveIncident(incident=one) for name, one in self.incidents.items() if self.before.incidents.get(name) != one
        ]
        closed = sorted(
            (one for one in self.incidents.values() if one.state not in incidents.LIVE),
            key=lambda one: one.last_seen,
        )
        for old in closed[:-_CLOSED_KEPT]:
            del self.incidents[old.id]
        performed = [effect for effect in self.effects if isinstance(effect, Perform)]
        others = [effect for effect in self.effects if not isinstance(effect, Perform)]
        state = State(targets=self.targets, windows=self.windows, incidents=self.incidents, intents=self.intents)
        return state, (*others, *saved, *performed)


def _led_by(incident: Incident, findings: Sequence[Finding], knowledge: Knowledge, now: datetime) -> Incident:
    first, *others = correlate.group(findings, knowledge)
    new = [*first.findings, *(finding for group in others for finding in group.findings)]
    kept = [one for one in incident.findings if one.attempt != first.lead.attempt]
    return incidents.update(incident, (*new, *kept), at=now)
