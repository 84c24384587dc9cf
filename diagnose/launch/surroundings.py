"""What stands around a start, as names and values, and how two starts differ in it. Pure.

Secrets never come in here unsealed into a value: a fingerprint tells that one was changed, not what it is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import shlex
from collections.abc import Collection, Iterable, Mapping

from diagnose.errors import ConfigError
from diagnose.launch.names import MASK, is_secret
from diagnose.launch.spec import fastdeploy_part, scan
from diagnose.launch.table import kind_of
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import GpuReading, Surroundings
from diagnose.model.surroundings import KINDS, Change, Comparison

Facts = Mapping[str, str]

MOST_THINGS, MOST_CHARS = 300, 1000
"""Of one kind; in one value. What is beyond is folded into one fingerprint, so that a change still shows."""

_MOST_CHANGES = 100
_HASH_CHARS = 8

_TELLING = re.compile(
    r"(FD|CUDA|NVIDIA|NCCL|PADDLE|FLAGS|HF|TRITON|GLOO|UCX|OMP|MKL|AISTUDIO|MODELSCOPE|TRANSFORMERS|TORCH"
    r"|MOONCAKE|ENABLE|LC)_.*"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|PATH|PYTHON[A-Z]*|LANG|HOME|TMPDIR|VIRTUAL_ENV|CONDA_PREFIX"
    r"|((HTTPS?|FTP|ALL|NO)_PROXY|(https?|ftp|all|no)_proxy)"
)
"""Variables that can decide whether a server starts: fastdeploy/envs.py, and what its libraries read."""

_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_JSON_SECRET = re.compile(r'("([^"\\]{1,60})"\s*:\s*")((?:[^"\\]|\\.)+)(?=")')

_FOREMOST: Mapping[str, re.Pattern[str]] = {
    "package": re.compile(r"(fastdeploy|paddle).*|(nvidia|cuda|triton|torch|numpy|transformers|flash).*"),
    "env": re.compile(r"(CUDA_VISIBLE_DEVICES|LD_\w+|PYTHONPATH|NVIDIA_VISIBLE_DEVICES)|(FD|FLAGS|CUDA|NCCL)_.*"),
    "model": re.compile(r"(folder|config\.json)|.*\.json"),
    "host": re.compile(r"(driver)|kernel"),
}
"""Which things of a kind come first: those of the first group, then the rest of the pattern."""

_NEAR_GIB = 0.25
"""Memory of neighbours that moved less is as it was."""

_GIB = 1 << 30
_HELD = re.compile(r"([\d.]+) GiB")

NOBODY = "no process"
"""Whose memory it is where no process is seen to hold it: the driver's own, or what a dead one left."""

_REST = "..."


