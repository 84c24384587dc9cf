"""``diagnose lab demo``: the whole loop, before your eyes, without a GPU."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnose.cli.place import add_common, language
from diagnose.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diagnose.agent.config import Config
    from diagnose.agent.loop import Daemon
    from diagnose.engine.state import State
    from diagnose.model.effect import Effect
    from diagnose.model.text import Lang

_MARK = ".diagnose-demo"
_MOST_SECONDS = 80
_CARD = 3 << 30
_SETTINGS = ("--max-model-len", "32768", "--max-num-seqs", "128", "--max-num-batched-tokens", "32768")
"""What a guide for a large card says: on this small one a start runs out of memory."""


def add(subparsers: Any) -> None:
    """Register the command below ``lab``."""
    parser = subparsers.add_parser(
        "demo", help="watch a server that does not fit its GPU be diagnosed, changed and proven well"
    )
    parser.add_argument("--dir", type=Path, default=Path("demo-out"), help="where to keep all (demo-out)")
    parser.add_argument("--era", choices=("2.4", "2.6"), default="2.6", help="which FastDeploy to look like (2.6)")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME", help="see: diagnose lab faults")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which hidden overheads the card has")
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; exit 0 where the server was cured and proven well."""
    from datetime import datetime, timezone

    from rich.console import Console
    from rich.text import Text

    from diagnose.agent import wiring
    from diagnose.cli import screen
    from diagnose.cli.narrate import Narrator

    folder, lang, console = args.dir.resolve(), language(args), Console(highlight=False)
    config = prepare(folder, args)
    words = _WORDS[lang]
    console.print(Text(words["intro"].format(card="3 GiB"), style="bold"))
    narrator = Narrator(screen.on(console), lang, since=datetime.now(timezone.utc))
    narrator.command(config.targets[0].command)
    done = Done(narrator)
    with wiring.daemon(config, folder / "state", watcher=done, stop_servers=True) as daemon:
        done.stop = daemon.stop
        supervise(daemon)
    report = write_report(folder, lang)
    how = "cured" if done.cured else "not-cured"
    console.print(Text(words[how], style="bold green" if done.cured else "bold red"))
    console.print(Text(words["report"].format(report=os.path.relpath(report))))
    return 0 if done.cured else 1


class Done:
    """Watches for the end: all that ailed the server is over; what this user may not watch stays as it is."""

    def __init__(self, narrator: Callable[[State, Sequence[Effect]], None]) -> None:
        self.narrator, self.cured = narrator, False
        self.stop: Callable[[], None] = lambda: None

    def __call__(self, state: State, effects: Sequence[Effect]) -> None:
        """Take note of a turn of the daemon, as its watcher."""
        from diagnose.engine.incidents import LIVE
        from diagnose.model.incident import State as Stands
        from diagnose.model.rule import Severity

        self.narrator(state, effects)
        ails = [one for one in state.incidents.values() if one.severity is not Severity.INFO]
        self.cured = any(one.state is Stands.RESOLVED and one.tries for one in ails)
        if ails and not any(one.state in LIVE - {Stands.EXHAUSTED} for one in ails):
            self.stop()


def supervise(daemon: Daemon) -> None:
    """Run the daemon until the demo is over, at most for `_MOST_SECONDS`."""
    import anyio

    late = threading.Timer(_MOST_SECONDS, daemon.stop)
    late.start()
    try:
        anyio.run(daemon.run)
    finally:
        late.cancel()


def prepare(folder: Path, args: argparse.Namespace) -> Config:
    """Make a card, a model and a configuration with short times in ``folder``.

    Raises:
        ConfigError: The folder holds something else, or cannot be written.
    """
    from diagnose.agent.config import Config, Probes, TargetConfig
    from diagnose.controllers.free_ports import free_ports
    from diagnose.engine.policy import Policy
    from diagnose.lab.environment import MODULE, lab_env
    from diagnose.lab.gpus import make_gpus
    from diagnose.lab.model import make_model
    from diagnose.launch.settings import HTTP_PORT
    from diagnose.model.remedy import Mode
    from diagnose.model.text import Duration

    try:
        if folder.exists() and not (folder / _MARK).exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder}: not empty, and not of an earlier demo. Give another folder (--dir DIR).")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _MARK).touch()
        make_gpus(folder / "gpus", 1, _CARD, "Lab GPU 3GiB")
        model = make_model(folder / "models", "ERNIE-4.5-0.3B")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used: {error.strerror}. Give another folder (--dir DIR).") from error
    env = lab_env(folder / "gpus", era=args.era, faults=args.fault, seed=args.seed, load_seconds=3.0, base={})
    os.environ["DIAGNOSE_LAB_GPUS"] = env["DIAGNOSE_LAB_GPUS"]
    (port,) = free_ports(1, HTTP_PORT)
    command = (sys.executable, "-m", MODULE, "--model", str(model), "--port", str(port), *_SETTINGS)
    policy = Policy(
        mode=Mode.AUTO,
        settle=Duration(seconds=1.5),
        stall_after=Duration(seconds=8),
        workers_gone=Duration(seconds=3),
        holds_for=Duration(seconds=6),
    )
    probes = Probes(
        health_every=Duration(seconds=1),
        completion_every=Duration(seconds=2),
        starting_every=Duration(seconds=0.5),
        timeout=Duration(seconds=10),
    )
    target = TargetConfig(command=command, env=env, cwd=str(folder))
    return Config(targets=(target,), policy=policy, probes=probes, grace=Duration(seconds=5), lang=language(args))


def write_report(folder: Path, lang: Lang) -> Path:
    """Write the incident report beside the rest."""
    from diagnose.cli.main import main

    path = folder / "report.md"
    state = str(folder / "state")
    main(["report", "--state-dir", state, "--format", "markdown", "--lang", lang, "-o", str(path)])
    return path


_WORDS = {
    "en": {
        "intro": "A FastDeploy look-alike with ERNIE-4.5-0.3B shapes is started on a pretended {card} GPU, "
        "with settings meant for a large one:",
        "cured": "Cured: the server answers with the changed settings, and the incident is resolved.",
        "not-cured": "Not cured: see the report.",
        "report": "report: {report}",
    },
    "zh": {
        "intro": "在模拟的 {card} GPU 上启动一个 FastDeploy 仿真服务（ERNIE-4.5-0.3B 结构），使用的却是大显存配置：",
        "cured": "已恢复：服务以调整后的参数正常应答，事件已解决。",
        "not-cured": "未能恢复：请查看报告。",
        "report": "报告：{report}",
    },
}
