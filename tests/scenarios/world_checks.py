"""What must hold in every world, judged from outside: by what was wanted, done and seen, not by the engine's brakes."""

from __future__ import annotations

from datetime import datetime, timedelta

from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.launch.overlays import effective
from diagnose.model import codec
from diagnose.model.effect import Answered
from diagnose.model.incident import Incident, Intent
from diagnose.model.incident import State as Stands
from diagnose.model.observation import ProbeResult, ProcessExit, ProcessSample, ServerStarted
from diagnose.model.remedy import Budget, Mode, Risk, ServerRestart
from diagnose.model.rule import Severity
from tests.scenarios.world import Turn, World

LIVE = {Stands.PENDING, Stands.OPEN, Stands.ACTING, Stands.VERIFYING, Stands.EXHAUSTED}
ARROWS = {
    (Stands.PENDING, Stands.OPEN),
    (Stands.PENDING, Stands.RESOLVED),
    (Stands.PENDING, Stands.HISTORY),
    (Stands.OPEN, Stands.ACTING),
    (Stands.OPEN, Stands.RESOLVED),
    (Stands.OPEN, Stands.EXHAUSTED),
    (Stands.OPEN, Stands.HISTORY),
    (Stands.ACTING, Stands.VERIFYING),
    (Stands.ACTING, Stands.OPEN),
    (Stands.ACTING, Stands.EXHAUSTED),
    (Stands.VERIFYING, Stands.RESOLVED),
    (Stands.VERIFYING, Stands.OPEN),
    (Stands.VERIFYING, Stands.EXHAUSTED),
    (Stands.EXHAUSTED, Stands.RESOLVED),
    (Stands.EXHAUSTED, Stands.HISTORY),
}
NEAR = timedelta(minutes=10)
MOST_ENTRIES, MOST_FINDINGS, MOST_LIVE, MOST_ACTS = 200, 60, 12, 100
MOST_BYTES = 600_000
LONGEST_STATE = timedelta(minutes=30)
LONGEST_PAUSE = timedelta(minutes=70)


def check(world: World) -> None:
    """Check all that must hold of a world, whatever happened in it."""
    for rule in (
        moves_along_the_table,
        ids_are_stable,
        one_act_at_a_time,
        never_against_the_policy,
        never_on_old_news,
        never_on_a_line_alone,
        never_on_what_is_not_to_be_acted_upon,
        budgets_and_cooldowns_are_kept,
        every_act_is_judged,
        nothing_is_laid_over_what_failed,
        the_proven_is_proven,
        what_runs_is_what_is_told,
        nothing_grows_without_bound,
        lives_again,
    ):
        rule(world)


def check_end(world: World) -> None:
    """Check what must hold once all has come to rest."""
    nothing_hangs(world)
    no_failed_change_is_in_force(world)
    no_server_is_down_unnoticed(world)
    what_a_start_cures_is_cured(world)


# --- acts


def acts(world: World) -> list[tuple[Turn, Intent]]:
    """What was done by the mind's own will: neither an undo nor what a person ordered."""
    forced = {
        effect.order_id for turn in world.turns for effect in turn.effects if isinstance(effect, Answered) and effect.ok
    }
    applied = {one.incident for one in world.orders if one.kind == "apply" and one.id in forced}
    return [(turn, one) for turn, one in world.performs if not one.undo and one.incident_id not in applied]


def restarts(intent: Intent) -> bool:
    return any(isinstance(one, ServerRestart) for one in intent.plan.steps)


def harmless(world: World, intent: Intent) -> bool:
    return world.knowledge.remedies[intent.plan.remedy_id].risk is Risk.HARMLESS


def one_act_at_a_time(world: World) -> None:
    """No two acts of one target at once, undo or not."""
    open_: dict[str, str] = {}
    for turn in world.turns:
        for outcome in (one for one in turn.observations if getattr(one, "intent_id", None)):
            open_ = {name: intent for name, intent in open_.items() if intent != outcome.intent_id}
        for effect in turn.effects:
            intent = getattr(effect, "intent", None)
            if intent is None:
                continue
            assert intent.target not in open_, f"{intent.id} while {open_[intent.target]} is under way"
            open_[intent.target] = intent.id


