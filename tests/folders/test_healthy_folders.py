"""A folder of a server that is well: nothing but notes, and the history of starts that failed before."""

from __future__ import annotations

import pytest

from diagnose.model.incident import State
from diagnose.model.rule import Severity
from tests.folders.cases import HEALTHY, Case


@pytest.mark.parametrize("case", HEALTHY, ids=lambda case: case.name)
def test_a_healthy_server_is_left_alone(case: Case, folder_of, examined):
    seen = examined(folder_of(case.name))

    told = [(one.cause, one.rule_id, one.severity.value, one.state.value) for one in seen.incidents]
    open_ = [one for one in seen.incidents if one.state is not State.HISTORY]
    assert all(one.severity is Severity.INFO for one in open_), told
    assert tuple(one.cause for one in seen.incidents if one.state is State.HISTORY) == case.history
    assert not seen.unexplained, [one.sample for one in seen.unexplained]
