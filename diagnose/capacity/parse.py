"""Numbers out of log text: sizes as Paddle and people write them, and what findings say about memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast, get_args

from diagnose.capacity.settings import Failed, Measured, Phase, Settings
from diagnose.errors import InputError

_SIZE = re.compile(r"\s*(-?\d{1,15}(?:\.\d{1,25})?)\s*([kmgt]?)i?(b|bytes?)?\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_S = r"(-?\d{1,12}(?:\.\d{1,12})? ?[kKMGT]?i?B)"

# What rules call their groups; the first name that is there counts.
_NAMES = {
    "requested": ("requested", "size"),
    "allocated": ("allocated", "used"),
    "available": ("available", "free"),
    "before": ("before", "before_bytes"),
    "captured": ("captured",),
    "weights": ("weights", "weights_bytes"),
    "context": ("context", "context_bytes"),
    "peak": ("peak", "profile_peak_bytes"),
    "kv": ("kv", "available_kv_bytes"),
    "block": ("block_bytes",),
    "capture": ("capture", "capture_bytes"),
    "got": ("blocks", "got"),
    "needed": ("needed",),
}

# The lines of FastDeploy and Paddle that say more than a rule's groups do: pattern and what it yields.
_LINES = (
    (
        (
            rf"Cannot allocate {_S} memory on GPU \d+, {_S} memory has been allocated"
            rf" and available memory is only {_S}"
        ),
        ("requested", "allocated", "available"),
    ),
    (rf"Cannot allocate {_S} memory", ("requested",)),
    (rf"available_kv_cache_memory: ?{_S}", ("kv",)),
    (rf"model_block_memory_used: ?{_S}", ("block_bytes",)),
    (r"total number of blocks cannot be less than zero(?: bug)?,? got (-?\d{1,9})", ("blocks",)),
    (r"block_num: ?(\d{1,9}) should be larger than or equal to (\d{1,9})", ("blocks", "needed")),
    (
        r"current device block num: ?(\d{1,9}) should be larger than or equal to (\d{1,9})",
        ("blocks", "needed"),
    ),
)

_PHASES: Mapping[str, Phase] = {
    "gpu.oom.weights": "load",
    "gpu.oom.profile": "profile",
    "gpu.oom.kv-allocation": "kv",
    "gpu.oom.capture": "capture",
    "gpu.oom.serving": "serving",
}


def parse_bytes(text: str) -> int:
    """Read a size; units are powers of 1024 whether spelled ``GB``, ``GiB`` or ``G``, as Paddle means them.

    Raises:
        InputError: It is no size.

    >>> parse_bytes("15.503906GB"), parse_bytes("92.03MB"), parse_bytes("80GiB") // 1024**3
    (16647192307, 96500449, 80)
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no size. Write it like 80GiB or 512MiB.")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def phase_of(rule_id: str) -> Phase:
    """Tell from a rule of `gpu.oom` in which phase memory ran out; empty for any other.

    >>> phase_of("gpu.oom.capture"), phase_of("kvcache.too-few-blocks")
    ('capture', '')
    """
    return _PHASES.get(rule_id, "")


def measured_from(
    labels: Mapping[str, str],
    at: Settings | None = None,
    *,
    rule_id: str = "",
    lines: Iterable[str] = (),
) -> Measured:
    """Gather what a finding says about memory; what cannot be read is left out.

    Args:
        labels: The named groups of the rules that fired. Sizes: ``size`` (what was asked for),
            ``allocated``, ``available``, ``weights``, ``context``, ``peak``, ``kv``, ``block_bytes``,
            ``capture``, ``before`` (or ``before_gib``, without a unit). Numbers: ``blocks``, ``needed`` and
            ``captured``. And ``phase``: load, profile, kv, capture or serving.
        at: The settings of that start.
        rule_id: The rule, which may tell the phase (`phase_of`).
        lines: Text of the evidence; numbers in known lines are taken where no label has them.
    """
    found = {**_from_lines(lines), **{name: value for name, value in labels.items() if value}}
    phase = found.get("phase") or phase_of(rule_id)
    known = cast("Phase", phase if phase in get_args(Phase) else "")
    requested, blocks = _size(found, "requested"), _number(found, "got")
    failed = None
    if requested is not None or rule_id.startswith("gpu.oom.") or (known and blocks is None):
        failed = Failed(
            phase=known,
            requested_bytes=requested,
            allocated_bytes=_size(found, "allocated"),
            available_bytes=_size(found, "available"),
        )
    return Measured(
        at=at,
        before_bytes=_before(found),
        weights_bytes=_size(found, "weights"),
        context_bytes=_size(found, "context"),
        profile_peak_bytes=_size(found, "peak"),
        available_kv_bytes=_size(found, "kv"),
        block_bytes=_size(found, "block"),
        capture_bytes=_size(found, "capture"),
        captured=_number(found, "captured"),
        failed=failed,
        blocks_got=blocks,
        blocks_needed=_number(found, "needed"),
    )


def _before(labels: Mapping[str, str]) -> int | None:
    """Return what was in use before the profile run; the server writes GiB without a unit."""
    gib = labels.get("before_gib")
    return _size({**labels, "before": f"{gib}GiB"} if gib else labels, "before")


def _from_lines(lines: Iterable[str]) -> dict[str, str]:
    """Return what known lines say; of the same number the latest."""
    found: dict[str, str] = {}
    for line in lines:
        for pattern, names in _LINES:
            match = re.search(pattern, line)
            if match:
                found |= dict(zip(names, match.groups(), strict=True))
    return found


def _text(labels: Mapping[str, str], what: str) -> str:
    return next((labels[name] for name in _NAMES[what] if labels.get(name)), "")


def _size(labels: Mapping[str, str], what: str) -> int | None:
    text = _text(labels, what)
    try:
        return parse_bytes(text) if text else None
    except InputError:
        return None


def _number(labels: Mapping[str, str], what: str) -> int | None:
    text = _text(labels, what).strip()
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else None
