"""``diagnose capacity``: will this model fit this card, with which settings, and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.text import Text

    from diagnose.capacity.advise import Advice
    from diagnose.capacity.bill import Bill
    from diagnose.capacity.settings import Settings
    from diagnose.capacity.shapes import Shape
    from diagnose.model.text import Lang

_FLAGS = (
    ("--tensor-parallel-size", "-tp", "N", "cards that share the model; default 1"),
    ("--quantization", None, "Q", "wint8, wint4, or the server's JSON; default bf16"),
    ("--max-model-len", None, "N", "tokens of prompt and answer; default 2048"),
    ("--max-num-seqs", None, "N", "requests that run at once; default 8"),
    ("--max-num-batched-tokens", None, "N", "tokens of one step; default 8192"),
    ("--gpu-memory-utilization", None, "X", "share of the card; default 0.9"),
)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "capacity",
        help="bytes of weights, KV cache and the rest; the smallest change that fits",
        description="Works out whether a model fits a card, and the smallest change if it does not. "
        "Exit 0 fits, 1 does not fit as given, 2 bad input.",
    )
    parser.add_argument("--model", required=True, metavar="DIR|NAME", help="model folder or a known name")
    parser.add_argument("--gpu-memory", required=True, metavar="SIZE", help="of one card, such as 80GiB")
    for flag, short, metavar, text in _FLAGS:
        parser.add_argument(*([short] if short else []), flag, metavar=metavar, help=text)
    parser.add_argument("--used", default="0", metavar="SIZE", help="held by other processes, such as 2GiB")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--lang", choices=("en", "zh"), default=argparse.SUPPRESS, help="language")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the bill and the advice; 0 fits, 1 does not fit as given, 2 bad input."""
    import sys

    from diagnose.errors import DiagnoseError

    try:
        return _run(args)
    except DiagnoseError as error:
        print(f"diagnose: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    from diagnose.capacity.advise import advise
    from diagnose.capacity.bill import bill
    from diagnose.capacity.parse import parse_bytes
    from diagnose.capacity.settings import (
        LENGTH,
        QUANTIZATION,
        SEQS,
        TOKENS,
        UTILIZATION,
        Card,
        Settings,
    )
    from diagnose.errors import InputError

    lang: Lang = getattr(args, "lang", None) or "en"
    card = Card(total_bytes=parse_bytes(args.gpu_memory), foreign_bytes=parse_bytes(args.used))
    if card.total_bytes <= 0 or not 0 <= card.foreign_bytes < card.total_bytes:
        raise InputError("--used must be less than --gpu-memory. Write both like 80GiB.")
    shape, quantized = _load(args.model)
    flags = {flag: getattr(args, flag.strip("-").replace("-", "_")) for flag, *_ in _FLAGS}
    if quantized:  # the checkpoint's own setting goes before the flag
        flags[QUANTIZATION] = quantized
    settings = Settings.from_flags({flag: value for flag, value in flags.items() if value})
    _check(settings)
    allow = (UTILIZATION, TOKENS, SEQS, *(() if quantized else (QUANTIZATION,)), LENGTH)
    advice = advise(shape, settings, card, allow=allow, accepted=allow)
    now = bill(shape, settings, card)
    if args.json:
        _print_json(shape, now, advice, lang)
    else:
        _print_table(shape, now, advice, lang)
    return 0 if now.fits and not advice.changes else 1


def _check(settings: Settings) -> None:
    """Refuse what the server would refuse, but for what follows from its own default."""
    from diagnose.capacity.settings import TOKENS, problems
    from diagnose.errors import InputError

    if not 0 < settings.gpu_memory_utilization <= 1 or settings.tensor_parallel < 1:
        raise InputError("--gpu-memory-utilization is above 0 and at most 1, --tensor-parallel-size 1 or more.")
    wrong = problems(settings)
    if wrong and (TOKENS in settings.given or "max_num_batched_tokens" not in wrong[0]):
        raise InputError(f"the server would refuse this: {wrong[0]}. Correct that flag.")


def _load(model: str) -> tuple[Shape, str | None]:
    """Find the shape in a folder's ``config.json`` or the table, and how the weights are quantized.

    Raises:
        InputError: Neither knows the model, or the file cannot be read.
    """
    import json
    from pathlib import Path

    import msgspec

    from diagnose.capacity.shapes import SHAPES, known_shape, shape_from_config
    from diagnose.errors import InputError

    folder = Path(model)
    path = folder / "config.json"
    if not path.is_file():
        shape = known_shape(model)
        if shape is None:
            raise InputError(
                f"{model} is no folder with a config.json and no known model. "
                f"Give a model folder, or one of {', '.join(SHAPES)}."
            )
        return shape, None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Download the model again.") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} is no mapping. Download the model again.")
    shape = shape_from_config(folder.resolve().name, config)
    if config.get("quantization_config"):
        return shape, _quantized(config["quantization_config"])
    # What the files hold above the parameters of the shape, such as a vision tower, counts as bf16.
    total = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return msgspec.structs.replace(shape, checkpoint_bytes=total or None), None


