"""Faults on a script.

``FD_LAB_FAULTS`` is a comma list of ``name[@seconds][:key=value;key=value][#first]`` or a JSON list of
such texts or of objects ``{"name": "worker-killed", "at": 5, "first": 1, "rank": 0}``. ``#1`` means: on
the first start only.
the first start only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

_FAULT = re.compile(r"(?P<name>[a-z0-9-]+)(?:@(?P<at>[\d.]+))?(?::(?P<params>[^#]*))?(?:#(?P<first>\d+))?\Z")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, ``at`` seconds after ready, on the ``first`` starts only."""

    name: str
    at: float | None = None
    first: int | None = None
    params: dict[str, str] = field(default_factory=dict)

    def active(self, start: int) -> bool:
        """Whether it is meant for this start (the first is 1)."""
        return self.first is None or start <= self.first

    def number(self, key: str, default: float) -> float:
        """Read a parameter as a number."""
        try:
            return float(self.params.get(key, default))
        except ValueError:
            return default


def _from_text(text: str) -> Fault | None:
    found = _FAULT.match(text.strip())
    if not found:
        return None
    pairs = (pair.partition("=") for pair in (found["params"] or "").split(";") if pair)
    return Fault(
        found["name"],
        float(found["at"]) if found["at"] else None,
        int(found["first"]) if found["first"] else None,
        {key.strip(): value.strip() for key, _, value in pairs},
    )


def _from_object(item: dict[str, object]) -> Fault:
    rest = {k: str(v) for k, v in item.items() if k not in {"name", "at", "first"}}
    at, first = item.get("at"), item.get("first")
    return Fault(
        str(item.get("name", "")),
        float(str(at)) if at is not None else None,
        int(str(first)) if first is not None else None,
        rest,
    )


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Read the variable; what cannot be read is left out."""
    text = text.strip()
    if not text:
        return ()
    items: list[object] = list(json.loads(text)) if text.startswith("[") else list(text.split(","))
    faults = [_from_object(item) if isinstance(item, dict) else _from_text(str(item)) for item in items]
    return tuple(fault for fault in faults if fault)
