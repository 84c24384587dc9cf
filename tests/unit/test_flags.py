"""What a version accepts, and what none does, with what was meant."""

from __future__ import annotations

import argparse

import pytest

from diagnose.launch.flags import accepted, imaginary, nearest, parse_help, parse_version
from diagnose.launch.table import FLAGS

API = ["python", "-m", "fastdeploy.entrypoints.openai.api_server"]


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        pytest.param("2.0.0", "--use-cudagraph", "--enable-early-stop", id="2.0"),
        pytest.param("2.1.0", "--enable-early-stop", "--router", id="2.1"),
        pytest.param("2.2.0", "--load_choices", "--load-choices", id="2.2"),
        pytest.param("2.3.0", "--no-enable-prefix-caching", "--use-cudagraph", id="2.3"),
        pytest.param("2.4.1", "--api-key", "--output-fallback", id="2.4"),
        pytest.param("2.6.0", "--output-fallback", "--innode-prefill-ports", id="2.6"),
        pytest.param(None, "--output-fallback", "--load_choices", id="unknown: the newest"),
        pytest.param("3.1", "--output-fallback", "--load_choices", id="newer than known"),
    ],
)
def test_each_version_has_its_flags(version, has, lacks):
    flags = accepted(version)

    assert has in flags
    assert lacks not in flags
    assert {"--model", "--max-model-len", "-tp", "--gpu-memory-utilization"} <= set(flags)


def test_no_flag_has_two_rows_for_one_version():
    for minor in range(7):
        names = [flag.name for flag in FLAGS if flag.since <= (2, minor) <= flag.until]
        assert len(names) == len(set(names))


def test_versions_are_read_with_their_tails():
    texts = ("2.4.0rc1", "v2.3", "", None, "dev")
    assert [parse_version(text) for text in texts] == [
        (2, 4),
        (2, 3),
        None,
        None,
        None,
    ]


def test_the_help_of_argparse_is_read_back():
    parser = argparse.ArgumentParser(prog="api_server.py")
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, help="like --nothing-real, see --other")
    parser.add_argument("--lm_head-fp32", action="store_true")
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction, help="on")
    parser.add_argument("--logprobs-mode", choices=["raw_logprobs", "a-b"], help="what --x means")
    parser.add_argument("--a-very-long-name-of-a-flag-that-breaks-its-line", help="text --not-a-flag")

    found = set(parse_help(parser.format_help()))

    assert found == {
        "-h", "--help", "--tensor-parallel-size", "-tp", "--lm_head-fp32", "--enable-prefix-caching",
        "--no-enable-prefix-caching", "--logprobs-mode",
        "--a-very-long-name-of-a-flag-that-breaks-its-line",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "better"),
    [
        pytest.param(["--quantize", "INT4"], "--quantization wint4", id="quantize"),
        pytest.param(["--max_model_len", "32768"], "--max-model-len 32768", id="underscores"),
        pytest.param(["--max_num_seqs=64"], "--max-num-seqs 64", id="underscores joined"),
        pytest.param(["--queue_size", "100"], "--max-concurrency 100", id="queue size"),
        pytest.param(["--engine", "paddle"], "", id="engine"),
        pytest.param(["--max-num-seq", "1"], None, id="an abbreviation argparse takes"),
        pytest.param(["--max-nun-seqs", "1"], "--max-num-seqs 1", id="a slip"),
        pytest.param(["--quantization", "INT8"], "--quantization wint8", id="value in capitals"),
        pytest.param(["--quantization", "nvfp4"], None, id="a name that may be new"),
        pytest.param(["--quantization", '{"quantization":"mix_quant"}'], None, id="JSON"),
        pytest.param(["--lm_head-fp32"], None, id="true underscore"),
        pytest.param(["--enforce-eager"], """--graph-optimization-config '{"use_cudagraph":false}'""", id="of vLLM"),
        pytest.param(["--frobnicate"], "", id="unknown"),
        pytest.param(["-tp", "2", "--no-enable-prefix-caching"], None, id="all real"),
    ],
)
def test_what_does_not_exist_is_named_with_what_was_meant(words, better):
    for argv in (words, [*API, *words]):
        problems = imaginary(argv)

        assert [one.better for one in problems] == ([] if better is None else [better])
        assert all(one.why.zh and one.fix.en for one in problems)


def test_variables_of_blogs_are_named_wherever_they_are_set():
    by_env = imaginary(API, {"PADDLE_TENSORRT_FP16": "1", "FD_LOG_DIR": "x"})
    by_word = imaginary(["env", "PADDLE_TENSORRT_FP16=1", *API])

    assert [one.word for one in by_env] == ["PADDLE_TENSORRT_FP16"]
    assert by_word == by_env


def test_every_real_flag_is_its_own_nearest_and_no_problem():
    for flag in FLAGS:
        assert imaginary([*API, flag.name]) == ()
    assert nearest("--tensor-parralel-size") == "--tensor-parallel-size"
