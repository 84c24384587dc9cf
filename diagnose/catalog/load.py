"""Rules and remedies from their folders: shipped, of this host, of the command line; the later replaces.

A file holds one rule (or remedy), a list of them, or several documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import re2
import yaml

from diagnose import __version__
from diagnose.catalog import cache, yamlfile
from diagnose.errors import ConfigError, FileError, RuleFileError
from diagnose.model import codec
from diagnose.model.knowledge import Knowledge
from diagnose.model.remedy import Remedy
from diagnose.model.rule import Rule, When
from diagnose.profiles import fastdeploy

HOST_FOLDERS = (Path("/etc/diagnose/rules.d"), Path("/etc/diagnose/remedies.d"))

Overrides = Mapping[str, Mapping[str, str | int | float | bool]]
T = TypeVar("T", Rule, Remedy)
S = TypeVar("S", bound=msgspec.Struct)


def shipped(name: str) -> Path:
    """Return a shipped folder: in the wheel, else beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_data" / name
    return inside if inside.is_dir() else package.parent / name


def load(folders: Sequence[Path] = (), overrides: Overrides | None = None, *, fresh: bool = False) -> Knowledge:
    """Load all that is known.

    Args:
        folders: More rules and remedies, over the shipped ones and this host's; files or folders.
        overrides: Single fields by id, e.g. ``{"server.fit-memory": {"mode": "suggest"}}``.
        fresh: Read the files, whatever was kept of them: for those who are just writing them.

    Raises:
        RuleFileError: A file cannot be used.
        ConfigError: A folder is not there, or an override fits nothing.
    """
    found = files(folders)
    key = _key(found, overrides)
    known = None if fresh else cache.knowledge(key)
    if known is not None:  # marks are code: those that were kept may be of another version
        known = msgspec.structs.replace(known, marks=fastdeploy.MARKS)
    if known is None:
        known = _read(found, overrides or {}, key)
        cache.keep_knowledge(key, known)
    return known


def files(folders: Sequence[Path] = (), host: Sequence[Path] = HOST_FOLDERS) -> list[Path]:
    """List the files that `load` would read now: shipped, this host's, then these; the last word last.

    Args:
        host: Folders that need not be there.

    Raises:
        ConfigError: A folder is not there.
    """
    return [*_files([shipped("rules"), shipped("remedies")]), *site_files(folders, host)]


def site_files(folders: Sequence[Path] = (), host: Sequence[Path] = HOST_FOLDERS) -> list[Path]:
    """List those of `files` that a site wrote: all but the shipped ones.

    Raises:
        ConfigError: A folder is not there.
    """
    return list(_files([*[folder for folder in host if folder.is_dir()], *folders]))


def digest(folders: Sequence[Path] = (), overrides: Overrides | None = None) -> str:
    """Return the digest that `load` would give now; looks at the states of the files alone.

    Raises:
        ConfigError: A folder or file is not there.
    """
    return _key(files(folders), overrides)


def read_files(paths: Sequence[Path]) -> Knowledge:
    """Load just these files or folders, for those who check what they wrote."""
    found = list(_files(paths))
    return _read(found, {}, _key(found, None))


def read_config(path: Path, kind: type[S]) -> S:
    """Read a configuration; an empty file is one with all defaults.

    Raises:
        ConfigError: It cannot be used; the message names the place and the cure.
    """
    documents = yamlfile.read(path)
    if not documents:
        return kind()
    value, node = documents[-1]
    if len(documents) > 1 or not isinstance(value, dict):
        found = (
            "several documents" if len(documents) > 1 else f"a {'list' if isinstance(value, list) else 'lone value'}"
        )
        raise FileError(
            path=str(path),
            line=node.start_mark.line + 1,
            problem=f"expected settings, each with its name, found {found}",
            hint="Write one document of lines such as targets: ...; see diagnose config schema",
        )
    return yamlfile.convert(value, node, kind, path)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_file():
            yield path
        elif path.is_dir():
            found = (one for one in path.rglob("*") if one.suffix in {".yaml", ".yml"})
            yield from sorted(one for one in found if not one.name.startswith("."))  # an editor's own
        else:
            raise ConfigError(f"{path}: no such file or folder. Name one that holds rules or remedies.")


def _key(files: Sequence[Path], overrides: Overrides | None) -> str:
    whole = codec.encode([__version__, [_state_of(path) for path in files], overrides or {}])
    return hashlib.sha256(whole).hexdigest()[:32]


