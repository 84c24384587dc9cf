"""What the daemon sees and does, told line by line while it happens."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime

from diagnose.cli.screen import Show
from diagnose.engine.state import State
from diagnose.launch.spec import diff
from diagnose.model.effect import Effect, Perform, PhaseChanged, SaveIncident
from diagnose.model.finding import Evidence
from diagnose.model.incident import Entry, Incident, Plan
from diagnose.model.text import Lang, Text
from diagnose.report import texts
from diagnose.report.clean import visible

_PROOF = Text("proof", "证据")
_PLAN = Text("plan", "方案")
_BECAUSE = Text("because", "依据")
_PHASES = {
    "stopped": Text("server stopped", "服务已停止"),
    "starting": Text("server starting", "服务启动中"),
    "ready": Text("server ready", "服务就绪"),
    "degraded": Text("server unwell", "服务异常"),
    "failed": Text("server failed", "服务失败"),
}
_COLOURS = {
    "ready": "green",
    "failed": "red",
    "degraded": "yellow",
    "resolved": "bold green",
    "escalated": "bold red",
}


class Narrator:
    """Prints each turn's effects; log text is shown as text, never as markup."""

    def __init__(self, show: Show, lang: Lang, *, since: datetime) -> None:
        self._show, self._lang, self._since = show, lang, since
        self._told: dict[str, int] = {}
        self._compared: set[str] = set()

    def remember(self, state: State) -> None:
        """Take what an earlier daemon told as told."""
        self._told = {one.id: len(one.timeline) for one in state.incidents.values()}
        self._compared = {one.id for one in state.incidents.values() if one.compared}

    def __call__(self, state: State, effects: Sequence[Effect]) -> None:
        """Tell what is new."""
        del state
        for effect in effects:
            if isinstance(effect, PhaseChanged):
                name = _PHASES[effect.phase].in_(self._lang) if effect.phase in _PHASES else effect.phase
                self._say(effect.at, name, visible(effect.reason), _COLOURS.get(effect.phase, ""))
            elif isinstance(effect, SaveIncident):
                self._incident(effect.incident)
            elif isinstance(effect, Perform):
                self._plan(effect.intent.plan)

    def _incident(self, incident: Incident) -> None:
        told = self._told.get(incident.id, 0)
        self._told[incident.id] = len(incident.timeline)
        for entry in incident.timeline[told:]:
            self._entry(incident, entry)
        if incident.compared and incident.compared.since and incident.id not in self._compared:
            self._compared.add(incident.id)
            line = visible(texts.changed_line(incident.compared, self._lang))
            self._say(None, f"incident {incident.id}", line, "bold yellow")

    def _entry(self, incident: Incident, entry: Entry) -> None:
        head = f"incident {incident.id}"
        self._say(entry.at, head, texts.entry_text(entry, self._lang), _COLOURS.get(entry.kind, ""))
        if entry.kind in {"settled", "cause"}:
            self._proof(incident.findings[0].evidence[0])
        if entry.kind == "held" and incident.plan and entry is incident.timeline[-1]:
            self._plan(incident.plan)

    def _proof(self, proof: Evidence) -> None:
        place = proof.source if proof.line is None else f"{proof.source}:{proof.line}"
        self._say(None, f"  {_PROOF.in_(self._lang)}", f"{place}  {visible(proof.text)}", "cyan")

    def _plan(self, plan: Plan) -> None:
        self._say(None, f"  {_PLAN.in_(self._lang)}", plan.title.in_(self._lang), "bold")
        for change in diff(plan.before, plan.after):
            self._say(None, "", change, "bold yellow")
        for line in plan.arithmetic:
            self._say(None, f"  {_BECAUSE.in_(self._lang)}", visible(line.in_(self._lang)), "dim")

    def command(self, argv: Sequence[str]) -> None:
        """Show a command as a shell would take it."""
        self._say(None, "", shlex.join(argv), "dim")

    def _say(self, at: datetime | None, head: str, text: str, style: str) -> None:
        clock = f"{(at - self._since).total_seconds():7.1f}s" if at else " " * 8
        self._show([(f"{clock}  {head:<18} ", "dim"), (text, style)])
