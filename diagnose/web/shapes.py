"""What the API takes and answers with; its OpenAPI document is made of these."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from diagnose.model.incident import State
from diagnose.model.mark import Mark, Verdict
from diagnose.model.rule import Severity
from diagnose.model.text import Lang
from diagnose.notices.book import Silence
from diagnose.report.build import Trouble
from diagnose.web.standing import Taker

Who = Annotated[str, msgspec.Meta(min_length=1, max_length=64, description="Who asks, as the history will name them.")]
Why = Annotated[str, msgspec.Meta(max_length=1000)]
Name = Annotated[str, msgspec.Meta(max_length=128)]
Length = Annotated[
    str,
    msgspec.Meta(pattern=r"^([0-9]{1,5}(\.[0-9]{1,3})?(ms|s|m|h|d)){1,5}$", max_length=40, examples=["30m", "2h"]),
]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What was wrong with a request, and what to do instead."""

    problem: str
    cure: str


class Refusal(Exception):  # noqa: N818 - it is an answer, and its name says which
    """A request that is not served."""

    def __init__(self, status: int, problem: str, cure: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem)
        self.status, self.told, self.headers = status, Problem(problem=problem, cure=cure), headers or {}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of what a person asked.

    Attributes:
        ok: It is done, or will be; else it was refused, and nothing has changed.
        reason: The answer in a word, for programs; ``params`` is what its sentence names.
        text: The answer in a sentence.
        id: Of what was made: a silence, a drill's incident.
    """

    ok: bool
    reason: str
    text: str
    params: Mapping[str, str] = {}
    id: str = ""


# --- questions in the address: what is not given is unset, for "null" would be a word like any other


class InLang(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which language is answered in."""

    lang: Lang = "en"


class WhoInLang(InLang, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asks, and in which language it is answered."""

    by: Who


class WhichIncidents(InLang, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which incidents; what is not given asks for nothing.

    Attributes:
        severity: This one and graver ones.
        open: Only those that are not over (true), or that are (false).
        since: Only what changed within this length of time.
    """

    target: Name | UnsetType = UNSET
    cause: Name | UnsetType = UNSET
    severity: Severity | UnsetType = UNSET
    state: State | UnsetType = UNSET
    open: bool | UnsetType = UNSET
    since: Length | UnsetType = UNSET
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class WhichReport(InLang, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of which server and how far back."""

    target: Name | UnsetType = UNSET
    since: Length | UnsetType = UNSET


class WhichNews(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which news: ``dead`` is what was put aside."""

    state: Literal["waiting", "sent", "dead"] | UnsetType = UNSET
    receiver: Name | UnsetType = UNSET
    incident: Name | UnsetType = UNSET


# --- what is sent


class NewOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order to the daemon.

    Attributes:
        kind: ``approve`` or ``reject`` the plan that waits, ``apply`` it whatever the mode is, ``rollback`` what
            remedies changed, ``restart`` the server as it is, ``pause`` all its remedies, ``resume`` them.
        target: Which server; not needed where the daemon has but one.
        incident: Whose plan; for ``rollback``: only what this incident changed.
        for: How long an approval or a pause holds.
        why: Shown with a pause.
    """

    kind: Literal["approve", "reject", "apply", "rollback", "restart", "pause", "resume"]
    by: Who
    target: Name = ""
    incident: Name = ""
    lasting: Length | None = msgspec.field(default=None, name="for")
    why: Why = ""


class NewAck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person looks after the incident."""

    by: Who


class NewMark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person says whether the root cause that an incident names is right.

    Attributes:
        cause: What it was instead: a class of cause.
    """

    by: Who
    verdict: Verdict
    cause: Name = ""
    note: Why = ""


class NewSilence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell nobody of these; what is empty asks for nothing, all empty is everything.

    Attributes:
        for: How long; without it until what it covers is resolved.
    """

    by: Who
    why: Why = ""
    lasting: Length | None = msgspec.field(default=None, name="for")
    causes: tuple[Name, ...] = ()
    targets: tuple[Name, ...] = ()
    incident: Name = ""


class NewDrill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A practice incident.

    Attributes:
        for: When it ends.
        receiver: Only this one, whatever routes say.
    """

    by: Who
    cause: Name
    target: Name = ""
    severity: Severity = Severity.CRITICAL
    lasting: Length = msgspec.field(default="10s", name="for")
    receiver: Name = ""


class Again(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send again what was put aside; to this receiver only where one is named."""

    by: Who
    receiver: Name = ""


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer of the model that looks wrong. Only a score and a hash of it are kept."""

    target: Name
    text: str
    request_id: str = ""


# --- what is answered


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the daemon's loop turns, and how long ago it did last."""

    ok: bool
    seconds: float


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the daemon has taken up its servers: each with its phase."""

    ready: bool
    targets: Mapping[str, str]


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """How much of it repeats itself, 0 to 1, and whether that counts as repetitive."""

    repetition: float
    repetitive: bool


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """One incident in a list.

    Attributes:
        changed_at: When something last happened in it.
        person: It waits for a person.
        acknowledged_by: Who looks after it; empty where nobody said so.
        held: Why nothing is done now, if so: a word; ``held_text`` says it.
        mark: What a person said of its diagnosis.
    """

    id: str
    target: str
    cause: str
    title: str
    severity: Severity
    state: State
    first_seen: datetime
    last_seen: datetime
    changed_at: datetime
    person: bool
    acknowledged_by: str
    held: str
    held_text: str
    mark: Mark | None


class Incidents(msgspec.Struct, frozen=True, kw_only=True):
    """Incidents, what changed last first; ``total`` counts those beyond the limit, too."""

    schema: str = "diagnose.incidents/1"
    total: int
    incidents: tuple[Brief, ...]


class OneIncident(msgspec.Struct, frozen=True, kw_only=True):
    """An incident: ``brief`` is where it stands, ``incident`` all that is known of it, as in a report."""

    schema: str = "diagnose.incident/1"
    brief: Brief
    incident: Trouble


class Silences(msgspec.Struct, frozen=True, kw_only=True):
    """Those that hold."""

    schema: str = "diagnose.silences/1"
    silences: tuple[Silence, ...]


class News(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one receiver: what it is about, and how it fared."""

    id: str
    receiver: str
    kind: str
    key: str
    severity: Severity
    at: datetime
    state: str
    done_at: datetime | None
    tries: int
    error: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Who was told what, newest first."""

    schema: str = "diagnose.alerts/1"
    receivers: tuple[Taker, ...]
    news: tuple[News, ...]
