"""JSON Schema of the files that people write, for their editors."""

from __future__ import annotations

from typing import Any

import msgspec

from diagnose.model.text import Duration


def of(kind: Any) -> dict[str, Any]:  # noqa: ANN401 (a type, or a union of types)
    """Return the JSON Schema of a type of the model."""
    return msgspec.json.schema(kind, schema_hook=_plain)


def _plain(kind: type) -> dict[str, Any]:
    if kind is Duration:
        return {
            "type": "string",
            "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$",
            "examples": ["30s", "5m", "1h30m"],
        }
    raise NotImplementedError(f"no schema for {kind}")
