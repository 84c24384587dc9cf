"""Where a server logs and listens is read from its command, its file and its environment."""

from __future__ import annotations

import pytest

from diagnose.errors import FileError
from diagnose.launch import settings
from diagnose.launch.config import config_path, flag_values, lookup
from diagnose.launch.flags import accepted
from diagnose.model.launch import LaunchSpec


def command(*words, env=None):
    return LaunchSpec(argv=("fastdeploy", "serve", *words), env=env or {}, cwd="/srv/one")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        pytest.param({}, "/srv/one/log", id="below the working directory"),
        pytest.param({"FD_LOG_DIR": "logs/a"}, "/srv/one/logs/a", id="relative"),
        pytest.param({"FD_LOG_DIR": "/var/log/fd/"}, "/var/log/fd", id="absolute"),
    ],
)
def test_the_log_folder_is_absolute(env, expected):
    assert settings.log_dir(command(env=env)) == expected


def test_the_daemons_own_environment_reaches_the_server_too():
    assert settings.log_dir(command(), {"FD_LOG_DIR": "/a"}) == "/a"
    assert settings.visible_devices(command(), {"CUDA_VISIBLE_DEVICES": "1, 2"}) == ("1", "2")
    assert settings.visible_devices(command(env={"CUDA_VISIBLE_DEVICES": ""})) == ()
    assert settings.visible_devices(command()) is None


@pytest.mark.parametrize(
    ("words", "version", "expected"),
    [
        pytest.param([], "2.5.0", (8000, 8000, None, None), id="new: metrics on the main port, queues random"),
        pytest.param([], "2.2.1", (8000, 8001, 8002, 8003), id="old: fixed numbers"),
        pytest.param([], None, (8000, 8000, None, None), id="unknown version"),
        pytest.param(
            [
                "--port",
                "1",
                "--metrics-port=2",
                "--engine-worker-queue-port",
                "3",
                "--cache-queue-port",
                "4",
            ],
            "2.4",
            (1, 2, 3, 4),
            id="given",
        ),
    ],
)
def test_ports_have_the_defaults_of_their_version(words, version, expected):
    spec = command(*words)

    assert (
        settings.http_port(spec),
        settings.metrics_port(spec, version),
        settings.queue_port(spec, version),
        settings.cache_port(spec, version),
    ) == expected


def test_keys_are_found_in_the_command_and_in_the_environment():
    assert settings.api_key(command()) is None
    assert settings.api_key(command("--api-key", "a")) == "a"
    assert settings.api_key(command(env={"FD_API_KEY": "b,c"})) == "b"


def test_ports_that_a_command_names_are_known():
    words = ("--engine-worker-queue-port", "8002,8012", "--metrics_port", "8001", "--rdma-comm-ports", "-1")
    assert settings.named_ports(command(*words)) == {8000, 8001, 8002, 8012}
    assert settings.named_ports(command("--port", "80"), {"--metrics-port": "81"}) == {80, 81}


def test_internal_ports_are_named_only_where_they_are_missing():
    spec = settings.with_ports(command("--cache-queue-port", "9"), 7, 8, accepted=accepted("2.4"))

    assert spec.argv[2:] == ("--cache-queue-port", "9", "--engine-worker-queue-port", "7")
    assert settings.with_ports(spec, 1, 2) == spec


def test_ranks_want_a_port_each_or_the_server_ignores_them_all():
    spec = command("--data-parallel-size", "2")

    assert settings.with_ports(spec, 7, 8) == spec
    assert settings.queue_ports(settings.with_ports(spec, [7, 8], [9, 10])) == (7, 8)


def test_a_flag_that_the_server_does_not_take_is_not_written():
    assert settings.with_ports(command(), 7, 8, accepted=["--port"]) == command()


def test_a_probe_reaches_a_server_that_listens_everywhere():
    assert settings.base_url(command("--host", "0.0.0.0", "--port", "81")) == "http://127.0.0.1:81"  # noqa: S104
    assert settings.base_url(command("--host", "::")) == "http://[::1]:8000"


FILE = """
max_model_len: 32768
enable_prefix_caching: false
enable_early_stop: true
enable_logprob: false
quantization: {quantization: mix_quant}
logits_processors: [a.B, "c d"]
ips: [10.0.0.1, 10.0.0.2]
seed: null
max-num-seqs: 4
nonsense: 1
"""


def test_the_file_gives_values_as_the_command_would():
    assert flag_values(FILE) == {
        "--max-model-len": "32768",
        "--no-enable-prefix-caching": "",
        "--enable-early-stop": "",
        "--quantization": '{"quantization": "mix_quant"}',
        "--logits-processors": "a.B 'c d'",
        "--ips": "10.0.0.1,10.0.0.2",
    }


def test_the_command_wins_over_the_file():
    spec = command("--config", "c.yaml", "--port", "2")

    assert config_path(spec) == "c.yaml"
    assert lookup(spec, "--port", {"--port": "1"}) == "2"
    assert lookup(spec, "--host", {"--host": "h"}) == "h"


@pytest.mark.parametrize("text", ["- a\n- b", "a: [", "just words"])
def test_a_broken_file_is_refused_with_its_place(text):
    with pytest.raises(FileError, match=r"c\.yaml:\d"):
        flag_values(text, "c.yaml")
