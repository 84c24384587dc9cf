"""What goes wrong in the scenarios, which cause is to be named, and how each must end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diagnose.lab.gpus import make_gpus

GIB = 1 << 30
FITS = ("--max-model-len", "8192", "--max-num-seqs", "8")
LARGE = ("--max-model-len", "32768", "--max-num-seqs", "128", "--max-num-batched-tokens", "32768")
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


def _model_file(name: str, text: str | None) -> Strike:
    """Take a file of the model away, or write another."""

    def before(here: Any) -> None:
        path = here.model / name
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)

    return before


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


def _card_of(gib: float, count: int) -> Strike:
    return lambda here: make_gpus(here.folder / "gpus", count, int(gib * GIB), "Lab GPU")


# --- the table


def _both(name: str, **given: Any) -> list[Case]:
    eras = str(given.pop("eras", "2.4 2.6")).split()
    return [Case(name=name, era=era, **given) for era in eras]


def _advice(name: str, cause: str | tuple[str, ...], **given: Any) -> list[Case]:
    causes = (cause,) if isinstance(cause, str) else cause
    return _both(name, causes=causes, end="advice", **given)


def _cured(name: str, *causes: str, **given: Any) -> list[Case]:
    return _both(name, causes=causes, **given)


_LONG = _chat("write a long poem", max_tokens=200, ignore_eos=True)

FAULTS: tuple[Case, ...] = tuple(
    case
    for cases in (
        # memory
        _cured("profile-too-large", "gpu_oom_load", flags=LARGE, card_gib=3, seconds=60),
        _cured("share-too-small", "kv_cache_insufficient", flags=(*FITS, "--gpu-memory-utilization", "0.25")),
        _cured("context-too-long-for-card", "kv_cache_insufficient", flags=("--max-model-len", "131072"), card_gib=3),
        _cured("share-too-large", "gpu_oom_load", flags=(*LARGE[:4], "--gpu-memory-utilization", "0.99"), card_gib=4),
        _cured("neighbour-on-card", "gpu_oom_load", "kv_cache_insufficient", before=_neighbour(3), card_gib=5),
        _cured("oom-while-serving", "gpu_oom_runtime", faults=("oom-serving@1#1",)),
        _cured("kv-allocation-dies", "gpu_oom_load", faults=("hang-capture#1",), load_seconds=1.0),
        # starts
        _cured("dies-without-words", "worker_launch_failed", faults=("worker-error:kind=silent#1",)),
        _cured("hangs-while-loading", "hang_on_load", faults=("hang-load#1",)),
        _cured("stranger-leaves-port", "port_in_use", before=_leaves_the_port),
        _cured("nccl-at-start", "nccl_comm", faults=("worker-error:kind=nccl#1",)),
        # serving
        _cured("worker-killed", "worker_crash", "host_oom", faults=("worker-killed@1#1",)),
        _cured("worker-segfault", "worker_crash", faults=("worker-segv@1#1",)),
        _cured(
            "killed-and-memory-stays",
            "worker_crash",
            "host_oom",
            faults=("worker-killed@1#1", "zombie-memory:seconds=3#1"),
        ),
        _cured("illegal-access", "cuda_illegal_access", faults=("worker-error@1:kind=illegal-access#1",)),
        _cured("engine-bug", "framework_bug", faults=("worker-error@1:kind=bug#1",)),
        _cured("main-killed", "worker_crash", "host_oom", strike=_signal_main(signal.SIGKILL)),
        _cured("worker-frozen", "engine_stall", strike=_signal_worker(signal.SIGSTOP)),
        _cured("main-frozen", "engine_stall", strike=_signal_main(signal.SIGSTOP)),
        _cured("no-tokens", "engine_stall", faults=("stall@1#1",)),
        _cured("intake-dead", "engine_stall", faults=("intake-dead@1#1",)),
        _cured("flood-then-oom", "gpu_oom_runtime", faults=("log-flood@0:seconds=1#1", "oom-serving@2#1")),
        # load: slowness and refusals, no outage; a person decides, and is shown the right change
        _both(
            "few-slots",
            causes=("overload_503",),
            end="approve",
            plan="--max-num-seqs 2 -> 4",
            flags=("--max-model-len", "8192", "--max-num-seqs", "2", "--max-concurrency", "8"),
            traffic=(14, _LONG),
            tokens_per_second=60,
        ),
        _both(
            "narrow-door",
            causes=("overload_503",),
            end="approve",
            plan="--max-concurrency 4 -> 16",
            flags=("--max-model-len", "8192", "--max-num-seqs", "32", "--max-concurrency", "4"),
            traffic=(10, _LONG),
            eras="2.6",
        ),
        _both(
            "preempting",
            causes=("kv_cache_insufficient",),
            end="approve",
            plan="--max-num-seqs 8 -> 6",
            flags=("--max-model-len", "2048", "--max-num-seqs", "8", "--num-gpu-blocks-override", "36"),
            traffic=(8, _chat("word " * 150, max_tokens=500, ignore_eos=True)),
            tokens_per_second=400,
        ),
        _both(
            "answers-in-circles",
            causes=("repetition",),
            end="approve",
            plan="--early-stop-config",
            faults=("repetition:tokens=3;words=!",),
        ),
        # what only a person can mend
        _advice("weights-too-large", "gpu_oom_load", card_gib=0.5),
        _advice("model-missing", "model_not_found", faults=("model-missing",)),
        _advice("no-config", "model_not_found", before=_model_file("config.json", None)),
        _advice("shards-missing", ("model_download_failed", "model_not_found"), before=_missing_shards),
        _advice("no-weights", "model_not_found", before=_model_file("model.safetensors", None)),
        _advice("weights-not-in-checkpoint", "model_not_found", faults=("exit-zero",)),
        _advice("unknown-format", "model_format_mismatch", before=_no_dtype),
        _advice("driver-too-old", "driver_too_old", faults=("cuda-mismatch",)),
        _advice("cudnn-too-old", "cuda_version_mismatch", faults=("cuda-mismatch:kind=cudnn",)),
        _advice("library-missing", "missing_shared_library", faults=("worker-error:kind=library",)),
        _advice("no-kernel-for-card", "gpu_arch_unsupported", faults=("worker-error:kind=no-kernel",)),
        _advice("disk-full", "disk_full", faults=("worker-error:kind=disk",)),
        _advice("shm-full", "shm_exhausted", faults=("worker-error:kind=shm",)),
        _advice("host-memory", "host_oom", faults=("worker-error:kind=host-memory",)),
        _advice("no-such-card", "gpu_not_visible", env={"CUDA_VISIBLE_DEVICES": "7"}),
        _advice("no-card-at-all", "gpu_not_visible", before=_card_gone),
        _both("stranger-stays-on-port", causes=("port_in_use",), end="exhausted", before=_stranger_on_port),
        _advice("quantization-name", "quantization_unsupported", flags=(*FITS, "--quantization", "INT4")),
        _advice("no-such-flag", "invalid_argument", flags=(*FITS, "--quantize", "INT4")),
        _advice("underscores", "invalid_argument", flags=("--max_model_len", "8192")),
        _advice("too-many-sequences", "invalid_argument", flags=("--max-num-seqs", "300")),
        _advice(
            "batch-too-small", "invalid_argument", flags=("--max-num-seqs", "128", "--max-num-batched-tokens", "100")
        ),
    )
    for case in cases
)

HEALTHY: tuple[Case, ...] = tuple(
    case
    for cases in (
        _both("slow-but-healthy", end="calm", traffic=(4, _chat("slowly")), tokens_per_second=14),
        _both("client-errors", end="calm", strike=_wrong_requests),
        _both("spike-within-capacity", end="calm", flags=(*FITS[:2], "--max-num-seqs", "32"), strike=_spike),
        _both("operator-restarts", end="calm", strike=_operator_restarts),
        _both(
            "rotation-storm",
            end="calm",
            faults=("log-flood@0:seconds=4",),
            strike=_rotate,
            traffic=(3, _chat("rotate")),
        ),
        _both(
            "card-at-97-percent", end="calm", flags=(*FITS, "--gpu-memory-utilization", "0.97", *NO_GRAPHS), card_gib=4
        ),
    )
    for case in cases
)

ALL = {case.key: case for case in (*FAULTS, *HEALTHY)}
assert len(ALL) == len(FAULTS) + len(HEALTHY)
