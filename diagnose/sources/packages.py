"""The Python that a server runs in, and what is installed there; nothing of it is imported."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.parser import HeaderParser
from pathlib import Path

import msgspec

from diagnose.errors import ConfigError
from diagnose.launch.settings import merged_env
from diagnose.launch.spec import fastdeploy_part
from diagnose.model.launch import LaunchSpec
from diagnose.sources.ask import ask

_SCRIPT = (
    "import sys, json; print(json.dumps({'executable': sys.executable, "
    "'version': '.'.join(map(str, sys.version_info[:3])), 'path': sys.path}))"
)
_PATIENCE = 15.0
"""Seconds for an interpreter that does nothing but start; slow where its folder is on a network."""

_HARMLESS = re.compile(r"(python|pypy)[\d.]*t?|env|numactl|taskset|nice|ionice|chrt|nohup|setsid|stdbuf|time")
"""Programs in front of the server that may be run for a question: an interpreter, and what only hands on."""

_MOST_PACKAGES = 2000
_HEAD_BYTES = 8 << 10
_RECORD_BYTES = 8 << 20
_BUILT = re.compile(r"(fastdeploy|paddlepaddle)(?!-diagnose).*")
"""Packages of which several builds carry one version: one for each CUDA, or a nightly."""

_SHEBANG = re.compile(rb"#!\s*(\S[^\n]*)|'''exec' (\S[^\n]*?) \"\$0\"")
_FASTDEPLOY = ("fastdeploy-gpu", "fastdeploy", "fastdeploy-xpu")


class Python(msgspec.Struct, frozen=True, kw_only=True):
    """One interpreter, as it sees itself.

    Attributes:
        command: The words that start it, wrappers such as ``env`` or ``numactl`` in front included.
        path: Where it looks for packages (``sys.path``), first come first.
    """

    command: tuple[str, ...]
    executable: str
    version: str
    path: tuple[str, ...]


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One installed package: ``name`` as package indexes write it, ``place`` its ``.dist-info`` folder."""

    name: str
    version: str
    place: str


def python_of(spec: LaunchSpec, stop: threading.Event | None = None) -> Python | None:
    """Ask the interpreter that the command starts what it is; ``None`` where it has none, or gives no answer."""
    command = interpreter(spec)
    if not command:
        return None
    env = merged_env(spec, os.environ)
    answer = ask([*command, "-c", _SCRIPT], cwd=spec.cwd, env=env, seconds=_PATIENCE, stop=stop)
    try:
        told = json.loads(answer.strip().split("\n")[-1])
        path = [one for one in told["path"] if one]
        return Python(command=command, executable=told["executable"], version=told["version"], path=tuple(path))
    except (ValueError, KeyError, TypeError):
        return None


def interpreter(spec: LaunchSpec) -> tuple[str, ...]:
    """Return the words that start the command's Python, wrappers and its own options included; empty for none.

    Behind a program that is not known to do nothing by itself (``docker``, a script) nothing is asked.
    """
    try:
        part = fastdeploy_part(spec.argv)
    except ConfigError:
        return ()
    if not _HARMLESS.fullmatch(Path(spec.argv[0]).name) and not _is_script(spec.argv[0]):
        return ()
    for at, word in enumerate(spec.argv[:part]):
        if word.startswith("-m") or word.endswith("api_server.py"):
            return spec.argv[:at]
        if _is_script(word) and spec.argv[at + 1 : at + 2] == ("serve",):
            return (*spec.argv[:at], *_shebang(word, spec))
    return ()


def _is_script(word: str) -> bool:
    return Path(word).name == "fastdeploy"


def help_words(spec: LaunchSpec) -> tuple[str, ...]:
    """Return the command that prints the server's flags; empty where nothing may be asked (`interpreter`).

    The launcher of several servers hands its words on to each: one server is asked instead.
    """
    if not interpreter(spec):
        return ()
    part = fastdeploy_part(spec.argv)
    several = next((at for at, word in enumerate(spec.argv[:part]) if "multi_api_server" in word), None)
    if several is None:
        return (*spec.argv[:part], "--help")
    return (*spec.argv[:several], spec.argv[several].replace("multi_api_server", "api_server"), "--help")


def packages(python: Python, *, until: float | None = None) -> dict[str, Package] | None:
    """Return all packages by name, as ``importlib.metadata`` would find them: the first of each name counts.

    Args:
        until: Of the monotonic clock; ``None`` is returned when it passes.
    """
    found: dict[str, Package] = {}
    for place in _places(python.path):
        if len(found) >= _MOST_PACKAGES:
            break
        if until is not None and time.monotonic() > until:
            return None
        package = _package(place)
        if package is not None:
            found.setdefault(package.name, package)
    return dict(sorted(found.items()))


def version_text(package: Package) -> str:
    """Return a version for people; where one version has several builds, with a fingerprint of its files."""
    if not _BUILT.fullmatch(package.name):
        return package.version
    try:
        with (Path(package.place) / "RECORD").open("rb") as file:
            digest = hashlib.sha256(file.read(_RECORD_BYTES)).hexdigest()[:8]
    except OSError:
        return package.version
    return f"{package.version} (files {digest})"


def fastdeploy_of(found: Mapping[str, Package]) -> Package | None:
    """Return the package that is the server."""
    return next((found[name] for name in _FASTDEPLOY if name in found), None)


def _places(path: Iterable[str]) -> Iterator[Path]:
    for folder in dict.fromkeys(path):
        try:
            with os.scandir(folder) as entries:
                names = sorted(one.name for one in entries if one.name.endswith((".dist-info", ".egg-info")))
        except OSError:
            continue
        yield from (Path(folder) / name for name in names)


def _package(place: Path) -> Package | None:
    file = place / ("METADATA" if place.suffix == ".dist-info" else "PKG-INFO")
    try:
        with (place if place.is_file() else file).open("rb") as opened:
            head = HeaderParser().parsestr(opened.read(_HEAD_BYTES).decode(errors="replace"))
        name, version = head["Name"], head["Version"]
    except OSError:
        name = version = None
    if not name or not version:  # broken; the folder's name tells the same
        name, _, rest = place.stem.partition("-")
        version = rest.partition("-")[0]
    plain = re.sub(r"[-_.]+", "-", str(name)).lower()
    return Package(name=plain, version=str(version), place=str(place)) if plain and version else None


def _shebang(script: str, spec: LaunchSpec) -> Sequence[str]:
    """Read which Python a script such as ``fastdeploy`` starts; long paths stand in its second line (pip)."""
    where = shutil.which(script, path=merged_env(spec, os.environ).get("PATH"))
    where = where or str(Path(spec.cwd) / script)
    try:
        with Path(where).open("rb") as file:
            lines = file.read(1024).split(b"\n")[:2]
    except OSError:
        return ()
    found = [match for line in lines if (match := _SHEBANG.match(line))]
    words = shlex.split(os.fsdecode(next((one for one in found[-1].groups() if one), b""))) if found else []
    return words[1:] if words and Path(words[0]).name == "env" else words
