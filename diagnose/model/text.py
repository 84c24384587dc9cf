"""Text for people, in the languages that they read, and lengths of time as they write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

import msgspec

Lang = Literal["en", "zh"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sentence or paragraph in both languages."""

    en: str
    zh: str

    def __post_init__(self) -> None:
        if not self.en.strip() or not self.zh.strip():
            raise ValueError("text is needed in both languages, en and zh")

    def in_(self, lang: Lang) -> str:
        """Return the text in ``lang``."""
        return self.zh if lang == "zh" else self.en


class Duration(timedelta):
    """A length of time that files spell as ``500ms``, ``30s``, ``5m``, ``2h`` or ``1h30m``."""

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read one length.

        Raises:
            ValueError: ``text`` is no length; the message shows how to write one.

        >>> Duration.parse("1h30m").total_seconds()
        5400.0
        """
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f"{text!r} is no length of time; write it like 30s, 5m or 1h30m")
        return cls(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))

    def __str__(self) -> str:
        """Spell the length as files do."""
        left, parts = self.total_seconds(), []
        for unit in ("d", "h", "m", "s"):
            whole = int(left // _UNITS[unit])
            if whole:
                parts.append(f"{whole}{unit}")
                left -= whole * _UNITS[unit]
        if left >= 0.001:
            parts.append(f"{round(left * 1000)}ms")
        return "".join(parts) or "0s"
