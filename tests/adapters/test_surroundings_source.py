"""What stands around a start, read from outside: a scripted interpreter, folders, a driver's own file."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import psutil
import pytest

from diagnose.agent.look import Lookout, sealer
from diagnose.launch.flags import accepted, everywhere
from diagnose.launch.surroundings import Sealer
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import GpuReading, ServerFacts, Surroundings
from diagnose.sources import facts, packages, surroundings
from diagnose.sources.ask import ask
from diagnose.sources.surroundings import Look
from diagnose.testing import NOON

MODULE = "fastdeploy.entrypoints.openai.api_server"
HELP = "usage: api_server.py [-h] [--model MODEL] [--load_choices L]\n\noptions:\n  --only-here X  x\n"


class Host:
    """A folder with a Python that answers as it is told, its packages, and a model."""

    def __init__(self, folder):
        self.folder, self.site, self.model = folder, folder / "site", folder / "model"
        self.site.mkdir()
        self.model.mkdir()
        self.python = folder / "python"
        self.answers()

    def answers(self, *, help_does="cat {help}", path=None, code_does="cat {told}"):
        """Write the interpreter: a shell script that notes each question."""
        told = {"executable": str(self.python), "version": "3.10.12", "path": path or ["", str(self.site)]}
        (self.folder / "told.json").write_text(repr(told).replace("'", '"'))
        (self.folder / "help.txt").write_text(HELP)
        files = {"help": self.folder / "help.txt", "told": self.folder / "told.json"}
        lines = [
            "#!/bin/sh",
            f'echo "$@" >> {self.folder}/asked',
            'case "$1" in',
            f"-c) {code_does.format(**files)} ;;",
            f"*) {help_does.format(**files)} ;;",
            "esac",
        ]
        self.python.write_text("\n".join(lines) + "\n")
        self.python.chmod(0o755)

    def install(self, name, version, place=None, record=""):
        folder = (place or self.site) / f"{name}-{version}.dist-info"
        for old in (place or self.site).glob(f"{name}-*.dist-info"):
            old.rename(folder)
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nwords\n")
        (folder / "RECORD").write_text(record)

    def command(self, *flags, env=None):
        argv = (str(self.python), "-m", MODULE, "--model", str(self.model), *flags)
        return LaunchSpec(argv=argv, env=env or {}, cwd=str(self.folder))

    def asked(self, what):
        file = self.folder / "asked"
        return file.read_text().count(what) if file.exists() else 0

    def look(self, **more):
        spec = self.command()
        given = {"target": "default", "at": NOON, "generation": 3, "desired": spec, "running": spec, "environ": {}}
        return Look(**{**given, **more})

    def learn(self, **more):
        return facts.learn(self.command(), target="default", now=NOON, cache=self.folder / "cache", **more)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def sh(script, *, seconds=5.0, stop=None):
    return ask(["/bin/sh", "-c", script], cwd="/", env=os.environ, seconds=seconds, stop=stop)


def ends(pid, seconds=5.0):
    """Say whether a process that got SIGKILL is gone, or soon is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


# --- asking a program


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param("echo yes", "yes\n", id="an answer"),
        pytest.param("echo yes; exit 3", "", id="it failed"),
        pytest.param("echo yes; echo no >&2", "yes\n", id="only what it says, not what it complains of"),
        pytest.param("exec >&-; sleep 0.2", "", id="it closes its output before it ends"),
        pytest.param("echo yes; sleep 60 & exit 0", "yes\n", id="it leaves a child that holds its output"),
        pytest.param("yes | head -c 9000000", "", id="too much"),
    ],
)
def test_a_program_is_asked_one_question(script, said):
    began = time.monotonic()
    assert sh(script, seconds=30) == said
    assert time.monotonic() - began < 25


def test_a_program_that_is_not_there_or_never_answers_says_nothing():
    assert ask(["/no/such/program"], cwd="/", env={}, seconds=1) == ""
    assert ask(["/bin/true"], cwd="/no/such/folder", env={}, seconds=1) == ""
    assert sh("sleep 60", seconds=0.2) == ""


