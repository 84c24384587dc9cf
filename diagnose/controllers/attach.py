"""Finding a server that somebody else started, from its port or any of its processes."""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil

from diagnose.controllers import procfs
from diagnose.controllers.tree import MARK
from diagnose.errors import ConfigError, ControllerError
from diagnose.launch import settings
from diagnose.launch.spec import fastdeploy_part
from diagnose.model.launch import LaunchSpec

_OWN_VARIABLES = frozenset({MARK, "_", "OLDPWD", "PWD", "SHLVL", "PROMETHEUS_MULTIPROC_DIR"})


def listener(port: int | None) -> int:
    """Return a process that listens on a port, or will once its model is loaded.

    Raises:
        ControllerError: Nobody does, or it may not be seen who.
    """
    try:
        listening = [
            one for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
        ]  # fmt: skip
    except psutil.AccessDenied:
        listening = []
    pids = sorted({one.pid for one in listening if one.pid})
    if pids:
        return pids[0]
    if listening:
        raise ControllerError(
            f"the server on port {port} belongs to another user. Run diagnose as that user or as root."
        )
    if port is not None and (pid := starting_on(port)) is not None:
        return pid
    raise ControllerError(f"nobody listens on port {port}, and no server is starting that will. Start it first.")


def starting_on(port: int) -> int | None:
    """Return the main process of a server that will listen on a port: it does so only once its model is loaded."""
    fitting = [one for one in procfs.processes() if one.alive and _will_listen(procfs.cmdline(one.pid), port)]
    pids = {one.pid for one in fitting}
    return next((one.pid for one in fitting if one.ppid not in pids), None)


def _will_listen(command: tuple[str, ...], port: int) -> bool:
    try:
        return settings.http_port(LaunchSpec(argv=command)) == port
    except ConfigError:
        return False


def main_of(pid: int) -> int:
    """Climb to the topmost process whose command starts a FastDeploy server.

    Raises:
        ControllerError: There is none.
    """
    found, at = 0, pid
    while at > 1 and (one := procfs.stat(at)) is not None:
        found = at if is_server(procfs.cmdline(at)) else found
        at = one.ppid
    if not found:
        raise ControllerError(f"process {pid} is no FastDeploy server and none is above it. Give the server's own pid.")
    return found


def is_server(command: tuple[str, ...]) -> bool:
    """Say whether a command starts a FastDeploy server."""
    try:
        return bool(fastdeploy_part(command))
    except ConfigError:
        return False


def differing(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a `LaunchSpec` needs: it has them on top of our own."""
    ours = os.environ
    return {name: text for name, text in environ.items() if name not in _OWN_VARIABLES and ours.get(name) != text}
