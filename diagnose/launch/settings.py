"""What the daemon must know of a command: where the server logs, listens and keeps its model.

Each function takes the command and, where there is one, the values of its ``--config`` file
(`diagnose.launch.config.flag_values`). All raise `ConfigError` for a command that starts no
FastDeploy server.
Defaults: fastdeploy/envs.py, engine/args_utils.py and entrypoints/openai/utils.py of FastDeploy 2.x.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence

from diagnose.launch.config import EMPTY, lookup
from diagnose.launch.flags import parse_version
from diagnose.launch.spec import set_flag
from diagnose.launch.table import BY_NAME
from diagnose.model.launch import LaunchSpec

HTTP_PORT = 8000
DEFAULT_MODEL = "baidu/ernie-45-turbo"


def merged_env(spec: LaunchSpec, environ: Mapping[str, str] = EMPTY) -> dict[str, str]:
    """Return the variables that the server will see: ``environ`` and the command's own on top."""
    return {**environ, **spec.env}


def log_dir(spec: LaunchSpec, environ: Mapping[str, str] = EMPTY) -> str:
    """Return the absolute folder of the logs: ``FD_LOG_DIR``, or ``log`` below the working directory."""
    given = merged_env(spec, environ).get("FD_LOG_DIR") or "log"
    return posixpath.normpath(posixpath.join(spec.cwd, given))


def http_port(spec: LaunchSpec, config: Mapping[str, str] = EMPTY) -> int:
    """Return the port of the HTTP server; 8000 where none, or no number, is given."""
    return (_ports(lookup(spec, "--port", config)) or (HTTP_PORT,))[0]


def host(spec: LaunchSpec, config: Mapping[str, str] = EMPTY) -> str:
    """Return the address where a probe on this machine reaches the server."""
    given = lookup(spec, "--host", config)
    if given in {None, "", "0.0.0.0"}:  # noqa: S104 - read, not bound
        return "127.0.0.1"
    return f"[{'::1' if given == '::' else given}]" if given is not None and ":" in given else str(given)


def base_url(spec: LaunchSpec, config: Mapping[str, str] = EMPTY) -> str:
    """Return ``http://host:port`` without a slash at its end."""
    return f"http://{host(spec, config)}:{http_port(spec, config)}"


def metrics_port(spec: LaunchSpec, version: str | None = None, config: Mapping[str, str] = EMPTY) -> int:
    """Return the port of ``/metrics``: given, else 8001 up to 2.3, else the main port."""
    given = _ports(lookup(spec, "--metrics-port", config))
    if given:
        return given[0]
    minor = parse_version(version)
    return 8001 if minor is not None and minor < (2, 4) else http_port(spec, config)


def queue_ports(spec: LaunchSpec, version: str | None = None, config: Mapping[str, str] = EMPTY) -> tuple[int, ...]:
    """Return the engine worker queue's ports, one a data-parallel rank.

    Empty where none is given: from 2.3 on they are random then; 8002 up to 2.2.
    """
    given = _ports(lookup(spec, "--engine-worker-queue-port", config))
    return given or _old(version, 8002)


def cache_ports(spec: LaunchSpec, version: str | None = None, config: Mapping[str, str] = EMPTY) -> tuple[int, ...]:
    """Return the cache queue's ports; as `queue_ports`, with 8003."""
    given = _ports(lookup(spec, "--cache-queue-port", config))
    return given or _old(version, 8003)


def named_ports(spec: LaunchSpec, config: Mapping[str, str] = EMPTY) -> frozenset[int]:
    """Return every port that a flag names, and the HTTP server's."""
    flags = [name for name in BY_NAME if name.endswith(("-port", "-ports"))]
    given = {port for name in flags for port in _ports(lookup(spec, name, config))}
    return frozenset(given | {http_port(spec, config)})


def queue_port(spec: LaunchSpec, version: str | None = None, config: Mapping[str, str] = EMPTY) -> int | None:
    """Return the first of `queue_ports`."""
    return next(iter(queue_ports(spec, version, config)), None)


def cache_port(spec: LaunchSpec, version: str | None = None, config: Mapping[str, str] = EMPTY) -> int | None:
    """Return the first of `cache_ports`."""
    return next(iter(cache_ports(spec, version, config)), None)


def model_path(spec: LaunchSpec, config: Mapping[str, str] = EMPTY) -> str:
    """Return ``--model`` as given: a folder or the name in a hub."""
    return lookup(spec, "--model", config) or DEFAULT_MODEL


def api_key(spec: LaunchSpec, config: Mapping[str, str] = EMPTY, environ: Mapping[str, str] = EMPTY) -> str | None:
    """Return a key from ``--api-key`` or ``FD_API_KEY``; ``None`` where the server asks for none.

    A secret: never to be logged or shown.
    """
    listed = merged_env(spec, environ).get("FD_API_KEY", "")
    keys = [lookup(spec, "--api-key", config) or "", *listed.split(",")]
    return next((key.strip() for key in keys if key.strip()), None)


def visible_devices(spec: LaunchSpec, environ: Mapping[str, str] = EMPTY) -> tuple[str, ...] | None:
    """Return the entries of ``CUDA_VISIBLE_DEVICES``, numbers or UUIDs; ``None``, not set, means all."""
    given = merged_env(spec, environ).get("CUDA_VISIBLE_DEVICES")
    return None if given is None else tuple(one.strip() for one in given.split(",") if one.strip())


def ranks_here(spec: LaunchSpec, config: Mapping[str, str] = EMPTY) -> int:
    """Return how many data-parallel ranks run on this machine: one queue and one cache port each."""
    size = _number(lookup(spec, "--data-parallel-size", config), 1)
    nodes = len([ip for ip in (lookup(spec, "--ips", config) or "").split(",") if ip]) or 1
    return max(size // nodes, 1)


def with_ports(
    spec: LaunchSpec,
    queue_port: int | Sequence[int],
    cache_port: int | Sequence[int],
    *,
    accepted: Collection[str] = (),
    config: Mapping[str, str] = EMPTY,
) -> LaunchSpec:
    """Return the command with its internal ports named, so that what it leaves behind is known as its own.

    A flag that is given already, or that the server does not accept, stays as it is.

    Args:
        queue_port: One port, or one for each of `ranks_here`; the server ignores any other number of them.
        accepted: Flags that this server takes; empty where it is not known.
    """
    rows = (("--engine-worker-queue-port", queue_port), ("--cache-queue-port", cache_port))
    for flag, given in rows:
        ports = [given] if isinstance(given, int) else list(given)
        known = not accepted or flag in accepted
        if known and lookup(spec, flag, config) is None and len(ports) == ranks_here(spec, config):
            spec = set_flag(spec, flag, ",".join(map(str, ports)), accepted)
    return spec


def _old(version: str | None, port: int) -> tuple[int, ...]:
    minor = parse_version(version)
    return (port,) if minor is not None and minor < (2, 3) else ()


def _ports(given: str | None) -> tuple[int, ...]:
    """Read ``8002`` or ``8002,8012``; -1 and what is no number mean none."""
    words = (given or "").split(",")
    return tuple(int(word) for word in words if word.strip().isdigit() and 0 < int(word) < 65536)


def _number(given: str | None, default: int) -> int:
    return int(given) if given is not None and given.strip().isdigit() else default
