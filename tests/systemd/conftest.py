"""A host of its own with the real systemd, in namespaces: units run as they do on a machine that boots with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from diagnose.lab.environment import MODULE, lab_env
from diagnose.lab.model import make_model

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "service" / "systemd"
GIB = 1 << 30
COMPILER = shutil.which("cc") or shutil.which("gcc")
NEEDED = ("unshare", "nsenter", "systemctl", "systemd-sysusers", "systemd-tmpfiles", "ldconfig")
UNSHARE = ["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--uts", "--ipc", "--net"]
CONFIG = """
targets: [{name: ernie, unit: fastdeploy@ernie.service}]
policy:
  mode: auto
  settle: 500ms
  settle_most: 2s
  stall_after: 10s
  holds_for: 1s
  within: 40s
probes: {starting_every: 200ms, health_every: 500ms, completion_every: 1s, timeout: 3s}
grace: 5s
overrides:
  server.fit-memory: {cooldown: 1s}
  server.clean-restart: {cooldown: 1s}
"""
DIAGNOSE = "/opt/diagnose/bin/diagnose"
STATE = "/var/lib/diagnose"
LAB = "/opt/source/diagnose/lab/site:/opt/source/diagnose/lab/versions/2.4"
GPUS = "/var/lib/lab-gpus"
ENVIRONMENT = "/etc/diagnose/servers/ernie.env"
COMMAND = ["/opt/fastdeploy/bin/python", "-m", MODULE, "--model", "/opt/models/ERNIE-4.5-0.3B"]
FITS = "--max-model-len 8192 --max-num-seqs 8"
TOO_LARGE = "--max-model-len 32768 --max-num-seqs 128 --max-num-batched-tokens 32768"


class Host:
    """One booted host; `run` speaks to it as root."""

    def __init__(self, opt: Path, port: int) -> None:
        self.port = port
        self._group = f"diagnose-test-{os.getpid()}-{port}"
        places = [self._group, str(opt), sys.base_prefix, sysconfig.get_path("purelib"), str(ROOT)]
        self._log = opt.parent / f"boot-{port}.log"
        with self._log.open("wb") as log:
            self._outer = subprocess.Popen(
                ["unshare", *UNSHARE, "bash", str(Path(__file__).with_name("boot")), *places],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._inner = ""

    def wait_booted(self, seconds=30):
        """Return why it did not boot, or the empty text."""
        deadline = time.monotonic() + seconds
        state = ""
        while time.monotonic() < deadline and self._outer.poll() is None:
            children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
            with contextlib.suppress(OSError):
                self._inner = children.read_text().strip()
            state = self.run("systemctl", "is-system-running", check=False).strip() if self._inner else ""
            if state in {"running", "degraded"}:
                return ""
            time.sleep(0.1)
        return f"{state or 'no systemd'}: {self._log.read_text(errors='replace').strip()[-300:]}"

    def run(self, *words, check=True, user="", seconds=60, text=None, env=None):
        """Run a command there, and return its words."""
        status, told = self.ask(*words, user=user, seconds=seconds, text=text, env=env)
        assert not check or status == 0, f"{words}: {status}\n{told}\n{self.told()}"
        return told

    def ask(self, *words, user="", seconds=60, text=None, env=None):
        """Run a command there, and return its exit status and words."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(env or {})}
        enter = ["nsenter", "-t", self._inner, "-m", "-p", "-i", "-u", "-C", "-n", "--wdns=/", "--"]
        done = subprocess.run(
            [*enter, *become, *words],
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environ,
            check=False,
        )
        return done.returncode, done.stdout

    def write(self, path, text, mode="0644"):
        self.run("mkdir", "-p", str(Path(path).parent))
        self.run("tee", str(path), text=text)
        self.run("chmod", mode, str(path))

    def drop_in(self, unit, text):
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.run("systemctl", "daemon-reload")

    def show(self, unit, *names):
        """Return properties of a unit, one as itself, several as a list."""
        lines = self.run("systemctl", "show", *[f"-p{name}" for name in names], unit).splitlines()
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        found = [values.get(name, "") for name in names]
        return found[0] if len(found) == 1 else found

    def wait(self, true_of, what, seconds=40):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if seen := true_of():
                return seen
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {what}\n{self.told()}")

    def told(self):
        """Return the last words of all units."""
        _, journal = self.ask(
            "journalctl",
            "--no-pager",
            "-n60",
            "_TRANSPORT=stdout",
            "+",
            "_TRANSPORT=journal",
            "+",
            "_TRANSPORT=syslog",
            "-o",
            "short-precise",
        )
        _, console = self.ask("sh", "-c", "tail -n 15 /var/log/fastdeploy/*/stdout.log")
        return f"{journal}\n{console}"

    def diagnose(self, *words, user="diagnose", check=True):
        """Run the command line as the daemon's user."""
        env = {"HOME": STATE, "XDG_CACHE_HOME": "/var/cache", "DIAGNOSE_LAB_GPUS": GPUS, "STATE_DIRECTORY": STATE}
        return self.run(DIAGNOSE, *words, user=user, env={**env, "PYTHONPATH": LAB}, check=check)

    def install(self, flags, *, gpu_gib=8, grant=True, config=CONFIG):
        """Install the units as a person does, the lab server in the place of FastDeploy."""
        self.run("/opt/python/bin/python3", "-c", _CARDS, str(int(gpu_gib * GIB)), env={"PYTHONPATH": "/opt/source"})
        env = lab_env(Path(GPUS), load_seconds=0.5, seed=1, base={}, extra={"FD_WORKER_ALIVE_TIMEOUT": "2"})
        env["PYTHONPATH"] = LAB
        words = ["service", "install", "--name", "ernie", *(["--grant"] if grant else []), "--", *COMMAND]
        told = self.run(DIAGNOSE, *words, "--port", str(self.port), *flags.split(), env=env)
        lab = "".join(f'{name}="{text}"\n' for name, text in env.items())
        self.run("tee", "-a", ENVIRONMENT, text=lab)
        self.write("/etc/diagnose/diagnose.yaml", config)
        self.drop_in("diagnose.service", f"[Service]\nEnvironment=DIAGNOSE_LAB_GPUS={GPUS}\n")
        return told

    def seen(self):
        """Return what the daemon knows of the server; empty before it knows anything."""
        targets = json.loads(self.diagnose("status", "--json", check=False))["targets"]
        return targets[0] if targets else {}

    def wait_ready(self, generation=1, seconds=40):
        def there():
            seen = self.seen()
            return seen if seen.get("phase") == "ready" and seen["generation"] >= generation else None

        return self.wait(there, f"a ready server of generation {generation}", seconds)

    def server_pid(self):
        return int(self.show("fastdeploy@ernie.service", "MainPID"))

    def answers(self):
        address = f"http://127.0.0.1:{self.port}/health"
        return self.ask("/opt/python/bin/python3", "-c", _ASK, address)[0] == 0

    def end(self):
        self._outer.kill()
        self._outer.wait(20)
        words = ["unshare", "--mount", "sh", "-c", _REMOVE_GROUP, "sh", self._group]
        subprocess.run(words, capture_output=True, timeout=20, check=False)


