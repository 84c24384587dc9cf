"""Values of the model to JSON and back, with lengths of time spelled as in files."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from diagnose.model.text import Duration

T = TypeVar("T")


def to_plain(value: object) -> object:
    """Turn what msgspec does not know into what it knows."""
    if isinstance(value, Duration):
        return str(value)
    raise NotImplementedError(f"no way to encode {type(value).__name__}")


def from_plain(kind: type, value: object) -> object:
    """Turn a plain value into one of ``kind``; a `ValueError` becomes msgspec's own error."""
    if kind is Duration and isinstance(value, str):
        return Duration.parse(value)
    raise ValueError(f"expected a {kind.__name__.lower()} such as 30s or 5m, got {value!r}")


_encoder = msgspec.json.Encoder(enc_hook=to_plain)


def encode(value: object) -> bytes:
    """Encode one value of the model as JSON. Bytes of file names that are no UTF-8 become replacement characters."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_in_utf8(msgspec.to_builtins(value, enc_hook=to_plain)))


def _in_utf8(plain: object) -> object:
    if isinstance(plain, str):
        return plain.encode("utf-8", "replace").decode() if not plain.isascii() else plain
    if isinstance(plain, dict):
        return {_in_utf8(name): _in_utf8(one) for name, one in plain.items()}
    return [_in_utf8(one) for one in plain] if isinstance(plain, list | tuple) else plain


def decode(data: bytes, kind: type[T]) -> T:
    """Decode what `encode` made.

    Raises:
        msgspec.ValidationError: It is of another shape.
    """
    return msgspec.json.decode(data, type=kind, dec_hook=from_plain)


def convert(plain: Any, kind: type[T]) -> T:  # noqa: ANN401 (YAML and JSON give anything)
    """Take plain values, as YAML gives them, as one of ``kind``.

    Raises:
        msgspec.ValidationError: Names the place, as ``$.when.pattern``.
    """
    return msgspec.convert(plain, kind, dec_hook=from_plain)
