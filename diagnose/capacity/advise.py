"""The smallest change that fits: one flag if one is enough, the gentlest first, no further than needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import msgspec

from diagnose.capacity.bill import Bill, fits, known_of, size, write
from diagnose.capacity.learn import Known
from diagnose.capacity.memory import GIB
from diagnose.capacity.moves import TWO_SIDED, change, coupled, nearest, values
from diagnose.capacity.settings import (
    BLOCKS,
    GRAPH,
    LENGTH,
    QUANTIZATION,
    SEQS,
    TENSOR_PARALLEL,
    TOKENS,
    UTILIZATION,
    Card,
    Measured,
    Settings,
    problems,
)
from diagnose.model.launch import ModelShape
from diagnose.model.text import Text

_MOST_CARD = 288 * GIB
"""The largest card that is sold; more than that is no advice."""

_RANKS = (1, 2, 4, 8, 16)
_TIGHT, _MEDIUM = 0.1, 0.5
"""How much of the margins is kept when a server is down: at the first try, and at the next ones."""

Change = tuple[str, str | None, str | None]


class _Limits(NamedTuple):
    """What the search has to keep: flags that the server knows, and whether the tokens may follow.

    Tokens of a step follow sequences and length only where they are no choice of their own: else a change
    of two flags would pass for one.
    """

    accepted: Collection[str]
    follow: bool
    mild: bool = False


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What to change so that the server fits.

    Attributes:
        changes: Flag, value before (``None`` where it was not given) and value after (``None`` where it is
            taken out). Empty where nothing needs to change, or where nothing helps.
        arithmetic: The sums that chose the values; where nothing helps also what would.
        fits: Whether the server fits with these changes.
        costs: What the users notice.
        bill: The bill with these changes.
        smallest_card_bytes: With nothing changed, the least card that would do; only where nothing helps.
        smallest_tensor_parallel: With nothing else changed, the least number of cards of this size.
    """

    changes: tuple[Change, ...]
    arithmetic: tuple[Text, ...]
    fits: bool
    costs: Text
    bill: Bill
    smallest_card_bytes: int | None = None
    smallest_tensor_parallel: int | None = None


def advise(
    shape: ModelShape,
    settings: Settings,
    card: Card,
    measured: Measured | None = None,
    *,
    allow: Sequence[str],
    accepted: Collection[str],
    failures: Sequence[Measured] = (),
) -> Advice:
    """Find the smallest change of flags with which the server fits its card.

    One flag is better than two, and among as many the gentler; a harsher flag moves as little as it can
    before a gentler one is moved back. Coupled limits (``max_num_seqs <= max_num_batched_tokens <=
    max_num_seqs * max_model_len``) are kept, with ``--max-num-batched-tokens`` where it must follow.

    Args:
        shape: The model.
        settings: The flags in force.
        card: One GPU.
        measured: What the latest start told; without ``at`` it was a start with `settings`.
        allow: Flags that may change, gentlest first.
        accepted: Flags that this server knows; others are never written.
        failures: What earlier tries told, oldest first; each with its settings in ``at``. Settings that
            ask as much as a failed try are never advised again. After a failure, where nothing fits with
            all margins, a fit with a quarter of them is advised, and the arithmetic says so.
    """
    known = known_of(shape, settings, card, measured, failures)
    now = write(known, settings)
    sound = coupled(settings, accepted)
    if sound is not None and write(known, sound).fits:
        return _advice(known, settings, sound, now)
    flags = [flag for flag in dict.fromkeys(allow) if flag in accepted and values(flag, settings)]
    limits = _Limits(accepted, follow=TOKENS not in flags)
    base, flags = _counting(settings, flags)
    for belief in _beliefs(known, measured, failures):
        if not _can_fit(belief, base, flags, limits):
            continue
        for mild in (True, False):  # rather two flags by a little than one down to what hardly serves
            found = _search(belief, base, flags, limits._replace(mild=mild))
            if found is not None:
                return _advice(belief, settings, found, now)
    return _nothing(known, settings, now)


def _counting(settings: Settings, flags: Sequence[str]) -> tuple[Settings, list[str]]:
    """Take an override of the blocks out, where that is allowed: the server counts better than anybody."""
    base = change(settings, BLOCKS, None) if BLOCKS in flags else settings
    return base, [flag for flag in flags if flag != BLOCKS]


