"""What goes wrong in the scenarios, which cause is to be named, and how each must end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from tests.e2e.conftest import FITS, GIB, TOO_LARGE

NO_GRAPHS = ("--graph-optimization-config", '{"use_cudagraph": false}')

Strike = Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """One scenario: a server, what happens to it, and the right answer.

    Attributes:
        causes: Classes that name it rightly; empty for a healthy server.
        end: ``cured``, or why nothing is done by itself: ``advice`` (nothing that a daemon may do helps),
            ``approve`` (a person has to say yes), ``exhausted`` (it was tried, and a person is called); ``calm`` for
            a healthy server.
        faults, flags, env, card_gib, load_seconds: How the lab server is started.
        before: What happens to the host before the start.
        strike: What happens to the server once it serves.
        traffic: Requests at the same time while it serves, and their body.
        plan: The change that must be done, or shown where a person decides; empty where any will do.
        allowed: Remedies that ask a person as they are shipped, and that this site lets the daemon do by itself.
        seconds: How long it may take.
        keep: How long a healthy server is watched after it is ready.
    """

    name: str
    era: str
    causes: tuple[str, ...] = ()
    end: str = "cured"
    faults: tuple[str, ...] = ()
    flags: tuple[str, ...] = FITS
    env: Mapping[str, str] = field(default_factory=dict)
    card_gib: float = 6
    load_seconds: float = 0.4
    tokens_per_second: float = 100
    before: Strike | None = None
    strike: Strike | None = None
    traffic: tuple[int, Mapping[str, Any]] | None = None
    plan: str = ""
    allowed: tuple[str, ...] = ()
    seconds: float = 40
    keep: float = 4

    @property
    def key(self) -> str:
        """Name and era."""
        return f"{self.name}-{self.era}"


# --- what happens to hosts and servers


def _signal_worker(number: int) -> Strike:
    def strike(here: Any) -> None:
        ranks = [one for one in here.processes(worker=True) if one.name() != "sh"]
        ranks[0].send_signal(number)

    return strike


def _signal_main(number: int) -> Strike:
    return lambda here: os.kill(here.target().pid, number)


def _neighbour(gib: float) -> Strike:
    """Another tenant of the card holds memory for good."""

    def before(here: Any) -> None:
        path = here.folder / "gpus" / "gpu0.json"
        card = json.loads(path.read_text())
        card["leaked"]["tenant"] = int(gib * GIB)
        path.write_text(json.dumps(card))

    return before


def _card_gone(here: Any) -> None:
    (here.folder / "gpus" / "gpu0.json").unlink()


def _stranger_on_port(here: Any) -> None:
    """A program of somebody else listens where the server wants to; it ends with the site."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", here.port))  # noqa: S104 (a stranger takes all addresses)
    listener.listen(1)
    here.closing.append(listener.close)


def _leaves_the_port(here: Any) -> None:
    """As `_stranger_on_port`, and goes away once the start has failed."""
    _stranger_on_port(here)

    def leave() -> None:
        here.wait(lambda seen: bool(seen.incidents), "an incident")
        time.sleep(1.0)
        here.closing[-1]()

    threading.Thread(target=leave, daemon=True).start()


def _without_file(name: str) -> Strike:
    """Take a file of the model away."""
    return lambda here: (here.model / name).unlink()


