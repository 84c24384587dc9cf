"""A rule that matched: what is wrong, where, and the proof."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime

import msgspec

from diagnose.model.rule import Severity


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One line or sample, word for word.

    Attributes:
        source: The file, or the sense (``process``, ``probe.health``).
        line: Number in the file, from 1; ``None`` for what is no file.
    """

    source: str
    line: int | None
    at: datetime
    text: str
    dated: bool = True


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One rule, matched for one value of its key; repeats are counted, not stored.

    Attributes:
        at: When it was seen first.
        last_at: When it was seen last.
        labels: The named groups of the evidence.
        evidence: What gave the labels first, then the rest; never empty, at most 20 pieces.
        fresh: False where all evidence is older than the daemon's watch.
    """

    rule_id: str
    cause: str
    target: str
    attempt: int
    at: datetime
    last_at: datetime
    severity: Severity
    confidence: float
    labels: Mapping[str, str]
    evidence: tuple[Evidence, ...]
    count: int = 1
    fresh: bool = True

    def __post_init__(self) -> None:
        if not self.evidence:
            raise ValueError(f"a finding of {self.rule_id} without evidence")


def fingerprint(target: str, attempt: int, rule_id: str, key: Mapping[str, str]) -> str:
    """Identity of a trouble: target, attempt, rule and key; never text or chance."""
    whole = json.dumps([target, attempt, rule_id, sorted(key.items())])
    return hashlib.sha256(whole.encode()).hexdigest()[:12]
