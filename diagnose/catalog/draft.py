"""A rule skeleton from one line that no rule knows: what varies is generalised, what a person must say is asked for.

The draft loads, its test runs, and lint says what is left to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

import msgspec
import re2
import yaml

from diagnose.engine.lines import Line, take_apart
from diagnose.engine.templates import WILDCARD, mask, variables
from diagnose.model.causes import CAUSES
from diagnose.model.rule import Rule
from diagnose.model.text import Text

PROMPTS = ("TODO", "待写")
"""How a text begins that is still to be written."""

CHOOSE = "choose-a-class"
"""Stands for the cause, until a person has said it."""

_MOST_CHARS = 200
"""Of a message in a pattern; what stands behind rarely tells two messages apart."""

_MOST_GROUPS, _MOST_MISSES = 3, 2
_KINDS = {
    "time": r"\d[\d:.,T -]*\d",
    "uuid": r"[0-9a-fA-F-]{36}",
    "ip": r"\d[\d.:]+",
    "url": r"[a-z]+://\S+",
    "path": r"\S+",
    "hex": r"(?:0x)?[0-9a-fA-F]+",
}
_NUMBERED = re.compile(r"(?i)((?:gpu|cuda|rank|worker|device|layer|node|shard)[_:#-]?)\d+")
_NOUN = (
    r"(?i:gpu|rank|port|layer|worker|device|node|pid|process|file|model|user|host|key|code|version|block|shard|signal|"
    r"status|module|symbol|flag|argument|option|channel|slot|library|package|tensor|weight|expert|stage|attempt)"
)
_BEFORE = re.compile(rf"(?:([A-Za-z][A-Za-z_]{{1,19}})[:=#] ?|\b({_NOUN}) )[\"'`]?$")
_LOGGER = re.compile(r"([\w./-]+\.(?:py|cc|cpp|cu|h))(?:\[line:|:)\d+|\[?(\w+)\]?:")


class Draft(msgspec.Struct, frozen=True):
    """A skeleton of a rule.

    Attributes:
        text: The whole file.
    """

    id: str
    pattern: str
    text: str


def as_line(raw: bytes) -> Line:
    """Take a raw line apart as the matcher would."""
    return take_apart(raw.rstrip(b"\r\n"), zone=timezone.utc, reference=datetime(2026, 1, 1, tzinfo=timezone.utc))


def draft(sample: Line, others: Sequence[Line] = (), template: str = "") -> Draft:
    """Make a rule skeleton.

    Args:
        others: More lines of the same file: near misses, and a second hit, are looked for there.
        template: What `diagnose.engine.templates` made of the sample and its like.
    """
    pattern = pattern_of(sample.message, template)
    name = f"site.{_slug(sample.message)}"
    compiled = re2.compile(pattern)
    hits = [sample, *_again(sample, others, compiled)]
    return Draft(name, pattern, _text(name, pattern, hits, _near(sample, others, compiled)))


def unfinished(rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield what a draft leaves to be written, each with the cure."""
    for name in ("title", "why", "fix"):
        text: Text = getattr(rule, name)
        if langs := [lang for lang in ("en", "zh") if getattr(text, lang).startswith(PROMPTS)]:
            yield f"{name} ({', '.join(langs)}) is still to be written", "Put your own words in the place of the prompt"


# --- the pattern


def pattern_of(message: str, template: str = "") -> str:
    r"""Generalise a message: numbers, paths, addresses, quoted text, and what a template knows to vary.

    The pattern is of RE2's and Hyperscan's common syntax and finds the message.

    >>> pattern_of("Cannot map 'w8' of /opt/m for GPU 3: 2.5GB (64 pages)")
    "^Cannot map '[^']*' of \\S+ for GPU (?P<gpu>\\d+): \\d[\\w.]* \\(\\d+ pages\\)"
    """
    whole = message.strip()
    message = _shortened(whole)
    words, gaps = _words(message)
    for place in _varying(whole, template):
        if place < len(words):
            words[place] = r"\S+"
    made = "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=True))
    pattern = f"^{made}" if message[:1].isalnum() else made
    return pattern if _finds(pattern, message) else _escaped(message)


def _shortened(message: str) -> str:
    if len(message) <= _MOST_CHARS:
        return message
    end = next((start for _, start, stop in variables(message) if start < _MOST_CHARS <= stop), _MOST_CHARS)
    return message[:end].rpartition(" ")[0] or message[:end]


def _words(message: str) -> tuple[list[str], list[str]]:
    """Make a pattern of each word as `mask` sees words, and of each gap between them."""
    words, gaps, at = [""], [], 0
    names: set[str] = set()
    for kind, start, end in (*variables(message), ("", len(message), len(message))):
        for part in re.findall(r"\s+|\S+", message[at:start]):
            if part.isspace():
                gaps.append(" " if part == " " else r"\s+")
                words.append("")
            else:
                words[-1] += _literal(part)
        if kind:
            words[-1] += _general(kind, message[start:end], _name(message[:start], names))
        at = end
    return words, gaps


def _varying(message: str, template: str) -> list[int]:
    """Return the places of words that differ among the lines of a template, which ends as the message does."""
    masked, known = mask(message).split(), template.split()
    behind = known[len(known) - len(masked) :] if len(known) >= len(masked) else []
    if any(one not in (other, WILDCARD) for one, other in zip(behind, masked, strict=False)):
        return []  # the template is another's, or does not reach to the end of a very long message
    return [place for place, word in enumerate(behind) if word == WILDCARD]


