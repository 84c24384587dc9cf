"""What `diagnose capacity` prints, and how it exits."""

import argparse
import json

import pytest

from diagnose.cli import capacity

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 16,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}


def call(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    capacity.add(parser.add_subparsers())
    args = parser.parse_args(["capacity", *argv])
    return args.run(args)


def test_a_model_that_fits_exits_with_zero_and_shows_the_sums(capsys):
    assert call("--model", "ERNIE-4.5-0.3B", "--gpu-memory", "24GiB", "--max-model-len", "32768") == 0

    out = capsys.readouterr().out
    assert "weights" in out
    assert "needed 514 for max-model-len 32768" in out
    assert "Advice" not in out


def test_a_model_that_does_not_fit_exits_with_one_and_says_what_would(capsys):
    assert call("--model", "ERNIE-4.5-21B-A3B", "--gpu-memory", "24GiB", "--max-num-seqs", "32") == 1
    assert "--quantization - -> wint4" in capsys.readouterr().out


def test_what_no_flag_can_cure_names_the_cards_that_would(capsys):
    argv = ["--model", "ERNIE-4.5-300B-A47B", "--gpu-memory", "80GiB", "--quantization", "wint4"]

    assert call(*argv, "--lang", "zh") == 1
    assert "4 张同样的卡" in capsys.readouterr().out


def test_what_the_server_would_refuse_by_its_own_default_is_no_fit(capsys):
    assert call("--model", "ERNIE-4.5-0.3B", "--gpu-memory", "24GiB", "--max-num-seqs", "2") == 1
    assert "--max-num-batched-tokens - -> 4096" in capsys.readouterr().out


def test_json_carries_the_bill_and_the_advice(capsys):
    assert call("--model", "ERNIE-4.5-21B-A3B", "--gpu-memory", "24GiB", "--used", "1GiB", "--json") == 1

    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "diagnose.capacity/1"
    assert told["bill"]["verdict"] == "weights"
    assert told["bill"]["card"]["foreign_bytes"] == 1024**3
    assert told["advice"]["changes"] == [{"flag": "--quantization", "before": None, "after": "wint4"}]


def test_a_folder_is_read_by_its_own_configuration(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 1024)

    assert call("--model", str(tmp_path), "--gpu-memory", "16GiB", "--json") == 0

    weights = json.loads(capsys.readouterr().out)["bill"]["items"][0]
    assert weights["name"] == "weights"
    assert weights["size"] / 1024**3 == pytest.approx(2.3, rel=0.02)


def test_a_quantized_checkpoint_goes_before_the_flag(tmp_path, capsys):
    config = {**LLAMA, "quantization_config": {"quantization": "wint4"}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    call("--model", str(tmp_path), "--gpu-memory", "16GiB", "--quantization", "wint8", "--json")

    assert json.loads(capsys.readouterr().out)["bill"]["settings"]["quantization"] == "wint4"


@pytest.mark.parametrize(
    ("argv", "cure"),
    [
        pytest.param(["--model", "nobody/knows", "--gpu-memory", "80GiB"], "Give a model folder", id="model"),
        pytest.param(["--model", "ERNIE-4.5-0.3B", "--gpu-memory", "lots"], "Write it like 80GiB", id="size"),
        pytest.param(
            ["--model", "ERNIE-4.5-0.3B", "--gpu-memory", "8GiB", "--used", "9GiB"],
            "--used must be",
            id="used",
        ),
        pytest.param(
            ["--model", "ERNIE-4.5-0.3B", "--gpu-memory", "8GiB", "--max-num-seqs", "300"],
            "Correct that flag",
            id="limit",
        ),
        pytest.param(
            ["--model", "ERNIE-4.5-0.3B", "--gpu-memory", "8GiB", "--gpu-memory-utilization", "90"],
            "at most 1",
            id="share",
        ),
        pytest.param(
            ["--model", "ERNIE-4.5-0.3B", "--gpu-memory", "8GiB", "--max-model-len", "32k"],
            "Write it like",
            id="number",
        ),
    ],
)
def test_bad_input_exits_with_two_and_one_line_that_ends_in_a_cure(argv, cure, capsys):
    assert call(*argv) == 2

    told = capsys.readouterr()
    assert cure in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": 1}'])
def test_a_broken_configuration_is_bad_input(tmp_path, text, capsys):
    (tmp_path / "config.json").write_text(text)

    assert call("--model", str(tmp_path), "--gpu-memory", "8GiB") == 2
    assert "Traceback" not in capsys.readouterr().err
