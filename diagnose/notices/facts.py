"""What a message says of one incident: plain facts, in one language, that a template puts in order.

Log text in here is as it was written, but for what draws nothing; each receiver's own code escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from diagnose.model.incident import Incident, Intent, State
from diagnose.model.knowledge import Knowledge
from diagnose.model.rule import Severity
from diagnose.model.text import Lang
from diagnose.notices import words
from diagnose.notices.book import Alert, Face
from diagnose.report import build, texts
from diagnose.report.clean import sound, stripped

_MOST_PROOF_CHARS = 400
_MOST_DONE = 6
_DONE = frozenset(
    {
        "acting",
        "failed",
        "interrupted",
        "recovered",
        "room",
        "recovery-failed",
        "rolled-back",
        "rollback",
        "rollback-failed",
        "restart",
        "escalated",
        "approve",
        "apply",
        "rejected",
        "trial",
        "trial-held",
        "trial-failed",
        "ready",
    }
)


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One incident in words.

    Attributes:
        key: Its stable key.
        face: How it looks.
        name: What the class of the cause is called.
        title: What is wrong, naming values; ``why`` and ``fix`` from the rule.
        place, proof: The deciding line and where it stands; empty where there is none.
        done: What was done, oldest first, one sentence each.
        asked: What is asked of the reader, one sentence.
        command: To look closer.
        labels: For receivers that sort by labels; they name nothing that changes but cause and severity.
        before: The labels by which the receiver knows it, where they are others.
        repeated: It is told again though nothing is new.
        acked: Who acknowledged it.
    """

    key: str
    incident: str
    host: str
    target: str
    cause: str
    name: str
    title: str
    severity: Severity
    face: Face
    started: datetime
    changed: datetime
    ended: datetime | None = None
    why: str = ""
    fix: str = ""
    place: str = ""
    proof: str = ""
    done: tuple[str, ...] = ()
    echoes: tuple[str, ...] = ()
    asked: str = ""
    command: str = ""
    link: str = ""
    labels: Mapping[str, str] = {}
    before: Mapping[str, str] = {}
    practice: bool = False
    repeated: bool = False
    acked: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.face is Face.RESOLVED


def labels_of(alert: Alert, host: str) -> dict[str, str]:
    """Return the labels of an incident."""
    labels = {
        "alertname": alert.cause,
        "service": "fastdeploy",
        "host": host,
        "target": alert.target,
        "severity": alert.severity.value,
        "incident": alert.id,
    }
    return {**labels, "practice": "true"} if alert.practice else labels


def facts_of(
    alert: Alert, incident: Incident | None, knowledge: Knowledge, lang: Lang, *, host: str, link: str = ""
) -> Facts:
    """Put one incident into words."""
    incident = alert.practice or incident
    known = Facts(
        key=alert.key,
        incident=alert.id,
        host=sound(host),
        target=sound(alert.target),
        cause=alert.cause,
        name=texts.cause_name(alert.cause, lang),
        title=texts.cause_name(alert.cause, lang),
        severity=alert.severity,
        face=alert.face,
        started=alert.since,
        changed=alert.changed,
        ended=alert.changed if alert.over else None,
        command=f"diagnose incidents {alert.id}",
        link=f"{link.rstrip('/')}/incidents/{alert.id}" if link else "",
        labels=labels_of(alert, host),
        practice=alert.practice is not None,
        acked=alert.ack.by if alert.ack else "",
    )
    if incident is None:  # the journal has forgotten it
        return known
    told = build.trouble(incident, knowledge, lang)
    first = told.evidence[0] if told.evidence else None
    return msgspec.structs.replace(
        known,
        title=told.title.rstrip(".。"),
        why=told.why,
        fix=told.fix,
        started=incident.first_seen,
        place=_place(first) if first else "",
        proof=stripped(first.text, _MOST_PROOF_CHARS) if first else "",
        done=_done(incident, lang),
        echoes=tuple(texts.cause_name(one.cause, lang) for one in told.consequences),
        asked=words.asked(incident, told.fix, lang),
        command=words.look(incident),
    )


def _place(proof: build.Proof) -> str:
    where = stripped(proof.source)
    return where if proof.line is None else f"{where}:{proof.line}"


def _done(incident: Incident, lang: Lang) -> tuple[str, ...]:
    told = [sound(texts.entry_text(one, lang)) for one in incident.timeline if _tells(one.kind, one.params)]
    if incident.state in {State.RESOLVED, State.HISTORY} and incident.timeline:
        told.append(sound(texts.entry_text(incident.timeline[-1], lang)))
    return tuple(dict.fromkeys(told))[-_MOST_DONE:]


def _tells(kind: str, params: Mapping[str, str]) -> bool:
    return kind in _DONE or (kind == "step" and params.get("ok") == "false")


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A remedy that is being carried out.

    Attributes:
        changes: What it changes of the command, as ``--max-num-seqs 128 -> 32``.
    """

    incident: str
    host: str
    target: str
    title: str
    at: datetime
    changes: tuple[str, ...] = ()


def change_of(intent: Intent, lang: Lang, *, host: str) -> Change:
    """Put one intent into words."""
    return Change(
        incident=intent.incident_id,
        host=sound(host),
        target=sound(intent.target),
        title=f"{intent.plan.remedy_id}: {intent.plan.title.in_(lang)}",
        at=intent.at,
        changes=tuple(sound(build.change_text(one)) for one in intent.plan.changes),
    )
