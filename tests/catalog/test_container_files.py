"""The Dockerfile and the Kubernetes examples fit the program that they run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from diagnose.agent.config import Config
from diagnose.catalog.load import read_config, shipped
from diagnose.cli.main import build_parser
from diagnose.web import paths

SERVICE = shipped("service")
ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (SERVICE / "container" / "Dockerfile").read_text()
EXAMPLES = {"sidecar": "Deployment", "daemonset": "DaemonSet"}


def documents(example):
    return {one["kind"]: one for one in yaml.safe_load_all((SERVICE / "kubernetes" / f"{example}.yaml").read_text())}


def pod(example):
    return documents(example)[EXAMPLES[example]]["spec"]["template"]["spec"]


def own(example):
    return next(one for one in pod(example)["containers"] if one["name"] == "diagnose")


def instruction(name):
    """Return the last words of an instruction of the Dockerfile, as JSON."""
    return json.loads(re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)[-1])


def test_the_image_runs_the_first_process_with_arguments_that_the_program_takes():
    entry, command = instruction("ENTRYPOINT"), instruction("CMD")
    args = build_parser().parse_args([*entry[1:], *command])
    assert (entry[0], args.arguments) == ("/opt/diagnose/bin/diagnose", command)
    assert build_parser().parse_args(command).on_exit == "stop", "the container's end is the server's, in order"


def test_the_image_is_built_of_files_that_are_there_and_does_not_run_as_root():
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert all((ROOT / word).exists() for line in copied for word in line.split())
    assert set(re.findall(r'"(\w+)" *= *"diagnose/_data', (ROOT / "pyproject.toml").read_text())) <= set(copied)
    assert re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)[-1] != "0"


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_configuration_inside_an_example_can_be_used(example, tmp_path):
    file = tmp_path / "diagnose.yaml"
    file.write_text(documents(example)["ConfigMap"]["data"]["diagnose.yaml"])
    config = read_config(file, Config)
    mounts = {one["mountPath"] for one in own(example)["volumeMounts"]}
    assert config.targets[0].log_dir in mounts
    assert str(Path(config.http.token_file).parent) in mounts
    assert config.http.address[1] == own(example)["ports"][0]["containerPort"]
    arguments = build_parser().parse_args(["init", "--", *own(example)["args"]]).arguments
    assert str(Path(build_parser().parse_args(arguments).config).parent) in mounts


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_confined_probed_and_consistent(example):
    container, volumes = own(example), {one["name"] for one in pod(example)["volumes"]}
    for one in pod(example)["containers"]:
        assert {mount["name"] for mount in one["volumeMounts"]} <= volumes
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    assert container["livenessProbe"]["httpGet"]["path"] == paths.HEALTH
    assert container["readinessProbe"]["httpGet"]["path"] == paths.READY
    template = documents(example)[EXAMPLES[example]]["spec"]
    assert template["selector"]["matchLabels"] == template["template"]["metadata"]["labels"]
