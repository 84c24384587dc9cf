"""Files from elsewhere are data: nothing in them runs, leaves its place, or takes the machine's memory."""

from __future__ import annotations

import gzip
import io
import resource
import subprocess
import sys
import tarfile

import pytest

from diagnose.agent.config import Config
from diagnose.catalog.load import read_config, read_files
from diagnose.cli.main import main
from diagnose.errors import ConfigError

OOM = b"Out of memory error on GPU 0. Cannot allocate 15.5GB memory on GPU 0, 70.1GB memory has been allocated\n"
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
MOST_BYTES = 600 << 20


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/object/new:os.system"]
)
@pytest.mark.parametrize("what", ["rule", "configuration"])
def test_a_yaml_file_cannot_run_code(tmp_path, what, text):
    file = tmp_path / "evil.yaml"
    file.write_text(f"id: {text} ['touch {tmp_path}/ran']\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml:1"):
        read_files([file]) if what == "rule" else read_config(file, Config)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["targets: *i", "overrides: {x: {y: *i}}"])
def test_a_yaml_file_of_references_cannot_take_all_memory(tmp_path, place):
    file = tmp_path / "laughs.yaml"
    file.write_text(f"{LAUGHS}{place}\n")
    script = "import sys; from diagnose.cli.main import main; sys.exit(main(['config', 'check', sys.argv[1]]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES)),
    )
    assert done.returncode == 2, done.stderr[-500:]
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 2000


def bundle(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def link(name, to, kind=tarfile.SYMTYPE):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, to
    return made, b""


def test_a_bundle_leaves_nothing_anywhere_and_leads_nowhere(tmp_path, capsys, monkeypatch):
    secret = tmp_path / "secret.log"
    secret.write_bytes(OOM)
    here = tmp_path / "here"
    here.mkdir()
    members = [
        (tarfile.TarInfo("../../escaped/workerlog.0"), OOM),
        (tarfile.TarInfo("/absolute/workerlog.1"), b"INFO fine\n"),
        link("log/workerlog.2", str(secret)),
        link("log/workerlog.3", "/dev/zero"),
        link("log/workerlog.4", "log/workerlog.2", tarfile.LNKTYPE),
        link("log/workerlog.5", "", tarfile.CHRTYPE),
        link("log/workerlog.6", "", tarfile.FIFOTYPE),
    ]
    bundle(here / "from-a-user.tar.gz", members)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(here)
    assert main(["report", "from-a-user.tar.gz"]) == 1
    told = capsys.readouterr().out
    assert "../../escaped/workerlog.0:1" in told, "the member itself is read"
    assert "workerlog.2" not in told
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_a_packed_bomb_is_refused_before_it_takes_time_or_memory(tmp_path, capsys):
    bomb = tmp_path / "workerlog.0.gz"
    with gzip.open(bomb, "wb", compresslevel=9) as file:
        for _ in range(400):
            file.write(b"\0" * (1 << 20))
    assert main(["report", str(bomb)]) == 2
    assert "Traceback" not in capsys.readouterr().err
