"""What `diagnose service install` lays down: the shipped units with what this host has filled in."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from diagnose.catalog.load import shipped
from diagnose.controllers.systemd import quoted
from diagnose.errors import ConfigError
from diagnose.launch import settings
from diagnose.launch.spec import fastdeploy_part, set_flag, value
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import GpuReading
from diagnose.ports import GpuReader, GpuUnavailableError

DAEMON = "/opt/diagnose/bin/diagnose"
"""As the shipped unit spells the daemon's program."""

PYTHON = "/opt/fastdeploy/bin/python"
"""As the shipped unit spells the server's Python."""

LAUNCHER = "/usr/local/lib/diagnose/fastdeploy-launch"
CONFIG = "/etc/diagnose/diagnose.yaml"
POLKIT = "/etc/polkit-1/rules.d/50-diagnose.rules"
_UNITS = "/etc/systemd/system"
_MARK = "Installed by: diagnose service install"
_HAS_FASTDEPLOY = "import importlib.util as u, sys; sys.exit(u.find_spec('fastdeploy') is None)"
_ASK_SECONDS = 20

Part = Literal["host", "daemon", "server", "rights"]


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """One file.

    Attributes:
        part: ``host`` for both, ``daemon``, ``server``, or ``rights`` (only where they are asked for).
        ours: Written anew by each installation; else a person's from the first one on.
        group: Its owner is root.
    """

    path: str
    text: str
    part: Part
    ours: bool = True
    mode: int = 0o644
    group: str = "root"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One server as it is to run here.

    Attributes:
        python: The server's own, absolute.
        args: What FastDeploy is given.
        cards: Which cards it may see; empty where nobody can tell.
    """

    name: str
    python: str
    args: tuple[str, ...]
    cards: tuple[str, ...] = ()
    cards_told: str = ""

    @property
    def unit(self) -> str:
        """Its unit."""
        return f"fastdeploy@{self.name}.service"


def server_of(name: str, command: Sequence[str], *, cards: Sequence[GpuReading], environ: Mapping[str, str]) -> Server:
    """Work out how a command runs as a unit: absolute paths, and the cards with the most free memory.

    Raises:
        ConfigError: It starts no FastDeploy server, its Python or model is not there, or it wants more cards than
            there are.
    """
    spec = LaunchSpec(argv=tuple(command), cwd=str(Path.cwd()))
    at = fastdeploy_part(spec.argv)
    model = value(spec, "--model")
    if model and (Path(model).is_dir() or model.startswith((".", "/"))):
        if not Path(model).is_dir():
            raise ConfigError(f"{model}: there is no such model folder. Give the folder that holds config.json.")
        spec = set_flag(spec, "--model", str(Path(model).resolve()))
    chosen, told = _cards_for(spec, cards, environ)
    return Server(name=name, python=_python_of(spec.argv[:at]), args=spec.argv[at:], cards=chosen, cards_told=told)


def _python_of(program: Sequence[str]) -> str:
    """Return the Python of a command's program: itself, or the one beside ``fastdeploy``."""
    word = next((one for one in program if re.fullmatch(r"python[\d.]*|fastdeploy", Path(one).name)), program[0])
    found = _which(word)
    python = found.with_name("python") if found.name == "fastdeploy" else found
    done = subprocess.run(  # noqa: S603 - the operator's own Python
        [str(python), "-c", _HAS_FASTDEPLOY], check=False, capture_output=True, timeout=_ASK_SECONDS
    )
    if done.returncode:
        raise ConfigError(f"{python} has no fastdeploy. Give the Python that FastDeploy is installed in.")
    return str(python)


def _which(word: str) -> Path:
    places = [Path(word)] if "/" in word else [Path(one) / word for one in os.get_exec_path()]
    for one in places:
        if os.access(one, os.X_OK) and one.is_file():
            return one.absolute()
    raise ConfigError(f"{word} is not there, or cannot be run. Give its full path.")