def never_against_the_policy(world: World) -> None:
    """Nothing while paused; nothing of its own will below auto without a person's yes."""
    approved = {one.incident for one in world.orders if one.kind in {"approve", "apply"}}
    for turn, intent in world.performs:
        by_person = intent.id.rpartition("-back-")[1] != ""
        assert not turn.policy.paused or by_person, f"{intent.id} while paused"
        if intent.undo:
            assert turn.policy.mode is not Mode.OBSERVE or by_person, f"{intent.id} in observe mode"
            continue
        remedy = world.knowledge.remedies[intent.plan.remedy_id]
        limits = [turn.policy.mode, remedy.mode]
        limits += [turn.policy.modes[one] for one in (remedy.id, f"target:{intent.target}") if one in turn.policy.modes]
        lowest = min(limits, key=lambda mode: mode.rank)
        assert lowest is Mode.AUTO or (intent.incident_id in approved), f"{intent.id} in mode {lowest.value}"


def never_on_old_news(world: World) -> None:
    """The leading proof is of this start and of this daemon's watch; or the last act failed in this very start."""
    for turn, intent in acts(world):
        incident = turn.state.incidents[intent.incident_id]
        lead = incident.findings[0]
        assert lead.fresh, f"{intent.id} by what was there before the daemon"
        started = [
            one.at
            for before in world.turns
            for one in before.observations
            if isinstance(one, ServerStarted) and one.target == intent.target and one.generation == intent.generation
        ]
        failed_since = [
            entry.at
            for entry in incident.timeline
            if entry.kind in {"failed", "interrupted"} and entry.at >= started[0]
        ]
        assert lead.attempt == intent.generation or failed_since, f"{intent.id} by news of start {lead.attempt}"


def never_on_a_line_alone(world: World) -> None:
    """A second, independent source tells near in time that the server is not well."""
    for turn, intent in acts(world):
        if harmless(world, intent):
            continue
        seen = [
            (before.at, one)
            for before in world.turns
            if turn.at - NEAR <= before.at <= turn.at
            for one in before.observations
            if one.target == intent.target and getattr(one, "generation", -1) == intent.generation
        ]
        exits = [one for _, one in seen if isinstance(one, ProcessExit) and not one.expected]
        probes = [one for _, one in seen if isinstance(one, ProbeResult) and one.answer not in {"ok", "busy"}]
        quiet = [one.log_bytes for _, one in seen if isinstance(one, ProcessSample)]
        gone = [one for _, one in seen if isinstance(one, ProcessSample) and not one.workers]
        stands = len(quiet) > 1 and len(set(quiet)) < len(quiet)
        held = [before.at for before in world.turns if turn.at - before.at > NEAR]
        assert exits or len(probes) >= 2 or stands or gone or held, f"{intent.id} by a line alone"
        if held and not (exits or len(probes) >= 2 or stands or gone):
            down = any(
                isinstance(one, ProcessExit) and one.generation == intent.generation and not one.expected
                for before in world.turns
                for one in before.observations
                if before.at <= turn.at and one.target == intent.target
            )
            assert down, f"{intent.id} by proof of long ago while the server is up"


def never_on_what_is_not_to_be_acted_upon(world: World) -> None:
    """Neither notes, nor rules on trial, nor lines that users may write, nor remedies on trial."""
    for turn, intent in acts(world):
        incident = turn.state.incidents[intent.incident_id]
        rule = world.knowledge.rules[incident.rule_id]
        assert incident.severity is not Severity.INFO, f"{intent.id} for a note"
        assert rule.status == "stable", f"{intent.id} by a rule on trial"
        assert not rule.untrusted, f"{intent.id} by text of users"
        assert world.knowledge.remedies[intent.plan.remedy_id].status == "stable"


def budgets_and_cooldowns_are_kept(world: World) -> None:
    """Counted anew from what was done: restarts and remedies of a target, and each remedy there."""
    done = acts(world)
    for place, (turn, intent) in enumerate(done):
        mine = [one for _, one in done[: place + 1] if one.target == intent.target]
        same = [one for one in mine if one.plan.remedy_id == intent.plan.remedy_id]
        remedy = world.knowledge.remedies[intent.plan.remedy_id]
        _within([one.at for one in mine if restarts(one)], turn.policy.restarts, intent, "restarts")
        _within([one.at for one in mine], turn.policy.remedies, intent, "remedies")
        _within([one.at for one in same], remedy.budget, intent, "this remedy")
        assert len(same) < 2 or same[-1].at - same[-2].at >= remedy.cooldown, f"{intent.id} before it cooled down"


