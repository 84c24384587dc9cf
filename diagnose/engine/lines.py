"""What a raw log line is made of: colours, what carried it here, the logger's own prefix, the message.

Only lines that matter come here (hits, and lines that are asked for their date), so this is written to
be read. All patterns are linear: no nested repeats, lines are capped before.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone, tzinfo

import msgspec

MOST_CHARS = 1024 * 1024
"""A line is cut to this before anything looks at it."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line, taken apart.

    Attributes:
        text: Without colours and transport prefix; with the logger's own prefix.
        message: What the program said.
        level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``; ``None`` where none is told.
        at: The line's own time (aware), where it has one.
        prefixed: A logger wrote this line: it begins a record.
    """

    text: str
    message: str
    level: str | None
    at: datetime | None
    prefixed: bool


_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]")
_COLOURS_IN_BYTES = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]")
_SYSLOG = re.compile(
    rb"(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S{1,40})"
    rb" \S{1,255} \S{1,255}: "
)
_MOST_PIECES = 400
_LEVELS = {
    "I": "INFO",
    "W": "WARNING",
    "E": "ERROR",
    "F": "CRITICAL",
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
    "ERR": "ERROR",
    "PANIC": "CRITICAL",
}
_LEVEL = r"DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL|TRACE"
_DAY = r"\d{4}[-/]\d\d[-/]\d\d"
_TIME = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_ZONE = r"(?:Z|[+-]\d\d:?\d\d)"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# What carried the line here. Each may be told once more behind another.
_TRANSPORTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"<\d{1,3}>\d?\s?",  # syslog priority
        r"\[pod/[^\]\s]{1,200}\]\s",  # kubectl logs --prefix
        rf"(?P<iso>{_DAY}T{_TIME}{_ZONE})\s(?:stdout|stderr)\s[FP]\s",  # container runtime
        rf"(?P<iso>{_DAY}T{_TIME}{_ZONE})\s[\w.-]+\s[^\s:\[\]]+(?:\[\d+\])?:\s",  # journald, short-iso
        rf"(?P<iso>{_DAY}T{_TIME}{_ZONE})\s(?=\S)",  # docker, kubectl --timestamps
        (
            r"(?P<mon>[A-Z][a-z]{2})\s+(?P<dom>\d{1,2})\s(?P<clock>\d\d:\d\d:\d\d(?:\.\d+)?)\s[\w.-]+\s"
            r"[^\s:\[\]]+(?:\[\d+\])?:\s"
        ),  # syslog, journald
        r"\[\s*\d{1,9}\.\d{1,6}\](?:\[\s*[TC]\d+\])?\s",  # dmesg
        (
            r"\[[A-Z][a-z]{2}\s(?P<mon>[A-Z][a-z]{2})\s+(?P<dom>\d{1,2})\s(?P<clock>\d\d:\d\d:\d\d)\s"
            r"(?P<year>\d{4})\]\s"
        ),  # dmesg -T
        r"kernel:\s",
        r"\([\w.:-]+(?:\s[\w.:-]+)*\spid=\d+[^)]{0,80}\)\s",  # vLLM, Ray
        r"\[rank\d+\]:\s?",  # torch
        r"(?!(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\b)[A-Za-z0-9][\w.-]{0,80}\s+\|\s",  # docker compose
    )
)

# The logger's own prefix: `day` and `clock`, or `md` and `clock`; `level`.
_LOGGERS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?P<level>{_LEVEL})\s+(?P<day>{_DAY})\s(?P<clock>{_TIME})\s+\d+\s+[\w.]+\[line:\d+\]\s?",  # FastDeploy
        rf"\[(?P<day>{_DAY})\s(?P<clock>{_TIME})(?:\s[+-]\d{{4}})?\]\s\[\d+\]\s\[(?P<level>{_LEVEL})\]\s?",  # gunicorn
        rf"\[(?P<day>{_DAY})\s(?P<clock>{_TIME})\]\s\[\s*(?P<level>{_LEVEL})\s*\](?:\s[\w.]+:\d+)?(?:\s-)?\s",  # paddle
        rf"LAUNCH\s(?P<level>{_LEVEL})\s(?P<day>{_DAY})\s(?P<clock>{_TIME})\s",
        r"\[?(?P<level>[IWEF])(?P<md>\d{4})\s(?P<clock>\d\d:\d\d:\d\d\.\d+)\s+(?:\d+\s+)?[\w./-]+:\d+\]\s?",  # glog
        rf"(?P<level>{_LEVEL})\s(?P<md>\d\d-\d\d)\s(?P<clock>{_TIME})\s\[?[\w./-]+:\d+\]\s?",  # vLLM
        (
            rf"\[?(?P<day>{_DAY})[T\s](?P<clock>{_TIME})(?P<zone>{_ZONE})?\]?[\s|,:-]+"
            rf"(?:[\w./]+(?:\[line:\d+\]|:\d+)?\s*-\s*)?\[?(?P<level>{_LEVEL})\b\]?[\s|:-]*"
        ),
        rf"\[?(?P<day>{_DAY})[T\s](?P<clock>{_TIME})(?P<zone>{_ZONE})?\]?[\s|,:-]*",
        rf"(?P<level>{_LEVEL}):\s+",  # uvicorn
        rf"\[(?P<level>{_LEVEL})\]\s+",
    )
)


_BARE_LEVEL = re.compile(rf"\[?(?P<level>{_LEVEL})\b\]?[\s|:-]+")
"""Counts behind a time only: alone it may be any word of a message."""


def bare(data: bytes) -> bytes:
    r"""Take colours and NUL bytes out of whole lines; the same object where there are none.

    >>> bare(b"\x1b[31mERROR\x1b[0m  failed")
    b'ERROR  failed'
    """
    if b"\x1b" in data:
        data = _COLOURS_IN_BYTES.sub(b"", data)
    return data.replace(b"\x00", b"") if b"\x00" in data else data


def pieces(raw: bytes) -> list[bytes]:
    r"""Split a raw line where a bar wrote over itself, and where syslog joined lines; never empty.

    Of a line with very many pieces the last 400 are given.

    >>> pieces(b"Loading:  10%\rLoading:  20%\r\n")
    [b'Loading:  10%', b'Loading:  20%']
    """
    raw = raw.rstrip(b"\r\n")
    if b"\r" in raw:
        return [piece for piece in raw.split(b"\r")[-_MOST_PIECES:] if piece] or [raw]
    if b"#012" in raw and _SYSLOG.match(raw):
        return raw.split(b"#012")[:_MOST_PIECES]
    return [raw]


def take_apart(raw: bytes, *, zone: tzinfo, reference: datetime) -> Line:
    """Take one line apart.

    Args:
        raw: Without its line end.
        zone: Of times that name none.
        reference: Gives the year to stamps that have none: the last such day not after it.
    """
    text = _COLOURS.sub("", raw[:MOST_CHARS].decode("utf-8", errors="replace")).replace("\x00", "")
    text = _unwrapped(text)
    at: datetime | None = None
    for _ in range(4):
        carried = next((found for one in _TRANSPORTS if (found := one.match(text))), None)
        if carried is None:
            break
        at = _stamp(carried, zone, reference) or at
        text = text[carried.end() :]
    text = text.rstrip("\r\n")
    prefix = next((found for one in _LOGGERS if (found := one.match(text))), None)
    if prefix is None and at:
        prefix = _BARE_LEVEL.match(text)
    if prefix is None:
        return Line(text=text, message=text, level=None, at=at, prefixed=False)
    named = prefix.groupdict().get("level")
    return Line(
        text=text,
        message=text[prefix.end() :],
        level=_LEVELS.get(named, named) if named else None,
        at=_stamp(prefix, zone, reference) or at,
        prefixed=True,
    )


def _unwrapped(text: str) -> str:
    """Take a line out of docker's json-file format."""
    if not text.startswith('{"log":"'):
        return text
    try:
        log = json.loads(text).get("log", "")
    except (ValueError, AttributeError):
        return text
    return str(log).rstrip("\n")


