"""What a person says of a diagnosis afterwards: that it was right, or wrong."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Verdict = Literal["right", "wrong"]


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A person's verdict on the root cause that an incident names; a later one replaces it.

    Attributes:
        cause: What it was instead, where it was wrong and that is known: a class of cause.
    """

    by: str
    at: datetime
    verdict: Verdict
    cause: str = ""
    note: str = ""
