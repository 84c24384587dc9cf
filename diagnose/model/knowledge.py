"""All that is known: rules, remedies and the marks of a server kind, ready for the engine."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from diagnose.model.remedy import Remedy
from diagnose.model.rule import Rule


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A line that tells where the server is, not that something is wrong.

    Attributes:
        pattern: As in `diagnose.model.rule.When`.
        streams: The kinds of log where it counts; empty for all but ``data``.
    """

    pattern: str
    streams: tuple[str, ...] = ()


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """Rules and remedies by id, marks by name (``@start``, ``@ready`` ...).

    Attributes:
        digest: Changes whenever any of it changes.
    """

    rules: Mapping[str, Rule]
    remedies: Mapping[str, Remedy]
    marks: Mapping[str, Mark]
    digest: str
