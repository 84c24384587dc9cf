"""Models x cards x settings that fail at the start: does the daemon find settings that serve, and how good are they?

    python -m tests.scenarios.grid            # the summary, and every case that missed a goal
    python -m tests.scenarios.grid --all      # every case

Nothing runs: starts are on paper (`grid_lab`), the mind is the real one (`grid_mind`). What the lab hides of its
cards, up to 15 % of each, the planner does not know.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from diagnose.lab.model import MODELS
from diagnose.launch import table
from diagnose.launch.spec import occurrences
from diagnose.model.launch import LaunchSpec
from tests.scenarios.grid_lab import GIB, Flags, Host, checks, memory, read_flags
from tests.scenarios.grid_mind import Cure, Mind

CASES = 330
HOPELESS = 40
SEED = 20260301
CLOSE = 0.10
HIDDEN = (0.03, 0.06, 0.09, 0.12, 0.15)
VERSIONS = ("2.0.0", "2.1.0", "2.2.0", "2.3.0", "2.4.0", "2.5.0", "2.6.0")
SIZES = (16, 24, 32, 40, 48, 80, 96, 141)
LEAST = {"tokens": 256, "seqs": 2, "length": 1024}
"""What no remedy goes below: a server of less helps nobody."""


def _other(architecture: str, kind: str, **numbers: object) -> dict[str, object]:
    base = dict(MODELS["ERNIE-4.5-0.3B"].config)
    return {**base, "architectures": [architecture], "model_type": kind, "tie_word_embeddings": False, **numbers}


SHAPES: Mapping[str, Mapping[str, Any]] = {
    **{name: kind.config for name, kind in MODELS.items()},
    "Qwen3-8B": _other(
        "Qwen3ForCausalLM",
        "qwen3",
        num_hidden_layers=36,
        hidden_size=4096,
        intermediate_size=12288,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=151936,
    ),
    "Qwen2.5-32B": _other(
        "Qwen2ForCausalLM",
        "qwen2",
        num_hidden_layers=64,
        hidden_size=5120,
        intermediate_size=27648,
        num_attention_heads=40,
        num_key_value_heads=8,
        vocab_size=152064,
    ),
    "Qwen3-30B-A3B": _other(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        num_hidden_layers=48,
        hidden_size=2048,
        intermediate_size=6144,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=151936,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
    ),
    "Qwen2.5-72B": _other(
        "Qwen2ForCausalLM",
        "qwen2",
        num_hidden_layers=80,
        hidden_size=8192,
        intermediate_size=29568,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=152064,
    ),
}


@dataclass(frozen=True)
class Case:
    """One start that fails.

    Attributes:
        share: What the lab hides of the card.
        fault: In which part the first start fails.
        curable: ``yes``, ``asked`` (only with other weights, which a person must allow) or ``no``.
    """

    number: int
    model: str
    gib: int
    share: float
    version: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    fault: str = ""
    curable: str = ""

    @property
    def host(self) -> Host:
        """The cards, the same each time."""
        total = self.gib * GIB
        hidden = memory.draw_hidden(SEED + self.number, total, share=self.share)
        return Host(config={**SHAPES[self.model], "_name": self.model}, total=total, hidden=hidden)

    @property
    def spec(self) -> LaunchSpec:
        """The operator's command."""
        program = ("python", "-m", "fastdeploy.entrypoints.openai.api_server", "--model", f"/models/{self.model}")
        return LaunchSpec(argv=(*program, *self.argv), env=dict(self.env))

    def flags(self, spec: LaunchSpec | None = None) -> Flags:
        """Read a command as the lab does."""
        used = spec or self.spec
        return read_flags(used.argv, used.env, self.version)

    def __str__(self) -> str:
        env = " ".join(f"{name}={value}" for name, value in self.env)
        card = f"{self.model}, {self.gib} GiB, {self.share:.0%} hidden, {self.version}"
        return f"#{self.number} {card}: {env} {' '.join(self.argv)}"


