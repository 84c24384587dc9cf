"""A server is started, found again, watched and ended with all that belongs to it, and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from diagnose.controllers import procfs
from diagnose.controllers.process import ProcessController
from diagnose.controllers.spawn import send
from diagnose.controllers.tree import MARK
from diagnose.errors import ControllerError
from diagnose.model.launch import LaunchSpec
from diagnose.ports import Exit, Handle, Member, Ports
from tests.ports import free_port

MODULE = "fastdeploy.entrypoints.openai.api_server"
SERVER = """
import os, signal, socket, subprocess, sys, time
worker = "import signal, time\\n"
if os.environ.get("STUBBORN"):
    worker += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
worker += "print('worker up', flush=True)\\ntime.sleep(120)"
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
words = ["worker_process.py", "--engine_worker_queue_port", given.get("--engine-worker-queue-port", "1")]
subprocess.Popen([sys.executable, "-c", worker, *words], start_new_session=True)
if "--port" in given:
    door = socket.create_server(("127.0.0.1", int(given["--port"])))
print("stdin", repr(sys.stdin.read()), flush=True)
print("main up", flush=True)
time.sleep(120)
"""
SHORT = timedelta(seconds=1)


@pytest.fixture
def package(tmp_path):
    """A module of FastDeploy's name that starts one worker in a session of its own."""
    folder = tmp_path / "site"
    inner = folder.joinpath(*MODULE.split(".")[:-1])
    inner.mkdir(parents=True)
    (inner / "api_server.py").write_text(SERVER)
    return folder


@pytest.fixture
def spec(package, tmp_path):
    def build(*words, **env):
        return LaunchSpec(
            argv=(sys.executable, "-m", MODULE, *words),
            env={"PYTHONPATH": str(package), **env},
            cwd=str(tmp_path),
        )

    return build


@pytest.fixture
def controller(tmp_path):
    return ProcessController(shm=tmp_path / "shm", tmp=tmp_path / "tmp", gpu_wait=SHORT)


@pytest.fixture
def start(controller, spec, tmp_path):
    """Start servers that are ended by pid when the test is over, whatever it did."""
    handles = []

    def begin(*words, **env):
        handle = controller.start("t", 1, spec(*words, **env), run_dir=str(tmp_path / "run"))
        handles.append(handle)
        eventually(lambda: {one.role for one in controller.tree(handle)} == {"main", "worker"})
        eventually(lambda: "worker up" in Path(handle.console).read_text())
        return handle

    yield begin
    for handle in handles:
        controller.stop(handle, grace=timedelta(0))


