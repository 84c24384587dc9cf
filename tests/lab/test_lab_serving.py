from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import threading
import time

import pytest

LONG = "tell me more about the harbour " * 60
NAMES = [
    "num_requests_running",
    "num_requests_waiting",
    "gpu_cache_usage_perc",
    "available_gpu_block_num",
    "generation_tokens_total",
    "request_success_total",
    "time_to_first_token_seconds_bucket",
    "e2e_request_latency_seconds_count",
    "cache_config_info",
]


def metric(server, name):
    text = server.ask("/metrics")[1]
    return float(re.search(rf"^fastdeploy:{name} (\S+)$", text, re.MULTILINE)[1])


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_it_answers_as_openai_servers_do(lab, era):
    server = lab.start("--served-model-name", "ernie", era=era).ready()

    status, body = server.chat("你好，请介绍一下北京", max_tokens=30)
    again = server.chat("你好，请介绍一下北京", max_tokens=30)[1]
    other = server.chat("Tell me about bread", max_tokens=30)[1]

    assert status == 200
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 30
    assert body["choices"][0]["message"]["content"] == again["choices"][0]["message"]["content"]
    assert body["choices"][0]["message"]["content"] != other["choices"][0]["message"]["content"]
    assert json.loads(server.ask("/v1/models")[1])["data"][0]["id"] == "ernie"
    assert server.ask("/ping") == (200, "")
    assert {route["path"] for route in json.loads(server.ask("/load")[1])["routes"]} >= {"/v1/completions"}
    assert server.ask("/health_generate") == (404, '{"detail": "Not Found"}')
    assert server.ask("/v1/completions", {"prompt": "once", "max_tokens": 5})[0] == 200


def test_a_stream_ends_with_its_reason_and_done(served):
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 6,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    lines = [line[6:] for line in served.ask("/v1/chat/completions", body)[1].split("\n") if line]

    chunks = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 6


def test_connections_are_kept_alive(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)

    for _ in range(3):
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        assert not answer.will_close
    connection.close()


def test_a_clients_mistake_has_the_original_status(served):
    messages = [{"role": "user", "content": "a"}]
    cases = [
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, 500, "context_length_exceeded"),
        ({"messages": messages, "max_tokens": 0}, 500, "invalid_value"),
        ({"messages": messages, "model": "gpt"}, 500, "model_not_support"),
        ({"max_tokens": 3}, 400, "missing_required_parameter"),
        ({"messages": messages, "top_p": 3}, 400, "invalid_value"),
    ]
    for body, status, code in cases:
        answered, text = served.ask("/v1/chat/completions", body)
        error = json.loads(text)["error"]
        assert (answered, error["type"], error["code"]) == (status, "invalid_request_error", code)


def test_too_many_at_once_are_refused(lab):
    server = lab.start("--max-concurrency", "1").ready()
    busy = threading.Thread(target=server.chat, args=("one",), kwargs={"max_tokens": 200, "min_tokens": 200})
    busy.start()
    while not metric(server, "num_requests_running"):
        time.sleep(0.01)

    assert server.chat("two") == (429, {"detail": "Too many requests,current max concurrency is 1"})
    busy.join()
    assert "Reach max request concurrency, semaphore status" in server.log("api_server.log")


def test_an_api_key_guards_v1_only(lab):
    server = lab.start("--api-key", "secret").ready()

    assert server.ask("/v1/models") == (401, '{"error": "Unauthorized"}')
    assert server.ask("/v1/models", Authorization="Bearer secret")[0] == 200
    assert server.ask("/metrics")[0] == 200


def test_metrics_have_the_original_names_and_live_values(served):
    before = metric(served, "generation_tokens_total"), metric(served, "request_success_total")
    served.chat("count me", max_tokens=10)

    text = served.ask("/metrics")[1]

    assert [name for name in NAMES if f"fastdeploy:{name}" not in text] == []
    assert metric(served, "generation_tokens_total") == before[0] + 10
    assert metric(served, "request_success_total") == before[1] + 1
    assert metric(served, "num_requests_running") == 0


