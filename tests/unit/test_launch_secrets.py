"""Keys and passwords never leave a command."""

from __future__ import annotations

from diagnose.launch.secrets import hidden, without_secrets
from diagnose.launch.spec import diff
from diagnose.model.launch import LaunchSpec

WORDS = (
    "fastdeploy serve --api-key KEY1 --api-key=KEY2 --scheduler-password KEY3"
    " --tokenizer dir --max-num-batched-tokens 9"
)


def test_secrets_are_masked_wherever_they_stand_and_all_else_is_kept():
    spec = LaunchSpec(
        argv=("env", "FD_API_KEY=KEY4", *WORDS.split()),
        env={"FD_API_KEY": "KEY5", "HF_TOKEN": "KEY6", "TOKENIZERS_PARALLELISM": "false"},
    )

    shown = without_secrets(spec)

    assert "KEY" not in " ".join(shown.argv).replace("FD_API_KEY", "")
    assert "--tokenizer dir --max-num-batched-tokens 9" in " ".join(shown.argv)
    assert shown.env == {"FD_API_KEY": "***", "HF_TOKEN": "***", "TOKENIZERS_PARALLELISM": "false"}


def test_a_difference_names_no_secret():
    before = LaunchSpec(argv=("fastdeploy", "serve", "--api-key", "old"), env={"FD_API_KEY": "a"})
    after = LaunchSpec(argv=("fastdeploy", "serve", "--api-key", "new"), env={"FD_API_KEY": "b"})

    assert diff(before, after) == ("--api-key *** -> ***", "env FD_API_KEY *** -> ***")


def test_masking_a_command_of_no_server_is_no_error():
    assert hidden(("sh", "-c", "x --api-key")) == ("sh", "-c", "x --api-key")
