"""Where a traceback or an error block ends."""

from __future__ import annotations

import pytest

from diagnose.engine.blocks import block_of

TRACE = ("Traceback (most recent call last):", '  File "a.py", line 1, in load_model')


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((*TRACE, "ValueError: no"), id="an exception with its message"),
        pytest.param(
            (*TRACE, "ResourceExhaustedError:", "", "Out of memory error on GPU 0."), id="a message behind a blank"
        ),
        pytest.param((*TRACE, "KeyError: 1", "", "During handling of the above exception,"), id="a chain"),
    ],
)
def test_a_block_goes_on_to_its_last_line(lines):
    assert block_of(("before", *lines)) == lines


@pytest.mark.parametrize("said", ["KeyError: 1", "ValueError: give one of:", "done:"])
def test_a_blank_line_ends_the_message_of_an_exception_that_said_something(said):
    assert block_of((*TRACE, said, "", "ready")) == ()
