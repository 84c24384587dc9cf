"""The same symptom, different causes: refusals and slowness are judged by what else the logs say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import pytest

from diagnose.catalog import load
from diagnose.model.rule import Severity

BEGIN = datetime(2026, 3, 1, 8)  # noqa: DTZ001 (logs name no zone)


def stamps(step: float = 1.0) -> Iterator[str]:
    at = BEGIN
    while True:
        yield at.strftime("%Y-%m-%d %H:%M:%S")
        at += timedelta(seconds=step)


def info(at: str, place: str, text: str, level: str = "INFO") -> str:
    file, _, line = place.partition(":")
    return f"{level:<8} {at} 2301  {file}[line:{line}] {text}"


def decode(at: str, *, running: int, usage: float, queue: int, free: int = 500) -> str:
    text = (
        f"Decode batch, dp_rank: 0, #running-req: {running}, #token: {running * 900}, token usage: {usage:.2f},"
        f" #free-block: {free}, #evictable-block: 0, cuda graph: True, gen throughput (token/s): {running * 30.0},"
        f" #queue-req: {queue}, "
    )
    return info(at, "scheduler_metrics_logger.py:88", text)


def refused(at: str, limit: int) -> str:
    status = {"available": 0, "acquired": limit, "max_value": limit}
    return info(at, "api_server.py:290", f"Reach max request concurrency, semaphore status: {status}", "WARNING")


def late(at: str, number: int) -> str:
    return info(at, "serving_chat.py:131", f"request[chatcmpl-{number}] waiting error: , max waiting time: 30", "ERROR")


def preempted(at: str, number: int) -> str:
    return info(at, "resource_manager_v1.py:346", f"Preemption is triggered! Preempted request id: chatcmpl-{number}")


def access(at: str, status: int, path: str = "/v1/chat/completions") -> str:
    return f'[{at}] [5512] [INFO] 10.0.0.7:40218 - "POST {path} HTTP/1.1" {status}'


def idle_engine() -> dict[str, list[str]]:
    at = stamps()
    main, terminal = [], []
    for number in range(40):
        main.append(decode(next(at), running=4, usage=0.08, queue=0))
        if number > 10:
            main.append(refused(now := next(at), 4))
            terminal.append(access(now, 429))
    return {"log/fastdeploy.log": main, "console.log": terminal}


def full_cache() -> dict[str, list[str]]:
    at = stamps()
    main, terminal, errors = [], [], []
    for number in range(40):
        main.append(decode(next(at), running=40, usage=0.99, queue=number * 2, free=1))
        main.append(preempted(next(at), number))
        if number > 15:
            now = next(at)
            main += [refused(now, 64), late(now, number)]
            errors.append(late(now, number))
            terminal.append(access(now, 429))
    return {"log/fastdeploy.log": main, "console.log": terminal, "log/error.log": errors}


def full_cache_of_old() -> dict[str, list[str]]:
    """The older era has no batch lines: preemptions alone tell of the cache."""
    at = stamps()
    main = [preempted(next(at), number).replace(" 2301", ",118 2301", 1) for number in range(8)]
    api = [refused(next(at), 512).replace(" 2301", ",118 2301", 1) for _ in range(30)]
    return {"log/fastdeploy.log": main, "log/api_server.log": api}


def few_slots() -> dict[str, list[str]]:
    at = stamps()
    main = []
    for number in range(40):
        main.append(decode(next(at), running=8, usage=0.21, queue=10 + number))
        if number > 20:
            main.append(refused(next(at), 48))
    return {"log/fastdeploy.log": main}


def few_slots_late() -> dict[str, list[str]]:
    at = stamps()
    main = []
    for number in range(40):
        main.append(decode(next(at), running=8, usage=0.21, queue=10 + number))
        if number > 30:
            main.append(late(next(at), number))
    return {"log/fastdeploy.log": main}


def gateway() -> list[str]:
    at = stamps()
    lines = []
    for number in range(30):
        now = next(at)
        clock = now.replace("-", "/")
        if number < 10:
            lines.append(
                f'10.0.0.7 - - [01/Mar/2026:{now[11:]} +0000] "POST /v1/chat/completions HTTP/1.1" 200 512 "-" "a"'
            )
            continue
        lines.append(
            f"{clock} [error] 31#31: *{number} connect() failed (111: Connection refused) while connecting to upstream,"
            ' client: 10.0.0.7, server: _, request: "POST /v1/chat/completions HTTP/1.1", upstream: "http://10.0.0.2/v1/"'
        )
        status = 502 if number % 2 else 503
        lines.append(
            f'10.0.0.7 - - [01/Mar/2026:{now[11:]} +0000] "POST /v1/chat/completions HTTP/1.1" {status} 157 "-" "a"'
        )
    return lines


def dead_worker() -> dict[str, list[str]]:
    died = "2026-03-01 08:00:08"
    block = [
        "--------------------------------------",
        "C++ Traceback (most recent call last):",
        "--------------------------------------",
        "No stack trace in paddle, may be caused by external reasons.",
        "",
        "----------------------",
        "Error Message Summary:",
        "----------------------",
        "FatalError: `Segmentation fault` is detected by the operating system.",
        "  [SignalInfo: *** SIGSEGV (@0x0) received by PID 2057 (TID 0x7f6b0570b9) from PID 0 ***]",
    ]
    launch = [
        f"LAUNCH INFO {died},954 Pod failed",
        f"LAUNCH ERROR {died},954 Container failed !!!",
        "Container rank 0 status failed cmd ['/usr/bin/python', 'worker_process.py'] code -11 log log/workerlog.0",
        f"LAUNCH INFO {died},954 Exit code -11",
    ]
    monitor = "Worker process has died in the background (code=245). API server is forced to stop."
    console = [info("2026-03-01 08:00:09", "engine.py:830", monitor, "ERROR")]
    return {
        "log/workerlog.0": ["[2026-03-01 07:00:00,177] [    INFO] distributed_strategy.py:335 - initialized", *block],
        "log/launch_worker.log": launch,
        "console.log": console,
        "nginx/error.log": gateway(),
    }


def impatient_client() -> dict[str, list[str]]:
    at = stamps(20)
    main = [decode(next(at), running=3, usage=0.11, queue=0) for _ in range(20)]
    client = [
        "Traceback (most recent call last):",
        '  File "/opt/app/ask.py", line 31, in <module>',
        "    answer = client.chat.completions.create(model='default', messages=messages, timeout=20)",
        "openai.APITimeoutError: Request timed out.",
    ]
    return {"log/fastdeploy.log": main, "client.log": client}


def only_503() -> dict[str, list[str]]:
    at = stamps()
    return {"access.log": [access(next(at), 503) for _ in range(20)]}


CASES = {
    "admission limit, engine idle": (idle_engine, "overload_503", "requests.overload.admission-limit"),
    "cache full": (full_cache, "kv_cache_insufficient", "kvcache.exhausted-under-load"),
    "cache full, older era": (full_cache_of_old, "kv_cache_insufficient", "kvcache.exhausted-under-load"),
    "few slots, refused": (few_slots, "overload_503", "requests.overload.few-slots"),
    "few slots, late": (few_slots_late, "queue_timeout", "requests.timeout.few-slots"),
    "worker died behind the gateway": (dead_worker, "worker_crash", "server.crash.paddle-signal"),
    "only the client's clock": (impatient_client, "queue_timeout", "requests.timeout.gateway"),
    "nothing but 503": (only_503, "overload_503", "requests.overload.access-log"),
}


def write(folder, files: dict[str, list[str]]):
    for name, lines in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(("files", "cause", "rule"), CASES.values(), ids=CASES)
def test_the_evidence_decides(files, cause, rule, tmp_path, examined):
    incidents = examined(write(tmp_path, files())).incidents

    told = [(one.cause, one.rule_id, [echo.rule_id for echo in one.findings[1:]]) for one in incidents]
    assert incidents[0].cause == cause, told
    assert incidents[0].rule_id == rule, told
    assert not [one for one in incidents[1:] if one.severity is not Severity.INFO], (
        f"one trouble told as several: {told}"
    )


def test_what_follows_from_a_full_cache_is_shown_below_it(tmp_path, examined):
    first = examined(write(tmp_path, full_cache())).incidents[0]

    assert {"overload_503", "queue_timeout"} <= {echo.cause for echo in first.findings[1:]}


def test_nothing_but_refusals_is_a_guess_and_says_so(tmp_path, examined):
    first = examined(write(tmp_path, only_503())).incidents[0]
    rule = load.load().rules[first.rule_id]

    assert first.confidence <= 0.7
    assert "cannot tell why" in rule.why.en
    assert "看不出原因" in rule.why.zh


def test_each_of_these_causes_asks_for_another_change():
    rules = load.load().rules
    fixes: Sequence[str] = [rules[rule].fix.en for _, _, rule in CASES.values()]

    assert len(set(fixes)) == len(CASES) - 1  # the two full caches are one
    assert "--max-concurrency" in rules["requests.overload.admission-limit"].fix.en
    assert "--max-num-seqs" in rules["requests.overload.few-slots"].fix.en
    assert rules["kvcache.exhausted-under-load"].fix.en.startswith("Lower --max-num-seqs")