def _cards_for(
    spec: LaunchSpec, cards: Sequence[GpuReading], environ: Mapping[str, str]
) -> tuple[tuple[str, ...], str]:
    if named := environ.get("CUDA_VISIBLE_DEVICES"):
        return tuple(named.split(",")), "as CUDA_VISIBLE_DEVICES said at the installation"
    if not cards:
        return (), ""
    wanted = int(value(spec, "--tensor-parallel-size") or 1) * settings.ranks_here(spec, {})
    if wanted > len(cards):
        raise ConfigError(f"the command wants {wanted} cards, there are {len(cards)}. Lower --tensor-parallel-size.")
    freest = sorted(cards, key=lambda one: one.used_bytes - one.total_bytes)[:wanted]
    told = f"{wanted} of {len(cards)} cards ({freest[0].name}), those with the most free memory at the installation"
    return tuple(sorted(one.label for one in freest)), told


def cards_here(reader: GpuReader) -> Sequence[GpuReading]:
    """Return the cards that work; none where they cannot be read."""
    try:
        return [one for one in reader.read(()) if one.state == "ok"]
    except GpuUnavailableError:
        return ()


def files(server: Server) -> tuple[Placed, ...]:
    """Return all that is to be laid down, in this order."""
    daemon = str(Path(sys.executable).with_name("diagnose"))
    python = f"[Service]\nExecStart=\nExecStart={server.python} {LAUNCHER}\n"
    return (
        Placed(path="/etc/sysusers.d/diagnose.conf", text=_shipped("sysusers.conf"), part="host"),
        Placed(path="/etc/tmpfiles.d/diagnose.conf", text=_shipped("tmpfiles.conf"), part="host"),
        Placed(path=LAUNCHER, text=_shipped("fastdeploy-launch"), part="server"),
        Placed(path=f"{_UNITS}/fastdeploy@.service", text=_shipped("fastdeploy@.service"), part="server"),
        Placed(path=f"{_UNITS}/{server.unit}.d/10-python.conf", text=_marked(python), part="server"),
        Placed(
            path=f"/etc/diagnose/servers/{server.name}.env",
            text=_environment(server),
            part="server",
            ours=False,
            mode=0o640,
            group="diagnose",
        ),
        Placed(
            path=f"{_UNITS}/diagnose.service", text=_shipped("diagnose.service").replace(DAEMON, daemon), part="daemon"
        ),
        Placed(path=CONFIG, text=_config(server), part="daemon", ours=False),
        Placed(path=POLKIT, text=_shipped("polkit.rules", comment="//"), part="rights"),
    )


def sudoers(server: Server) -> str:
    """Return the line for those who let sudo decide: these two commands and no others."""
    commands = ", ".join(f"/usr/bin/systemctl --no-ask-password {verb} -- {server.unit}" for verb in ("start", "stop"))
    return f"diagnose ALL=(root) NOPASSWD: {commands}"


def is_ours(text: str) -> bool:
    """Say whether a file was laid down by an installation and may be replaced or removed by one."""
    return _MARK in text.split("\n", 1)[0]


def _shipped(name: str, comment: str = "#") -> str:
    return _marked((shipped("service") / "systemd" / name).read_text(encoding="utf-8"), comment)


def _marked(text: str, comment: str = "#") -> str:
    return f"{comment} {_MARK}. Written anew by the next one: change it in a drop-in.\n{text}"


def _environment(server: Server) -> str:
    cards = f"# {server.cards_told}\nCUDA_VISIBLE_DEVICES={','.join(server.cards)}\n" if server.cards else ""
    return (
        f"# The server {server.name}: yours to edit. Then: systemctl restart {server.unit}\n"
        f"{cards}# Quoted as in a shell, within double quotes.\nFASTDEPLOY_ARGS={quoted(shlex.join(server.args))}\n"
    )


def _config(server: Server) -> str:
    return (
        "# The daemon's configuration: yours to edit. All fields: diagnose config show; check it: diagnose config "
        f"check {CONFIG}\n"
        "# Only root may be able to write here. Then: systemctl restart diagnose (the servers are taken over).\n"
        f"targets:\n  - {{name: {server.name}, unit: {server.unit}}}\n"
        "policy:\n  mode: suggest                   # observe < suggest < approve < auto\n"
    )