class Sealer:
    """Makes fingerprints of secrets: equal secrets look equal, none can be read or guessed.

    Args:
        key: Kept by this daemon alone; empty where there is none: then all secrets look alike.
    """

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def seal(self, secret: str) -> str:
        """Return ``*** (1a2b3c4d)``, or ``***`` without a key.

        >>> Sealer().seal("hunter2")
        '***'
        """
        if not self._key or not secret:
            return MASK
        digest = hmac.new(self._key, secret.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
        return f"{MASK} ({digest[:_HASH_CHARS]})"

    def named(self, name: str, value: str) -> str:
        """Return a value that may be shown: sealed by its name, or in the parts of it that are secret."""
        if is_secret(name):
            return self.seal(value)
        shown = _USERINFO.sub(lambda found: self.seal(found[0]), value)
        return _JSON_SECRET.sub(
            lambda found: found[1] + (self.seal(found[3]) if is_secret(found[2]) else found[3]), shown
        )


def of_command(desired: LaunchSpec, sealer: Sealer, *, chosen: Collection[str] = ()) -> dict[str, str]:
    """Return the operator's command as names and values: flags, ``program``, ``folder``.

    Args:
        chosen: Flags that the daemon chose itself, anew at each start.
    """
    words = [_assigned(word, sealer) for word in desired.argv[: _part(desired)]]
    found = {"program": shlex.join(words), "folder": desired.cwd}
    return found | {name: text for name, text in flags_of(desired, sealer).items() if name not in chosen}


def flags_of(spec: LaunchSpec, sealer: Sealer) -> dict[str, str]:
    """Return a command's flags; of several the last counts, of one that may be repeated all."""
    found: dict[str, str] = {}
    for one in scan(spec.argv, _part(spec)):
        shown = sealer.named(one.name, one.value) if one.value else "on"
        again = one.name in found and kind_of(one.name) == "repeat"
        found[one.name] = f"{found[one.name]}, {shown}" if again else shown
    return found


def _part(spec: LaunchSpec) -> int:
    """Say where the server's own flags begin; 0 where it is no FastDeploy that is started."""
    try:
        return fastdeploy_part(spec.argv)
    except ConfigError:
        return 0


def of_remedies(desired: LaunchSpec, running: LaunchSpec, sealer: Sealer) -> dict[str, str]:
    """Return the flags that remedies changed, with what runs now; ``-`` for one that was taken out."""
    wish, now = flags_of(desired, sealer), flags_of(running, sealer)
    return {name: now.get(name, "-") for name in sorted({*wish, *now}) if wish.get(name) != now.get(name)}


def of_env(environ: Facts, sealer: Sealer, *, given: Collection[str] = ()) -> dict[str, str]:
    """Return the variables that can decide a start, and those that the configuration names.

    >>> of_env({"FD_LOG_DIR": "log", "SHLVL": "1", "HF_TOKEN": "hf_x"}, Sealer())
    {'FD_LOG_DIR': 'log', 'HF_TOKEN': '***'}
    """
    telling = {name for name in environ if _TELLING.fullmatch(name)}
    return {name: sealer.named(name, environ[name]) for name in sorted(telling | (set(given) & environ.keys()))}


def of_cards(cards: Iterable[GpuReading]) -> dict[str, str]:
    """Return the cards that the server may use: what they are, and what is wrong with them."""
    told = {}
    for card in cards:
        parts = (card.name, f"{card.total_bytes / _GIB:.2f} GiB", card.uuid, "" if card.state == "ok" else card.state)
        told[f"GPU {card.label}"] = ", ".join(part for part in parts if part)
    return told


def of_neighbours(cards: Iterable[GpuReading], *, fresh: bool) -> dict[str, str]:
    """Return who else holds memory of these cards, by program: processes come and go, programs stay.

    Args:
        fresh: The server has only begun: what no process is seen to hold is not its own.
    """
    told = {}
    for card in cards:
        others = [one for one in card.processes if one.whose != "own"]
        for name in dict.fromkeys(one.name for one in others):
            same = [one for one in others if one.name == name]
            pids = " ".join(str(one.pid) for one in same)
            size = sum(one.used_bytes or 0 for one in same)
            told[f"GPU {card.label}: {name or '?'}"] = f"{size / _GIB:.2f} GiB, process {pids}"
        unseen = card.used_bytes - card.own_bytes - sum(one.used_bytes or 0 for one in others)
        if fresh and unseen > 0:
            told[f"GPU {card.label}: {NOBODY}"] = f"{unseen / _GIB:.2f} GiB"
    return told


def bounded(things: Facts) -> dict[str, str]:
    """Return the things of one kind, such that a journal can keep them."""
    rows = list(things.items())
    kept = {name[:MOST_CHARS]: _short(value) for name, value in rows[:MOST_THINGS]}
    if rest := rows[MOST_THINGS:]:
        kept[_REST] = f"{len(rest)} more ({_digest(repr(rest))})"
    return kept


def compare(before: Surroundings | None, after: Surroundings) -> Comparison:
    """Say what is not as it was at the last healthy start, most suspicious first.

    Args:
        before: Of that start; ``None`` where none is known.
    """
    if before is None:
        return Comparison()
    seen = before.facts.keys() & after.facts.keys()
    changes = [
        change for kind in KINDS if kind in seen for change in _changes(kind, before.facts[kind], after.facts[kind])
    ]
    return Comparison(
        since=before.at,
        changes=tuple(changes[:_MOST_CHANGES]),
        more=max(len(changes) - _MOST_CHANGES, 0),
        unseen=tuple(kind for kind in KINDS if kind not in seen),
    )


def _changes(kind: str, before: Facts, after: Facts) -> list[Change]:
    return [
        Change(kind=kind, name=name, before=before.get(name), after=after.get(name))
        for name in sorted(_comparable(kind, before, after), key=lambda name: (_place(kind, name), name))
        if not _same(kind, before.get(name), after.get(name))
    ]


def _comparable(kind: str, before: Facts, after: Facts) -> set[str]:
    both = before.keys() & after.keys()
    if _REST in {*before, *after}:  # what one of them lacks may only have been folded
        return {*both, _REST}
    if kind == "neighbour":  # who was not looked for in one of the two may have been there
        return {name for name in {*before, *after} if name in both or not name.endswith(NOBODY)}
    if kind == "model" and both == {"folder"}:  # another folder, or gone: its files are not told one by one
        return both
    return {*before, *after}


def _place(kind: str, name: str) -> int:
    pattern = _FOREMOST.get(kind)
    found = pattern.fullmatch(name) if pattern else None
    return 2 if found is None else 0 if found[1] else 1


def _same(kind: str, before: str | None, after: str | None) -> bool:
    if before == after or kind != "neighbour":
        return before == after
    held = [float(found[1]) if text and (found := _HELD.match(text)) else 0.0 for text in (before, after)]
    return abs(held[0] - held[1]) < _NEAR_GIB


def _assigned(word: str, sealer: Sealer) -> str:
    """``env FD_API_KEY=x python ...`` has secrets in front of the program."""
    name, equals, text = word.partition("=")
    return f"{name}={sealer.named(name, text)}" if equals and name.isidentifier() else word


def _short(value: str) -> str:
    if len(value) <= MOST_CHARS:
        return value
    return f"{value[:MOST_CHARS]}... ({_digest(value)})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_HASH_CHARS]
