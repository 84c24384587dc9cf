"""The example configuration that ships can be used as it is."""

from __future__ import annotations

import msgspec
import pytest

from diagnose.agent.config import Config
from diagnose.catalog import load
from diagnose.cli.main import main
from diagnose.model.remedy import Mode


def test_the_example_configuration_is_one():
    config = load.read_config(load.shipped("service") / "diagnose.example.yaml", Config)
    assert config.targets[0].name == "ernie-21b"
    assert config.policy.mode is Mode.SUGGEST


def test_its_overrides_fit_something():
    config = load.read_config(load.shipped("service") / "diagnose.example.yaml", Config)
    known = load.load(overrides=config.overrides)
    assert msgspec.structs.asdict(known.remedies["server.fit-memory"])["mode"] is Mode.APPROVE


@pytest.fixture
def checked(tmp_path, capsys):
    """Check a configuration; return the status, and what was said."""

    def check(text):
        file = tmp_path / "diagnose.yaml"
        file.write_text(f"targets: [{{name: a, attach: 8000}}]\n{text}")
        status = main(["config", "check", str(file)])
        told = capsys.readouterr()
        return status, (told.out + told.err).replace(str(file), "FILE")

    return check


HOOK = 'receivers: [{kind: webhook, name: hook, url: "http://127.0.0.1:9/x"}]'


@pytest.mark.parametrize(
    ("alerts", "told"),
    [
        pytest.param(
            "routes: [{to: [hok]}]",
            "FILE:2:9: routes[0].to: 'hok' is no receiver; write one of: hook (at $.alerts).",
            id="no receiver",
        ),
        pytest.param(
            "routes: [{to: [hook]}, {targets: [b], to: [hook]}]",
            "FILE: alerts.routes[1].targets: 'b' is no target. Write one of: a.",
            id="no target",
        ),
        pytest.param(
            "maintenance: [{name: m, targets: [b], hours: {from: '01:00', to: '02:00'}}]",
            "FILE: alerts.maintenance[0].targets: 'b' is no target. Write one of: a.",
            id="no target in a maintenance",
        ),
        pytest.param(
            "routes: [{causes: [gpu_oom], to: [hook]}]",
            "no cause 'gpu_oom'; diagnose rules list names them (at $.alerts.routes[0])",
            id="no cause",
        ),
    ],
)
def test_a_name_that_names_nothing_is_refused_with_file_key_and_cure(checked, alerts, told):
    status, said = checked(f"alerts: {{{HOOK}, {alerts}}}\n")
    assert status == 2
    assert told in said


def test_a_secret_that_everybody_can_read_is_found_with_its_cure(checked, tmp_path):
    secret = tmp_path / "url"
    secret.write_text("https://127.0.0.1/hook\n")
    text = f"alerts: {{receivers: [{{kind: slack, name: it, url: {{file: {secret}}}}}]}}\n"
    secret.chmod(0o644)
    status, said = checked(text)
    assert (status, f"FILE: alerts.receivers[0] (it): {secret}: everybody on this host can read it" in said) == (
        1,
        True,
    )
    assert f"chmod 640 {secret}" in said
    secret.chmod(0o640)
    assert checked(text)[0] == 0


def test_the_token_of_the_api_is_tried(checked, tmp_path):
    token = tmp_path / "token"
    text = f'http: {{listen: "127.0.0.1:9411", token_file: {token}}}\n'
    assert checked(text) == (
        2,
        f"diagnose: http: {token}: No such file or directory. Put a token there: openssl rand -hex 32\n",
    )
    token.write_text("0" * 32)
    token.chmod(0o604)
    status, said = checked(text)
    assert (status, f"FILE: {token}: everybody on this host can read it (mode 0604)" in said) == (1, True)
    token.chmod(0o600)
    assert checked(text)[0] == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param("{{ alerts[0].nothing }}", "UndefinedError", id="a name that is not there"),
        pytest.param("{% if alerts[0].over %}{{ nothing }}{% endif %}", "UndefinedError", id="only in the end of one"),
        pytest.param("{{ alerts[0].title }}", "", id="a sound one"),
    ],
)
def test_a_template_is_tried_with_a_sample_of_an_alert_and_of_its_end(checked, tmp_path, body, told):
    template = tmp_path / "own.jinja"
    template.write_text(f"{{% extends 'default' %}}{{% block body %}}{body}{{% endblock %}}")
    hook = f'{{kind: webhook, name: hook, url: "http://127.0.0.1:9/x", template: {template}}}'
    status, said = checked(f"alerts: {{receivers: [{hook}]}}\n")
    assert status == bool(told)
    assert told in said
    assert ("alerts.receivers[0] (hook).template" in said) == bool(told)


def test_the_check_finds_a_receiver_whose_secret_is_not_there(tmp_path, capsys, monkeypatch):
    file = tmp_path / "diagnose.yaml"
    file.write_text(
        "targets: [{name: a, attach: 8000}]\n"
        "alerts: {receivers: [{kind: feishu, name: x, url: {env: DIAGNOSE_TEST_URL}}]}\n"
    )
    monkeypatch.delenv("DIAGNOSE_TEST_URL", raising=False)
    assert main(["config", "check", str(file)]) == 2
    assert "DIAGNOSE_TEST_URL is empty" in capsys.readouterr().err
    monkeypatch.setenv("DIAGNOSE_TEST_URL", "https://127.0.0.1/hook")
    assert main(["config", "check", str(file)]) == 0
