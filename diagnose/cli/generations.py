"""The last starts of a server: what was changed from one to the next, how far each came, how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagnose.engine.pace import Start
    from diagnose.engine.targets import Target
    from diagnose.model.text import Lang

SCHEMA = "diagnose.generations/1"


def _each(target: Target) -> Iterator[tuple[Start, tuple[str, ...]]]:
    """Yield each start with what differs from the one before it, oldest first."""
    from diagnose.launch.spec import diff

    before = target.desired
    for start in target.starts:
        yield start, diff(before, start.spec) if before else ()
        before = start.spec


def as_json(target: Target) -> str:
    """Spell them for programs, oldest first."""
    from diagnose.model import codec

    starts = [
        {
            "generation": start.generation,
            "at": start.at,
            "stage": start.stage,
            "seconds": start.reached,
            "ready_at": start.ready_at,
            "ended": start.ended,
            "change": changes,
            "command": start.spec.argv,
        }
        for start, changes in _each(target)
    ]
    return codec.encode({"schema": SCHEMA, "target": target.name, "generations": starts}).decode() + "\n"


def show(target: Target, lang: Lang) -> None:
    """Print them for a person, newest first."""
    from rich.console import Console
    from rich.text import Text

    from diagnose.engine.plan import effective
    from diagnose.report import texts

    console, zh = Console(highlight=False), lang == "zh"
    good = effective(target, target.good).argv if target.good is not None else None
    for start, changes in reversed(list(_each(target))):
        head = Text(f"{start.generation}. ", style="bold") + Text(texts.moment(start.at) if start.at else "-")
        console.print(head, Text(_fate(start, lang), style="green" if start.ready_at else "red"))
        if start.spec.argv == good:
            console.print(Text("   " + ("最近一次正常的参数" if zh else "these settings are the last known good ones")))
        for change in changes:
            console.print(Text(f"   {change}", style="yellow"))


def _fate(start: Start, lang: Lang) -> str:
    from diagnose.report.clean import stripped

    zh = lang == "zh"
    if start.ready_at and start.at:
        seconds = (start.ready_at - start.at).total_seconds()
        told = f"{seconds:.0f} 秒后就绪" if zh else f"ready after {seconds:.0f} s"
        stages = ", ".join(f"{name} {at:.0f} s" for name, at in start.reached.items() if name != "ready")
        told += f" ({stages})" if stages else ""
    else:
        stage = start.stage or "launching"
        told = f"未就绪（阶段 {stage}）" if zh else f"never ready (stage {stage})"
    if start.ended:
        told += ("，结束：" if zh else ", ended: ") + stripped(start.ended)
    return told