def _stamp(found: re.Match[str], zone: tzinfo, reference: datetime) -> datetime | None:
    """Read the time that a prefix names; one that no calendar has counts as none."""
    groups = found.groupdict()
    try:
        if groups.get("iso"):
            return _with_zone(datetime.fromisoformat(_iso(groups["iso"])), zone)
        if not groups.get("clock"):
            return None
        clock = groups["clock"].replace(",", ".")
        if groups.get("day"):
            day = groups["day"].replace("/", "-")
            return _with_zone(datetime.fromisoformat(_iso(f"{day}T{clock}{groups.get('zone') or ''}")), zone)
        if groups.get("mon"):
            month, day_of = _MONTHS.index(groups["mon"]) + 1, int(groups["dom"])
        else:
            digits = groups["md"].replace("-", "")
            month, day_of = int(digits[:2]), int(digits[2:])
        year = int(groups.get("year") or 0)
        return _dated(year, month, day_of, clock, zone, reference)
    except ValueError:
        return None


def _dated(year: int, month: int, day: int, clock: str, zone: tzinfo, reference: datetime) -> datetime:
    local = reference.astimezone(zone)
    text = f"{year or local.year:04}-{month:02}-{day:02}T{clock}"
    at = datetime.fromisoformat(_iso(text)).replace(tzinfo=zone)
    if not year and at > local + timedelta(days=1):
        at = at.replace(year=local.year - 1)
    return at.astimezone(timezone.utc)


def _iso(text: str) -> str:
    """Spell a time as every Python from 3.10 on reads it: six digits of fraction, zone with a colon."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:?\d\d)?", text)
    if not found:
        return text
    base, fraction, zone = found.groups()
    if zone:
        zone = "+00:00" if zone == "Z" else f"{zone[:3]}:{zone[-2:]}"
    return f"{base}.{(fraction or '0')[:6]:0<6}{zone or ''}"


def _with_zone(at: datetime, zone: tzinfo) -> datetime:
    return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(timezone.utc)
