"""What the alert path gives to the outbox."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from diagnose.model.rule import Severity
from diagnose.notices.book import RANK
from diagnose.notices.facts import Change, Facts

Kind = Literal["fire", "end", "ack", "change", "again"]


class Post(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One incident's news for one receiver; several may go in one message.

    Attributes:
        id: Of this news, stable: a receiver that sees it twice can tell.
        key: Of the incident, stable over its life.
        group: Of what is told together.
        kind: ``fire``, ``end``, ``ack`` (a person took it), ``change`` (a remedy), ``again`` (said anew for a
            receiver that forgets; not kept over a restart, nor counted).
        others: How many others of its group fire.
    """

    id: str
    receiver: str
    key: str
    group: str
    kind: Kind
    at: datetime
    severity: Severity
    facts: Facts | None = None
    change: Change | None = None
    others: int = 0

    @property
    def rank(self) -> tuple[bool, int]:
        """How much it matters: what fires before what ended, then the gravest."""
        return self.kind == "fire", RANK[self.severity]