def _within(times: list[datetime], budget: Budget, intent: Intent, what: str) -> None:
    recent = [one for one in times if intent.at - one < budget.per]
    assert len(recent) <= max(budget.limit, 0), f"{intent.id}: {what} {len(recent)} times in {budget.per}"


def every_act_is_judged(world: World) -> None:
    """Each act is a try of its incident, and ends in one way, once; the mind never asks twice for the same."""
    ids = [intent.id for _, intent in world.performs]
    assert len(ids) == len(set(ids)), "an intent's id comes twice"
    told = {one.intent_id for one in world.outcomes}
    final = world.incidents
    for _, intent in world.performs:
        if intent.undo:
            continue
        found = [one for one in final[intent.incident_id].tries if one.intent_id == intent.id]
        assert len(found) == 1, f"{intent.id} is no try of its incident"
        under_way = intent.id not in told or final[intent.incident_id].state in {Stands.ACTING, Stands.VERIFYING}
        assert found[0].result != "running" or under_way, f"{intent.id} was never judged"
        assert found[0].result in {"running", "failed", "kept", "rolled-back", "interrupted"}


def nothing_is_laid_over_what_failed(world: World) -> None:
    """What a new try leaves in force was laid by a try that was kept, or has served for long."""
    for turn, intent in world.performs:
        if intent.undo:
            continue
        before = [one for one in intent.plan.overlays if one not in intent.plan.changes]
        good = turn.state.targets[intent.target].good or ()
        assert all(one in good for one in before), f"{intent.id} builds on {before}"


def the_proven_is_proven(world: World) -> None:
    """Kept means: after the act a completion with tokens was answered, by the start that it made, and it held."""
    for turn, incident in world.saved:
        if incident.state is not Stands.RESOLVED or not any(entry.kind == "resolved" for entry in incident.timeline):
            continue
        done = next(one for one in incident.tries if one.result == "kept")
        at = next(entry.at for entry in incident.timeline if entry.kind == "resolved")
        if at != turn.at:
            continue
        remedy = world.knowledge.remedies[done.remedy_id]
        holds = turn.policy.holds_for or remedy.verify.holds_for
        answers = [
            one
            for before in world.turns
            if done.at <= before.at <= at
            for one in before.observations
            if isinstance(one, ProbeResult) and one.probe == "completion" and one.target == incident.target
        ]
        good = [one for one in answers if one.answer == "ok" and one.tokens]
        assert good, f"{incident.id} is resolved without a completion"
        assert at - good[0].at >= holds, f"{incident.id} is resolved before it held"
        assert answers[-1].answer == "ok", f"{incident.id} is resolved while the last answer was bad"
        ended = [
            one
            for before in world.turns
            if good[0].at < before.at <= at
            for one in before.observations
            if isinstance(one, ProcessExit) and one.target == incident.target and not one.expected
        ]
        late = [one for one in answers if ended and one.at > ended[-1].at and one.answer == "ok"]
        assert not ended or late, f"{incident.id} is resolved while the server is down"


# --- incidents


def moves_along_the_table(world: World) -> None:
    """Every change of state is an arrow, and every entry has a kind and a time that does not go back."""
    before: dict[str, Incident] = {}
    for _, incident in world.saved:
        known = before.get(incident.id)
        was = known.state if known else Stands.PENDING
        for entry in incident.timeline:
            assert entry.kind
        times = [entry.at for entry in incident.timeline]
        assert times == sorted(times), f"{incident.id} has a timeline out of order"
        if known is None:
            assert incident.timeline[0].kind == "opened"
        elif known.state is not incident.state:
            assert len(incident.timeline) > len(known.timeline) or len(known.timeline) >= MOST_ENTRIES
        assert was is incident.state or _reaches(was, incident.state), f"{incident.id}: {was} to {incident.state}"
        before[incident.id] = incident


def _reaches(start: Stands, end: Stands) -> bool:
    """Several arrows may be gone in one turn."""
    reached, more = {start}, {start}
    while more:
        more = {after for before, after in ARROWS if before in more} - reached
        reached |= more
    return end in reached - {start}


def ids_are_stable(world: World) -> None:
    """An id means one trouble: its first entry and its target never change, and what is over stays over."""
    first: dict[str, Incident] = {}
    over: set[str] = set()
    for _, incident in world.saved:
        known = first.setdefault(incident.id, incident)
        assert (known.target, known.timeline[0]) == (incident.target, incident.timeline[0]), f"{incident.id} is reused"
        assert incident.id not in over or incident.state not in LIVE, f"{incident.id} came back"
        if incident.state not in LIVE:
            over.add(incident.id)