def _name(before: str, names: set[str]) -> str:
    """Name a varying part by the word before it, where that is a name."""
    found = _BEFORE.search(before[-40:])
    name = (found[1] or found[2]).lower() if found else ""
    if not name or name in names or len(names) >= _MOST_GROUPS:
        return ""
    names.add(name)
    return name


def _general(kind: str, text: str, name: str) -> str:
    if kind == "str":
        quote = text[0]
        return f"{quote}{_group(rf'[^{quote}]*', name)}{quote}"
    if kind == "num":
        return _group(r"\d+" if text.isdigit() else r"\d[\w.]*", name)
    return _group(_KINDS[kind], name)


def _group(pattern: str, name: str) -> str:
    return f"(?P<{name}>{pattern})" if name else pattern


def _literal(text: str) -> str:
    return _NUMBERED.sub(lambda found: found[1] + r"\d+", _escaped(text))


def _escaped(text: str) -> str:
    """Escape what has a meaning in patterns; what nobody can type may be anything."""
    plain = "".join(char if char.isprintable() and char != "\ufffd" else "\0" for char in text)
    return re.sub(r"([\\.+*?()\[\]{}|^$])", r"\\\1", plain).replace("\0", ".")


def _finds(pattern: str, message: str) -> bool:
    try:
        return bool(re2.compile(pattern).search(message))
    except re2.error:
        return False


# --- the tests


def _again(sample: Line, others: Sequence[Line], compiled: re2.Pattern) -> list[Line]:
    """Find one more line of the same kind with other values."""
    found = (one for one in others if one.message != sample.message and compiled.search(one.message))
    return [one for one, _ in zip(found, range(1), strict=False)]


def _near(sample: Line, others: Sequence[Line], compiled: re2.Pattern) -> list[Line]:
    """Find the nearest misses: other messages, of the same logger first, that share the most words."""
    logger, words = _logger(sample), set(sample.message.split())
    best: dict[str, tuple[tuple[bool, float], Line]] = {}
    for one in others:
        kind = mask(one.message)
        if kind and kind not in best and not (compiled.search(one.message) or compiled.search(one.text)):
            own = set(one.message.split())
            shared = len(words & own) / len(words | own)
            best[kind] = ((bool(logger) and _logger(one) == logger, shared), one)
    ranked = sorted(best.values(), key=lambda pair: pair[0], reverse=True)
    return [one for (same, shared), one in ranked[:_MOST_MISSES] if same or shared]


def _logger(line: Line) -> str:
    """Name who wrote a line: the source file in its prefix, or the word before a colon."""
    found = _LOGGER.search(line.text[: len(line.text) - len(line.message)] or line.text[:80])
    return (found[1] or found[2]) if found else ""


# --- the file


def _slug(message: str) -> str:
    words = re.findall(r"[a-z]{2,}", re.sub(r"<\w+>", " ", mask(message)).lower())
    return "-".join(words[:4]) or "new"


def _text(name: str, pattern: str, hits: Sequence[Line], misses: Sequence[Line]) -> str:
    groups = re2.compile(pattern).groupindex
    classes = ", ".join(sorted(CAUSES))
    parts = [
        "# A draft: diagnose rules lint says what is left to do.",
        f"id: {name}",
        "# One of: " + re.sub(r"(.{1,104})(?:,? |$)", r"\1\n#   ", classes).rstrip("\n# "),
        f"cause: {CHOOSE}",
        "title:",
        f"  en: '{PROMPTS[0]}: what it is, in a few words{_places(groups)}'",
        f"  zh: '{PROMPTS[1]}：用几个字说明是什么故障'",
        "why:",
        f"  en: '{PROMPTS[0]}: write here what happens, and why'",
        f"  zh: '{PROMPTS[1]}：说明发生了什么、原因是什么'",
        "fix:",
        f"  en: '{PROMPTS[0]}: what a person does about it, ready to be followed'",
        f"  zh: '{PROMPTS[1]}：给出可以直接照做的处理办法'",
        "severity: error        # info | warning | error | critical",
        "confidence: 0.7        # how surely this line means the cause",
        "status: experimental   # it suggests; stable once it has proven itself",
        "when:",
        f"  pattern: {_single(pattern)}",
        "clears: {quiet: 1h}    # or {ready: true}: a server that becomes ready has overcome it",
        "explains: []           # causes that follow from this one",
        "tests:",
        "  hits:",
        *(line for one in hits for line in _hit(one, pattern)),
        "  misses:" if misses else "  misses: []",
        *(f"    - {_double(one.text)}" for one in misses),
    ]
    return "\n".join(parts) + "\n"


def _places(groups: Sequence[str] | dict[str, int]) -> str:
    return f"; it may name {', '.join('{' + one + '}' for one in groups)}" if groups else ""


def _hit(one: Line, pattern: str) -> Iterator[str]:
    found = re2.compile(pattern).search(one.message)
    labels = {name: value for name, value in found.groupdict().items() if value is not None} if found else {}
    if not labels:
        yield f"    - {_double(one.text)}"
        return
    yield f"    - log: {_double(one.text)}"
    yield f"      labels: {{{', '.join(f'{name}: {_double(value)}' for name, value in labels.items())}}}"


def _single(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _double(text: str) -> str:
    """Quote any text for YAML in one line; as JSON where that is the same."""
    quoted = json.dumps(text, ensure_ascii=False)
    if text.isprintable():
        return quoted
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 20).strip()
