"""Commands are read and changed as argparse would, and nothing else in them moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.errors import ConfigError
from diagnose.launch.spec import diff, fastdeploy_part, set_flag, value
from diagnose.model.launch import LaunchSpec

API = ("python", "-m", "fastdeploy.entrypoints.openai.api_server")


def command(*words, env=None):
    return LaunchSpec(argv=(*API, *words), env=env or {}, cwd="/srv")


@pytest.mark.parametrize(
    ("argv", "start"),
    [
        pytest.param([*API, "--port", "1"], 3, id="module"),
        pytest.param(["python3", "-u", "-m", API[2], "--port"], 4, id="interpreter options"),
        pytest.param(["/usr/bin/python", "-mfastdeploy.entrypoints.openai.api_server", "--x"], 2, id="joined -m"),
        pytest.param(["fastdeploy", "serve", "--model", "m"], 2, id="fastdeploy serve"),
        pytest.param(["/opt/py", "/opt/bin/fastdeploy", "serve", "--model"], 3, id="as /proc shows it"),
        pytest.param(["env", "A=b", "numactl", "-N", "0", *API, "--port"], 8, id="wrapped"),
        pytest.param(["nohup", "taskset", "-c", "0-3", *API], 7, id="a -c that is no shell's"),
        pytest.param(["python", "/x/fastdeploy/entrypoints/openai/api_server.py", "--port"], 2, id="script"),
        pytest.param(
            [
                "python",
                "-m",
                "fastdeploy.entrypoints.openai.multi_api_server",
                "--ports",
                "1,2",
                "--args",
                "--model",
            ],
            6,
            id="multi_api_server hands on what follows --args",
        ),
    ],
)
def test_the_servers_arguments_are_found_behind_any_wrapper(argv, start):
    assert fastdeploy_part(argv) == start


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["bash", "-c", "python -m fastdeploy.entrypoints.openai.api_server"], id="bash -c"),
        pytest.param(["/bin/sh", "-ec", "exec fastdeploy serve"], id="sh -ec"),
        pytest.param(["./start.sh"], id="a script"),
        pytest.param(["python", "-m", "vllm.entrypoints.openai.api_server"], id="another server"),
        pytest.param([], id="nothing"),
    ],
)
def test_what_hides_the_command_is_refused_with_a_cure(argv):
    with pytest.raises(ConfigError, match="Give the command itself"):
        fastdeploy_part(argv)


@pytest.mark.parametrize(
    ("words", "flag", "expected"),
    [
        pytest.param(["--port", "9000"], "--port", "9000", id="apart"),
        pytest.param(["--port=9000"], "--port", "9000", id="joined"),
        pytest.param(["--max_num_seqs", "8"], "--max-num-seqs", "8", id="underscores"),
        pytest.param(["--max-num-seqs", "8"], "--max_num_seqs", "8", id="asked with underscores"),
        pytest.param(["-tp", "4"], "--tensor-parallel-size", "4", id="alias"),
        pytest.param(["-tp=4"], "--tensor-parallel-size", "4", id="alias joined"),
        pytest.param(["--max-model", "99"], "--max-model-len", "99", id="abbreviated"),
        pytest.param(["--port", "1", "--port=2"], "--port", "2", id="the last wins"),
        pytest.param(["--enable-early-stop", "--port", "1"], "--enable-early-stop", "", id="switch"),
        pytest.param(["--scheduler-max-size", "-1"], "--scheduler-max-size", "-1", id="negative number"),
        pytest.param(["--chat-template", "- a b"], "--chat-template", "- a b", id="dash and blank"),
        pytest.param(["--chat-template=--x"], "--chat-template", "--x", id="looks like a flag"),
        pytest.param(["--quantization", '{"a": "--b"}'], "--quantization", '{"a": "--b"}', id="JSON"),
        pytest.param(
            ["--logits-processors", "a:B", "c:D", "--port", "1"],
            "--logits-processors",
            "a:B c:D",
            id="list",
        ),
        pytest.param(["--no-enable-prefix-caching"], "--no-enable-prefix-caching", "", id="off"),
        pytest.param(
            ["--enable-prefix-caching", "--no-enable-prefix-caching"],
            "--enable-prefix-caching",
            None,
            id="on, then off",
        ),
        pytest.param(["--lm_head-fp32"], "--lm-head-fp32", "", id="the one true underscore"),
        pytest.param(["--load_choices", "default"], "--load-choices", "default", id="as up to 2.2"),
        pytest.param(["--port", "1"], "--host", None, id="not given"),
        pytest.param(["--my-plugin", "x"], "--my-plugin", "x", id="unknown"),
        pytest.param(["--port", "1", "--", "--host", "h"], "--host", None, id="behind a bare --"),
    ],
)
def test_a_flag_is_read_as_argparse_reads_it(words, flag, expected):
    assert value(command(*words), flag) == expected


@pytest.mark.parametrize(
    ("words", "flag", "new", "expected"),
    [
        pytest.param(["--port", "1"], "--port", "2", ["--port", "2"], id="apart stays apart"),
        pytest.param(["--port=1"], "--port", "2", ["--port=2"], id="joined stays joined"),
        pytest.param(
            ["--max_num_seqs", "8", "--port", "1"],
            "--max-num-seqs",
            "4",
            ["--max-num-seqs", "4", "--port", "1"],
            id="hyphens are written",
        ),
        pytest.param(["-tp", "4"], "--tensor-parallel-size", "2", ["--tensor-parallel-size", "2"], id="alias"),
        pytest.param(["--port", "1"], "--host", "h", ["--port", "1", "--host", "h"], id="new at the end"),
        pytest.param(
            ["--port", "1", "--", "x"],
            "--host",
            "h",
            ["--port", "1", "--host", "h", "--", "x"],
            id="new before --",
        ),
        pytest.param(["--port", "1", "--port", "2"], "--port", None, [], id="all taken out"),
        pytest.param(
            ["--enable-early-stop", "--port", "1"],
            "--enable-early-stop",
            None,
            ["--port", "1"],
            id="switch out",
        ),
        pytest.param([], "--enable-early-stop", "", ["--enable-early-stop"], id="switch in"),
        pytest.param(["--enable-early-stop"], "--enable-early-stop", "", ["--enable-early-stop"], id="switch twice"),
        pytest.param(
            ["--enable-prefix-caching"],
            "--no-enable-prefix-caching",
            "",
            ["--no-enable-prefix-caching"],
            id="turned off",
        ),
        pytest.param(
            ["--logits-processors", "a", "b", "--port", "1"],
            "--logits-processors",
            "c",
            ["--logits-processors", "c", "--port", "1"],
            id="list whole",
        ),
        pytest.param([], "--scheduler-max-size", "-1", ["--scheduler-max-size", "-1"], id="negative"),
        pytest.param([], "--chat-template", "--x", ["--chat-template=--x"], id="like a flag"),
        pytest.param(
            [],
            "--graph-optimization-config",
            '{"use_cudagraph":false}',
            ["--graph-optimization-config", '{"use_cudagraph":false}'],
            id="JSON untouched",
        ),
        pytest.param(
            ["--load_choices", "default"],
            "--load-choices",
            "default_v1",
            ["--load_choices", "default_v1"],
            id="old spelling kept",
        ),
        pytest.param(
            ["--what", "-1", "--odd_one", "x", "-q"],
            "--port",
            "2",
            ["--what", "-1", "--odd_one", "x", "-q", "--port", "2"],
            id="unknown untouched",
        ),
    ],
)
def test_only_the_one_flag_changes(words, flag, new, expected):
    assert set_flag(command(*words), flag, new).argv[3:] == tuple(expected)


def test_a_flag_is_written_as_this_version_spells_it():
    assert set_flag(command(), "--load-choices", "default", ["--load_choices"]).argv[3:] == (
        "--load_choices",
        "default",
    )


WORDS = st.lists(
    st.sampled_from(
        [
            "--port",
            "1",
            "--max-num-seqs",
            "8",
            "--enable-early-stop",
            "-tp",
            "2",
            "--odd",
            "--port=7",
            "{}",
            "-1",
        ]
    )
)


@given(
    words=WORDS,
    flag=st.sampled_from(["--port", "--max-num-seqs", "--host", "--kv-cache-ratio"]),
    new=st.text("ab1-.= {}\"'", min_size=1),
)
def test_what_is_set_is_read_back_and_taking_it_out_leaves_the_rest(words, flag, new):
    spec = command(*words)
    others = [name for name in ("--port", "--max-num-seqs", "--enable-early-stop", "--odd") if name != flag]

    changed = set_flag(spec, flag, new)

    assert value(changed, flag) == new
    assert [value(changed, name) for name in others] == [value(spec, name) for name in others]
    assert value(set_flag(changed, flag, None), flag) is None


def test_a_difference_is_one_line_each():
    before = command("--max-num-seqs", "128", "--port", "1", env={"A": "1"})
    after = command("--port=1", "--max_num_seqs", "64", "--enable-early-stop", env={"A": "2", "B": "x"})

    assert diff(before, after) == (
        "--max-num-seqs 128 -> 64",
        "--enable-early-stop - -> on",
        "env A 1 -> 2",
        "env B - -> x",
    )