def test_metrics_can_have_a_port_of_their_own(lab, unused_port):
    server = lab.start("--metrics-port", str(unused_port)).ready()

    assert server.ask("/metrics")[0] == 404
    server.port = unused_port
    assert "fastdeploy:num_requests_running" in server.ask("/metrics")[1]


def test_prompts_reach_the_logs_as_in_the_original(served):
    served.chat("my secret garden")

    assert "Chat Received request: " in served.log("api_server.log")
    assert "my secret garden" in served.log("api_server.log")
    assert "my secret garden" in served.log("data_processor.log")
    assert "finished, number of generated tokens: " in served.log("fastdeploy.log")


def test_in_2_6_batches_and_requests_have_their_lines(lab):
    server = lab.start(era="2.6").ready()
    server.chat("hello", max_tokens=30)

    assert "Prefill batch, dp_rank: 0, #new-seq: 1, #new-token: " in server.console()
    assert "Decode batch, dp_rank: 0, #running-req: 1, #token: " in server.console()
    assert re.search(r"Request=\S+, InputToken=\d+, CachedDetail=.*OutputToken=30", server.log("fastdeploy.log"))


def test_a_frozen_worker_stops_tokens_and_then_health(lab):
    server = lab.start(FD_WORKER_ALIVE_TIMEOUT="2").ready()
    worker = server.worker()
    os.kill(worker, signal.SIGSTOP)
    try:
        time.sleep(0.6)
        with pytest.raises(TimeoutError):
            server.chat("hello", timeout=0.5)
        while server.status() != 404:
            time.sleep(0.05)
    finally:
        os.kill(worker, signal.SIGCONT)
    while server.status() != 200:
        time.sleep(0.05)


def test_more_sequences_than_blocks_are_preempted_and_all_finish(lab):
    server = lab.start("--num-gpu-blocks-override", "40", FD_LAB_TOKENS_PER_SECOND="3000").ready()
    results = []
    asked = [
        threading.Thread(
            target=lambda n=n: results.append(
                server.chat(f"{n} " + "word " * 400, max_tokens=700, min_tokens=700, timeout=30)
            )
        )
        for n in range(5)
    ]
    for one in asked:
        one.start()
    for one in asked:
        one.join()

    assert [status for status, _ in results] == [200] * 5
    assert all(body["usage"]["completion_tokens"] == 700 for _, body in results)
    assert "Preemption is triggered! Preempted request id: " in server.log("fastdeploy.log")
    assert metric(server, "gpu_cache_usage_perc") == 0


def test_an_answer_to_a_long_prompt_can_be_made_to_loop(lab):
    server = lab.start(faults="repetition").ready()

    short = server.chat("hello")[1]["choices"][0]
    long = server.chat(LONG, max_tokens=160)[1]["choices"][0]

    assert short["finish_reason"] == "stop"
    assert long["finish_reason"] == "length"
    assert long["message"]["content"].count("and then we think about it again") > 10


def test_overload_lets_requests_wait_and_refuses_more(lab):
    server = lab.start(faults="overload").ready()
    asked = [threading.Thread(target=lambda: _quietly(server), daemon=True) for _ in range(12)]
    for one in asked:
        one.start()
    while metric(server, "num_requests_waiting") < 3 or metric(server, "num_requests_running") != 2:
        time.sleep(0.05)

    while "Reach max request concurrency" not in server.log("api_server.log"):
        time.sleep(0.05)


def _quietly(server):
    with contextlib.suppress(OSError):
        server.chat("slow", timeout=1.5)


@pytest.mark.parametrize("fault", ["stall", "intake-dead"])
def test_requests_can_hang_while_health_is_fine(lab, fault):
    server = lab.start(faults=fault).ready()
    with pytest.raises(TimeoutError):
        server.chat("hello", timeout=0.5)

    assert server.ask("/health") == (200, "")
    assert metric(server, "generation_tokens_total") == 0


def test_a_client_that_hangs_up_frees_its_blocks(lab):
    server = lab.start(FD_LAB_TOKENS_PER_SECOND="0.5").ready()
    with pytest.raises(TimeoutError):
        server.chat("hello", timeout=0.3, min_tokens=500)

    deadline = time.monotonic() + 5
    while metric(server, "num_requests_running") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metric(server, "gpu_cache_usage_perc") == 0
