"""Reading and editing the command of a server. Nothing is guessed: an unknown flag stays as it stands.

The words follow argparse, which FastDeploy uses: ``--a b`` and ``--a=b`` mean the same, the last of several
wins, a word that begins with a dash is a flag unless it is a negative number or has a blank in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from posixpath import basename

import msgspec

from diagnose.errors import ConfigError
from diagnose.launch.names import MASK, is_secret
from diagnose.launch.table import BY_NAME, canonical, kind_of
from diagnose.model.launch import LaunchSpec

_SHELLS = {"bash", "sh", "dash", "zsh", "ksh", "fish"}
_MODULES = ("fastdeploy.entrypoints.openai.api_server", "fastdeploy.entrypoints.openai.multi_api_server")
_NEGATIVE = re.compile(r"-(\d+(\.\d*)?|\.\d+)")
_CURE = "Give the command itself, e.g. python -m fastdeploy.entrypoints.openai.api_server --model DIR"


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """One flag in a command: the words ``argv[start:end]``.

    Attributes:
        name: Its canonical name.
        spelled: As it stands there, with its dashes, without value.
        values: Its values; empty for a switch.
        joined: Written as ``--a=b``.
    """

    name: str
    spelled: str
    start: int
    end: int
    values: tuple[str, ...]
    joined: bool

    @property
    def value(self) -> str:
        """One text: a list is quoted as a shell would take it, a switch is empty."""
        return self.values[0] if len(self.values) == 1 and self._single else shlex.join(self.values)

    @property
    def _single(self) -> bool:
        return kind_of(self.name) != "list"


def fastdeploy_part(argv: Sequence[str]) -> int:
    """Return where the arguments of FastDeploy begin: the index behind its program.

    Wrappers in front (``env A=b``, ``numactl``, ``nohup``, ``taskset``) are passed over.

    Raises:
        ConfigError: No FastDeploy server is started here, or only inside a shell's own text.

    >>> fastdeploy_part(["env", "A=1", "fastdeploy", "serve", "--port", "1"])
    4
    """
    for at, word in enumerate(argv):
        if basename(word) in _SHELLS and any(re.fullmatch(r"-\w*c", arg) for arg in argv[at + 1 : at + 4]):
            raise ConfigError(f"the command is hidden in the text of {word} -c. {_CURE}.")
        following = argv[at + 1] if at + 1 < len(argv) else ""
        if word == "-m" and following in _MODULES:
            return _behind_args(argv, at + 2)
        if word.startswith("-m") and word[2:] in _MODULES:
            return _behind_args(argv, at + 1)
        if re.search(r"(^|/)entrypoints/openai/(multi_)?api_server\.py$", word):
            return _behind_args(argv, at + 1)
        if basename(word) == "fastdeploy" and following == "serve":
            return at + 2
    raise ConfigError(f"no FastDeploy server is started by {shlex.join(argv) or 'an empty command'!s}. {_CURE}.")


def _behind_args(argv: Sequence[str], start: int) -> int:
    """``multi_api_server`` hands on what stands behind ``--args``."""
    if "multi_api_server" in argv[start - 1] and "--args" in argv[start:]:
        return argv.index("--args", start) + 1
    return start


def is_value(word: str) -> bool:
    """Say whether argparse would take this word for a value and not for a flag."""
    if not word.startswith("-") or word == "-" or _NEGATIVE.fullmatch(word):
        return True
    return " " in word and kind_of(canonical(word.partition("=")[0])) is None


def occurrences(argv: Sequence[str]) -> Iterator[Occurrence]:
    """Yield the flags of the FastDeploy part, in order.

    Raises:
        ConfigError: As `fastdeploy_part`.
    """
    yield from scan(argv, fastdeploy_part(argv))


def scan(argv: Sequence[str], start: int) -> Iterator[Occurrence]:
    """Yield the flags of ``argv[start:]``, up to a bare ``--``."""
    at = start
    while at < len(argv) and argv[at] != "--":
        word = argv[at]
        if is_value(word):
            at += 1
            continue
        spelled, equals, inline = word.partition("=")
        name = canonical(spelled)
        end = at + 1
        if not equals:
            most = {"value": 1, "repeat": 1, "switch": 0, "pair": 0, "list": len(argv)}.get(kind_of(name) or "", 1)
            while end < len(argv) and end - at <= most and is_value(argv[end]):
                end += 1
        values = (inline,) if equals else tuple(argv[at + 1 : end])
        yield Occurrence(name=name, spelled=spelled, start=at, end=end, values=values, joined=bool(equals))
        at = end


def _found(argv: Sequence[str], flag: str) -> list[Occurrence]:
    name = canonical(flag)
    return [one for one in occurrences(argv) if one.name == name]


def twin(name: str) -> str:
    """Return the other half of an on/off pair, or the empty text."""
    other = name.replace("--no-", "--", 1) if name.startswith("--no-") else name.replace("--", "--no-", 1)
    pair = BY_NAME.get(name) or BY_NAME.get(other)
    return other if pair is not None and pair.kind == "pair" else ""


def value(spec: LaunchSpec, flag: str) -> str | None:
    """Return what a flag is set to: the last one wins.

    A switch that is given has ``""``; of ``--x`` and ``--no-x`` only the one that wins is given.
    A list has its words as a shell would quote them.

    Returns:
        ``None`` where the flag is not given.

    Raises:
        ConfigError: As `fastdeploy_part`.
    """
    found = _found(spec.argv, flag)
    if not found:
        return None
    other = twin(found[-1].name)
    later = any(one.name == other and one.start > found[-1].start for one in occurrences(spec.argv)) if other else False
    return None if later else found[-1].value


def spelling(flag: str, accepted: Collection[str] = (), given: str = "") -> str:
    """Return how the server spells a flag.

    Args:
        accepted: What this server version accepts; empty where it is not known.
        given: How it stands in the command now; kept where it is one of the few true underscores.
    """
    name = canonical(flag)
    for one in (name, name[:2] + name[2:].replace("-", "_")):
        if one in accepted:
            return one
    return given if not accepted and given in BY_NAME and canonical(given) == name else name


def set_flag(spec: LaunchSpec, flag: str, value: str | None, accepted: Collection[str] = ()) -> LaunchSpec:
    """Return the command with one flag changed; all other words stay untouched.

    Args:
        value: ``None`` takes the flag out, ``""`` sets a switch.
        accepted: As in `spelling`.

    Raises:
        ConfigError: As `fastdeploy_part`.
    """
    argv, found = list(spec.argv), _found(spec.argv, flag)
    if value is None:
        return _without(spec, found)
    other = twin(canonical(flag))
    if other and (twins := [one for one in occurrences(argv) if one.name == other]):
        return set_flag(_without(spec, twins), flag, value, accepted)
    last = found[-1] if found else None
    words = _words(spelling(flag, accepted, last.spelled if last else ""), value, joined=bool(last and last.joined))
    if last:
        argv[last.start : last.end] = words
    else:
        end = argv.index("--", fastdeploy_part(argv)) if "--" in argv[fastdeploy_part(argv) :] else len(argv)
        argv[end:end] = words
    return msgspec.structs.replace(spec, argv=tuple(argv))


def _without(spec: LaunchSpec, found: Sequence[Occurrence]) -> LaunchSpec:
    gone = {at for one in found for at in range(one.start, one.end)}
    return msgspec.structs.replace(spec, argv=tuple(word for at, word in enumerate(spec.argv) if at not in gone))


def _words(name: str, value: str, *, joined: bool) -> list[str]:
    kind = kind_of(canonical(name))
    if kind in {"switch", "pair"} or (kind is None and not value):
        return [name]
    if kind == "list":
        return [name, *shlex.split(value)]
    return [f"{name}={value}"] if joined or not value or not is_value(value) else [name, value]


def change(flag: str, before: str | None, after: str | None) -> str:
    """Put one change into a line; ``-`` stands for not given, ``on`` for a switch, ``***`` for a secret.

    >>> change("--max-num-seqs", "128", "64"), change("--enable-early-stop", None, "")
    ('--max-num-seqs 128 -> 64', '--enable-early-stop - -> on')
    """
    secret = is_secret(flag)
    return f"{flag} {_shown(before, secret=secret)} -> {_shown(after, secret=secret)}"


def _shown(value: str | None, *, secret: bool) -> str:
    if value is None:
        return "-"
    return MASK if secret and value else value or "on"


def diff(before: LaunchSpec, after: LaunchSpec) -> tuple[str, ...]:
    """Return what differs, a line each: flags in the order of the new command, then env and cwd.

    Raises:
        ConfigError: As `fastdeploy_part`.
    """
    names = dict.fromkeys(one.name for spec in (after, before) for one in occurrences(spec.argv))
    flags = [(name, value(before, name), value(after, name)) for name in names]
    variables = sorted({*before.env, *after.env})
    env = [(f"env {name}", before.env.get(name), after.env.get(name)) for name in variables]
    cwd = [("cwd", before.cwd, after.cwd)]
    return tuple(change(*row) for row in (*flags, *env, *cwd) if row[1] != row[2])
