"""Files that others can write do not say what the daemon does."""

from __future__ import annotations

import os

import pytest

from diagnose.catalog import trust
from diagnose.cli.main import main
from diagnose.errors import ConfigError

CONFIG = "targets: [{name: a, attach: 1}]\n"
SOMEBODY = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    made = folder / "diagnose.yaml"
    made.write_text(CONFIG)
    made.chmod(0o644)
    return made


def test_a_file_that_only_its_owner_writes_is_taken(file):
    trust.refuse_others([file])


@pytest.mark.parametrize(
    ("what", "mode"),
    [
        pytest.param("file", 0o646, id="a file for everybody"),
        pytest.param("folder", 0o757, id="a folder in which everybody can replace it"),
    ],
)
def test_what_everybody_can_write_is_refused_with_the_cure(file, what, mode):
    place = file if what == "file" else file.parent
    place.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod o-w '{place}'"):
        trust.refuse_others([file])


@needs_root
def test_what_another_user_or_group_can_write_is_refused(file):
    os.chown(file, SOMEBODY, -1)
    with pytest.raises(ConfigError, match=f"belongs to user {SOMEBODY}"):
        trust.refuse_others([file])
    os.chown(file, 0, SOMEBODY)
    file.chmod(0o664)
    with pytest.raises(ConfigError, match=f"group {SOMEBODY}.*chmod g-w"):
        trust.refuse_others([file])
    file.chmod(0o644)
    trust.refuse_others([file])


def test_a_link_is_judged_by_where_it_leads(file, tmp_path):
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    trust.refuse_others([link])
    file.chmod(0o646)
    with pytest.raises(ConfigError, match="everybody"):
        trust.refuse_others([link])


def test_the_daemon_and_the_check_refuse_it_before_they_do_anything(file, tmp_path, capsys):
    file.chmod(0o666)
    assert main(["run", "--config", str(file), "--state-dir", str(tmp_path / "state")]) == 2
    assert main(["config", "check", str(file)]) == 2
    told = capsys.readouterr().err
    assert told.count("chmod o-w") == 2
    assert not (tmp_path / "state").exists()


def test_rules_that_others_can_write_are_refused_too(file, tmp_path, capsys):
    rules = tmp_path / "rules"
    rules.mkdir(mode=0o755)
    (rules / "site.yaml").write_text("[]")
    (rules / "site.yaml").chmod(0o622)
    file.write_text(f"{CONFIG}rules: [{rules}]\n")
    assert main(["run", "--config", str(file), "--state-dir", str(tmp_path / "state")]) == 2
    assert f"chmod o-w '{rules}/site.yaml'" in capsys.readouterr().err