def nothing_grows_without_bound(world: World) -> None:
    state = world.state
    live = [one for one in state.incidents.values() if one.state in LIVE]
    assert len(live) <= MOST_LIVE * len(world.servers), [(one.cause, one.state.value) for one in live]
    for incident in state.incidents.values():
        assert len(incident.timeline) <= MOST_ENTRIES
        assert len(incident.findings) <= MOST_FINDINGS, f"{incident.id}: {len(incident.findings)} findings"
    for target in state.targets.values():
        assert len(target.acts) <= MOST_ACTS
    assert len(codec.encode(state)) <= MOST_BYTES * len(world.servers), len(codec.encode(state))


def what_runs_is_what_is_told(world: World) -> None:
    """The mind's idea of the command is the command that runs, whenever no act is under way."""
    for name, server in world.servers.items():
        target = world.state.targets.get(name)
        busy = any(one.target == name for one in world.state.intents.values())
        if target is None or busy or not server.alive or target.generation != server.generation:
            continue
        told = effective(server.desired, target.overlays)
        assert told.argv == server.spec.argv, f"{name} runs {server.spec.argv[6:]}, believed {told.argv[6:]}"


# --- the end


def nothing_hangs(world: World) -> None:
    """No act is for ever under way."""
    for incident in world.state.incidents.values():
        long = world.now - incident.timeline[-1].at > LONGEST_STATE
        assert not long or incident.state not in {Stands.PENDING, Stands.ACTING, Stands.VERIFYING}, incident.id
    assert not world.state.intents


def no_failed_change_is_in_force(world: World) -> None:
    """What a failed try laid is gone; what is in force was kept by someone, or has served for long."""
    results = {one.intent_id: one.result for incident in world.incidents.values() for one in incident.tries}
    for name, target in world.state.targets.items():
        if not _free(world, name):
            continue
        laid = {}
        for _, intent in world.performs:
            if intent.target == name and not intent.undo:
                laid |= {(one.flag, one.after, one.at): intent.id for one in intent.plan.changes}
        for one in target.overlays:
            result = results.get(laid.get((one.flag, one.after, one.at), ""))
            proven = target.good is not None and one in target.good
            assert proven or target.phase == "ready" or result not in {"failed", "interrupted"}, (
                f"{name}: {one.flag} {one.after} of a try that {result} is in force"
            )


def no_server_is_down_unnoticed(world: World) -> None:
    """Of a server that serves nobody there is an incident that says so, whatever may be done about it."""
    for name, server in world.servers.items():
        told = [one for one in world.state.incidents.values() if one.target == name and one.state in LIVE]
        grave = [one for one in told if one.severity is not Severity.INFO]
        assert grave or (server.serving and not server.sick), f"{name} serves nobody and nobody is told"


def what_a_start_cures_is_cured(world: World) -> None:
    """A server that served, is down, and would come up again, is started again if that is allowed."""
    for name, server in world.servers.items():
        served = server.desired.argv in server.served_with
        may = _free(world, name) and world.policy.mode is Mode.AUTO and world.policy.restarts.limit
        spoilt = [one.kind for one in server.faults if one.strikes(server.desired.argv)]
        just_now = server.down_at is not None and world.now - server.down_at < LONGEST_PAUSE
        if may and served and not spoilt and not just_now:
            assert server.alive, f"{name} is down although a start would cure it"


def _free(world: World, name: str) -> bool:
    """Say whether nobody keeps the mind from doing what it must."""
    target = world.state.targets[name]
    return not world.policy.paused and target.pause is None and world.policy.mode is not Mode.OBSERVE


def serves(world: World) -> bool:
    return all(server.serving and not server.sick for server in world.servers.values())


# --- again


def lives_again(world: World) -> None:
    """The same turns give the same life, byte by byte."""
    state = State()
    lasting = [turn for turn in world.turns if turn.observations or turn.effects]
    for place, turn in enumerate(lasting):
        state, effects = step(state, turn.observations, knowledge=world.knowledge, policy=turn.policy, now=turn.at)
        assert effects == turn.effects, f"turn {place} at {turn.at} goes another way"
    if lasting:
        assert codec.encode(state) == codec.encode(lasting[-1].state), "another state"
