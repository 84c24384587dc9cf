"""The built wheel works by itself, in an environment that holds nothing else of ours."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OOM = "Out of memory error on GPU 0. Cannot allocate 15.5GB memory on GPU 0, 70.1GB memory has been allocated\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel and install it, alone, into a new environment; the libraries come from the tests' own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    home = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=120)
    python = home / "bin" / "python"
    site = Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    wheel = next(folder.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def _ask(python, script):
    done = subprocess.run([str(python), "-I", "-c", script], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def _run(installed, folder, *words):
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    program = str(installed / "diagnose")
    return subprocess.run(
        [program, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_package_comes_from_the_wheel(installed):
    where = _ask(installed / "python", "import diagnose; print(diagnose.__file__)")
    assert str(installed.parent) in where


def test_a_log_is_diagnosed(installed, tmp_path):
    (tmp_path / "server.log").write_text(OOM)
    done = _run(installed, tmp_path, "report", "server.log")
    assert done.returncode == 1, done.stderr
    assert "server.log:1" in done.stdout


def test_the_shipped_rules_pass_their_tests(installed, tmp_path):
    done = _run(installed, tmp_path, "rules", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


def test_remedies_and_the_version_are_there(installed, tmp_path):
    assert "server.fit-memory" in _run(installed, tmp_path, "remedies", "list", "--json").stdout
    assert _run(installed, tmp_path, "--version").stdout.startswith("diagnose ")
