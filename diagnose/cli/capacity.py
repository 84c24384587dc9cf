"""``diagnose capacity``: will this model fit this card, with which settings, and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from rich.table import Table

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
    others = []
    if advice.changes or not advice.fits:
        alone = (advise(shape, settings, card, allow=(flag,), accepted=allow) for flag in allow)
        others = [one for one in alone if one.changes and one.changes != advice.changes]
    if args.json:
        _print_json(shape, now, advice, others, lang)
    else:
        _print_table(shape, now, advice, others, lang)
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


def _print_json(shape: Shape, now: Bill, advice: Advice, others: Sequence[Advice], lang: Lang) -> None:
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
            **_spelled(advice, lang),
            "fits": advice.fits,
            "arithmetic": [line.in_(lang) for line in advice.arithmetic],
            "smallest_card_bytes": advice.smallest_card_bytes,
            "smallest_tensor_parallel": advice.smallest_tensor_parallel,
        },
        "alternatives": [_spelled(one, lang) for one in others],
    }
    print(json.dumps(document, ensure_ascii=False, indent=2))


def _spelled(advice: Advice, lang: Lang) -> dict[str, object]:
    changes = [{"flag": flag, "before": old, "after": new} for flag, old, new in advice.changes]
    return {"changes": changes, "costs": advice.costs.in_(lang)}


def _chosen(lang: Lang) -> Callable[[str, str], str]:
    """Return what takes the English or the Chinese of two texts."""
    return lambda en, zh: zh if lang == "zh" else en


def _print_table(shape: Shape, now: Bill, advice: Advice, others: Sequence[Advice], lang: Lang) -> None:
    from rich.console import Console
    from rich.text import Text as Rich

    from diagnose.capacity.bill import size

    say = _chosen(lang)

    console = Console(soft_wrap=True, highlight=False)
    ranks = now.settings.tensor_parallel
    cards = say(f"{ranks} cards of", f"{ranks} 张") if ranks > 1 else say("one card of", "1 张")
    where = say(
        f"{shape.name} on {cards} {size(now.card.total_bytes)}",
        f"{shape.name}，{cards} {size(now.card.total_bytes)} 显卡",
    )
    console.print(Rich(where, style="bold"))
    verdict = now.lines()[-1].in_(lang)
    console.print(Rich(verdict, style="green" if now.fits and not advice.changes else "red"))
    console.print(_bill_table(now, lang))
    for line in now.lines()[:-1]:
        console.print(Rich(line.in_(lang)))
    for note in _notes(shape, now, lang):
        console.print(Rich(note))
    if advice.changes or not advice.fits:
        _print_advice(console, advice, others, lang)


def _bill_table(now: Bill, lang: Lang) -> Table:
    """Put the bill in the order in which a start takes memory, of one rank."""
    from rich.table import Table

    from diagnose.capacity.bill import NAMES, size

    say = _chosen(lang)

    table = Table()
    heading = say("memory of each card", "每张卡的显存") if now.settings.tensor_parallel > 1 else say("memory", "显存")
    table.add_column(heading)
    for one in (say("takes", "占用"), say("may take more", "可能多占"), say("from", "来源")):
        table.add_column(one, justify="right", no_wrap=True)
    source = {True: say("measured", "实测"), False: say("estimated", "估算")}
    for item in now.items:
        table.add_row(
            NAMES[item.name].in_(lang),
            *(size(one) if one else "-" for one in (item.size, item.margin)),
            source[item.measured],
        )
    kv = size(now.kv_bytes) if now.kv_bytes else say("nothing left", "无剩余")
    table.add_row(NAMES["kv"].in_(lang), kv, "", say("what is left", "剩余部分"))
    after = now.after
    table.add_row(NAMES["after"].in_(lang), size(after.size), size(after.margin), source[after.measured])
    return table


def _notes(shape: Shape, now: Bill, lang: Lang) -> list[str]:
    """Say what surprises people about this model and these settings."""
    from diagnose.capacity.memory import weight_bytes
    from diagnose.capacity.settings import MOST_BLOCKS

    say = _chosen(lang)

    found = []
    settings = now.settings
    four, eight = (weight_bytes(shape, name, settings.tensor_parallel) for name in ("wint4", "wint8"))
    if settings.quantization == "wint4" and four == eight:
        found.append(
            say(
                "wint4 saves nothing over wint8 here: ERNIE keeps dense layers at 8 bits, and there are no experts.",
                "此处 wint4 不比 wint8 更省：ERNIE 的稠密层保持 8 比特，而该模型没有专家层。",
            )
        )
    if now.blocks >= MOST_BLOCKS:
        found.append(
            say(
                f"The server takes at most {MOST_BLOCKS} blocks: the rest of the card stays empty.",
                f"服务最多使用 {MOST_BLOCKS} 块，其余显存闲置。",
            )
        )
    if shape.unverified:
        found.append(say("Unverified in this shape: ", "该结构中未经核实：") + shape.unverified)
    return found


def _print_advice(console: Console, advice: Advice, others: Sequence[Advice], lang: Lang) -> None:
    from rich.table import Table
    from rich.text import Text as Rich

    say = _chosen(lang)

    console.print()
    if not advice.changes:
        console.print(Rich(advice.costs.in_(lang), style="bold"))
        console.print(Rich(advice.arithmetic[-1].in_(lang)))
        return
    table = Table(title=Rich(say("What to change", "建议修改")), title_justify="left")
    for heading in (
        "",
        say("flag", "参数"),
        say("now", "现值"),
        say("then", "改为"),
        say("what users notice", "用户感知"),
    ):
        table.add_column(heading)
    for place, one in enumerate((advice, *others)):
        label = say("first choice", "首选") if place == 0 else say("or", "或")
        for row, (flag, old, new) in enumerate(one.changes):
            first = row == 0
            table.add_row(
                label if first else "",
                flag,
                old or "-",
                new or "-",
                one.costs.in_(lang) if first else "",
                end_section=row == len(one.changes) - 1,
            )
    console.print(table)
    for line in advice.arithmetic[1:]:
        console.print(Rich(line.in_(lang)))
