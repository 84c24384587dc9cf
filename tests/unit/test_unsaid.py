"""What is missing in logs is told by time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from diagnose.engine import unsaid
from diagnose.model.observation import Hit, LogLines, LogMatch

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def mark(name, minutes, *, dated=True):
    return LogMatch(
        target="default",
        source="fastdeploy.log",
        stream="engine",
        line=minutes + 1,
        at=NOON + timedelta(minutes=minutes),
        dated=dated,
        attempt=1,
        text=f"a line of {name}",
        level=None,
        hits=(Hit(name, 0),),
    )


@pytest.mark.parametrize(
    ("marks", "told"),
    [
        pytest.param([mark("@start", 0), mark("@loading", 1), mark("@stopping", 12)], True, id="stopped long after"),
        pytest.param([mark("@start", 0), mark("@loading", 1), mark("@stopping", 9)], False, id="stopped soon"),
        pytest.param([mark("@start", 0), mark("@loading", 1)], False, id="still loading"),
        pytest.param([mark("@start", 0), mark("@ready", 1), mark("@stopping", 60)], False, id="served"),
        pytest.param(
            [mark("@start", 0), mark("@engine-ready", 1), mark("@stopping", 60)], False, id="engine was ready"
        ),
        pytest.param([mark("@stopping", 60)], False, id="no start seen"),
        pytest.param([mark("@loading", 0, dated=False), mark("@stopping", 60)], False, id="progress without a date"),
    ],
)
def test_a_start_is_given_up_when_stopped_long_after_its_last_progress(marks, told):
    signal = unsaid.given_up(marks)

    assert (signal is not None) is told
    if signal:
        assert signal.name == "process.stall"
        assert signal.phase == "starting"
        assert signal.evidence.text == "a line of @loading"
        assert signal.evidence.line == 2


def at(minutes):
    return (NOON + timedelta(minutes=minutes)).strftime("%Y-%m-%d %H:%M:%S,000")


def asked(minutes):
    return f"INFO     {at(minutes)} 7  common_engine.py[line:88] Cache task with request_id (chatcmpl-{minutes})"


def step(minutes):
    return f"INFO     {at(minutes)} 7  scheduler.py[line:88] Decode batch, dp_rank: 0, #running-req: 1, #token: 7"


def finished(minutes):
    text = f"Request: chatcmpl-{minutes} finished, number of generated tokens: 8."
    return f"INFO     {at(minutes)} 7  token_processor.py[line:408] {text}"


def health(minutes):
    return f'[{at(minutes)[:-4]}] [7] [INFO] 127.0.0.1:1 - "GET /health HTTP/1.1" 200'


def tail(lines, first=1, name="fastdeploy.log"):
    data = "".join(f"{line}\n" for line in lines).encode()
    return LogLines(target="default", source=name, stream="engine", first_line=first, data=data, read_at=NOON)


WAITING = [asked(11), asked(12), asked(13)]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        pytest.param([asked(0), step(1), *WAITING, health(30)], True, id="no step for long"),
        pytest.param([asked(0), step(1), *WAITING, health(15)], False, id="not yet for long"),
        pytest.param([asked(0), step(1), *WAITING, step(20), health(40)], False, id="a step again"),
        pytest.param([asked(0), step(1), asked(11), health(40)], False, id="one request"),
        pytest.param([asked(0), step(1), health(60)], False, id="nobody asks"),
        pytest.param([*WAITING, health(60)], False, id="such logs do not tell of answers"),
        pytest.param([finished(1), *WAITING, health(30)], False, id="answers may be long where only they are logged"),
        pytest.param([finished(1), *WAITING, health(50)], True, id="no answer for very long"),
        pytest.param([], False, id="nothing"),
    ],
)
def test_requests_without_answers_until_the_logs_end_are_a_stall(lines, told):
    signal = unsaid.unanswered([tail(lines, first=101)], attempt=2)

    assert (signal is not None) is told
    if signal:
        assert (signal.phase, signal.attempt) == ("ready", 2)
        assert signal.evidence.text == asked(11)
        assert signal.evidence.line == 101 + lines.index(asked(11))


def test_progress_in_one_file_answers_for_all():
    tails = [tail([*WAITING, asked(40)]), tail([step(1), step(39)], name="console.log")]

    assert unsaid.unanswered(tails, attempt=1) is None


def answer(words, *, reason="length"):
    body = f'{{"choices": [{{"finish_reason": "{reason}", "message": {{"role": "assistant", "content": "{words}"}}}}]}}'
    return tail([f"INFO     {at(0)} 7  api_server.py[line:330] Chat response: {body}"], first=7)


LOOP = "It is as it is and so it goes. " * 30
PROSE = "The river rises in the hills, passes two towns and reaches the sea after many days of calm travel."


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        pytest.param([answer(LOOP), answer(LOOP)], 2, id="two in circles"),
        pytest.param([answer(LOOP), answer(PROSE)], 0, id="one in circles"),
        pytest.param([answer(LOOP, reason="stop"), answer(LOOP, reason="stop")], 0, id="they ended by themselves"),
        pytest.param([answer(PROSE), answer(PROSE)], 0, id="prose"),
        pytest.param([answer("\\\\q"), answer('\\"')], 0, id="odd quotes"),
        pytest.param([], 0, id="none"),
    ],
)
def test_several_answers_in_circles_are_told(answers, told):
    found = unsaid.in_circles(answers, attempt=1)

    assert len(found) == told
    assert all(one.labels == {"repetitive": "true"} and one.evidence.line == 7 for one in found)