_CARDS = f"""
import os, sys
from pathlib import Path
from diagnose.lab.gpus import make_gpus
make_gpus(Path("{GPUS}"), 1, int(sys.argv[1]), "Lab GPU")
for one in [Path("{GPUS}"), *Path("{GPUS}").iterdir()]:
    one.chmod(0o777)
"""
_REMOVE_GROUP = 'mount -t cgroup2 none /mnt && sleep 0.2 && find "/mnt/$1" -depth -type d -exec rmdir {} +'
_ASK = "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=3)"


def _make_opt(folder: Path) -> Path:
    """Lay out /opt: two environments, the daemon's and the lab server's, on the interpreter of the tests."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    opt = folder / "opt"
    for home in ("diagnose", "fastdeploy"):
        packages = opt / home / "lib" / name / "site-packages"
        packages.mkdir(parents=True)
        (packages / "of_the_tests.pth").write_text("/opt/libraries\n/opt/source\n")
        (opt / home / "bin").mkdir()
        (opt / home / "bin" / "python").symlink_to(f"/opt/python/bin/{name}")
        (opt / home / "pyvenv.cfg").write_text("home = /opt/python/bin\ninclude-system-site-packages = false\n")
    program = opt / "diagnose" / "bin" / "diagnose"
    program.write_text("#!/opt/diagnose/bin/python\nimport sys\nfrom diagnose.cli.main import main\nsys.exit(main())\n")
    program.chmod(0o755)
    for place in ("python", "libraries", "source"):
        (opt / place).mkdir()
    make_model(opt / "models", "ERNIE-4.5-0.3B")
    (opt / "nvml").mkdir()
    for place in (folder, *folder.parents):
        if place.stat().st_uid == os.getuid() and place.is_relative_to(folder.parent):
            place.chmod(0o755)
    return opt


@pytest.fixture(scope="session")
def opt(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("booting systemd in namespaces needs root")
    if missing := [one for one in NEEDED if not shutil.which(one)]:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    return _make_opt(tmp_path_factory.mktemp("host"))


@pytest.fixture
def driver(opt):
    """Give a folder with a pretended NVML: the real way of loading and asking it, without a card."""
    if not COMPILER:
        pytest.skip("no C compiler for the pretended NVML")
    library, source = opt / "nvml" / "libnvidia-ml.so.1", ROOT / "tests" / "adapters" / "nvml_stub.c"
    words = [
        COMPILER,
        "-shared",
        "-fPIC",
        "-Wl,-soname,libnvidia-ml.so.1",
        "-o",
        str(library),
        str(source),
        "-lpthread",
    ]
    subprocess.run(words, check=True, timeout=60)
    card = {"uuid": "GPU-1", "name": "H100", "pci": "0 65 0", "memory": f"{80 * GIB} {GIB}", "processes": "-"}
    facts = "".join(f"0.{name} {text}\n" for name, text in card.items())
    (opt / "nvml" / "world").write_text(f"count 1\n{facts}")
    return "/opt/nvml"


@pytest.fixture
def host(opt, free_port):
    """Boot a host; skipped, with the reason, where that is not allowed."""
    booted = Host(opt, free_port)
    try:
        if reason := booted.wait_booted():
            pytest.skip(f"systemd cannot be booted in namespaces here: {reason}")
        yield booted
    finally:
        booted.end()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
