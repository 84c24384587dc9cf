"""A raw line, taken apart: what carried it here, the logger's prefix, its time, the message."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.engine.lines import bare, pieces, take_apart

UTC = timezone.utc
SHANGHAI = timezone(timedelta(hours=8))
NEW_YEAR = datetime(2026, 1, 1, 12, tzinfo=UTC)


def read(raw, *, zone=UTC, reference=NEW_YEAR):
    return take_apart(raw if isinstance(raw, bytes) else raw.encode(), zone=zone, reference=reference)


LOGGERS = [
    pytest.param(
        "ERROR    2025-09-02 10:15:03,118 41772 engine.py[line:211] Failed to launch worker processes",
        ("ERROR", datetime(2025, 9, 2, 10, 15, 3, 118000, UTC), "Failed to launch worker processes"),
        id="FastDeploy",
    ),
    pytest.param(
        "INFO     2026-01-01 08:00:12 2301  engine.py[line:213] Detected 2340 gpu blocks",
        ("INFO", datetime(2026, 1, 1, 8, 0, 12, tzinfo=UTC), "Detected 2340 gpu blocks"),
        id="FastDeploy without milliseconds",
    ),
    pytest.param(
        "\x1b[31mERROR    2025-08-30 22:01:44,020 991   common_engine.py[line:640] died\x1b[0m",
        ("ERROR", datetime(2025, 8, 30, 22, 1, 44, 20000, UTC), "died"),
        id="FastDeploy, coloured",
    ),
    pytest.param(
        '[2025-12-05 11:20:31] [5512] [INFO] 10.0.0.7:40218 - "GET /health HTTP/1.1" 200',
        ("INFO", datetime(2025, 12, 5, 11, 20, 31, tzinfo=UTC), '10.0.0.7:40218 - "GET /health HTTP/1.1" 200'),
        id="gunicorn",
    ),
    pytest.param(
        "[2025-12-04 18:18:17,261] [    INFO] distributed_strategy.py:335 - distributed strategy initialized",
        ("INFO", datetime(2025, 12, 4, 18, 18, 17, 261000, UTC), "distributed strategy initialized"),
        id="paddle",
    ),
    pytest.param(
        "[2025-12-04 18:18:17,261] [ WARNING] - You are using a model of type a",
        ("WARNING", datetime(2025, 12, 4, 18, 18, 17, 261000, UTC), "You are using a model of type a"),
        id="paddle without a file",
    ),
    pytest.param(
        "LAUNCH ERROR 2025-10-21 11:09:40,812 Container failed !!!",
        ("ERROR", datetime(2025, 10, 21, 11, 9, 40, 812000, UTC), "Container failed !!!"),
        id="paddle launch",
    ),
    pytest.param(
        "W1021 11:07:22.496299 63891 gpu_resources.cc:114] Please NOTE: device: 0",
        ("WARNING", datetime(2025, 10, 21, 11, 7, 22, 496299, UTC), "Please NOTE: device: 0"),
        id="glog names no year",
    ),
    pytest.param(
        "F0101 11:07:22.496299 63891 allocator.cc:9] check failed",
        ("CRITICAL", datetime(2026, 1, 1, 11, 7, 22, 496299, UTC), "check failed"),
        id="glog, this year",
    ),
    pytest.param(
        "[rank0]:[W1226 04:34:08.246772372 ProcessGroupNCCL.cpp:1524] Warning: not destroyed",
        ("WARNING", datetime(2025, 12, 26, 4, 34, 8, 246772, UTC), "Warning: not destroyed"),
        id="torch",
    ),
    pytest.param(
        "INFO:     Application startup complete.", ("INFO", None, "Application startup complete."), id="uvicorn"
    ),
    pytest.param(
        "INFO 12-23 17:22:55 [llm_engine.py:70] Initializing an engine",
        ("INFO", datetime(2025, 12, 23, 17, 22, 55, tzinfo=UTC), "Initializing an engine"),
        id="vLLM",
    ),
    pytest.param(
        "2024-01-24 00:58:25,273 - ERROR - socket.accept() out of system resource",
        ("ERROR", datetime(2024, 1, 24, 0, 58, 25, 273000, UTC), "socket.accept() out of system resource"),
        id="python logging",
    ),
    pytest.param(
        "2024-04-13 12:21:36 | ERROR | boom",
        ("ERROR", datetime(2024, 4, 13, 12, 21, 36, tzinfo=UTC), "boom"),
        id="loguru",
    ),
    pytest.param(
        "2025-12-04T18:18:17+08:00 ERROR boom",
        ("ERROR", datetime(2025, 12, 4, 10, 18, 17, tzinfo=UTC), "boom"),
        id="ISO with a zone",
    ),
    pytest.param("[ERROR] boom happened", ("ERROR", None, "boom happened"), id="level in brackets"),
]


@pytest.mark.parametrize(("raw", "expected"), LOGGERS)
def test_a_logger_prefix_is_told_from_the_message(raw, expected):
    line = read(raw)

    assert (line.level, line.at, line.message) == expected
    assert line.prefixed


TRANSPORTS = [
    pytest.param("fastdeploy-1  | ", None, id="docker compose"),
    pytest.param("[pod/fd-7c9f/server] ", None, id="kubectl --prefix"),
    pytest.param("2025-09-02T10:15:03.118000000Z ", datetime(2025, 9, 2, 10, 15, 3, 118000, UTC), id="--timestamps"),
    pytest.param(
        "2025-09-02T10:15:03.118+02:00 stderr F ", datetime(2025, 9, 2, 8, 15, 3, 118000, UTC), id="container runtime"
    ),
    pytest.param(
        "Sep  2 10:15:03 gpu-host fastdeploy[4177]: ", datetime(2025, 9, 2, 10, 15, 3, tzinfo=UTC), id="journald"
    ),
    pytest.param(
        "2025-09-02T10:15:03+0000 gpu-host fastdeploy[4177]: ",
        datetime(2025, 9, 2, 10, 15, 3, tzinfo=UTC),
        id="journald, short-iso",
    ),
    pytest.param(
        "Sep  2 10:15:03 gpu-host kernel: [12345.678901] ",
        datetime(2025, 9, 2, 10, 15, 3, tzinfo=UTC),
        id="syslog of the kernel",
    ),
    pytest.param("[12345.678901] ", None, id="dmesg"),
    pytest.param("[Sun Jul 28 17:39:03 2024] ", datetime(2024, 7, 28, 17, 39, 3, tzinfo=UTC), id="dmesg -T"),
    pytest.param("(EngineCore_DP0 pid=1574) ", None, id="vLLM"),
    pytest.param("(RayWorkerWrapper pid=1574, ip=10.0.0.2) ", None, id="Ray"),
    pytest.param("[rank3]: ", None, id="torch"),
    pytest.param("fd-1  | 2025-09-02T10:15:03Z ", datetime(2025, 9, 2, 10, 15, 3, tzinfo=UTC), id="one behind another"),
]


@pytest.mark.parametrize(("prefix", "at"), TRANSPORTS)
def test_what_carried_a_line_is_taken_off_and_its_time_kept(prefix, at):
    line = read(prefix + "NVRM: GPU has fallen off the bus")

    assert line.text == line.message == "NVRM: GPU has fallen off the bus"
    assert line.at == at
    assert not line.prefixed


@pytest.mark.parametrize(("prefix", "at"), TRANSPORTS)
def test_a_logger_prefix_is_found_behind_what_carried_it(prefix, at):
    del at
    line = read(prefix + "LAUNCH ERROR 2025-10-21 11:09:40,812 Pod failed")

    assert (line.level, line.message) == ("ERROR", "Pod failed")
    assert line.text == "LAUNCH ERROR 2025-10-21 11:09:40,812 Pod failed"
    assert line.at == datetime(2025, 10, 21, 11, 9, 40, 812000, UTC)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("RuntimeError: CUDA error(719)", id="an exception"),
        pytest.param('  File "worker.py", line 3, in main', id="a frame"),
        pytest.param(" 40%|####      | 2/5 [00:07<00:11, 3.70s/it]", id="a progress bar"),
        pytest.param("Error Message Summary:", id="a heading"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_bare_line_is_its_own_message(raw):
    line = read(raw)

    assert (line.text, line.message, line.level, line.at, line.prefixed) == (raw, raw, None, None, False)


def test_a_time_without_zone_is_of_the_zone_given():
    line = read("LAUNCH INFO 2025-10-21 11:09:40,000 x", zone=SHANGHAI)

    assert line.at == datetime(2025, 10, 21, 3, 9, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("stamp", "year"),
    [
        pytest.param("1231", 2025, id="yesterday"),
        pytest.param("0101", 2026, id="today"),
        pytest.param("0102", 2026, id="tomorrow: a clock may be off"),
        pytest.param("0104", 2025, id="later: a year ago"),
    ],
)
def test_a_missing_year_is_the_last_that_fits(stamp, year):
    line = read(f"I{stamp} 11:00:00.000000 7 a.cc:1] x", reference=NEW_YEAR)

    assert line.at is not None
    assert line.at.year == year


def test_a_day_that_no_calendar_has_is_no_time():
    line = read("LAUNCH INFO 2025-13-41 11:09:40,000 x")

    assert (line.at, line.message) == (None, "x")


def test_docker_json_is_unwrapped():
    line = read('{"log":"LAUNCH INFO 2025-10-21 11:09:40,000 said \\"x\\"\\n","stream":"stderr","time":"t"}')

    assert line.message == 'said "x"'


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b"one\r\n", [b"one"], id="CRLF"),
        pytest.param(b"a:  1%\ra:  2%\r", [b"a:  1%", b"a:  2%"], id="a progress bar"),
        pytest.param(b"Sep  2 10:15:03 h fd[1]: one#012two", [b"Sep  2 10:15:03 h fd[1]: one", b"two"], id="syslog"),
        pytest.param(b"request #012 is done", [b"request #012 is done"], id="no syslog"),
        pytest.param(b"", [b""], id="nothing"),
        pytest.param(b"\r\r\n", [b""], id="only returns"),
    ],
)
def test_a_raw_line_falls_into_pieces(raw, expected):
    assert pieces(raw) == expected


@given(st.binary(max_size=300))
def test_any_bytes_can_be_taken_apart(raw):
    line = read(raw)

    assert line.text.endswith(line.message)
    assert "\x00" not in line.text
    assert line.at is None or line.at.tzinfo is not None


@given(st.lists(st.sampled_from([b"\x1b[31m", b"\x1b[0m", b"\x1b]0;t\x07", b"\x1b]", b"\x1b", b"\x00", b"a", b"\n"])))
def test_taking_colours_out_keeps_the_number_of_lines(parts):
    data = b"".join(parts)

    assert bare(data).count(b"\n") == data.count(b"\n")
    assert b"\x00" not in bare(data)


CARRIERS = [
    "",
    "fastdeploy-1  | ",
    "[pod/fd-7c9f/server] ",
    "2025-09-02T10:15:03.118000000Z ",
    "2025-09-02T10:15:03.118+02:00 stderr F ",
    "Sep  2 10:15:03 gpu-host fastdeploy[4177]: ",
    "2025-09-02T10:15:03+0000 gpu-host fastdeploy[4177]: ",
    "Tue 2025-09-02 10:15:03 UTC gpu-host fastdeploy[4177]: ",
    "<6>Sep  2 10:15:03 gpu-host fastdeploy: ",
    "Sep  2 10:15:03 gpu-host kernel: [12345.678901] ",
    "[12345.678901] ",
    "[12345.678901][  T812] ",
    "[Sun Jul 28 17:39:03 2024] ",
    "(EngineCore_DP0 pid=1574) ",
    "(RayWorkerWrapper pid=1574, ip=10.0.0.2) ",
    "[rank3]: ",
    "[otel_trace_id=] [otel_span_id=] ",
    "fd-1  | 2025-09-02T10:15:03Z ",
    "[pod/fd-7c9f/server] (EngineCore_DP0 pid=1574) ",
]


@pytest.mark.parametrize("colour", ["", "\x1b[31m", "\x1b[0;1;33m"])
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(("raw", "expected"), LOGGERS)
def test_any_logger_is_read_behind_any_carrier(raw, expected, carrier, colour):
    line = read(f"{colour}{carrier}{raw}\x1b[0m")

    assert (line.level, line.message) == (expected[0], expected[2])
    assert line.prefixed
    assert line.at == expected[1] or expected[1] is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param("ERROR:root:boom", ("ERROR", None, "boom"), id="python logging, as it comes"),
        pytest.param(
            '10.0.0.7 - - [05/Dec/2025:11:20:31 +0800] "GET / HTTP/1.1" 502 12 "-" "curl"',
            (None, datetime(2025, 12, 5, 3, 20, 31, tzinfo=UTC), '"GET / HTTP/1.1" 502 12 "-" "curl"'),
            id="nginx, access",
        ),
        pytest.param(
            "2025/12/05 11:20:31 [error] 7#7: *19 connect() failed",
            ("ERROR", datetime(2025, 12, 5, 11, 20, 31, tzinfo=UTC), "connect() failed"),
            id="nginx, errors",
        ),
        pytest.param(
            "ERROR    2025-09-02 10:15:03 7  a.py[line:2] [otel_trace_id=0af7] [otel_span_id=b9c7] boom",
            ("ERROR", datetime(2025, 9, 2, 10, 15, 3, tzinfo=UTC), "boom"),
            id="traced",
        ),
        pytest.param(
            "2025/12/05 11:20:31 [crit] 7#7: *19 boom",
            ("CRITICAL", datetime(2025, 12, 5, 11, 20, 31, tzinfo=UTC), "boom"),
            id="another's name of a level",
        ),
    ],
)
def test_more_loggers(raw, expected):
    line = read(raw)

    assert (line.level, line.at, line.message) == expected


@pytest.mark.parametrize("zone", [UTC, SHANGHAI, timezone(-timedelta(hours=12))])
@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "2025-02-30", "0000-00-00"])
def test_days_at_the_ends_of_time_are_no_trouble(day, zone):
    line = read(f"LAUNCH INFO {day} 00:00:00,000 x", zone=zone)

    assert line.message == "x"


def test_a_leap_day_without_year_is_of_the_last_leap_year():
    line = read("I0229 11:00:00.000000 7 a.cc:1] x", reference=NEW_YEAR)

    assert line.at == datetime(2024, 2, 29, 11, tzinfo=UTC)


DOCKER = '{"log":"said \\"x\\" \\u003cb\\u003e\\n","stream":"stderr","time":"2025-09-02T10:15:03.118000001Z"}'


def test_the_time_of_docker_json_is_read_too():
    line = read(DOCKER)

    assert (line.message, line.at) == ('said "x" <b>', datetime(2025, 9, 2, 10, 15, 3, 118000, UTC))


def test_docker_json_is_taken_out_of_whole_lines():
    data = f'{DOCKER}\n{{"log":"broken\n{DOCKER}\n'.encode()

    told = bare(data).split(b"\n")

    assert told[0] == told[2] == b'2025-09-02T10:15:03.118000001Z stderr F said "x" <b>'
    assert (told[1], told[3]) == (b'{"log":"broken', b"")


@pytest.mark.parametrize(
    "raw",
    ['{"log":"\\ud800"}', '{"log":5}', '{"log":"a","x":' + "[" * 200_000, '{"log":"'],
    ids=["half a character", "a number", "depths", "cut"],
)
def test_what_only_looks_like_docker_json_stays(raw):
    assert read(raw).text == raw
    assert bare(raw.encode()) == raw.encode()


def test_colours_that_syslog_spelt_out_are_taken_out():
    raw = bare(b"Sep  2 10:15:03 h fd[1]: #033[31mERROR#033[0m one#012#011two")

    assert pieces(raw) == [b"Sep  2 10:15:03 h fd[1]: ERROR one", b"\ttwo"]


def test_the_first_of_very_many_pieces_is_kept():
    told = pieces(b"first" + b"\rx" * 5000 + b"\rlast")

    assert (told[0], told[-1], len(told)) == (b"first", b"last", 401)
