"""All that the mind remembers between two turns, as one value that a journal can keep."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from diagnose.engine.targets import Target
from diagnose.engine.window import Windows
from diagnose.model.incident import Incident, Intent


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The mind's memory.

    Attributes:
        incidents: Those that are not over, and the last ones that are, by id.
        intents: What is being carried out, by id.
    """

    targets: Mapping[str, Target] = {}
    windows: Windows = Windows()
    incidents: Mapping[str, Incident] = {}
    intents: Mapping[str, Intent] = {}