def eventually(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def alive(pid):
    found = procfs.stat(pid)
    return found is not None and found.alive


def worker_of(controller, handle):
    return next(one for one in controller.tree(handle) if one.role == "worker")


def test_the_server_has_a_session_and_a_file_of_its_own(controller, start):
    handle = start("--engine-worker-queue-port", "7")

    eventually(lambda: "main up" in Path(handle.console).read_text())
    assert "stdin ''" in Path(handle.console).read_text()
    assert os.getsid(handle.pid) == handle.pid != os.getsid(0)
    assert os.getsid(worker_of(controller, handle).pid) != handle.pid
    assert procfs.environ(handle.pid)[MARK] == handle.instance
    assert handle.ports == Ports(http=8000, queue=(7,))
    assert abs(handle.started - time.time()) < 60


def test_the_output_of_a_second_start_is_appended(controller, start):
    first = start()
    controller.stop(first, grace=SHORT)
    before = Path(first.console).read_text()

    second = start()

    assert Path(second.console).read_text().startswith(before)


def test_workers_are_found_after_their_main_process_was_killed(controller, start):
    handle = start()
    worker = worker_of(controller, handle)
    assert controller.poll_exit(handle) is None

    os.kill(handle.pid, signal.SIGKILL)

    eventually(lambda: controller.poll_exit(handle) == Exit(code=-9))
    assert [one.pid for one in ProcessController().tree(handle)] == [worker.pid]
    assert controller.adopt(handle) is None
    assert controller.poll_exit(handle) == Exit(code=-9)


@pytest.mark.parametrize(
    ("env", "killed"),
    [pytest.param({}, False, id="on SIGTERM"), pytest.param({"STUBBORN": "1"}, True, id="by SIGKILL")],
)
def test_a_stop_takes_the_whole_tree(controller, start, env, killed):
    handle = start(**env)
    worker = worker_of(controller, handle)

    report = controller.stop(handle, grace=SHORT)

    assert report.ok
    assert not alive(handle.pid)
    assert not alive(worker.pid)
    assert {*report.ended, *report.killed} == {handle.pid, worker.pid}
    assert (worker.pid in report.killed) is killed
    again = controller.stop(handle)
    assert (again.ended, again.killed, again.left) == ((), (), ())


def test_a_stop_leaves_a_server_beside_it_alone(controller, start):
    mine, other = start("--engine-worker-queue-port", "7"), start("--engine-worker-queue-port", "7")

    controller.stop(mine, grace=SHORT)

    assert {one.role for one in controller.tree(other)} == {"main", "worker"}


def test_requests_in_flight_are_waited_for_and_the_memory_too(controller, start):
    handle = start()
    counts, held = [2, 1, 0], [5, 0]

    report = controller.stop(
        handle,
        drain=timedelta(seconds=5),
        grace=SHORT,
        running=lambda: counts.pop(0),
        gpu_own_bytes=lambda: held.pop(0),
    )

    assert (report.drained, report.gpu_free, counts, held) == (True, True, [], [])


def test_memory_that_is_never_given_back_is_told(controller, start):
    assert controller.stop(start(), grace=SHORT, gpu_own_bytes=lambda: 1).gpu_free is False


def test_only_exactly_the_same_process_is_adopted(controller, start):
    handle = start()

    adopted = ProcessController().adopt(handle)

    assert adopted == msgspec.structs.replace(handle, how="adopted")
    assert controller.adopt(msgspec.structs.replace(handle, ticks=handle.ticks + 1)) is None
    assert controller.adopt(msgspec.structs.replace(handle, boot_id="another boot")) is None


def test_a_pid_that_passed_to_another_process_is_not_signalled():
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        found = procfs.stat(bystander.pid)
        other = Member(pid=bystander.pid, ticks=found.ticks - 1, role="worker", command=())

        assert send([other], signal.SIGKILL) == set()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


DAEMON = """
import sys, time, msgspec
from diagnose.controllers.process import ProcessController
from diagnose.model.launch import LaunchSpec
spec = msgspec.json.decode(sys.argv[1], type=LaunchSpec)
handle = ProcessController().start("orphan", 4, spec, run_dir=sys.argv[2])
print(msgspec.json.encode(handle).decode(), flush=True)
time.sleep(120)
"""


def test_a_server_outlives_its_killed_daemon_and_is_found_again(controller, spec, tmp_path):
    words = [sys.executable, "-c", DAEMON, msgspec.json.encode(spec()).decode(), str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as daemon:
        handle = msgspec.json.decode(daemon.stdout.readline(), type=Handle)
        daemon.kill()
        daemon.wait()
    try:
        eventually(lambda: "worker up" in Path(handle.console).read_text())

        adopted = controller.adopt(handle)
        found = controller.find("orphan")

        assert adopted is not None
        assert found is not None
        assert (found.pid, found.generation, found.instance) == (handle.pid, 4, handle.instance)
        assert found.spec.argv == handle.spec.argv
        assert found.console == handle.console
        assert controller.find("orphan-of-another-name") is None
        assert ProcessController(owner="another daemon").find("orphan") is None
        assert controller.stop(adopted, grace=SHORT).ok
        assert controller.poll_exit(adopted) == Exit(code=None)
    finally:
        controller.stop(handle, grace=timedelta(0))


CONTAINER = """
import ctypes, os, signal, sys, time, msgspec
from datetime import timedelta
from diagnose.controllers import procfs
from diagnose.controllers.process import ProcessController
from diagnose.model.launch import LaunchSpec
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # orphans come to us, as to PID 1
controller = ProcessController()
handle = controller.start("c", 1, msgspec.json.decode(sys.argv[1], type=LaunchSpec), run_dir=sys.argv[2])
while len(members := controller.tree(handle)) < 2:
    time.sleep(0.02)
os.kill(handle.pid, signal.SIGKILL)
controller.stop(handle, grace=timedelta(seconds=1))
deadline = time.monotonic() + 5
while any(procfs.stat(one.pid) for one in members) and time.monotonic() < deadline:
    controller.tree(handle)
print([one.role for one in members if procfs.stat(one.pid)])
"""


def test_as_pid_1_of_a_container_it_buries_the_orphans(spec, tmp_path):
    words = [sys.executable, "-c", CONTAINER, msgspec.json.encode(spec()).decode(), str(tmp_path / "run")]

    told = subprocess.run(words, check=True, capture_output=True, text=True)

    assert told.stdout.strip() == "[]"


@pytest.fixture
def foreign(spec, tmp_path):
    """A server that somebody else started, without our mark."""
    port = free_port()
    its = spec("--port", str(port), "--engine-worker-queue-port", "7654")
    env = {**os.environ, **its.env, "FD_LOG_DIR": "elsewhere"}
    with (tmp_path / "out.log").open("wb") as out:
        server = subprocess.Popen(its.argv, cwd=its.cwd, env=env, stdin=subprocess.DEVNULL, stdout=out)
    yield server, port
    server.kill()
    server.wait()


def test_a_running_server_is_attached_by_port_or_by_any_of_its_processes(controller, foreign, spec, tmp_path):
    server, port = foreign
    eventually(lambda: "main up" in (tmp_path / "out.log").read_text())

    by_port = controller.attach(target="t", port=port)
    try:
        worker = worker_of(controller, by_port)
        by_worker = controller.attach(target="t", pid=worker.pid)

        assert by_port.pid == by_worker.pid == server.pid
        assert by_port.how == "attached"
        assert by_port.ports == Ports(http=port, queue=(7654,))
        assert by_port.spec.argv == spec("--port", str(port), "--engine-worker-queue-port", "7654").argv
        assert by_port.spec.env["FD_LOG_DIR"] == "elsewhere"
        assert by_port.spec.cwd == str(tmp_path)
        assert by_port.console == str(tmp_path / "out.log")

        server.kill()
        server.wait()
        later = ProcessController()
        assert [one.pid for one in later.tree(by_port)] == [worker.pid]
        assert later.stop(by_port, grace=SHORT).ok
    finally:
        controller.stop(by_port, grace=timedelta(0))


def test_what_is_no_server_is_not_attached(controller):
    with pytest.raises(ControllerError, match="no FastDeploy server"):
        controller.attach(target="t", pid=os.getpid())
    with pytest.raises(ControllerError, match="Start it first"):
        controller.attach(target="t", port=free_port())


@pytest.mark.parametrize(
    ("argv", "cwd", "cure"),
    [
        pytest.param(("/not/there",), "/", "Give its full path", id="no program"),
        pytest.param((sys.executable,), "/not/there", "Create it", id="no folder"),
        pytest.param((), "/", "Give one", id="no command"),
        pytest.param(("/etc/passwd",), "/", "Try it by hand", id="no permission"),
    ],
)
def test_what_cannot_be_started_says_so_with_a_cure(controller, tmp_path, argv, cwd, cure):
    with pytest.raises(ControllerError, match=cure):
        controller.start("t", 1, LaunchSpec(argv=argv, cwd=cwd), run_dir=str(tmp_path))


def test_a_console_that_cannot_be_written_is_told(controller, spec, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ControllerError, match="run_dir"):
        controller.start("t", 1, spec(), run_dir=str(tmp_path / "file"))


OWN = [
    "worker_ready_signal.7", "cache_ready_signal.7", "rearrange_experts_status.7_dp0_tp1",
    "fd_lock_gpu_cache_lock.7",
    "fd_task_queue_7.sock", "8123.socket", "router_8123.ipc", "response_8123_w55.pull", "ctrl_w2e_rank0_7",
]  # fmt: skip
OTHERS = [
    "worker_ready_signal.77", "worker_ready_signal.8", "my_signal.7", "8124.socket", "psm_7", "sem.7",
    "response_81234_w55.pull", "splitwise_complete_prefilled_step_0.7", "xworker_ready_signal.7",
]  # fmt: skip


@pytest.fixture
def left(tmp_path):
    """Shared memory of a dead server and of others beside it."""
    for folder, names in ((tmp_path / "shm", OWN + OTHERS), (tmp_path / "tmp", [])):
        folder.mkdir()
        for name in names:
            (folder / name).write_text("")
    (tmp_path / "tmp" / "fd_weight_clear_update_lock__pid4194304_port8123.lock").write_text("")
    dead = Handle(
        target="t", generation=1, pid=4194304, ticks=1, started=0, boot_id="", instance="t/1/x",
        spec=LaunchSpec(argv=("x",)), ports=Ports(http=8123, queue=(7,)),
    )  # fmt: skip
    return tmp_path, dead


def test_exactly_what_this_instance_left_is_removed(controller, left):
    folder, dead = left
    expected = {*OWN, "fd_weight_clear_update_lock__pid4194304_port8123.lock"}

    assert {path.name for path in controller.leftovers(dead)} == expected
    assert {Path(path).name for path in controller.clean(dead)} == expected
    assert {path.name for path in (folder / "shm").iterdir()} == {*OTHERS}
    assert controller.clean(dead) == ()


def test_nothing_is_removed_while_a_process_of_the_instance_lives(controller, start, left):
    folder, dead = left
    living = start()

    with pytest.raises(ControllerError, match="still live"):
        controller.clean(msgspec.structs.replace(living, ports=dead.ports))
    assert len(list((folder / "shm").iterdir())) == len(OWN + OTHERS)


def test_nothing_is_removed_while_another_server_has_the_ports(controller, left):
    _, dead = left
    with socket.create_server(("127.0.0.1", 0)) as door:
        taken = msgspec.structs.replace(dead, ports=Ports(http=door.getsockname()[1], queue=(7,)))

        with pytest.raises(ControllerError, match="another program listens"):
            controller.clean(taken)
