"""The file behind ``--config``: YAML with the flags' names, underscores instead of hyphens."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

import yaml

from diagnose.errors import FileError
from diagnose.launch.spec import occurrences, twin, value
from diagnose.launch.table import BY_NAME, canonical, kind_of
from diagnose.model.launch import LaunchSpec

EMPTY: Mapping[str, str] = {}
_DEEPEST = 64
"""Levels of a value; a server's settings have three or four."""


def config_path(spec: LaunchSpec) -> str | None:
    """Return the file that ``--config`` names, as given; ``None`` without one.

    Raises:
        ConfigError: The command starts no FastDeploy server.
    """
    return value(spec, "--config") or None


def flag_values(text: str, path: str = "config.yaml") -> dict[str, str]:
    """Read the file: flag, with dashes, to value as it would stand in a command.

    A switch that is on has ``""``; what is off or null is not given, save the ``--no-`` twin of a pair.
    Keys that no FastDeploy knows are left out, as the server drops them without a word.

    Raises:
        FileError: The text is no YAML mapping.

    >>> flag_values("max_model_len: 32768")
    {'--max-model-len': '32768'}
    """
    found: dict[str, str] = {}
    for key, given in _mapping(text, path).items():
        name = _flag(key)
        kind = kind_of(name) if name else None
        if name is None or kind is None or given is None:
            continue
        if kind in {"switch", "pair"}:
            if given:  # stored as it is: the text "false" is on, 0 is off
                found[name] = ""
            elif kind == "pair":
                found[f"--no-{name[2:]}"] = ""
        elif given != "":  # an empty text is taken for none
            found[name] = _text(given, many=kind == "list")
    return found


def lookup(spec: LaunchSpec, flag: str, config: Mapping[str, str] = EMPTY) -> str | None:
    """Return what a flag is set to by the command or, failing that, by its ``--config`` file.

    Args:
        config: What `flag_values` read from that file.

    Raises:
        ConfigError: The command starts no FastDeploy server.
    """
    given = value(spec, flag)
    if given is not None:
        return given
    other = twin(canonical(flag))
    return None if other and value(spec, other) is not None else config.get(canonical(flag))


def merged(spec: LaunchSpec, config: Mapping[str, str] = EMPTY) -> dict[str, str]:
    """Return the flags in force: of the ``--config`` file, and over them those of the command.

    Raises:
        ConfigError: The command starts no FastDeploy server.
    """
    named = dict.fromkeys([*config, *(one.name for one in occurrences(spec.argv))])
    return {flag: text for flag in named if (text := lookup(spec, flag, config)) is not None}


def _flag(key: str) -> str | None:
    """Argparse's own destination of a flag has underscores throughout; a key with hyphens is unknown."""
    name = canonical(f"--{key}")
    return name if "-" not in key and name in BY_NAME and name[2:].replace("-", "_") == key else None


def _text(given: object, *, many: bool) -> str:
    if isinstance(given, dict):
        return json.dumps(given, ensure_ascii=False)
    if isinstance(given, list):
        words = [str(one) for one in given]
        return shlex.join(words) if many else ",".join(words)
    return str(given)


def _refuse_depth(text: str) -> None:
    """Look at the pieces one by one: values are made of them by functions that go as deep as the text does.

    Raises:
        ValueError: It is nested without end.
        yaml.YAMLError: It is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError("nested too deep")


def _mapping(text: str, path: str) -> dict[str, object]:
    try:
        _refuse_depth(text)
        read = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, None)
        problem = f"no YAML: {error.problem}"
        raise FileError(path=path, line=line, column=column, problem=problem, hint="Write key: value lines") from error
    except (yaml.YAMLError, ValueError) as error:  # as a day that does not exist
        raise FileError(path=path, line=1, problem="no YAML", hint="Write key: value lines") from error
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise FileError(path=path, line=1, problem="no mapping", hint="Write lines like max_model_len: 32768")
    return {str(key): given for key, given in read.items()}
