from __future__ import annotations

import time
from pathlib import Path

import pytest

from diagnose.lab.model import make_model

GIB = 1 << 30
BIG_BATCH = ("--max-num-batched-tokens", "65536", "--max-model-len", "32768")


def test_weights_that_do_not_fit_end_in_paddles_block_and_status_0(lab):
    server = lab.start(gpu_bytes=GIB // 2)

    assert server.ended() == 0
    worker = server.log("workerlog.0")
    assert "ResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate " in worker
    assert "Container failed !!!" in server.log("launch_worker.log")
    assert " code 1 log log/workerlog.0" in server.log("launch_worker.log")
    assert "Failed to launch worker processes, check log/workerlog.* for more details." in server.console()
    assert "Failed to initialize FastDeploy LLM engine, service exit now!" in server.log("api_server.log")


def test_weights_that_do_not_fit_do_once_quantized(lab):
    model = make_model(lab.folder, "ERNIE-4.5-21B-A3B")

    assert lab.start(gpu_bytes=16 * GIB, model=model).ended() == 0
    lab.start("--quantization", "wint4", gpu_bytes=16 * GIB, model=model).ready()


def test_memory_in_the_profile_run_shrinks_with_the_batch(lab):
    failed = lab.start(*BIG_BATCH)

    assert failed.ended() == 1
    assert "RuntimeError: Worker process failed to start.Please check log/workerlog.* for details." in failed.console()
    assert "profile_run" in failed.log("workerlog.0")
    lab.start(*BIG_BATCH[2:], "--max-num-batched-tokens", "8192").ready()


def test_too_few_blocks_for_one_sequence_is_an_assertion_that_a_shorter_length_cures(lab):
    failed = lab.start("--max-model-len", "131072", gpu_bytes=3 * GIB)

    assert failed.ended() == 1
    assert "AssertionError: current device block num: " in failed.console()
    assert "should be larger than or equal to 2050, please reduce the max_model_len" in failed.console()
    lab.start("--max-model-len", "32768", gpu_bytes=3 * GIB).ready()


def test_less_than_no_blocks_is_the_workers_value_error(lab):
    server = lab.start("--gpu-memory-utilization", "0.3")

    assert server.ended() == 1
    assert "ValueError: The total number of blocks cannot be less than zero bug got -" in server.log("workerlog.0")


def test_capture_runs_out_of_memory_at_high_utilization_only(lab):
    flags = ("--max-num-seqs", "256", "--gpu-memory-utilization")
    failed = lab.start(*flags, "0.99", era="2.6")

    assert failed.ended() == 0
    assert "CUDA out of memory occurred when warming up CUDAGraph with the capture sizes [1, 2, 4," in failed.log(
        "workerlog.0"
    )
    lab.start(*flags, "0.85", era="2.6").ready()


def test_blocks_are_capped_at_40000(lab):
    server = lab.start(gpu_bytes=80 * GIB).ready()

    assert "Detected 40000 gpu blocks" in server.console()
    assert "to 40000" in server.log("worker_process.log")


def test_the_same_seed_is_the_same_card(lab):
    first = lab.start(seed=7).ready()
    first.process.terminate()
    first.ended()
    blocks = [line for line in first.console().splitlines() if "Detected" in line]
    second = lab.start(seed=7).ready()

    assert blocks[0].split("Detected")[1] in second.console()


def test_quantization_is_checked_in_the_worker_only(lab):
    server = lab.start("--quantization", "INT4")

    assert server.ended() == 0
    assert "ValueError: Invalid quantization method: INT4" in server.log("workerlog.0")


@pytest.mark.parametrize(
    ("fault", "status", "file", "text"),
    [
        ("oom-load", 0, "workerlog.0", "Out of memory error on GPU 0."),
        ("exit-zero", 0, "workerlog.0", "RuntimeError: "),
        ("oom-capture", 0, "workerlog.0", "capture_model"),
        ("kv-too-small", 1, "../console.txt", "current device block num: 20 should be"),
        ("kv-too-small:blocks=0", 1, "workerlog.0", "cannot be less than zero bug got 0"),
        ("model-missing", 1, "../console.txt", "is not exist. Please check the model name or revision."),
        ("cuda-mismatch", 0, "workerlog.0", "CUDA error(35), CUDA driver version is insufficient"),
        (
            "cuda-mismatch:kind=cudnn",
            0,
            "workerlog.0",
            "compiled with CUDNN 9.5, but CUDNN version in your machine is 8.9",
        ),
    ],
)
def test_a_scripted_fault_ends_the_start(lab, fault, status, file, text):
    server = lab.start(faults=fault)

    assert server.ended() == status
    assert text in server.log(file)


def test_a_fault_of_the_first_start_is_gone_at_the_second(lab):
    assert lab.start(faults="oom-load#1").ended() == 0
    lab.start(faults="oom-load#1").ready()


def test_a_hanging_load_writes_no_line_and_takes_no_time(lab):
    server = lab.start(faults="hang-load")
    while "50%" not in server.log("workerlog.0"):
        time.sleep(0.02)
    time.sleep(0.2)
    before, spent = server.log("workerlog.0"), _cpu_ticks(server.worker())
    time.sleep(0.5)

    assert server.log("workerlog.0") == before
    assert _cpu_ticks(server.worker()) - spent <= 1
    assert server.process.poll() is None
    assert server.status() is None


def test_a_worker_that_dies_in_capture_can_leave_the_engine_waiting_for_ever(lab):
    server = lab.start(faults="hang-capture")
    while "Container failed" not in server.log("launch_worker.log"):
        time.sleep(0.02)
    time.sleep(0.5)

    assert server.process.poll() is None
    assert server.status() is None
    assert (
        server.log("cache_manager.log")
        .rstrip()
        .endswith("PrefixCacheManager is waiting for kv cache to be initialized.")
    )


def test_in_2_4_a_killed_worker_turns_health_to_404_after_its_timeout(lab):
    server = lab.start(era="2.4", faults="worker-killed@0.3", FD_WORKER_ALIVE_TIMEOUT="2").ready()
    while server.status() == 200:
        time.sleep(0.05)

    assert server.ask("/health") == (404, "Worker Service Not Healthy")
    assert server.process.poll() is None
    assert " code -9 log log/workerlog.0" in server.log("launch_worker.log")


def test_in_2_6_the_monitor_notices_a_killed_worker_and_stops(lab):
    server = lab.start(era="2.6", faults="worker-killed@0.3").ready()

    assert server.ended() == 0
    assert "Worker process has died in the background (code=247). API server is forced to stop." in server.console()
    assert "Worker process has died" in server.log("error.log")


def test_a_segmentation_fault_leaves_its_mark(lab):
    server = lab.start(era="2.6", faults="worker-segv@0.1").ready()

    server.ended()
    assert "FatalError: `Segmentation fault` is detected by the operating system." in server.log("workerlog.0")
    assert " code -11 log log/paddle/workerlog.0" in server.log("launch_worker.log")


def test_the_other_ranks_are_stopped_with_the_one_that_died(lab):
    server = lab.start("-tp", "2", gpus=2, era="2.6", faults="worker-killed@0.3:rank=1").ready()

    server.ended()
    assert "Container rank 1 status failed" in server.log("launch_worker.log")
    while server.processes():
        time.sleep(0.02)


def test_memory_of_a_zombie_stays_for_a_while(lab):
    server = lab.start(faults="zombie-memory@0.4").ready()
    server.process.terminate()
    server.ended()
    while not server.gpu()["leaked"]:
        time.sleep(0.02)
    held = server.used_bytes()
    while server.gpu()["leaked"]:
        time.sleep(0.05)

    assert held > GIB
    assert server.used_bytes() == 0


def test_a_flood_writes_thousands_of_lines(lab):
    server = lab.start(faults="log-flood@0:rate=20000;seconds=0.5").ready()
    time.sleep(0.8)

    assert server.log("workerlog.0").count("current tokens need to accumulate") > 5000


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