def _state_of(path: Path) -> tuple[str, int, int, int, int]:
    """Tell a file from what it was before: by its time of change too, which nobody can set back."""
    try:
        state = path.stat()
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}. Give a file that this user can read.") from problem
    return str(path), state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino


def _read(files: Sequence[Path], overrides: Overrides, key: str) -> Knowledge:
    rules: dict[str, Rule] = {}
    remedies: dict[str, Remedy] = {}
    for path in files:
        for item in _items(path):
            if isinstance(item, Rule):
                rules[item.id] = item
            else:
                remedies[item.id] = item
    for name, fields in overrides.items():
        if name in rules:
            rules[name] = _overridden(rules[name], name, fields)
        elif name in remedies:
            remedies[name] = _overridden(remedies[name], name, fields)
        else:
            raise ConfigError(f"overrides: nothing has the id {name!r}. See diagnose rules list, remedies list.")
    return Knowledge(rules=rules, remedies=remedies, marks=fastdeploy.MARKS, digest=key)


def _items(path: Path) -> Iterator[Rule | Remedy]:
    seen: set[str] = set()
    for value, node in yamlfile.read(path, RuleFileError):
        values = value if isinstance(value, list) else [value]
        nodes = node.value if isinstance(value, list) else [node]
        for one, place in zip(values, nodes, strict=True):
            if not isinstance(one, dict):
                raise RuleFileError(
                    path=str(path),
                    line=place.start_mark.line + 1,
                    problem=f"expected a rule, found {str(one)[:80]!r}",
                    hint="Begin each rule with its id:, as the shipped ones do",
                )
            kind: type[Rule | Remedy] = Remedy if "ladder" in one else Rule
            item = yamlfile.convert(one, place, kind, path, RuleFileError)
            if item.id in seen:
                raise RuleFileError(
                    path=str(path),
                    line=place.start_mark.line + 1,
                    problem=f"the id {item.id!r} stands twice in this file",
                    hint="Give each its own",
                )
            seen.add(item.id)
            if isinstance(item, Rule):
                _refuse_bad_patterns(item, place, path)
            yield item


def _refuse_bad_patterns(rule: Rule, node: yaml.Node, path: Path) -> None:
    """Say now what RE2 would say at the first hit, in the middle of somebody's night."""
    for place, pattern in [*_patterns(rule.when, "$.when"), ("$.clears.pattern", rule.clears.pattern)]:
        if pattern and (wrong := _wrong_with(pattern)):
            where = yamlfile.place_of(node, place).start_mark
            raise RuleFileError(
                path=str(path), line=where.line + 1, column=where.column + 1, problem=wrong[0], hint=wrong[1]
            )


def _wrong_with(pattern: str) -> tuple[str, str] | None:
    """Return what is wrong with a pattern, and the cure."""
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options=options)
    except re2.error as problem:
        said = problem.args[0] if problem.args else problem
        told = said.decode() if isinstance(said, bytes) else said
        hint = "Write it in RE2's syntax: no look-around, back-references or possessive repeats"
        return f"the pattern cannot be used: {told}", hint
    if compiled.search(""):
        return "the pattern matches every line, as it may be empty", "Anchor it on fixed words"
    return None


def _patterns(when: When, place: str) -> Iterator[tuple[str, str | None]]:
    yield f"{place}.pattern", when.pattern
    yield f"{place}.unless", when.unless
    for knot in ("all", "any", "sequence"):
        for number, child in enumerate(getattr(when, knot)):
            yield from _patterns(child, f"{place}.{knot}[{number}]")
    if when.absent:
        yield from _patterns(when.absent, f"{place}.absent")


def _overridden(item: T, name: str, fields: Mapping[str, str | int | float | bool]) -> T:
    plain = msgspec.to_builtins(item, enc_hook=codec.to_plain)
    own_id = plain.pop("id")
    for field, value in fields.items():
        if field not in plain:
            raise ConfigError(f"overrides: {name} has no field {field!r}. It has: {', '.join(plain)}.")
        plain[field] = value
    try:
        return msgspec.convert({"id": own_id, **plain}, type(item), dec_hook=codec.from_plain, strict=False)
    except msgspec.ValidationError as problem:
        raise ConfigError(f"overrides: {name}: {problem}. Write a value that this field takes.") from problem
