"""Cuts that no reader notices as broken: at a byte limit, on a character's boundary, never inside an escape."""

from __future__ import annotations

import re

_OPEN_ENTITY = re.compile(r"&#?\w{0,8}\Z")
_OPEN_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_MARK = "…"
_JOINERS = "\u200d\ufe0f"


def size(text: str) -> int:
    """Count the bytes of a text in UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))


def cut(text: str, most_bytes: int) -> str:
    """Shorten a text to so many bytes of UTF-8, the mark at its end included.

    >>> cut("显存不足，权重放不进这张卡", 20)
    '显存不足，…'
    >>> cut("a &amp; b", 7)
    'a …'
    """
    if size(text) <= most_bytes:
        return text
    mark = _MARK if size(_MARK) <= most_bytes else ""
    kept = text.encode("utf-8", "surrogatepass")[: max(most_bytes - size(mark), 0)].decode("utf-8", "ignore")
    rest = text[len(kept) :]
    if rest and rest[0] in _JOINERS and kept:
        kept = kept[:-1]
    kept = _OPEN_ENTITY.sub("", kept)
    kept = _OPEN_ESCAPE.sub("", kept)
    return kept + mark


def cut_chars(text: str, most: int) -> str:
    """Shorten a text to so many characters, the mark included."""
    return text if len(text) <= most else _OPEN_ENTITY.sub("", text[: most - len(_MARK)]) + _MARK
