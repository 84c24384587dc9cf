"""Would settings that failed fit now, after others have given back memory of the card?"""

from __future__ import annotations

from collections.abc import Sequence

from diagnose.capacity.advise import elsewhere
from diagnose.capacity.bill import Bill, known_of, write
from diagnose.capacity.settings import Card, Measured, Settings
from diagnose.model.launch import ModelShape


def again(shape: ModelShape, settings: Settings, card: Card, failures: Sequence[Measured], *, before: Card) -> Bill:
    """Write the bill of settings that failed when others held more of the card.

    What the failures taught of sizes counts; that they failed does not.

    Args:
        before: The card as it was then.
    """
    known = known_of(shape, settings, before, failures[-1] if failures else None, failures[:-1])
    return write(elsewhere(known, card), settings)