def draw() -> Iterator[Case]:
    """Draw commands for ever, always the same: those that a start refuses at once are left out."""
    dice = random.Random(SEED)
    number = 0
    while True:
        number += 1
        model = dice.choice(list(SHAPES))
        ranks = dice.choice((1, 1, 1, 2, 4, 8))
        flags = {
            "--max-model-len": dice.choice((4096, 8192, 32768, 65536, 131072)),
            "--max-num-seqs": dice.choice((None, 8, 32, 64, 128, 256)),
            "--max-num-batched-tokens": dice.choice((None, None, None, 2048, 4096, 8192, 16384, 32768, 65536)),
            "--gpu-memory-utilization": dice.choice((None, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98)),
            "--quantization": dice.choice((None, "wint8", "wint4")),
            "--tensor-parallel-size": ranks if ranks > 1 else None,
            "--num-gpu-blocks-override": dice.choice((None,) * 8 + (500, 3000, 12000)),
            "--graph-optimization-config": dice.choice(
                (None,) * 5 + ('{"use_cudagraph": false}', '{"cudagraph_capture_sizes": [1, 8, 32]}')
            ),
        }
        argv = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
        env = (("ENABLE_V1_KVCACHE_SCHEDULER", "0"),) if dice.random() < 0.1 else ()
        case = Case(
            number=number,
            model=model,
            gib=dice.choice(SIZES),
            share=dice.choice(HIDDEN),
            version=dice.choice(VERSIONS),
            argv=tuple(argv),
            env=env,
        )
        if ranks > SHAPES[model]["num_key_value_heads"]:
            continue
        try:
            flags_read = case.flags()
        except checks.ConfigError:
            continue
        if flags_read.refused():
            continue
        end = case.host.ends(flags_read)
        if end and end != "serving":
            yield replace(case, fault=end, curable=curable(case.host, flags_read))


def curable(host: Host, flags: Flags) -> str:
    """Say whether any settings within reach of the ladder serve, by trying the least of each."""
    if _reach(host, flags):
        return "yes"
    steps = (None, "wint8", "wint4")
    if flags.quantization in steps:
        for name in steps[steps.index(flags.quantization) + 1 :]:
            if _reach(host, replace(flags, quantization=name)):
                return "asked"
    return "no"


def _reach(host: Host, flags: Flags) -> bool:
    length = min(flags.length, LEAST["length"])
    seqs = min(flags.seqs, LEAST["seqs"])
    least = replace(flags, length=length, seqs=seqs, tokens=min(flags.tokens, LEAST["tokens"], seqs * length))
    if flags.override is not None:
        least = replace(least, override=least.least_blocks)
    shares = {flags.utilization, *(number / 100 for number in range(50, 96))}
    return any(not host.ends(replace(least, utilization=share)) for share in shares)