def _missing_shards(here: Any) -> None:
    weights = {f"part.{n}": f"model-{n}-of-4.safetensors" for n in range(1, 5)}
    (here.model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def _no_dtype(here: Any) -> None:
    path = here.model / "config.json"
    config = json.loads(path.read_text())
    del config["torch_dtype"]
    path.write_text(json.dumps(config))


def _operator_restarts(here: Any) -> None:
    """An operator ends daemon and server and starts both again, as a service manager does."""
    here.stop(here.daemons[-1])
    os.kill(here.target().pid, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while here.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    here.daemon(*here.flags)
    here.wait_phase("ready", generation=2)


def _wrong_requests(here: Any) -> None:
    for body in (b"{not json", {"messages": []}, _chat("x", max_tokens=-1), _chat("x", temperature="hot")):
        here.post(body)
    here.post(_chat("word " * 40000), seconds=10)
    here.post(_chat("x", model="gpt-4o"))


def _rotate(here: Any) -> None:
    """Rename, copy and truncate, and remove logs under the writers, many times a second."""
    logs = here.folder / "log"
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        for path in [one for one in logs.rglob("*.log*") if one.is_file() and not one.is_symlink()]:
            with contextlib.suppress(OSError):
                if path.stat().st_size % 3:
                    path.replace(path.with_name(f"{path.name}.1"))
                else:
                    path.with_name(f"{path.name}.2").write_bytes(path.read_bytes())
                    os.truncate(path, 0)
        time.sleep(0.1)


def _spike(here: Any) -> None:
    """Three times as many requests for a moment as before, still within what it can serve."""
    threads = [threading.Thread(target=here.post, args=(_chat(f"spike {n}"),)) for n in range(24)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def _chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 16, **more}


# --- the table


def _both(name: str, end: str, *causes: str, eras: tuple[str, ...] = ("2.4", "2.6"), **given: Any) -> list[Case]:
    """Make the case in both eras; ``causes``, ``end`` and the rest as in `Case`."""
    return [Case(name=name, era=era, causes=causes, end=end, **given) for era in eras]


_LONG = _chat("write a long poem", max_tokens=200, ignore_eos=True)

_NARROW_DOOR = _both(
    "narrow-door",
    "approve",
    "overload_503",
    plan="--max-concurrency 4 -> 16",
    flags=("--max-model-len", "8192", "--max-num-seqs", "32", "--max-concurrency", "4"),
    traffic=(10, _LONG),
    eras=("2.6",),
)
_PREEMPTING = _both(
    "preempting",
    "approve",
    "kv_cache_insufficient",
    plan="--max-num-seqs 8 -> 6",
    flags=("--max-model-len", "2048", "--max-num-seqs", "8", "--num-gpu-blocks-override", "36"),
    traffic=(8, _chat("word " * 150, max_tokens=500, ignore_eos=True)),
    tokens_per_second=400,
)


def _allowed(cases: Iterable[Case], remedy: str) -> tuple[Case, ...]:
    """Return the same scenarios at a site that lets the daemon do by itself what it would ask a person for."""
    return tuple(replace(one, name=f"{one.name}-allowed", end="cured", allowed=(remedy,)) for one in cases)


FAULTS: tuple[Case, ...] = tuple(
    chain(
        # memory
        _both("profile-too-large", "cured", "gpu_oom_load", flags=TOO_LARGE, card_gib=3, seconds=60),
        _both("share-too-small", "cured", "kv_cache_insufficient", flags=(*FITS, "--gpu-memory-utilization", "0.25")),
        _both(
            "context-too-long-for-card",
            "cured",
            "kv_cache_insufficient",
            flags=("--max-model-len", "131072"),
            card_gib=3,
        ),
        _both(
            "share-too-large",
            "cured",
            "gpu_oom_load",
            flags=(*TOO_LARGE[:4], "--gpu-memory-utilization", "0.99"),
            card_gib=4,
        ),
        _both("neighbour-on-card", "cured", "gpu_oom_load", "kv_cache_insufficient", before=_neighbour(3), card_gib=5),
        _both("oom-while-serving", "cured", "gpu_oom_runtime", faults=("oom-serving@1#1",)),
        _both("kv-allocation-dies", "cured", "gpu_oom_load", faults=("hang-capture#1",), load_seconds=1.0),
        # starts
        _both("dies-without-words", "cured", "worker_launch_failed", faults=("worker-error:kind=silent#1",)),
        _both("hangs-while-loading", "cured", "hang_on_load", faults=("hang-load#1",)),
        _both("stranger-leaves-port", "cured", "port_in_use", before=_leaves_the_port),
        _both("nccl-at-start", "cured", "nccl_comm", faults=("worker-error:kind=nccl#1",)),
        # serving
        _both("worker-killed", "cured", "worker_crash", "host_oom", faults=("worker-killed@1#1",)),
        _both("worker-segfault", "cured", "worker_crash", faults=("worker-segv@1#1",)),
        _both(
            "killed-and-memory-stays",
            "cured",
            "worker_crash",
            "host_oom",
            faults=("worker-killed@1#1", "zombie-memory:seconds=3#1"),
        ),
        _both("illegal-access", "cured", "cuda_illegal_access", faults=("worker-error@1:kind=illegal-access#1",)),
        _both("engine-bug", "cured", "framework_bug", faults=("worker-error@1:kind=bug#1",)),
        _both("main-killed", "cured", "worker_crash", "host_oom", strike=_signal_main(signal.SIGKILL)),
        _both("worker-frozen", "cured", "engine_stall", strike=_signal_worker(signal.SIGSTOP)),
        _both("main-frozen", "cured", "engine_stall", strike=_signal_main(signal.SIGSTOP)),
        _both("no-tokens", "cured", "engine_stall", faults=("stall@1#1",)),
        _both("intake-dead", "cured", "engine_stall", faults=("intake-dead@1#1",)),
        _both("flood-then-oom", "cured", "gpu_oom_runtime", faults=("log-flood@0:seconds=1#1", "oom-serving@2#1")),
        # load: slowness and refusals, no outage; a person decides, and is shown the right change
        _both(
            "few-slots",
            "approve",
            "overload_503",
            plan="--max-num-seqs 2 -> 4",
            flags=("--max-model-len", "8192", "--max-num-seqs", "2", "--max-concurrency", "8"),
            traffic=(14, _LONG),
            tokens_per_second=60,
        ),
        _NARROW_DOOR,
        _PREEMPTING,
        _both(
            "answers-in-circles",
            "approve",
            "repetition",
            plan="--early-stop-config",
            faults=("repetition:tokens=3;words=!",),
        ),
        # the same, where the site lets the daemon do it, and the load goes on meanwhile
        _allowed(_NARROW_DOOR, "server.widen-the-door"),
        _allowed(_PREEMPTING, "server.relieve-kv-cache"),
        # what only a person can mend
        _both("weights-too-large", "advice", "gpu_oom_load", card_gib=0.5),
        _both("model-missing", "advice", "model_not_found", faults=("model-missing",)),
        _both("no-config", "advice", "model_not_found", before=_without_file("config.json")),
        _both("shards-missing", "advice", "model_download_failed", "model_not_found", before=_missing_shards),
        _both("no-weights", "advice", "model_not_found", before=_without_file("model.safetensors")),
        _both("weights-not-in-checkpoint", "advice", "model_not_found", faults=("exit-zero",)),
        _both("unknown-format", "advice", "model_format_mismatch", before=_no_dtype),
        _both("driver-too-old", "advice", "driver_too_old", faults=("cuda-mismatch",)),
        _both("cudnn-too-old", "advice", "cuda_version_mismatch", faults=("cuda-mismatch:kind=cudnn",)),
        _both("library-missing", "advice", "missing_shared_library", faults=("worker-error:kind=library",)),
        _both("no-kernel-for-card", "advice", "gpu_arch_unsupported", faults=("worker-error:kind=no-kernel",)),
        _both("disk-full", "advice", "disk_full", faults=("worker-error:kind=disk",)),
        _both("shm-full", "advice", "shm_exhausted", faults=("worker-error:kind=shm",)),
        _both("host-memory", "advice", "host_oom", faults=("worker-error:kind=host-memory",)),
        _both("no-such-card", "advice", "gpu_not_visible", env={"CUDA_VISIBLE_DEVICES": "7"}),
        _both("no-card-at-all", "advice", "gpu_not_visible", before=_card_gone),
        _both("stranger-stays-on-port", "exhausted", "port_in_use", before=_stranger_on_port),
        _both("quantization-name", "advice", "quantization_unsupported", flags=(*FITS, "--quantization", "INT4")),
        _both("no-such-flag", "advice", "invalid_argument", flags=(*FITS, "--quantize", "INT4")),
        _both("underscores", "advice", "invalid_argument", flags=("--max_model_len", "8192")),
        _both("too-many-sequences", "advice", "invalid_argument", flags=("--max-num-seqs", "300")),
        _both(
            "batch-too-small",
            "advice",
            "invalid_argument",
            flags=("--max-num-seqs", "128", "--max-num-batched-tokens", "100"),
        ),
    )
)

HEALTHY: tuple[Case, ...] = tuple(
    chain(
        _both("slow-but-healthy", "calm", traffic=(4, _chat("slowly")), tokens_per_second=14),
        _both("client-errors", "calm", strike=_wrong_requests),
        _both("spike-within-capacity", "calm", flags=(*FITS[:2], "--max-num-seqs", "32"), strike=_spike),
        _both("operator-restarts", "calm", strike=_operator_restarts),
        _both(
            "rotation-storm",
            "calm",
            faults=("log-flood@0:seconds=4",),
            strike=_rotate,
            traffic=(3, _chat("rotate")),
        ),
        _both("card-at-97-percent", "calm", flags=(*FITS, "--gpu-memory-utilization", "0.97", *NO_GRAPHS), card_gib=4),
    )
)

ALL = {case.key: case for case in (*FAULTS, *HEALTHY)}
assert len(ALL) == len(FAULTS) + len(HEALTHY)
