"""``diagnose service``: the daemon and a server as systemd units of this host."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnose.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diagnose.agent.installing import Placed, Server

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def add(subparsers: Any) -> None:
    """Register the commands."""
    parser = subparsers.add_parser("service", help="the daemon and a server as systemd units")
    commands = parser.add_subparsers(dest="service_command", required=True, metavar="COMMAND")
    example = "example: diagnose service install --name ernie -- /opt/fastdeploy/bin/python -m "
    example += "fastdeploy.entrypoints.openai.api_server --model /models/ERNIE-4.5-21B-A3B-Paddle --port 8000"
    show = commands.add_parser("show", help="print what install would lay down; touches nothing", epilog=example)
    show.set_defaults(run=run_show)
    install = commands.add_parser("install", help="lay the units down, with what this host has", epilog=example)
    install.add_argument("--grant", action="store_true", help="write the polkit rule, too: start and stop the servers")
    install.add_argument("--now", action="store_true", help="enable and start the daemon, which starts the server")
    install.set_defaults(run=run_install)
    for one in (show, install):
        one.add_argument("--name", default="default", help="how the server is called: fastdeploy@NAME.service")
        one.add_argument("server", nargs="*", metavar="-- COMMAND", help="the server's own command")
    uninstall = commands.add_parser("uninstall", help="stop the daemon and take its unit away; servers run on")
    uninstall.add_argument("--servers", action="store_true", help="take the servers' unit away, too; none may run")
    uninstall.set_defaults(run=run_uninstall)
    install.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="lay the files down below DIR only"
    )


def run_show(args: argparse.Namespace) -> int:
    """Print each file, and both ways to give the rights."""
    from diagnose.agent import installing

    server = _server(args)
    for one in installing.files(server):
        asked = " (with --grant)" if one.part == "rights" else "" if one.ours else " (only where it is not there yet)"
        print(f"==> {one.path}  mode {one.mode:04o}  root:{one.group}{asked}\n{one.text}")
    print(f"==> instead of polkit, where the daemon runs outside of its unit: sudoers\n{installing.sudoers(server)}")
    print("with, in the target's configuration: systemctl: [sudo, -n, /usr/bin/systemctl]")
    return 0


def run_install(args: argparse.Namespace) -> int:
    """Lay the files down, make users and folders, and say what is left to do."""
    from diagnose.agent import installing

    here = args.root == Path("/")
    if here:
        _need_root()
    server = _server(args)
    placed = [one for one in installing.files(server) if one.part != "rights" or args.grant]
    _refuse_strangers(placed, args.root)
    first = [one for one in placed if one.part == "host"]
    for one in first:
        _lay(one, args.root)
    if here:
        _call("systemd-sysusers", "/etc/sysusers.d/diagnose.conf")
        _call("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/diagnose.conf")
    for one in placed[len(first) :]:
        _lay(one, args.root)
    if here:
        _call("systemctl", "daemon-reload")
        if args.now:
            _call("systemctl", "enable", "--now", "diagnose.service")
    _tell_rest(args, server)
    return 0


def run_uninstall(args: argparse.Namespace) -> int:
    """Take the daemon away. No server is stopped."""
    from diagnose.agent import installing

    _need_root()
    running = _words("systemctl", "list-units", "--plain", "--no-legend", "--state=active", "fastdeploy@*.service")
    if args.servers and running:
        raise ConfigError(f"{running.split()[0]} runs. Stop it first: systemctl stop {running.split()[0]}")
    if Path("/etc/systemd/system/diagnose.service").exists():
        _call("systemctl", "disable", "--now", "diagnose.service")
    parts = {"daemon", "rights", *({"host", "server"} if args.servers else ())}
    nobody = installing.Server(name="default", python=installing.PYTHON, args=())
    paths = [Path(one.path) for one in installing.files(nobody) if one.part in parts and one.ours]
    paths += sorted(Path("/etc/systemd/system").glob("fastdeploy@*.service.d/10-python.conf")) if args.servers else []
    for path in dict.fromkeys(paths):
        if path.is_file() and installing.is_ours(path.read_text(encoding="utf-8", errors="replace")):
            path.unlink()
            print(f"removed {path}")
    _call("systemctl", "daemon-reload")
    print("left as they are: /etc/diagnose, /var/lib/diagnose, the users diagnose and fastdeploy")
    for overlay in sorted(Path("/var/lib/diagnose/overlays").glob("*.env")):
        print(f"still in force, changed by a remedy: {overlay}. Remove it to go back to the server's own arguments.")
    return 0


def _server(args: argparse.Namespace) -> Server:
    import re

    from diagnose.agent import installing
    from diagnose.sources.gpu import reader_for

    if not re.fullmatch(_NAME, args.name):
        raise ConfigError(f"{args.name!r} is no name for a unit. Use letters, digits, dots, dashes.")
    if not args.server:
        raise ConfigError(
            "no server. Give its command: diagnose service install -- /opt/fastdeploy/bin/python -m "
            "fastdeploy.entrypoints.openai.api_server --model DIR"
        )
    cards = installing.cards_here(reader_for(os.environ))
    return installing.server_of(args.name, args.server, cards=cards, environ=os.environ)


def _refuse_strangers(placed: Sequence[Placed], root: Path) -> None:
    """Refuse, before anything is written, where a file of somebody else has one of our names."""
    from diagnose.agent import installing

    for one in placed:
        path = _below(root, one.path)
        if one.ours and path.exists() and not installing.is_ours(path.read_text(encoding="utf-8", errors="replace")):
            raise ConfigError(f"{path} was not laid down by diagnose. Move it away, and install again.")


def _lay(one: Placed, root: Path) -> None:
    path = _below(root, one.path)
    if path.exists() and not one.ours:
        print(f"kept    {path}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.touch(mode=0o600)
    beside.chmod(0o600)
    beside.write_text(one.text, encoding="utf-8")
    if root == Path("/"):
        shutil.chown(beside, "root", one.group)
    beside.chmod(one.mode)
    beside.replace(path)
    print(f"written {path}")


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _tell_rest(args: argparse.Namespace, server: Server) -> None:
    from diagnose.agent import installing

    line = f"{{name: {server.name}, unit: {server.unit}}}"
    config = _below(args.root, installing.CONFIG)
    if server.unit not in config.read_text(encoding="utf-8"):
        print(f"to do:  add to targets in {config}: - {line}")
    if not args.grant:
        print("to do:  the daemon may not start or stop the server yet. Look at the rule (diagnose service show),")
        print("        then install again with --grant, or put it where your site keeps such rules")
    if not args.now and args.root == Path("/"):
        print(f"to do:  systemctl enable --now diagnose.service {server.unit}")


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ConfigError("units are laid down by root. Run it with sudo, or use --root DIR, or diagnose service show.")
    if not shutil.which("systemctl"):
        raise ConfigError(
            "there is no systemctl here: this host's init is not systemd. See docs/service.md, containers."
        )


def _call(*words: str) -> None:
    """Run one command of systemd's.

    Raises:
        ConfigError: It failed; with its own words.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split()).rstrip(".")
        raise ConfigError(f"{' '.join(words)} failed: {told}. Mend that, and run this command again.")


def _words(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    return done.stdout.strip()
