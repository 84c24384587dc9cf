"""JSON Schema of the files that people write, for their editors.

msgspec's own generator refuses fields whose default is a `Duration`; so this one walks the same types.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from diagnose.model import codec
from diagnose.model.text import Duration

Schema = dict[str, Any]

_PLAIN: dict[type, Schema] = {
    inspect.AnyType: {},
    inspect.BoolType: {"type": "boolean"},
    inspect.FloatType: {"type": "number"},
    inspect.IntType: {"type": "integer"},
    inspect.NoneType: {"type": "null"},
    inspect.StrType: {"type": "string"},
}
_DURATION: Schema = {
    "type": "string",
    "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$",
    "examples": ["30s", "5m", "1h30m"],
}


def of(kind: Any) -> Schema:  # noqa: ANN401 (a type, or a union of types)
    """Return the JSON Schema of a type of the model.

    Raises:
        NotImplementedError: It holds something that no file can hold.
    """
    shapes: dict[str, Schema] = {}
    schema = _of(inspect.type_info(kind), shapes)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": shapes}


def _of(info: Any, shapes: dict[str, Schema]) -> Schema:  # noqa: ANN401 (msgspec's types have no common one)
    if type(info) in _PLAIN:
        return dict(_PLAIN[type(info)])
    if isinstance(info, inspect.Metadata):
        return _of(info.type, shapes)
    if isinstance(info, inspect.CustomType) and info.cls is Duration:
        return dict(_DURATION)
    if isinstance(info, inspect.LiteralType):
        return {"enum": list(info.values)}
    if isinstance(info, inspect.EnumType):
        return {"enum": [one.value for one in info.cls]}
    if isinstance(info, inspect.UnionType):
        return {"anyOf": [_of(one, shapes) for one in info.types]}
    if isinstance(info, inspect.VarTupleType | inspect.ListType | inspect.SetType | inspect.FrozenSetType):
        return {"type": "array", "items": _of(info.item_type, shapes)}
    if isinstance(info, inspect.DictType):
        return {"type": "object", "additionalProperties": _of(info.value_type, shapes)}
    if isinstance(info, inspect.StructType):
        return _struct(info, shapes)
    raise NotImplementedError(f"no schema for {info}")


def _struct(info: inspect.StructType, shapes: dict[str, Schema]) -> Schema:
    name = info.cls.__name__
    if name not in shapes:
        shape = shapes[name] = {"title": name, "type": "object"}
        fields: Schema = {info.tag_field: {"const": info.tag}} if info.tag_field else {}
        required = [info.tag_field] if info.tag_field else []
        for field in info.fields:
            fields[field.encode_name] = {**_of(field.type, shapes), **_default(field)}
            required += [field.encode_name] if field.required else []
        shape |= {
            "description": (info.cls.__doc__ or "").partition("\n")[0],
            "properties": fields,
            "required": required,
            "additionalProperties": not info.forbid_unknown_fields,
        }
    return {"$ref": f"#/$defs/{name}"}


def _default(field: inspect.Field) -> Schema:
    if field.default is msgspec.NODEFAULT:
        return {}
    return {"default": msgspec.to_builtins(field.default, enc_hook=codec.to_plain, str_keys=True)}