def test_an_answer_that_is_no_longer_wanted_is_given_up_at_once_with_all_that_runs_for_it(tmp_path):
    stop = threading.Event()

    def give_up():
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        stop.set()

    threading.Thread(target=give_up, daemon=True).start()
    began = time.monotonic()
    script = f"sleep 60 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait"
    assert sh(script, seconds=50, stop=stop) == ""
    assert time.monotonic() - began < 30
    assert ends(int((tmp_path / "pid").read_text()))


# --- the server's own Python


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        pytest.param(("python3.10", "-m", MODULE), ("python3.10",), id="a module"),
        pytest.param(("/v/bin/python", "-u", f"-m{MODULE}"), ("/v/bin/python", "-u"), id="with options, joined"),
        pytest.param(
            ("env", "A=1", "numactl", "-N", "0", "python", "-m", MODULE),
            ("env", "A=1", "numactl", "-N", "0", "python"),
            id="behind programs that hand on",
        ),
        pytest.param(("python", "/x/fastdeploy/entrypoints/openai/api_server.py"), ("python",), id="a file"),
        pytest.param(("docker", "run", "image", "python", "-m", MODULE), (), id="behind docker: not asked"),
        pytest.param(("./start.sh", "python", "-m", MODULE), (), id="behind a script: not asked"),
        pytest.param(("sleep", "1"), (), id="no server"),
    ],
)
def test_the_interpreter_is_found_in_the_command(argv, expected):
    assert packages.interpreter(LaunchSpec(argv=argv)) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param("#!/opt/venv/bin/python3\n", ("/opt/venv/bin/python3",), id="plain"),
        pytest.param("#!/usr/bin/env python3\n", ("python3",), id="env"),
        pytest.param("#!/bin/sh\n'''exec' /long/bin/python \"$0\" \"$@\"\n", ("/long/bin/python",), id="long"),
        pytest.param("\x7fELF", (), id="no script"),
    ],
)
def test_the_interpreter_of_the_fastdeploy_script_is_read_from_its_first_lines(tmp_path, head, expected):
    (tmp_path / "fastdeploy").write_text(head)
    (tmp_path / "fastdeploy").chmod(0o755)
    spec = LaunchSpec(argv=("fastdeploy", "serve", "--port", "1"), env={"PATH": str(tmp_path)}, cwd="/")
    assert packages.interpreter(spec) == expected


def test_the_launcher_of_several_servers_is_not_run_for_its_help():
    several = f"{MODULE.replace('api_server', 'multi_api_server')}"
    spec = LaunchSpec(argv=("python", "-m", several, "--ports", "1,2", "--args", "--model", "m"))
    assert packages.help_words(spec) == ("python", "-m", MODULE, "--help")