def _search(known: Known, base: Settings, flags: Sequence[str], limits: _Limits) -> Settings | None:
    if base.num_gpu_blocks_override is None and (found := _fit(known, base, (), limits)) is not None:
        return found
    return next((found for chosen in _choices(flags) if (found := _fit(known, base, chosen, limits))), None)


def _beliefs(known: Known, measured: Measured | None, failures: Sequence[Measured]) -> list[Known]:
    """Return what is known with the margins that are worth keeping, first choice first.

    A server that is down has little to lose by a tight fit: one more start is over in minutes and measures what
    was only estimated, and a limit that is lower than it need be stays.
    """
    down = bool(failures) or (measured is not None and measured != Measured(at=measured.at))
    tight = msgspec.structs.replace(known, caution=_TIGHT)
    if not down:
        return [known]
    if any(one.failed and one.failed.phase == "serving" for one in (*failures, measured) if one):
        return [known, tight]  # a start proves nothing there: it would fail again at the next burst
    bare = msgspec.structs.replace(known, caution=0.0)
    return [msgspec.structs.replace(known, caution=_MEDIUM), tight, bare] if failures else [tight, bare]


def _choices(flags: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield sets of flags: the smaller first, then those whose harshest flag is gentler."""
    for many in range(1, len(flags) + 1):
        picks = combinations(range(len(flags)), many)
        for pick in sorted(picks, key=lambda one: one[::-1]):
            yield tuple(flags[index] for index in pick)


def _fit(known: Known, base: Settings, flags: Sequence[str], limits: _Limits) -> Settings | None:
    """Return the settings nearest to `base` that fit when just `flags` change; ``None`` where none does.

    The harshest flag comes first: it takes the first value with which the gentler ones can still make it.
    """
    if not flags:
        sound = coupled(base, limits.accepted, follow=limits.follow)
        return sound if sound is not None and fits(known, sound) else None
    gentler, harshest = flags[:-1], flags[-1]

    def good(value: object) -> bool:
        return _can_fit(known, change(base, harshest, value), gentler, limits)

    keep = 0 if limits.follow or TOKENS in gentler else base.tokens
    value = nearest(values(harshest, base, keep=keep, mild=limits.mild), good, ordered=harshest not in TWO_SIDED)
    return None if value is None else _fit(known, change(base, harshest, value), gentler, limits)


def _can_fit(known: Known, base: Settings, flags: Sequence[str], limits: _Limits) -> bool:
    """Tell whether any values of `flags` fit: of one-sided flags the last value helps the most."""
    for flag in sorted(flags, key=lambda one: one != TOKENS):  # the others must not fall below the tokens
        options = values(flag, base, keep=0 if limits.follow else base.tokens, mild=limits.mild)
        if flag in TWO_SIDED:
            rest = [one for one in flags if one != flag]
            return any(_can_fit(known, change(base, flag, value), rest, limits) for value in options)
        if options:
            base = change(base, flag, options[-1])
    return _fit(known, base, (), limits) is not None


def _changes(before: Settings, after: Settings) -> tuple[Change, ...]:
    found = []
    for flag in (*_COSTS, BLOCKS):
        if flag == TOKENS and after.max_num_batched_tokens is None:
            continue  # the server's default, which may have moved with the length
        new = after.text(flag)
        if new != before.text(flag):
            found.append((flag, before.value(flag), new))
    return tuple(found)


_COSTS = {
    UTILIZATION: Text("Users notice nothing", "用户无感知"),
    TOKENS: Text("Long prompts take more steps until their first token", "长输入的首字时间变长"),
    SEQS: Text(
        "At most {after} requests run at once instead of {before}",
        "同时运行的请求数由 {before} 降为 {after}",
    ),
    GRAPH: Text("Without CUDA graphs each token takes longer", "关闭 CUDA Graph 后，每个 token 的生成变慢"),
    QUANTIZATION: Text("Answers can change slightly ({after})", "回答可能略有变化（{after}）"),
    LENGTH: Text(
        "Prompt and answer together may have {after} tokens instead of {before}; longer ones are refused",
        "输入与输出合计上限由 {before} 降为 {after} 个 token，超出的请求会被拒绝",
    ),
}


def _costs(before: Settings, changes: Sequence[Change]) -> Text:
    told = [(_COSTS[flag], before.text(flag) or "-", after or "-") for flag, _, after in changes if flag in _COSTS]
    felt = [part for part in told if part[0] is not _COSTS[UTILIZATION]] or told
    if not felt:
        return _COSTS[UTILIZATION]
    return Text(
        "; ".join(text.en.format(before=old, after=new) for text, old, new in felt),
        "；".join(text.zh.format(before=old, after=new) for text, old, new in felt),
    )


def _advice(known: Known, before: Settings, after: Settings, now: Bill) -> Advice:
    changes, then = _changes(before, after), write(known, after)
    if not changes:
        return Advice(changes=(), arithmetic=then.lines(), fits=True, costs=_costs(before, ()), bill=then)
    told = ", ".join(f"{flag} {old or '-'} -> {new or '-'}" for flag, old, new in changes)
    heading = (
        Text(f"As given: {_reason(now).en}", f"现有设置：{_reason(now).zh}"),
        Text(f"With {told}:", f"改为 {told} 后："),
    )
    slim = (
        Text(
            f"A tight fit: only {known.caution:.0%} of the usual margins are left",
            f"余量很小：只留了通常余量的 {known.caution:.0%}",
        ),
    )
    return Advice(
        changes=changes,
        arithmetic=(*_foreign(known), *heading, *then.lines(), *(slim if known.caution < 1 else ())),
        fits=True,
        costs=_costs(before, changes),
        bill=then,
    )


def _reason(bill: Bill) -> Text:
    wrong = problems(bill.settings)
    if bill.fits and wrong:
        return Text(f"The server refuses to start: {wrong[0]}", f"服务拒绝启动：{wrong[0]}")
    return bill.lines()[-1]


def _foreign(known: Known) -> tuple[Text, ...]:
    """Point out what others hold on the card, where that is much."""
    foreign = known.card.foreign_bytes
    if foreign < known.card.total_bytes // 50:
        return ()
    return (
        Text(
            f"Other processes hold {size(foreign)} of this card; ending them changes the sums below",
            f"其他进程占用该卡 {size(foreign)}；结束它们后下面的结果会改变",
        ),
    )


def _nothing(known: Known, settings: Settings, now: Bill) -> Advice:
    card, ranks = _smallest_card(known, settings), _smallest_ranks(known, settings)
    return Advice(
        changes=(),
        arithmetic=(*_foreign(known), *now.lines(), _would(card, ranks)),
        fits=False,
        costs=Text("No allowed change of flags makes it fit", "允许修改的参数都不足以让它放下"),
        bill=now,
        smallest_card_bytes=card,
        smallest_tensor_parallel=ranks,
    )


def _would(card: int | None, ranks: int | None) -> Text:
    if card is None and ranks is None:
        return Text(
            "No larger card and no more cards would do with these flags",
            "在这些参数下，更大的卡或更多的卡也无济于事",
        )
    en, zh = [], []
    if card is not None:
        en.append(f"a card of {size(card)}")
        zh.append(f"1 张 {size(card)} 的卡")
    if ranks is not None:
        en.append(f"{ranks} cards like this ({TENSOR_PARALLEL} {ranks})")
        zh.append(f"{ranks} 张同样的卡（{TENSOR_PARALLEL} {ranks}）")
    return Text(
        f"With these flags it takes {' or '.join(en)}",
        f"在这些参数下需要 {'，或 '.join(zh)}",
    )


def _smallest_card(known: Known, settings: Settings) -> int | None:
    """Search in whole GiB, up to the largest card there is."""
    first = known.card.total_bytes // GIB + 1
    sizes = range(first, _MOST_CARD // GIB + 1)

    def enough(gib: object) -> bool:
        larger = msgspec.structs.replace(known.card, total_bytes=int(str(gib)) * GIB)
        return fits(known.elsewhere(larger), settings)

    found = nearest(sizes, enough, ordered=True)
    return None if found is None else int(str(found)) * GIB


def _smallest_ranks(known: Known, settings: Settings) -> int | None:
    for ranks in _RANKS:
        if ranks <= settings.tensor_parallel or known.shape.heads % ranks:
            continue
        wider = msgspec.structs.replace(settings, tensor_parallel=ranks)
        if fits(known.elsewhere(known.card), wider):
            return ranks
    return None
