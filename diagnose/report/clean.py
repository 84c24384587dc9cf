"""Text from logs is hostile: here it is made visible, bounded and harmless before people see it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

_GROUP = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NONE = "\x00"
"""Stands for a label that is not there; no label holds it, for it draws nothing."""

_WITHOUT = re.compile(
    rf"[ \t]*(?:\([ \t]*{_NONE}[ \t]*\)|（[ \t]*{_NONE}[ \t]*）"
    rf"|{_NONE}(?:[ \t]*{_NONE})*(?P<end>[ \t]+(?![.,;:!?)]))?)"
)
"""A place without its label, the parentheses that hold nothing else, and the blanks that it leaves too many."""

_PLAIN_WORD = re.compile(r"[\w./:@%+=,-]{1,120}", re.ASCII)
_MOST_VALUE_CHARS = 120
_AROUND = 24
_HAN = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
_FOLDED = re.compile(rf"(?<={_HAN})\s+(?={_HAN})")

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that draw nothing, or that change how the text around them is drawn."""


def visible(text: str) -> str:
    r"""Spell out control, format and direction characters; a tab becomes blanks.

    >>> print(visible("\x1b[31mred\x07"))
    \x1b[31mred\x07
    """
    if text.isprintable():
        return text
    return "".join(_spelled(char) for char in text.expandtabs(4))


def stripped(text: str, most: int = _MOST_VALUE_CHARS) -> str:
    r"""Take out what draws nothing, make one line of it, and cap its length.

    >>> stripped("rank\x1b[0m\n 7")
    'rank[0m 7'
    """
    line = " ".join(text.split())
    line = "".join(char for char in line if unicodedata.category(char) not in _UNSEEN)
    return line if len(line) <= most else line[: most - 1] + "…"


def sound(text: str) -> str:
    """Replace halves of surrogate pairs, which UTF-8 cannot hold (they come from undecodable names)."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def unfolded(text: str) -> str:
    """Take out the blanks that line ends of a file left between Chinese characters.

    >>> unfolded("先看 日志，再 restart 服务")
    '先看日志，再 restart 服务'
    """
    return text if text.isascii() else _FOLDED.sub("", text)


def apart(before: str, after: str, most: int = 60) -> tuple[str, str]:
    """Shorten two long texts to where they differ, so that a reader sees the difference.

    >>> apart("a" * 80 + ":/cuda-12.4/lib", "a" * 80 + ":/cuda-12.6/lib", 40)
    ('…aaaaaaaaaaaaaa:/cuda-12.4/lib', '…aaaaaaaaaaaaaa:/cuda-12.6/lib')
    """
    if max(len(before), len(after)) <= most:
        return before, after
    least = min(len(before), len(after))
    head = next((at for at in range(least) if before[at] != after[at]), least)
    tail = next((at for at in range(least - head) if before[-1 - at] != after[-1 - at]), least - head)
    start, end = max(head - _AROUND, 0), max(tail - _AROUND, 0)
    return _piece(before, start, end, most), _piece(after, start, end, most)


def _piece(text: str, start: int, end: int, most: int) -> str:
    piece = text[start : len(text) - end]
    shown = piece if len(piece) <= most else piece[: most - 1] + "…"
    return ("…" if start else "") + shown + ("…" if end and shown == piece else "")


def fill(text: str, labels: Mapping[str, str], *, most: int = _MOST_VALUE_CHARS) -> str:
    """Put labels into the places that a text names; a place without a label is left out.

    >>> fill("GPU {gpu} is full ({size})", {"gpu": "3"})
    'GPU 3 is full'
    >>> fill("{what}: see ss -l 'sport = :{port}'", {"port": "8180"})
    ": see ss -l 'sport = :8180'"
    """
    filled = _GROUP.sub(lambda found: stripped(labels.get(found[1]) or "", most) or _NONE, text)
    return _WITHOUT.sub(lambda found: found["end"] or "", filled).strip() if _NONE in filled else filled


def fill_command(text: str, labels: Mapping[str, str]) -> str:
    """Put labels into a command that people will paste into a shell.

    Only plain words are let in; whatever else stays a place to be filled by hand.

    >>> fill_command("kill {pid}; cat {file}", {"pid": "42", "file": "a; rm -rf /"})
    'kill 42; cat <file>'
    """

    def word(found: re.Match[str]) -> str:
        value = labels.get(found[1]) or ""
        safe = _PLAIN_WORD.fullmatch(value) and not value.startswith("-")
        return value if safe else f"<{found[1]}>"

    return _GROUP.sub(word, text)


def _spelled(char: str) -> str:
    if unicodedata.category(char) not in _UNSEEN:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
