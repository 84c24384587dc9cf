"""One YAML file into typed values; what is wrong is told with file, line, column and cure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from diagnose.errors import ConfigError, FileError
from diagnose.model import codec

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")

_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "nothing",
    "object": "fields, each with its name",
    "str": "a text",
}


def read(path: Path, error: type[FileError] = FileError) -> list[tuple[Any, yaml.Node]]:
    """Read all documents of a file, each with its tree, in which places can be looked up.

    Raises:
        ConfigError: It cannot be read.
        FileError: It is no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}. Give a file that this user can read.") from problem
    except UnicodeDecodeError as problem:
        raise error(
            path=str(path), line=1, problem=f"no UTF-8 text ({problem.reason})", hint="Save it as UTF-8"
        ) from problem
    try:
        documents = list(_documents(text))
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        raise error(
            path=str(path),
            line=mark.line + 1 if mark else 1,
            column=mark.column + 1 if mark else None,
            problem=f"not valid YAML: {problem.problem or problem.context}",
            hint="Check indentation, quotes and colons here; put patterns in single quotes",
        ) from problem
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        said = " ".join(str(problem).split())
        raise error(
            path=str(path), line=1, problem=f"not valid YAML: {said}", hint="Save it as plain YAML"
        ) from problem
    for _, node in documents:
        _refuse_twice(node, path, error, set())
    return documents


def _documents(text: str) -> Iterator[tuple[Any, yaml.Node]]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            yield loader.construct_document(node), node
    finally:
        loader.dispose()


def _refuse_twice(node: yaml.Node, path: Path, error: type[FileError], seen: set[int]) -> None:
    """YAML takes the last of two fields of one name, and says nothing of the first."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item, path, error, seen)
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise error(
                    path=str(path),
                    line=key.start_mark.line + 1,
                    column=key.start_mark.column + 1,
                    problem=f"the field {key.value!r} stands twice",
                    hint="Keep one of them",
                )
            names.add(str(key.value))
            _refuse_twice(value, path, error, seen)


def convert(value: Any, node: yaml.Node, kind: type[T], path: Path, error: type[FileError] = FileError) -> T:  # noqa: ANN401
    """Take a plain value as one of ``kind``.

    Raises:
        FileError: It is of another shape; names the place and what to write.
    """
    try:
        return codec.convert(value, kind)
    except msgspec.ValidationError as problem:
        message, _, place = str(problem).partition(" - at `")
        where = place_of(node, place.rstrip("`"), message)
        raise error(
            path=str(path),
            line=where.start_mark.line + 1,
            column=where.start_mark.column + 1,
            problem=f"{_plain(message)}{f' (at {place.rstrip(chr(96))})' if place else ''}",
            hint=_hint(message, kind),
        ) from problem


def place_of(node: yaml.Node, place: str, message: str = "") -> yaml.Node:
    """Find the node that a path such as ``$.when.all[1].pattern`` names, or the last that exists on the way."""
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", place.removeprefix("$")):
        if index and isinstance(node, yaml.SequenceNode) and index.isdigit() and int(index) < len(node.value):
            node = node.value[int(index)]
        elif name and isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == name), None)
            if found is None:
                break
            node = found
    unknown = re.search(r"unknown field `([^`]+)`", message)
    if unknown and isinstance(node, yaml.MappingNode):
        node = next((key for key, _ in node.value if key.value == unknown[1]), node)
    return node


def _plain(message: str) -> str:
    return message.replace("Object contains", "here is").replace("Object missing required field", "missing")


def _hint(message: str, kind: type) -> str:
    if unknown := re.search(r"unknown field `([^`]+)`", message):
        import difflib  # noqa: PLC0415 (only to explain a mistake)

        near = difflib.get_close_matches(unknown[1], _names(kind), n=1)
        return (
            f"Did you mean {near[0]!r}? Then write that"
            if near
            else f"Take {unknown[1]!r} out; see the JSON Schema for what may stand here"
        )
    if missing := re.search(r"missing required field `([^`]+)`", message):
        return f"Add {missing[1]!r}"
    if expected := re.search(r"Expected `([^`]+)`, got `([^`]+)`", message):
        wanted, found = (_TYPES.get(one.partition(" ")[0], f"a value of type {one}") for one in expected.groups())
        return f"Write {wanted} instead of {found}"
    if "Invalid enum value" in message:
        return "Write one of the words that the schema lists"
    return "See the JSON Schema for what may stand here"


def _names(kind: type, seen: set[type] | None = None) -> set[str]:
    """Collect the field names of a type and all types within it."""
    seen = seen if seen is not None else set()
    names: set[str] = set()
    for one in _structs(msgspec.inspect.type_info(kind)):
        if one.cls not in seen:
            seen.add(one.cls)
            names |= {field.encode_name for field in one.fields}
            for field in one.fields:
                for inner in _structs(field.type):
                    names |= _names(inner.cls, seen)
    return names


def _structs(info: Any) -> list[Any]:  # noqa: ANN401
    if isinstance(info, msgspec.inspect.StructType):
        return [info]
    inner = [getattr(info, name, None) for name in ("item_type", "value_type")]
    many = [*getattr(info, "types", ()), *getattr(info, "item_types", ())]
    return [struct for one in (*inner, *many) if one is not None for struct in _structs(one)]
