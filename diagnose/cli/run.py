"""``diagnose run``: look after a server in the foreground."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnose.cli.place import add_common, language, state_dir
from diagnose.errors import ConfigError

if TYPE_CHECKING:
    from diagnose.agent.config import Config
    from diagnose.agent.given import Unused
    from diagnose.agent.loop import Daemon
    from diagnose.model.text import Lang


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "run",
        help="supervise a server: diagnose, and as far as allowed cure it",
        description="Supervise a FastDeploy server in the foreground. The server outlives this command: stop it, "
        "kill it, start it again, and it takes the running server over.",
        epilog="example: diagnose run --mode auto -- python -m fastdeploy.entrypoints.openai.api_server --model DIR",
    )
    parser.add_argument("--config", metavar="FILE", help="configuration (YAML); see diagnose config schema")
    parser.add_argument("--mode", choices=("observe", "suggest", "approve", "auto"), help="how much may be done")
    parser.add_argument("--attach", type=int, metavar="PORT|PID", help="take a server that is already running")
    parser.add_argument(
        "--on-exit",
        choices=("leave", "stop"),
        default="leave",
        help="what happens to the server when this command ends (default: leave it running)",
    )
    parser.add_argument(
        "--ready",
        choices=("watching", "serving"),
        default="watching",
        help="when systemd is told that this service is ready: on watch, or the servers up, too (default: watching)",
    )
    parser.add_argument("server", nargs="*", metavar="-- COMMAND", help="the server's own command")
    add_common(parser, state=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Supervise until interrupted."""
    from datetime import datetime, timezone

    from diagnose.agent import wiring
    from diagnose.cli import screen
    from diagnose.cli.narrate import Narrator

    lang = language(args)
    config = configuration(args)
    warn_of_imaginary_flags(config, lang)
    folder = Path(config.state_dir) if config.state_dir and not args.state_dir else state_dir(args)
    narrator = Narrator(screen.standard_output(), lang, since=datetime.now(timezone.utc))
    stop = args.on_exit == "stop"
    with wiring.daemon(
        config,
        folder,
        watcher=narrator,
        file=Path(args.config) if args.config else None,
        read=lambda: configuration(args),
        stop_servers=stop,
        ready_when=args.ready,
        tell=lambda unused: warn_of_unused(unused, lang),
    ) as daemon:
        narrator.remember(daemon.state)
        supervise(daemon)
        for session in daemon.sessions.values():
            handle = session.server.handle
            if not stop and handle and session.server.alive():
                print(
                    f"diagnose: the server goes on as process {handle.pid}; run this command again to take it "
                    f"over, or end it with: kill {handle.pid}",
                    file=sys.stderr,
                )
    return 0


def supervise(daemon: Daemon) -> None:
    """Run the daemon until SIGINT or SIGTERM."""
    import anyio

    from diagnose.agent import reload

    reload.not_yet()
    anyio.run(daemon.run)


def configuration(args: argparse.Namespace) -> Config:
    """Make the configuration of file and command line; the command line wins.

    Raises:
        ConfigError: There is nothing to supervise, or the file cannot be used.
    """
    import msgspec

    from diagnose.agent.config import Config, TargetConfig
    from diagnose.catalog import trust
    from diagnose.catalog.load import read_config
    from diagnose.model.remedy import Mode

    if args.config:
        trust.refuse_others([Path(args.config)])
    config = read_config(Path(args.config), Config) if args.config else Config()
    command = tuple(args.server)
    if command or args.attach is not None:
        if command and args.attach is not None:
            raise ConfigError("a command and --attach exclude each other. Give one of them.")
        target = TargetConfig(command=command, attach=args.attach, cwd=str(Path.cwd()))
        config = msgspec.structs.replace(config, targets=(target,))
    if not config.targets:
        raise ConfigError(
            "nothing to supervise. Give a command (diagnose run -- python -m fastdeploy.entrypoints.openai.api_server "
            "--model DIR), a running server (--attach 8000) or a configuration (--config FILE)."
        )
    if args.mode:
        policy = msgspec.structs.replace(config.policy, mode=Mode(args.mode))
        config = msgspec.structs.replace(config, policy=policy)
    return config


def warn_of_unused(unused: Unused, lang: Lang) -> None:
    """Say in one line that a server was taken over as it runs, what was given otherwise, and how to get that."""
    from diagnose.report.texts import unused_text

    print(f"diagnose: {unused_text(unused.pid, unused.changes, lang)}", file=sys.stderr)


def warn_of_imaginary_flags(config: Config, lang: Lang) -> None:
    """Tell of flags that FastDeploy does not have, and name the real ones, before the server refuses them.

    Raises:
        ConfigError: A command starts no FastDeploy server.
    """
    from diagnose.launch.flags import imaginary
    from diagnose.launch.spec import fastdeploy_part

    for target in config.targets:
        if not target.command:
            continue
        fastdeploy_part(target.command)
        for problem in imaginary(target.command, {**os.environ, **target.env}):
            print(
                f"diagnose: {problem.word}: {problem.why.in_(lang)}. {problem.fix.in_(lang)}",
                file=sys.stderr,
            )
