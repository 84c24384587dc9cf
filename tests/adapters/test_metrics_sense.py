"""What the server counts of itself, from its Prometheus endpoint."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import httpx
import pytest

from diagnose.engine.rates import NAMES
from diagnose.model.observation import Numbers, SourceSees, SourceSilent
from diagnose.sources.metrics import MetricsSense, numbers, urls_of
from diagnose.testing import NOON

ONE_PROCESS = """\
# HELP fastdeploy:num_requests_running Number of requests currently running
# TYPE fastdeploy:num_requests_running gauge
fastdeploy:num_requests_running 3.0
# HELP fastdeploy:num_requests_waiting Number of requests currently waiting
# TYPE fastdeploy:num_requests_waiting gauge
fastdeploy:num_requests_waiting 2.0
# TYPE fastdeploy:gpu_cache_usage_perc gauge
fastdeploy:gpu_cache_usage_perc 0.91
# TYPE fastdeploy:generation_tokens_total counter
fastdeploy:generation_tokens_total 1567.0
# TYPE fastdeploy:cache_config_info gauge
fastdeploy:cache_config_info{block_size="64",name="a \\"b\\" \\n c"} 1.0
# TYPE fastdeploy:time_to_first_token_seconds histogram
fastdeploy:time_to_first_token_seconds_bucket{le="0.5"} 7.0
fastdeploy:time_to_first_token_seconds_bucket{le="+Inf"} 9.0
fastdeploy:time_to_first_token_seconds_count 9.0
fastdeploy:time_to_first_token_seconds_sum 4.5
# TYPE fastdeploy:requests_number counter
fastdeploy:requests_number_total 12.0
http_requests_total{method="GET",path="/health",status_code="200"} 60.0
"""

SEVERAL = """\
# TYPE fastdeploy:num_requests_running gauge
fastdeploy:num_requests_running{{pid="{alive}"}} 1.0
fastdeploy:num_requests_running{{pid="{dead}"}} 40.0
# TYPE fastdeploy:gpu_cache_usage_perc gauge
fastdeploy:gpu_cache_usage_perc{{pid="{alive}"}} 0.2
fastdeploy:gpu_cache_usage_perc{{pid="{dead}"}} 1.0
# TYPE fastdeploy:generation_tokens_total counter
fastdeploy:generation_tokens_total 10.0
"""


def gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def ask(sense, times=1):
    async def asked():
        return [one for _ in range(times) for one in await sense.ask(NOON, 4, more={"server.canary_seconds": 2.0})]

    return asyncio.run(asked())


def sense(handler, *urls):
    transport = httpx.MockTransport(handler)
    return MetricsSense(target="default", urls=urls or ["http://here:8000/metrics"], transport=transport)


# --- what is read


def test_numbers_are_told_by_names_with_their_units():
    told = numbers(ONE_PROCESS)
    assert told == {
        "server.requests_running": 3.0,
        "server.requests_waiting": 2.0,
        "server.cache_usage_ratio": 0.91,
        "server.generated_tokens_total": 1567.0,
        "server.first_token_count_total": 9.0,
        "server.first_token_sum_total": 4.5,
        "server.requests_total": 12.0,
    }
    assert told.keys() <= NAMES, "rules may ask for all of them"


def test_gauges_of_processes_that_have_gone_count_no_more():
    told = numbers(SEVERAL.format(alive=os.getpid(), dead=gone()))
    assert told["server.requests_running"] == 1.0
    assert told["server.cache_usage_ratio"] == 0.2


def test_where_no_process_is_seen_all_count_they_are_another_containers():
    told = numbers(SEVERAL.format(alive=gone(), dead=gone()))
    assert told["server.requests_running"] == 41.0


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("<html><body>Not Found</body></html>", id="a page"),
        pytest.param('{"detail":"Not Found"}', id="JSON"),
        pytest.param("vllm:num_requests_running 1.0\n", id="another server"),
        pytest.param("fastdeploy:num_requests_running NaN\n", id="no number"),
        pytest.param("fastdeploy:num_requests_running 3.0.1\n", id="broken"),
    ],
)
def test_what_is_no_answer_of_the_server_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of many kinds
        numbers(text)


# --- the sense


def test_an_answer_is_one_observation_of_this_launch_with_what_belongs_to_it():
    (told,) = ask(sense(lambda _: httpx.Response(200, text=ONE_PROCESS)))
    assert isinstance(told, Numbers)
    assert (told.target, told.at, told.generation) == ("default", NOON, 4)
    assert (told.values["server.requests_running"], told.values["server.canary_seconds"]) == (3.0, 2.0)


def test_the_place_that_answers_is_found_and_kept():
    asked = []

    def answer(request):
        asked.append(request.url.port)
        return httpx.Response(200, text=ONE_PROCESS) if request.url.port == 8001 else httpx.Response(404)

    told = ask(sense(answer, "http://here:8000/metrics", "http://here:8001/metrics"), times=2)
    assert [type(one) for one in told] == [Numbers, Numbers]
    assert asked == [8000, 8001, 8001]


def test_a_closed_port_is_told_once_with_the_cure_and_its_return_is_told_too():
    answers = [httpx.ConnectError("nobody listens")] * 7

    def answer(_):
        if answers:
            raise answers.pop()
        return httpx.Response(200, text=ONE_PROCESS)

    here = sense(answer)
    (silent,) = ask(here, times=6)
    assert isinstance(silent, SourceSilent)
    assert silent.source == "metrics"
    assert "--metrics-port" in silent.reason
    assert "http://here:8000/metrics" in silent.reason
    assert [type(one) for one in ask(here, times=2)] == [SourceSees, Numbers]


def test_a_moment_without_an_answer_is_no_news():
    rows = iter([httpx.Response(500), httpx.Response(200, text="x"), httpx.Response(200, text=ONE_PROCESS)] * 3)
    assert {type(one) for one in ask(sense(lambda _: next(rows)), times=9)} == {Numbers}


@pytest.mark.parametrize(
    ("port", "given", "ports"),
    [(8000, False, [8000, 8001]), (9100, True, [9100]), (8001, False, [8001, 8000])],
)
def test_metrics_are_looked_for_where_a_server_of_this_kind_has_them(port, given, ports):
    urls = urls_of("http://127.0.0.1:8000", port, given=given)
    assert [int(httpx.URL(one).port) for one in urls] == ports
