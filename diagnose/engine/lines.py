"""What a raw log line is made of: colours, what carried it here, the logger's own prefix, the message.

Only lines that matter come here (hits, and lines that are asked for their date), so this is written to
be read. All patterns are linear: no nested repeats, lines are capped before.
"""

from __future__ import annotations

import re
from calendar import isleap
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
_COLOURS_IN_SYSLOG = re.compile(rb"#033\[[0-9;]{0,20}m")
_DOCKER = b'{"log":"'
_SYSLOG = re.compile(
    rb"(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S{1,40})"
    rb" \S{1,255} \S{1,255}: "
)
"""rsyslog writes a newline within a message as ``#012``, a tab as ``#011``, an escape as ``#033``."""

_MOST_PIECES = 400
_LEVELS = {
    "EMERG": "CRITICAL",
    "ALERT": "CRITICAL",
    "CRIT": "CRITICAL",
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

_TRACED = r"\[otel_trace_id=[^\]\s]{0,64}\]\s*\[otel_span_id=[^\]\s]{0,64}\]\s*"
_SYSLOG_LEVEL = r"emerg|alert|crit|error|warn|notice|info|debug"

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
        (
            r"[A-Z][a-z]{2}\s(?P<day>\d{4}-\d\d-\d\d)\s(?P<clock>\d\d:\d\d:\d\d(?:\.\d+)?)\s(?:UTC|[A-Z]{2,5}|[+-]\d\d)\s"
            r"[\w.-]+\s[^\s:\[\]]+(?:\[\d+\])?:\s"
        ),  # journald, short-full
        r"\[\s*\d{1,9}\.\d{1,6}\](?:\[\s*[TC]\d+\])?\s",  # dmesg
        (
            r"\[[A-Z][a-z]{2}\s(?P<mon>[A-Z][a-z]{2})\s+(?P<dom>\d{1,2})\s(?P<clock>\d\d:\d\d:\d\d)\s"
            r"(?P<year>\d{4})\]\s"
        ),  # dmesg -T
        r"kernel:\s",
        r"\([\w.:-]{1,80}(?:\s[\w.:-]{1,80}){0,9}\spid=\d+[^)]{0,80}\)\s",  # vLLM, Ray
        r"\[rank\d+\]:\s?",  # torch
        _TRACED,
        r"(?!(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\b)[A-Za-z0-9][\w.-]{0,80}\s+\|\s",  # docker compose
    )
)

