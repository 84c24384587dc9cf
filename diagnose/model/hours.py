"""Hours of the day in which something may be, or is to be kept quiet."""

from __future__ import annotations

from datetime import datetime, time
from typing import Literal

import msgspec

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Hours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A time of the day, in the zone of what it stands in; one that ends before it begins goes over midnight.

    Attributes:
        from_, to: As ``09:00``; ``24:00`` is the day's end.
        days: On which days it begins; every day where empty.
    """

    from_: str = "00:00"
    to: str = "24:00"
    days: tuple[Day, ...] = ()

    def __post_init__(self) -> None:
        _minutes(self.from_)
        _minutes(self.to)

    def hold(self, local: datetime) -> bool:
        """Say whether this local time is in it."""
        now, start, end = local.hour * 60 + local.minute, _minutes(self.from_), _minutes(self.to)
        today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
        if start < end:
            return start <= now < end and (not self.days or today in self.days)
        return (now >= start and (not self.days or today in self.days)) or (
            now < end and (not self.days or yesterday in self.days)
        )


def _minutes(text: str) -> int:
    if text == "24:00":
        return 24 * 60
    try:
        found = time.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time of day; write it like 09:00") from error
    return found.hour * 60 + found.minute
