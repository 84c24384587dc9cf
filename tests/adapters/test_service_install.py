"""`diagnose service install` below a folder of its own: what it lays down, and what it refuses."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.agent import installing
from diagnose.agent.config import Config
from diagnose.catalog.load import read_config
from diagnose.cli.main import main
from diagnose.controllers.systemd import quoted, read_environment
from diagnose.lab.environment import MODULE, SITE
from diagnose.lab.gpus import make_gpus
from diagnose.lab.model import make_model

UNIT = "etc/systemd/system/fastdeploy@ernie.service.d/10-python.conf"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Give a root folder and the command of a server, on a host with two cards, of which the second is emptier."""
    monkeypatch.setenv("PYTHONPATH", str(SITE))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("DIAGNOSE_LAB_GPUS", str(make_gpus(tmp_path / "gpus", 2)))
    card = tmp_path / "gpus" / "gpu0.json"
    card.write_text(card.read_text().replace('"leaked": {}', '"leaked": {"x": 1000000000}'))
    model = make_model(tmp_path / "models", "ERNIE-4.5-0.3B")
    command = [sys.executable, "-m", MODULE, "--model", str(model), "--port", "8000"]
    return tmp_path / "root", command


def install(here, *words, name="ernie", more=()):
    root, command = here
    return main(["service", "install", "--root", str(root), "--name", name, *words, "--", *command, *more])


def test_the_files_hold_what_this_host_has(here, capsys):
    root, command = here
    assert install(here) == 0
    daemon = (root / "etc/systemd/system/diagnose.service").read_text()
    assert f"ExecStart={sys.executable.rpartition('/')[0]}/diagnose run --config" in daemon
    assert f"ExecStart={sys.executable} {installing.LAUNCHER}" in (root / UNIT).read_text()
    given = read_environment(root / "etc/diagnose/servers/ernie.env")
    assert given["FASTDEPLOY_ARGS"].split() == command[3:]
    assert given["CUDA_VISIBLE_DEVICES"] == "1", "the emptier card"
    config = read_config(root / "etc/diagnose/diagnose.yaml", Config)
    assert config.targets[0].unit == "fastdeploy@ernie.service"
    assert not (root / installing.POLKIT.lstrip("/")).exists(), "rights are not taken unasked"
    assert "with --grant" in capsys.readouterr().out


def test_a_second_installation_renews_what_is_ours_and_keeps_what_is_yours(here, capsys):
    root, _ = here
    install(here)
    config, environment = root / "etc/diagnose/diagnose.yaml", root / "etc/diagnose/servers/ernie.env"
    for yours in (config, environment):
        yours.write_text("# mine\n")
    ours = root / "etc/systemd/system/fastdeploy@.service"
    ours.write_text(ours.read_text() + "# changed\n")
    assert install(here, "--grant") == 0
    assert {config.read_text(), environment.read_text()} == {"# mine\n"}
    assert "# changed" not in ours.read_text()
    assert "manage-units" in (root / installing.POLKIT.lstrip("/")).read_text()
    assert "add to targets" in capsys.readouterr().out


def test_a_file_of_somebody_else_is_never_replaced_and_nothing_is_written_beside_it(here, capsys):
    root, _ = here
    unit = root / "etc/systemd/system/diagnose.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/usr/bin/true\n")
    assert install(here) == 2
    assert "was not laid down by diagnose" in capsys.readouterr().err
    assert [path for path in root.rglob("*") if path.is_file()] == [unit]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        pytest.param(["--tensor-parallel-size", "4"], "wants 4 cards, there are 2", id="too few cards"),
        pytest.param(["--model", "/nowhere/model"], "no such model folder", id="no such model"),
    ],
)
def test_a_command_that_cannot_run_here_is_refused(here, capsys, more, says):
    assert install(here, more=more) == 2
    assert says in capsys.readouterr().err


def test_a_python_without_fastdeploy_and_a_name_that_is_none_are_refused(here, capsys, monkeypatch):
    assert install(here, name="../x") == 2
    assert "no name for a unit" in capsys.readouterr().err
    monkeypatch.delenv("PYTHONPATH")
    assert install(here) == 2
    assert "has no fastdeploy" in capsys.readouterr().err


@given(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])))
def test_what_is_quoted_is_read_back(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.env"
    file.write_bytes(f"# A comment\nX={quoted(text)}\nY=plain\n".encode())
    assert read_environment(file) == {"X": text, "Y": "plain"}


def test_show_prints_all_files_and_both_ways_to_give_the_rights(here, capsys):
    root, command = here
    assert main(["service", "show", "--name", "ernie", "--", *command]) == 0
    told = capsys.readouterr().out
    for part in (UNIT, installing.POLKIT, "FASTDEPLOY_ARGS=", "NOPASSWD: /usr/bin/systemctl"):
        assert part in told
    assert not root.exists()
