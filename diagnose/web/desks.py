"""The table of all that can be asked of the API."""

from __future__ import annotations

from diagnose.report.build import Report
from diagnose.web import paths, shapes, told, troubles
from diagnose.web.asked import Answer, Asked, Desk
from diagnose.web.shapes import Problem, Reply
from diagnose.web.standing import Status

_STALE_S = 30.0
"""A loop that has not turned for so long stands still: it turns several times a second."""


async def health(asked: Asked) -> Answer:
    """Say whether the loop turns."""
    ago = asked.house.vitals().turns.ago
    ok = ago is not None and ago < _STALE_S
    return Answer(200 if ok else 503, shapes.Health(ok=ok, seconds=round(ago or 0.0, 3)))


async def ready(asked: Asked) -> Answer:
    """Say whether all servers were taken up."""
    known = asked.house.state.targets
    phases = {name: known[name].phase for name in asked.house.targets if name in known}
    taken = len(phases) == len(asked.house.targets) and all(known[name].generation for name in phases)
    return Answer(200 if taken else 503, shapes.Ready(ready=taken, targets=phases))


def status(asked: Asked) -> Answer:
    """Say where everything stands."""
    return Answer(200, asked.house.status(asked.lang))


_TOLD = {200: Reply, 409: Reply}
_ONE = {404: Problem}

DESKS = (
    Desk("GET", paths.HEALTH, "health", "Whether the daemon's loop turns.", health,
         gives={200: shapes.Health, 503: shapes.Health}),
    Desk("GET", paths.READY, "ready", "Whether the daemon has taken up its servers.", ready,
         gives={200: shapes.Ready, 503: shapes.Ready}),
    Desk("GET", paths.STATUS, "status", "Where everything stands now.", status,
         gives={200: Status}, query=shapes.InLang),
    Desk("GET", paths.REPORT, "report", "What was found, as diagnose report --format json tells it.", troubles.report,
         gives={200: Report}, query=shapes.WhichReport),
    Desk("GET", paths.INCIDENTS, "incidents", "Incidents, what changed last first.", troubles.incidents,
         gives={200: shapes.Incidents}, query=shapes.WhichIncidents),
    Desk("GET", paths.INCIDENT, "incident", "All of one incident, by its id or the beginning of it.", troubles.incident,
         gives={200: shapes.OneIncident, **_ONE}, query=shapes.InLang),
    Desk("POST", paths.ACK, "acknowledge", "An incident is yours: no more news of it, but when it is worse or over.",
         told.ack, gives=_TOLD, query=shapes.InLang, body=shapes.NewAck),
    Desk("POST", paths.MARK, "mark", "Say whether the root cause that an incident names is right.", troubles.mark,
         gives={**_TOLD, **_ONE}, query=shapes.InLang, body=shapes.NewMark),
    Desk("POST", paths.ORDERS, "order", "Approve, reject, apply, roll back, pause, resume.", troubles.order,
         gives={**_TOLD, **_ONE}, query=shapes.InLang, body=shapes.NewOrder),
    Desk("POST", paths.OUTPUTS, "output", "Hand in an answer of the model that looks wrong.", troubles.output,
         gives={200: shapes.Scored, **_ONE}, body=shapes.Output),
    Desk("GET", paths.ALERTS, "alerts", "Who was told what, newest first.", told.alerts,
         gives={200: shapes.Told}, query=shapes.WhichNews),
    Desk("POST", paths.RESEND, "resend", "Send again what was put aside.", told.resend,
         gives=_TOLD, query=shapes.InLang, body=shapes.Again),
    Desk("POST", paths.DRILLS, "drill", "Tell receivers of a practice incident, and of its end.", told.drill,
         gives={**_TOLD, **_ONE}, query=shapes.InLang, body=shapes.NewDrill),
    Desk("GET", paths.SILENCES, "silences", "The silences that hold.", told.silences, gives={200: shapes.Silences}),
    Desk("POST", paths.SILENCES, "silence", "Tell nobody of some incidents, for a time or until they are resolved.",
         told.silence, gives=_TOLD, query=shapes.InLang, body=shapes.NewSilence),
    Desk("DELETE", paths.SILENCE, "unsilence", "End a silence.", told.unsilence,
         gives=_TOLD, query=shapes.WhoInLang),
)  # fmt: skip
