"""Python tracebacks and Paddle's error blocks: which lines above a line belong to the same failure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADER = re.compile(r"Traceback \(most recent call last\)|^Error Message Summary:$")
_SUMMARY = re.compile(r"^(?:Error Message Summary:|C\+\+ Traceback \(most recent call last\):)")
_CHAINED = re.compile(r"During handling of the above exception|The above exception was the direct cause")
_RULER = re.compile(r"-{20,}$")
_SILENT = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): *$")
"""An exception whose message begins behind a blank line, as Paddle's do."""

_MOST_TALK = 12
"""Lines that an exception's own message may go on for."""

_MOST_SUMMARY = 60
"""Lines of Paddle's frames, summary and advice."""


def block_of(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the end of ``lines`` that is one block up to and with the last line; empty for a lone line.

    A block is a chain of tracebacks with the message of the last exception and Paddle's summary behind it.

    >>> block_of(["print", "Traceback (most recent call last):", '  File "a.py", line 1', "KeyError: 1"])
    ('Traceback (most recent call last):', '  File "a.py", line 1', 'KeyError: 1')
    >>> block_of(["Traceback (most recent call last):", '  File "a.py"', "KeyError: 1", "", "ready", "bye"])
    ()
    """
    for start, line in enumerate(lines[:-1]):
        if _HEADER.search(line) and _reaches_end(lines, start):
            ruled = start > 0 and _RULER.match(lines[start - 1]) is not None
            return tuple(lines[start - ruled :])
    return ()


def _reaches_end(lines: Sequence[str], start: int) -> bool:
    """Read on from a heading: does the block go on to the last line?"""
    in_frames, in_summary, left = False, False, 0
    for at in range(start, len(lines)):
        line = lines[at]
        if _SUMMARY.search(line):
            in_frames, in_summary, left = False, True, _MOST_SUMMARY
        elif _HEADER.search(line):
            in_frames, in_summary = True, False
        elif in_frames:
            if line and not line[0].isspace():  # the exception itself
                in_frames, left = False, _MOST_TALK
        elif not line and not in_summary:
            if not (_goes_on(lines, at) or _SILENT.match(lines[at - 1])):
                return False
        elif not (_RULER.match(line) or _CHAINED.search(line)):
            left -= 1
            if left < 0:
                return False
    return True


def _goes_on(lines: Sequence[str], blank: int) -> bool:
    """Say whether behind a blank line the next exception of a chain, or Paddle's summary, follows."""
    following = [line for line in lines[blank + 1 : blank + 4] if line]
    return bool(following) and any(one.search(following[0]) for one in (_CHAINED, _RULER, _HEADER))