def test_packages_are_those_that_python_would_find(host, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    host.answers(path=["", str(host.site), str(other), "/no/such/folder"])
    host.install("numpy", "1.26.4")
    host.install("numpy", "2.0.0", place=other)
    host.install("nvidia_cublas_cu12", "12.6.4.1", place=other)
    (host.site / "broken-1.0.dist-info").mkdir()
    (host.site / "Old_Style-0.1.egg-info").mkdir()
    (host.site / "Old_Style-0.1.egg-info" / "PKG-INFO").write_text("Name: Old_Style\nVersion: 0.1\n")
    found = packages.packages(packages.python_of(host.command()))
    assert {one.name: one.version for one in found.values()} == {
        "numpy": "1.26.4", "nvidia-cublas-cu12": "12.6.4.1", "broken": "1.0", "old-style": "0.1"
    }  # fmt: skip
    assert packages.packages(packages.python_of(host.command()), until=0.0) is None


def test_another_build_of_the_same_version_is_told_apart_where_versions_do_not(host):
    def shown():
        found = packages.packages(packages.python_of(host.command()))
        return {name: packages.version_text(one) for name, one in found.items()}

    host.install("paddlepaddle_gpu", "3.1.0", record="paddle/libs/a.so,sha256=1,1\n")
    host.install("numpy", "1.0", record="x")
    before = shown()
    host.install("paddlepaddle_gpu", "3.1.0", record="paddle/libs/a.so,sha256=2,1\n")
    after = shown()
    assert before["paddlepaddle-gpu"].startswith("3.1.0 (files ")
    assert before["paddlepaddle-gpu"] != after["paddlepaddle-gpu"]
    assert before["numpy"] == after["numpy"] == "1.0"


def test_this_python_is_asked_and_what_is_installed_here_is_found():
    spec = LaunchSpec(argv=(sys.executable, "-m", MODULE), cwd="/")
    python = packages.python_of(spec)
    assert python.version == ".".join(map(str, sys.version_info[:3]))
    assert {"msgspec", "pytest", "psutil"} <= packages.packages(python).keys()


# --- its flags


def test_the_help_is_read_once_a_version(host):
    host.install("fastdeploy_gpu", "2.3.0")
    first, second = host.learn(), host.learn()
    assert first == second
    assert (first.version, first.flags_from) == ("2.3.0", "help")
    assert set(first.flags) == {"-h", "--model", "--load_choices", "--only-here"}
    assert host.asked("--help") == 1
    host.install("fastdeploy_gpu", "2.3.1")
    assert host.learn().version == "2.3.1"
    assert host.asked("--help") == 2
    (place,) = host.site.glob("fastdeploy*")
    os.utime(place, ns=(1, 1))
    host.learn()
    assert host.asked("--help") == 3, "installed anew"


def test_a_cache_that_is_broken_or_cannot_be_written_only_costs_another_question(host):
    host.install("fastdeploy_gpu", "2.3.0")
    host.learn()
    (file,) = (host.folder / "cache").glob("*.json")
    file.write_text("{")
    assert host.learn().flags_from == "help"
    (host.folder / "file").write_text("")
    found = facts.learn(host.command(), target="default", now=NOON, cache=host.folder / "file" / "cache")
    assert found.flags_from == "help"


@pytest.mark.parametrize(
    ("does", "version", "expected"),
    [
        pytest.param("exit 1", "2.1.0", accepted("2.1.0"), id="a known version: its table"),
        pytest.param("echo no flags at all", "2.4.0", accepted("2.4.0"), id="a help without flags"),
        pytest.param("exit 1", None, everywhere(), id="unknown: what every version takes"),
    ],
)
def test_without_a_help_the_shipped_tables_count(host, does, version, expected):
    host.answers(help_does=does)
    if version:
        host.install("fastdeploy_gpu", version)
    found = host.learn()
    assert (found.flags, found.flags_from, found.version) == (expected, "table", version)


def test_the_version_of_a_server_that_was_built_in_place_is_read_from_its_own_file(host):
    host.answers(help_does="exit 1")
    (host.site / "fastdeploy").mkdir()
    (host.site / "fastdeploy" / "version.txt").write_text("fastdeploy GIT COMMIT ID: abc\nfastdeploy version: 2.2.1\n")
    assert host.learn().version == "2.2.1"


def test_of_the_config_file_only_what_this_version_knows_counts(host):
    (host.folder / "c.yaml").write_text("load_choices: default\nmax_model_len: 4096\n")
    spec = host.command("--config", "c.yaml")
    found = facts.learn(spec, target="default", now=NOON)
    assert found.config == {"--load-choices": "default"}, "the help names --load_choices, and no --max-model-len"


# --- the model, the host


def test_a_models_small_files_count_by_what_they_say_and_large_ones_by_size_and_time(host):
    def seen():
        return surroundings.model(host.command(), time.monotonic() + 9)

    config, weights = host.model / "config.json", host.model / "model.safetensors"
    config.write_text("{}")
    weights.write_bytes(b"x" * 10)
    (host.model / ".cache").mkdir()
    (host.model / ".cache" / "a.json").write_text("1")
    (host.model / "mtp").mkdir()
    (host.model / "mtp" / "config.json").write_text("{}")
    before = seen()
    assert set(before) == {"folder", "config.json", "model.safetensors", "mtp/config.json"}
    os.utime(config, (1, 1))
    assert seen() == before
    os.utime(weights, (1, 1))
    assert {name for name, told in seen().items() if told != before[name]} == {"model.safetensors"}
    config.write_text("[]")
    assert seen()["config.json"] != before["config.json"]
    assert surroundings.model(host.command(), 0.0) is None
    assert "no folder" in surroundings.model(LaunchSpec(argv=("python", "-m", MODULE), cwd="/x"), 0.0)["folder"]


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)",
    ],
)
def test_the_driver_is_read_from_its_own_file(tmp_path, line):
    place = tmp_path / "proc/driver/nvidia"
    place.mkdir(parents=True)
    (place / "version").write_text(line + "\nGCC version: gcc 12\n")
    libraries = tmp_path / "lib"
    libraries.mkdir()
    (libraries / "libcudart.so.12.6.77").write_text("")
    (libraries / "libcudart.so.12").symlink_to("libcudart.so.12.6.77")
    found = surroundings.host({"LD_LIBRARY_PATH": f"::relative:/no/such:{libraries}"}, tmp_path)
    assert found["driver"] == "550.54.15"
    assert found["libcudart"].endswith("/lib/libcudart.so.12.6.77")
    assert found["kernel"] == os.uname().release
    assert "driver" not in surroundings.host({}, tmp_path / "none")


