from __future__ import annotations

import os
import signal
import socket
import time

import pytest

MARKS = [
    ("console", "Number of api-server workers"),
    ("console", "Waiting for worker processes to be ready..."),
    ("console", "Loading Weights"),
    ("console", "Loading Layers"),
    ("console", "Worker processes are launched with"),
    ("console", "Detected "),
    ("console", "FastDeploy will be serving"),
    ("console", "Launching metrics service at"),
    ("console", "Launching chat completion service at"),
    ("console", "Listening at"),
]


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_a_start_shows_its_marks_in_the_original_order(lab, era):
    server = lab.start(era=era).ready()

    console = server.console()

    places = [console.index(text) for _, text in MARKS]
    assert places == sorted(places)
    assert "Launch worker service command: " in server.log("fastdeploy.log")
    assert "Start load layer 17" in server.log("workerlog.0")


def test_in_2_4_each_logger_has_its_file_and_colours_mark_trouble(lab):
    server = lab.start("--enable-mm", era="2.4").ready()

    log = server.folder / "log"
    assert str((log / "fastdeploy.log").readlink()) == f"fastdeploy.log.{time.strftime('%Y-%m-%d')}"
    assert "\x1b[33mWARNING " in server.log("console.log")
    assert "('Before running the profile, the memory usage info" in server.log("gpu_worker.log")
    assert "num_blocks_global" in server.log("worker_process.log")
    assert not (log / "fastdeploy_error.log").exists()
    assert not (log / "workerlog.0").is_symlink()


def test_in_2_6_channels_take_all_and_paddle_has_a_folder(lab):
    server = lab.start("--enable-mm", era="2.6").ready()

    log = server.folder / "log"
    assert str((log / "workerlog.0").readlink()) == "paddle/workerlog.0"
    assert "\x1b" not in server.log("fastdeploy.log")
    assert "Before running the profile" in server.log("worker_process.log")
    assert "Detected " in server.log("fastdeploy.log")
    assert not (log / "console.log").exists()


def test_nobody_listens_until_the_model_is_there(lab):
    server = lab.start(FD_LAB_LOAD_SECONDS="0.8")
    seen = []
    while server.status() is None and server.process.poll() is None:
        seen.append(server.console())
        time.sleep(0.02)

    assert any("Loading Layers" in text for text in seen)
    assert server.status() == 200


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        pytest.param(["--max_model_len", "4096"], "unrecognized arguments: --max_model_len 4096", id="underscores"),
        pytest.param(["--quantize", "INT4"], "unrecognized arguments: --quantize INT4", id="unknown"),
        pytest.param(["--max-num-seqs", "x"], "argument --max-num-seqs: invalid int value: 'x'", id="no number"),
        pytest.param(["--load-choices", "x"], "argument --load-choices: invalid choice: 'x'", id="no choice"),
        pytest.param(["--max-num", "3"], "ambiguous option: --max-num could match", id="ambiguous"),
        pytest.param(["--write-policy", "x"], "unrecognized arguments: --write-policy", id="a flag of later"),
    ],
)
def test_argument_errors_are_those_of_argparse(lab, flags, text):
    server = lab.start(*flags)

    assert server.ended() == 2
    console = server.console()
    assert console.startswith("usage: api_server.py [-h]")
    assert f"api_server.py: error: {text}" in console
    assert not (server.folder / "log").exists()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--max-num-seqs", "300"],
            "AssertionError: The parameter `max_num_seqs` is not allowed to exceed 256",
        ),
        (["--max-model-len", "16"], "AssertionError: max_model_len: 16 should be larger than 16"),
        (["--max-num-seqs", "2"], "should be less than or equal to max_num_seqs: 2 * max_model_len: 2048"),
        (["--gpu-memory-utilization", "1.2"], "GPU memory utilization must be less than 1.0. Got 1.2."),
        (["--kv-cache-ratio", "1.5"], "KV cache ratio must be less than 1.0. Got 1.5."),
        (
            ["--model", "no/such"],
            "The master of no/such is not exist. Please check the model name or revision.",
        ),
    ],
)
def test_bad_settings_end_in_a_traceback_and_status_1(lab, flags, text):
    server = lab.start(*flags)

    assert server.ended() == 1
    assert "Traceback (most recent call last):" in server.console()
    assert text in server.console()


def test_yaml_gives_defaults_and_the_command_line_wins(lab):
    config = lab.folder / "server.yaml"
    config.write_text("max_model_len: 4096\nmax_num_seqs: 4  # few\nno_such_key: 1\nblock_size: many\n")
    server = lab.start("--config", str(config), "--max-num-seqs", "6").ready()

    assert "maximum length: 4096" in server.console()
    assert "serving 6 running" in server.console()
    assert "Error converting 'block_size' with value 'many'" in server.console()


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_a_taken_port_is_refused(lab, era):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        server = lab.start("--port", str(taken), era=era)
        assert server.ended() == 1

    assert f"The parameter `port`:{taken} is already in use." in server.console()
    assert ("Loading Layers" in server.console()) == (era == "2.4")


def test_a_taken_queue_port_is_refused(lab):
    first = lab.start().ready()
    second = lab.start("--engine-worker-queue-port", str(first.queue_port))

    assert second.ended() == 1
    assert f"Parameter `engine_worker_queue_port`:{first.queue_port} is already in use." in second.console()


def test_the_fault_port_taken_uses_a_real_socket(lab):
    server = lab.start(era="2.6", faults="port-taken:seconds=5")

    assert server.ended() == 1
    assert f"`port`:{server.port} is already in use" in server.console()


def test_worker_logs_grow_over_starts_and_the_launcher_log_does_not(lab):
    first = lab.start().ready()
    first.process.send_signal(signal.SIGTERM)
    assert first.ended() == 0
    second = lab.start().ready()

    assert second.log("workerlog.0").count("Modified FLAGS detected") == 2
    assert second.log("launch_worker.log").count("Watching Pod") == 1


def test_sigterm_stops_in_order_and_leaves_nothing(lab):
    server = lab.start().ready()
    server.process.send_signal(signal.SIGTERM)

    assert server.ended() == 0
    assert "Engine shut down, exiting sub services..." in server.log("fastdeploy.log")
    while server.processes():
        time.sleep(0.02)
    assert "Terminating with signal 15" in server.log("launch_worker.log")
    assert list((server.folder / "shm").iterdir()) == []
    assert server.used_bytes() == 0


def test_sigkill_leaves_workers_memory_and_shared_memory(lab):
    server = lab.start().ready()
    worker = server.worker()
    server.process.kill()
    server.process.wait()

    assert os.getsid(worker) != server.process.pid
    assert worker in server.processes()
    assert server.used_bytes() > 1 << 30
    left = {path.name for path in (server.folder / "shm").iterdir()}
    assert f"worker_healthy_live_signal.{server.queue_port}" in left
    assert f"router_{server.port}.ipc" in left


def test_a_restart_on_the_same_port_replaces_what_was_left(lab):
    first = lab.start().ready()
    for pid in first.processes():
        os.kill(pid, signal.SIGKILL)
    first.process.wait()
    second = lab.start("--engine-worker-queue-port", str(first.queue_port)).ready()

    assert f"ShareMemory: loaded_model_signal.{first.queue_port} already exists, delete it" in second.log(
        "fastdeploy.log"
    )


def test_the_workers_of_a_killed_server_end_after_a_while(lab):
    server = lab.start(FD_LAB_ORPHAN_SECONDS="0.5").ready()
    server.process.kill()
    server.process.wait()

    deadline = time.monotonic() + 10
    while server.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.processes() == []
