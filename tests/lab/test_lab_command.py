from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diagnose.cli import lab as command
from diagnose.errors import ConfigError
from diagnose.lab.environment import SITE
from diagnose.lab.faults import NAMES
from diagnose.lab.model import MODELS, make_model


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    assert command.add(parser.add_subparsers()) is not None
    return parser.parse_args(["lab", *argv])


def test_faults_are_listed_in_two_languages_and_as_json(capsys):
    args = parse("faults", "--json")
    assert args.run(args) == 0
    rows = json.loads(capsys.readouterr().out)

    args = parse("faults")
    args.lang = "zh"
    args.run(args)

    assert {row["name"] for row in rows} == NAMES
    assert "显存" in capsys.readouterr().out


def test_every_listed_fault_is_known_to_the_site():
    source = "".join(path.read_text() for path in SITE.rglob("*.py"))

    assert [name for name in NAMES if f'"{name}"' not in source] == []


@pytest.mark.parametrize(
    ("argv", "hint"),
    [(["--fault", "no-such@3"], "See: diagnose lab faults"), (["--model", "GPT"], "Use one of ERNIE-4.5-0.3B")],
)
def test_what_the_lab_does_not_know_ends_in_a_cure(argv, hint):
    args = parse("serve", *argv)

    with pytest.raises(ConfigError, match=hint):
        args.run(args)


def test_serve_becomes_the_server(tmp_path):
    code = (
        "import argparse, sys; from diagnose.cli import lab; p = argparse.ArgumentParser(); "
        "lab.add(p.add_subparsers()); a = p.parse_args(sys.argv[1:]); sys.exit(a.run(a))"
    )
    argv = ["lab", "serve", "--dir", str(tmp_path), "--load-seconds", "0.1", "--fault", "oom-load", "--", "--port", "0"]
    with (tmp_path / "console.txt").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=out, stderr=out)

    assert process.wait(10) == 0
    assert "Failed to launch worker processes" in (tmp_path / "console.txt").read_text()
    assert (tmp_path / "log" / "workerlog.0").exists()


def test_ctrl_c_ends_it_while_it_loads(tmp_path):
    code = (
        "import argparse, sys; from diagnose.cli import lab; p = argparse.ArgumentParser(); "
        "lab.add(p.add_subparsers()); a = p.parse_args(sys.argv[1:]); sys.exit(a.run(a))"
    )
    argv = ["lab", "serve", "--dir", str(tmp_path), "--load-seconds", "30", "--", "--port", "0"]
    with (tmp_path / "console.txt").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", code, *argv], stdout=out, stderr=out)
    while "Loading Weights" not in (tmp_path / "console.txt").read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 0


@pytest.mark.parametrize("name", MODELS)
def test_a_made_model_has_its_apparent_size_and_takes_no_disk(tmp_path, name):
    home = make_model(tmp_path, name)

    files = list(home.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) == MODELS[name].weight_bytes
    assert sum(path.stat().st_blocks for path in files) == 0
    assert (home / "model.safetensors.index.json").exists() == (len(files) > 1)
    assert json.loads((home / "config.json").read_text())["vocab_size"] == 103424


def test_the_site_imports_nothing_but_itself_and_the_standard_library():
    own = {"fastdeploy", "paddle", *sys.stdlib_module_names}
    found = set()
    for path in Path(SITE).rglob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]) and len(words) > 1:
                found.add(words[1].split(".")[0].rstrip(","))

    assert found - own <= {"nobody's"}


def test_the_stand_in_says_so():
    code = "import fastdeploy; print(fastdeploy.__doc__)"
    env = {"PYTHONPATH": str(SITE)}

    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)

    assert said.stdout.startswith("A stand-in for FastDeploy")