# The logger's own prefix: `day` and `clock`, or `md` and `clock`; `level`.
_LOGGERS = tuple(
    re.compile(pattern)
    for pattern in (
        (
            rf"(?P<level>{_LEVEL})\s+(?P<day>{_DAY})\s(?P<clock>{_TIME})\s+\d+\s+[\w.]+\[line:\d+\]\s?"
            rf"(?:{_TRACED})?"
        ),  # FastDeploy
        rf"\[(?P<day>{_DAY})\s(?P<clock>{_TIME})(?:\s[+-]\d{{4}})?\]\s\[\d+\]\s\[(?P<level>{_LEVEL})\]\s?",  # gunicorn
        rf"\[(?P<day>{_DAY})\s(?P<clock>{_TIME})\]\s\[\s*(?P<level>{_LEVEL})\s*\](?:\s[\w.]+:\d+)?(?:\s-)?\s",  # paddle
        rf"LAUNCH\s(?P<level>{_LEVEL})\s(?P<day>{_DAY})\s(?P<clock>{_TIME})\s",
        r"\[?(?P<level>[IWEF])(?P<md>\d{4})\s(?P<clock>\d\d:\d\d:\d\d\.\d+)\s+(?:\d+\s+)?[\w./-]+:\d+\]\s?",  # glog
        rf"(?P<level>{_LEVEL})\s(?P<md>\d\d-\d\d)\s(?P<clock>{_TIME})\s\[?[\w./-]+:\d+\]\s?",  # vLLM
        rf"(?P<level>{_LEVEL}):[\w.]{{1,100}}:(?!\d)",  # python logging, as it comes
        (
            rf"(?P<day>{_DAY})\s(?P<clock>{_TIME})\s\[(?P<level>{_SYSLOG_LEVEL})\]\s\d+#\d+:\s"
            r"(?:\*\d+\s)?"
        ),  # nginx, errors
        (
            r"[\w.:-]{1,255}\s\S{1,80}\s\S{1,80}\s"
            r"\[(?P<dom>\d\d)/(?P<mon>[A-Z][a-z]{2})/(?P<year>\d{4}):(?P<clock>\d\d:\d\d:\d\d)\s(?P<zone>[+-]\d{4})\]\s"
        ),  # nginx, access
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
    r"""Take colours and NUL bytes out of whole lines, and lines out of docker's json-file format.

    The number of lines stays; the same object where there is nothing to take out.

    >>> bare(b"\x1b[31mERROR\x1b[0m  failed")
    b'ERROR  failed'
    """
    if data.startswith(_DOCKER):
        data = b"\n".join(_unwrapped(line) for line in data.split(b"\n"))
    if b"\x1b" in data:
        data = _COLOURS_IN_BYTES.sub(b"", data)
    if b"#033[" in data:
        data = _COLOURS_IN_SYSLOG.sub(b"", data)
    return data.replace(b"\x00", b"") if b"\x00" in data else data


def pieces(raw: bytes) -> list[bytes]:
    r"""Split a raw line where a bar wrote over itself, and where syslog joined lines; never empty.

    Of a line with very many pieces the first, which may say what the rest is, and the last 400 are given.

    >>> pieces(b"Loading:  10%\rLoading:  20%\r\n")
    [b'Loading:  10%', b'Loading:  20%']
    """
    raw = raw.rstrip(b"\r\n")
    if b"\r" in raw:
        told = [piece for piece in raw.split(b"\r") if piece] or [b""]
        return [told[0], *told[1:][-_MOST_PIECES:]]
    if b"#012" in raw and _SYSLOG.match(raw):
        return raw.replace(b"#011", b"\t").split(b"#012")[:_MOST_PIECES]
    return [raw]


def take_apart(raw: bytes, *, zone: tzinfo, reference: datetime) -> Line:
    """Take one line apart.

    Args:
        raw: Without its line end.
        zone: Of times that name none.
        reference: Gives the year to stamps that have none: the last such day not after it.
    """
    raw = _unwrapped(raw[:MOST_CHARS]) if raw.startswith(_DOCKER) else raw[:MOST_CHARS]
    text = _COLOURS.sub("", raw.decode("utf-8", errors="replace")).replace("\x00", "")
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
    named = (prefix.groupdict().get("level") or "").upper()
    return Line(
        text=text,
        message=text[prefix.end() :],
        level=_LEVELS.get(named, named) if named else None,
        at=_stamp(prefix, zone, reference) or at,
        prefixed=True,
    )


class _Docker(msgspec.Struct):
    """A line of docker's json-file format."""

    log: str
    stream: str = "stdout"
    time: str = ""


_docker = msgspec.json.Decoder(_Docker)


def _unwrapped(raw: bytes) -> bytes:
    """Take a line out of docker's json-file format, into that of a container runtime."""
    if not raw.startswith(_DOCKER):
        return raw
    try:
        line = _docker.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return raw
    before = f"{line.time} {line.stream} F " if line.time[:1].isdigit() else ""
    return (before + line.log.rstrip("\n").replace("\n", "\r")).encode()


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
            if groups.get("zone"):
                text = f"{groups['year']}-{month:02}-{day_of:02}T{clock}{groups['zone']}"
                return _with_zone(datetime.fromisoformat(_iso(text)), zone)
        else:
            digits = groups["md"].replace("-", "")
            month, day_of = int(digits[:2]), int(digits[2:])
        year = int(groups.get("year") or 0)
        return _dated(year, month, day_of, clock, zone, reference)
    except (ValueError, OverflowError):
        return None


def _dated(year: int, month: int, day: int, clock: str, zone: tzinfo, reference: datetime) -> datetime:
    local = reference.astimezone(zone)
    if not year and (month, day) == (2, 29):  # of the last leap year
        year = next(one for one in range(local.year, local.year - 9, -1) if isleap(one))
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
