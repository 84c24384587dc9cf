"""``diagnose lab``: run the lab server, list its faults."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from diagnose.cli import demo

if TYPE_CHECKING:
    from collections.abc import Sequence

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # its only name

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def add(subparsers: Subparsers) -> Subparsers:
    """Register ``lab`` and give its own sub-parsers, so that more can be registered there."""
    lab = subparsers.add_parser("lab", help="a stand-in for a FastDeploy server, to practise on")
    found = lab.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")
    serve = found.add_parser("serve", help="run the stand-in server in the foreground")
    serve.add_argument("--gpu-memory", type=size, default=4 << 30, metavar="SIZE", help="of each card (4GiB)")
    serve.add_argument("--gpus", type=int, default=1, metavar="N", help="how many cards (1)")
    serve.add_argument("--model", default="ERNIE-4.5-0.3B", metavar="NAME", help="which model's shapes")
    serve.add_argument("--fault", action="append", default=[], metavar="NAME[@SECONDS]", help="see: lab faults")
    serve.add_argument("--era", choices=["2.4", "2.6"], default="2.4", help="which version to look like (2.4)")
    serve.add_argument("--seed", type=int, default=0, metavar="N", help="which hidden overheads the cards have")
    serve.add_argument("--load-seconds", type=float, default=2.0, metavar="S", help="how long a start takes (2)")
    serve.add_argument("--dir", type=Path, default=Path("diagnose-lab"), help="where to keep all (diagnose-lab)")
    serve.add_argument("flags", nargs="*", metavar="-- FLAGS", help="the server's own flags")
    serve.set_defaults(run=run_serve)
    faults = found.add_parser("faults", help="what can be made to go wrong")
    faults.add_argument("--json", action="store_true", help="as JSON")
    faults.set_defaults(run=run_faults)
    demo.add(found)
    return found


def size(text: str) -> int:
    """Read a size in bytes.

    >>> size("4GiB"), size("512M"), size("1.5g")
    (4294967296, 536870912, 1610612736)
    """
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        return int(float(number.removesuffix(unit)) * _UNITS[unit])
    except ValueError:
        message = f"{text!r} is no size: write 4GiB or 512MiB"
        raise argparse.ArgumentTypeError(message) from None


def run_serve(args: argparse.Namespace) -> int:
    """Become the lab server: signals and exit code are then the server's own."""
    import os
    import sys

    from diagnose.errors import ConfigError
    from diagnose.lab.environment import MODULE, lab_env
    from diagnose.lab.gpus import make_gpus
    from diagnose.lab.model import MODELS, make_model

    _check_faults(args.fault)
    if args.model not in MODELS:
        known = ", ".join(MODELS)
        raise ConfigError(f"the lab has no model {args.model!r}. Use one of {known}.")
    folder = args.dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"Lab GPU {args.gpu_memory / (1 << 30):g}GiB"
    gpus = make_gpus(folder / "gpus", args.gpus, args.gpu_memory, name)
    model = make_model(folder / "models", args.model)
    env = lab_env(gpus, era=args.era, load_seconds=args.load_seconds, faults=args.fault, seed=args.seed)
    os.chdir(folder)  # log/ is relative to it
    command = [sys.executable, "-m", MODULE, "--model", str(model), *args.flags]
    os.execve(sys.executable, command, env)  # noqa: S606  # our own module, no shell wanted


def _check_faults(faults: Sequence[str]) -> None:
    import re

    from diagnose.errors import ConfigError
    from diagnose.lab.faults import NAMES

    for fault in faults:
        name = re.split("[@:#]", fault)[0]
        if name not in NAMES:
            raise ConfigError(f"the lab knows no fault {name!r}. See: diagnose lab faults.")


def run_faults(args: argparse.Namespace) -> int:
    """List the faults."""
    from diagnose.lab.faults import FAULTS

    if args.json:
        import json

        rows = [{"name": f.name, "en": f.en, "zh": f.zh, "params": f.params} for f in FAULTS]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return 0
    import os

    chinese = str(getattr(args, "lang", None) or os.environ.get("LANG", "")).startswith("zh")
    width = max(len(fault.name) for fault in FAULTS)
    for fault in FAULTS:
        tail = f"  [{fault.params}]" if fault.params else ""
        print(f"{fault.name:<{width}}  {fault.zh if chinese else fault.en}{tail}")
    print("\nNAME[@SECONDS after ready][:KEY=VALUE;KEY=VALUE][#N: only on the first N starts]")
    return 0