def _quantized(config: object) -> str:
    """Return the setting of a checkpoint that is quantized already, as ``--quantization`` would take it."""
    import json

    if not isinstance(config, dict):
        return str(config)
    name = config.get("quantization") or config.get("quant_method") or "wint8"
    return json.dumps(config) if name == "mix_quant" else str(name)


def _print_json(shape: Shape, now: Bill, advice: Advice, lang: Lang) -> None:
    import json

    import msgspec

    document = {
        "schema": "diagnose.capacity/1",
        "model": shape.name,
        "unverified": shape.unverified,
        "fits": now.fits and not advice.changes,
        "bill": msgspec.to_builtins(now),
        "lines": [line.in_(lang) for line in now.lines()],
        "advice": {
            "fits": advice.fits,
            "changes": [{"flag": flag, "before": old, "after": new} for flag, old, new in advice.changes],
            "costs": advice.costs.in_(lang),
            "arithmetic": [line.in_(lang) for line in advice.arithmetic],
            "smallest_card_bytes": advice.smallest_card_bytes,
            "smallest_tensor_parallel": advice.smallest_tensor_parallel,
        },
    }
    print(json.dumps(document, ensure_ascii=False, indent=2))


def _print_table(shape: Shape, now: Bill, advice: Advice, lang: Lang) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Rich

    from diagnose.capacity.bill import NAMES, size

    def say(en: str, zh: str) -> str:
        return zh if lang == "zh" else en

    table = Table(title=Rich(f"{shape.name}, {size(now.card.total_bytes)}"), title_justify="left")
    table.add_column(say("item", "项目"))
    for heading in (say("bytes", "占用"), say("margin", "余量"), say("from", "来源")):
        table.add_column(heading, justify="right", no_wrap=True)
    source = {True: say("measured", "实测"), False: say("estimated", "估算")}
    for item in now.items:
        name = NAMES[item.name].in_(lang)
        table.add_row(name, size(item.size), size(item.margin), source[item.measured])
    table.add_row(NAMES["kv"].in_(lang), size(now.kv_bytes), "", say("computed", "计算"))
    table.add_row(NAMES["after"].in_(lang), size(now.after.size), size(now.after.margin), source[False])
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for line in now.lines():
        console.print(Rich(line.in_(lang)))
    if shape.unverified:
        console.print(Rich(say("Unverified in this shape: ", "该结构中未经核实：") + shape.unverified))
    if advice.changes or not advice.fits:
        _print_advice(console.print, advice, say("Advice", "建议"), lang)


def _print_advice(show: Callable[[Text], None], advice: Advice, heading: str, lang: Lang) -> None:
    from rich.text import Text as Rich

    show(Rich(f"\n{heading}", style="bold"))
    for flag, old, new in advice.changes:
        show(Rich(f"  {flag} {old or '-'} -> {new}"))
    show(Rich(f"  {advice.costs.in_(lang)}"))
    for line in advice.arithmetic[-1:] if not advice.changes else advice.arithmetic:
        show(Rich(f"  {line.in_(lang)}"))