@cache
def cases() -> tuple[Case, ...]:
    """Return those that can be cured, as many of each kind of failure as can be, then those that cannot."""
    kinds = ("load", "profile", "blocks-negative", "blocks-few", "kv", "capture")
    wanted = {kind: CASES // len(kinds) for kind in kinds}
    found: list[Case] = []
    hopeless: list[Case] = []
    for case in draw():
        if case.curable == "no":
            hopeless += [case] if len(hopeless) < HOPELESS else []
        elif wanted.get(case.fault, 0) > 0:
            wanted[case.fault] -= 1
            found.append(case)
        if (not any(wanted.values()) and len(hopeless) >= HOPELESS) or case.number > 60_000:
            break
    return (*found, *hopeless)


@dataclass(frozen=True)
class Row:
    """One case and how it went.

    Attributes:
        far: Of each setting that was changed: how far its last value is from the best with the others as they are.
        off: Of the one that users feel most: how far from the best with all that were changed.
    """

    case: Case
    cure: Cure
    far: Mapping[str, float]
    off: float = 0.0

    @property
    def in_time(self) -> bool:
        """Serving within two restarts."""
        return self.cure.cured and self.cure.restarts <= 2

    def __str__(self) -> str:
        starts = " -> ".join(end or "serves" for end in self.cure.ends)
        far = ", ".join(f"{name} {share:.0%} (best {_best_text(self, name)})" for name, share in self.far.items())
        changes = " | ".join(self.cure.changes)
        first = f"{starts} {self.cure.held} {' '.join(self.cure.rejected)}"
        return f"{self.case}\n    {first}\n    {changes}\n    off: {self.off:.0%}; each alone: {far}"


def _best_text(row: Row, name: str) -> str:
    after = row.case.flags(row.cure.specs[-1])
    return str(best(row.case.host, row.case.flags(), after, name))


@cache
def rows() -> tuple[Row, ...]:
    """Play all cases."""
    return tuple(play(case) for case in cases())


def play(case: Case) -> Row:
    """Play one case to its end."""
    cure = Mind(case.host, case.spec, case.version, consent=case.curable == "asked").cure()
    if not cure.cured:
        return Row(case, cure, {})
    return Row(case, cure, distances(case, cure), hardest(case, cure))


_FIELDS = {
    "--gpu-memory-utilization": "utilization",
    "--max-num-batched-tokens": "tokens",
    "--max-num-seqs": "seqs",
    "--graph-optimization-config": "graphs",
    "--quantization": "quantization",
    "--max-model-len": "length",
}
"""Gentlest first, as users feel them."""


def distances(case: Case, cure: Cure) -> dict[str, float]:
    """Tell how far each changed setting is from the best that serves, all others as they are in the end."""
    before, after = case.flags(), case.flags(cure.specs[-1])
    return {name: _apart(getattr(after, name), best(case.host, before, after, name)) for name in changed(before, after)}


def changed(before: Flags, after: Flags) -> list[str]:
    """Name what was changed, gentlest first; an override of the blocks is only ever taken out."""
    return [name for name in _FIELDS.values() if getattr(before, name) != getattr(after, name)]


def _apart(chosen: Any, ideal: Any) -> float:
    if isinstance(chosen, int | float) and ideal:
        return abs(chosen - ideal) / ideal
    return 0.0 if chosen == ideal else 1.0


def best(host: Host, before: Flags, after: Flags, name: str) -> Any:
    """Search all values of one setting, nearest to the operator's first, for the first that serves."""
    for value in _every(before, after, name):
        tried = replace(after, **{name: value})
        if not tried.refused() and not host.ends(tried):
            return value
    return None


def hardest(case: Case, cure: Cure) -> float:
    """Tell how far the setting that users feel most is from the best that any values of all changed ones allow.

    Each value is tried with the gentler settings as far down as they were taken, and with every share of the card.
    """
    before, after = case.flags(), case.flags(cure.specs[-1])
    names = changed(before, after)
    if not names:
        return 0.0
    name = names[-1]
    for value in _every(before, after, name):
        if _any_serves(case.host, before, replace(after, **{name: value}), names[:-1]):
            return _apart(getattr(after, name), value)
    raise AssertionError("what serves was not found")


def _any_serves(host: Host, before: Flags, tried: Flags, free: Sequence[str]) -> bool:
    tried = replace(tried, tokens=min(tried.tokens, tried.seqs * tried.length))
    shares = [tried.utilization]
    if "utilization" in free:
        shares += [before.utilization, *(number / 100 for number in range(50, 96))]
    for share in shares:
        end = host.ends(replace(tried, utilization=share))
        if not end:
            return not tried.refused()
        if end in {"load", "profile"}:
            return False  # the share does not matter for these
    return False


def _every(before: Flags, after: Flags, name: str) -> Iterator[Any]:
    old, chosen = getattr(before, name), getattr(after, name)
    if name == "utilization":
        thousandths = sorted(range(500, 951), key=lambda one: abs(one / 1000 - old))
        yield old
        yield from (one / 1000 for one in thousandths)
    elif name in {"quantization", "graphs"}:
        yield from dict.fromkeys({"quantization": (old, "wint8", "wint4"), "graphs": (old, chosen)}[name])
    else:
        step = 1 if name == "seqs" else after.block
        yield old
        yield from range(old - old % step, chosen, -step) if chosen < old else range(old, chosen)
    yield chosen


def unknown_flags(row: Row) -> list[str]:
    """Name flags that a remedy wrote and the version does not have, judged by the table of flags itself."""
    given = {one.name for one in occurrences(row.case.spec.argv)}
    minor = tuple(int(part) for part in row.case.version.split(".")[:2])
    has = {name for flag in table.FLAGS if flag.since <= minor <= flag.until for name in (flag.name, *flag.aliases)}
    written = {one.name for spec in row.cure.specs for one in occurrences(spec.argv)}
    return sorted(written - given - has)


@dataclass(frozen=True)
class Summary:
    """The goals, counted."""

    rows: Sequence[Row]

    @property
    def treated(self) -> list[Row]:
        """Those that can be cured."""
        return [row for row in self.rows if row.case.curable != "no"]

    @property
    def missed(self) -> list[Row]:
        """Those that can be cured and were not, not in time, or not closely."""
        return [row for row in self.treated if not row.in_time or row.off > CLOSE or self.wrote_unknown(row)]

    @property
    def endless(self) -> list[Row]:
        """Those that cannot be cured and did not come to an end within three restarts."""
        hopeless = [row for row in self.rows if row.case.curable == "no"]
        return [row for row in hopeless if row.cure.restarts > 3 or row.cure.cured or not row.cure.held]

    @property
    def in_time(self) -> float:
        """Share that serves within two restarts."""
        return sum(row.in_time for row in self.treated) / len(self.treated)

    @property
    def close(self) -> float:
        """Of those that serve: share that is off by a tenth at most (`Row.off`)."""
        served = [row for row in self.treated if row.cure.cured]
        return sum(row.off <= CLOSE for row in served) / len(served)

    @staticmethod
    def wrote_unknown(row: Row) -> bool:
        """Whether a flag was written that this version rejects."""
        return bool(row.cure.rejected or unknown_flags(row))

    def table(self) -> str:
        """Return what went how, a line for each kind of failure."""
        head = (
            "fails in",
            "cases",
            "1 restart",
            "2",
            "later",
            "never",
            "median off",
            "worst off",
            f"within {CLOSE:.0%}",
            "each alone",
            "rejected",
        )
        lines = []
        kinds = sorted({row.case.fault for row in self.treated})
        for kind in [*kinds, "all"]:
            of_kind = [row for row in self.treated if kind in {row.case.fault, "all"}]
            lines.append((kind, *self._numbers(of_kind)))
        asked = sum(row.cure.asked for row in self.treated)
        hopeless = [row for row in self.rows if row.case.curable == "no"]
        restarts = max((row.cure.restarts for row in hopeless), default=0)
        widths = [max(len(str(line[n])) for line in [head, *lines]) for n in range(len(head))]
        body = [
            "  ".join(
                str(cell).ljust(width) if n == 0 else str(cell).rjust(width)
                for n, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in [head, *lines]
        ]
        told = (
            "off: how far the setting that users feel most, of those that were changed, is in the end from the best",
            "that any values of all changed settings allow.",
            f"within {CLOSE:.0%}: of those that serve, the share that is off by no more.",
            "each alone: the same for every changed setting, the others as they are in the end.",
            f"{asked} of them after a person agreed to other weights.",
            f"{len(hopeless)} that nothing within reach can cure: at most {restarts} restarts, then a person is told.",
            f"{len(self.endless)} of these went on.",
        )
        return "\n".join((*body, *told))

    def _numbers(self, rows: Sequence[Row]) -> tuple[str, ...]:
        after = [sum(row.cure.cured and row.cure.restarts == n for row in rows) for n in (1, 2)]
        later = sum(row.cure.cured and row.cure.restarts > 2 for row in rows)
        served = [row.off for row in rows if row.cure.cured]
        each = [one for row in rows if row.cure.cured for one in row.far.values()]
        return (
            str(len(rows)),
            *(str(number) for number in after),
            str(later),
            str(sum(not row.cure.cured for row in rows)),
            f"{statistics.median(served):.1%}" if served else "-",
            f"{max(served):.1%}" if served else "-",
            f"{sum(one <= CLOSE for one in served) / len(served):.1%}" if served else "-",
            f"{sum(one <= CLOSE for one in each) / len(each):.1%}" if each else "-",
            str(sum(self.wrote_unknown(row) for row in rows)),
        )


def main(argv: Sequence[str]) -> int:
    """Print the grid; 0 where nothing was missed."""
    summary = Summary(rows())
    shown = summary.rows if "--all" in argv else [*summary.missed, *summary.endless]
    for row in shown:
        print(row)
    print(summary.table())
    return int(bool(summary.missed or summary.endless))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