# --- all of it


def test_all_kinds_are_collected_and_no_secret_among_them(host):
    host.install("numpy", "1.26.4")
    (host.folder / "c.yaml").write_text("api_key: swordfish\nmax_model_len: 4096\n")
    spec = host.command("--api-key", "hunter2", "--config", "c.yaml")
    card = GpuReading(index=0, name="Card", total_bytes=1 << 30, used_bytes=0, own_bytes=0)
    seen = surroundings.collect(
        host.look(desired=spec, running=spec, environ={"HF_TOKEN": "tiger", "FD_X": "1"}, cards=[card]), Sealer(b"k")
    )
    assert isinstance(seen, Surroundings)
    assert set(seen.facts) == {
        "command", "config", "remedy", "python", "package", "host", "model", "env", "gpu", "neighbour"
    }  # fmt: skip
    assert seen.facts["python"] == {"version": "3.10.12", "program": str(host.python)}
    assert seen.facts["config"]["--max-model-len"] == "4096"
    assert not [word for word in ("hunter2", "swordfish", "tiger") if word in str(seen)]


def test_what_cannot_be_seen_is_left_out(host):
    host.python.unlink()
    seen = surroundings.collect(host.look(), Sealer())
    assert {"command", "env", "host", "model"} <= set(seen.facts)
    assert not {"python", "package", "gpu", "neighbour"} & set(seen.facts)


def test_what_never_answers_costs_no_more_than_the_patience(host):
    host.answers(code_does="sleep 30")
    began, stop = time.monotonic(), threading.Event()
    seen = surroundings.collect(host.look(), Sealer(), stop, patience=0.4)
    stop.set()
    assert time.monotonic() - began < 3
    assert "command" in seen.facts
    assert "package" not in seen.facts


def wait_for(lookout, count, seconds=10.0):
    found, deadline = [], time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += lookout.news()
        time.sleep(0.01)
    return found


def test_a_start_is_looked_at_beside_everything_else(host):
    lookout = Lookout(host.folder / "state")
    lookout.begin(host.look(at=datetime.now(timezone.utc)))
    found = wait_for(lookout, 2)
    assert {type(one) for one in found} == {Surroundings, ServerFacts}
    lookout.begin(host.look(), known=True)
    assert [type(one) for one in wait_for(lookout, 1)] == [ServerFacts]
    lookout.end()


def test_a_help_that_hangs_does_not_hold_back_the_end_and_leaves_nothing_running(host):
    host.answers(help_does=f"echo $$ > {host.folder}/hangs; exec sleep 300")
    lookout = Lookout(host.folder / "state")
    lookout.begin(host.look())
    deadline = time.monotonic() + 10
    while not (host.folder / "hangs").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    lookout.end()
    assert time.monotonic() - began < 1.5
    assert ends(int((host.folder / "hangs").read_text()))
    assert not [one for one in lookout.news() if isinstance(one, ServerFacts)], "half an answer is none"


def test_the_key_of_the_fingerprints_is_kept_and_is_nobody_elses(tmp_path):
    one, again = sealer(tmp_path / "a"), sealer(tmp_path / "a")
    assert one.seal("x") == again.seal("x") != sealer(tmp_path / "b").seal("x")
    (key,) = (tmp_path / "a").iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    (tmp_path / "file").write_text("")
    assert sealer(tmp_path / "file" / "x").seal("x") == "***", "no key can be kept there"
    assert Path(key).read_bytes()
