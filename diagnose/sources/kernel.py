"""The kernel sense: what the kernel says of our processes and cards, from ``/dev/kmsg`` or journald.

``/dev/kmsg`` gives one record a read (Documentation/ABI/testing/dev-kmsg): ``priority,sequence,microseconds since
boot,flags;text``, then lines that begin with a space and go with it. Where it may not be read, journald is asked.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec

from diagnose.model.observation import LogLines, SourceSees, SourceSilent
from diagnose.profiles import xid

SOURCE = "kernel"
KMSG = Path("/dev/kmsg")
_MOST_RECORDS = 50_000
"""In one look; the kernel keeps less."""

_READ_BYTES = 64 * 1024
_AGAIN = timedelta(seconds=30)
_BACK = timedelta(hours=1)
_SKEW = timedelta(seconds=2)
"""The kernel's clock drifts from ours by seconds in a month: what is new is from now."""

_PATIENCE_SECONDS = 3
_CURE = (
    "Give diagnose the capability CAP_SYSLOG, or its user the group systemd-journal or adm; in a container add "
    "--device /dev/kmsg --cap-add SYSLOG"
)
_RECORD = re.compile(r"(?P<priority>\d+),(?P<sequence>\d+),(?P<micros>\d+),[^;]*;(?P<text>.*)", re.DOTALL)
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_ROOT_PIDS = "pid:[4026531836]"
"""The first namespace of processes: numbers that the kernel prints are those that we see."""


class Ours(msgspec.Struct, frozen=True, kw_only=True):
    """What of a host is one server's.

    Attributes:
        pids: Its processes and their threads, those that ended since its start as well.
        names: What the kernel calls them.
        buses: PCI addresses of its cards, e.g. ``0000:3b:00``; ``None`` where nobody knows them.
        numbered: Whether the kernel's process numbers are those that we see; not so within a container.
    """

    pids: Collection[int] = frozenset()
    names: Collection[str] = frozenset()
    buses: Collection[str] | None = None
    numbered: bool = True


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """How far the kernel's messages were read, for the next daemon.

    Attributes:
        boot_id: Numbers count from each boot.
        last: The newest number, by kind of reader.
    """

    boot_id: str = ""
    last: Mapping[str, int] = {}


Told = LogLines | SourceSilent | SourceSees


class KernelLog:
    """Reads what the kernel writes; what is there at the first look is history.

    Silence is told once, until it can see again.

    Args:
        path: A file that gives records of kmsg; a FIFO or plain file may stand in for it.
        journal: The program that reads journald; ``None`` looks for ``journalctl``, the empty text does without.
    """

    def __init__(self, target: str, *, path: Path = KMSG, journal: str | None = None) -> None:
        self._target, self._path = target, path
        self._journal = shutil.which("journalctl") or "" if journal is None else journal
        self._reader: _Kmsg | _Journal | None = None
        self._tried: datetime | None = None
        self._looked = False
        self._began: datetime | None = None
        self._silent = False
        self._held: list[tuple[_Record, bool]] = []
        self.place = Place(boot_id=boot_id())
        self._line = 0

    def go_on(self, place: Place) -> None:
        """Pass over what an earlier daemon read, if it was of this boot."""
        if place.boot_id == self.place.boot_id:
            self.place = place

    def poll(self, now: datetime, ours: Ours, *, since: datetime | None = None, hold: bool = False) -> list[Told]:
        """Return the new records that speak of us, or of nobody by name.

        Args:
            hold: Read, and tell it later: it is not known yet what is ours.
            since: When our server started: history from before is of no use.
        """
        if self._reader is None:
            if self._tried is not None and timedelta(0) <= now - self._tried < _AGAIN:
                return []
            self._tried = now
            self._reader, reason = self._opened(now)
            if self._reader is None:
                return self._blind(now, reason)
        try:
            records = self._reader.read(now)
        except (OSError, ValueError) as error:
            self.close()
            return self._blind(now, f"{self._path}: {error}")
        sees: list[Told] = [SourceSees(target=self._target, at=now, source=SOURCE)] if self._silent else []
        first, self._looked, self._silent = not self._looked, True, False
        self._began = self._began or now
        kind, last = self._reader.kind, self.place.last.get(self._reader.kind, -1)
        records = [one for one in records if one.number > last]
        if records:
            newest = {**self.place.last, kind: max(one.number for one in records)}
            self.place = msgspec.structs.replace(self.place, last=newest)
        # A journal's clock is ours; the kernel's own drifts, but its first look gives all that was before.
        old = [one for one in records if (first if kind == _Kmsg.kind else one.at < self._began)]
        self._held += [(one, False) for one in old if since is None or one.at >= since]
        self._held += [(one, True) for one in records[len(old) :]]
        if hold:
            return sees
        held, self._held = self._held, []
        wanted = [(one, fresh) for one, fresh in held if concerns(one.text, ours)]
        told = (self._lines([one for one, new in wanted if new is fresh], now, fresh=fresh) for fresh in (False, True))
        return [*sees, *(piece for pieces in told for piece in pieces)]

    def close(self) -> None:
        """Let go of the file or program."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _opened(self, now: datetime) -> tuple[_Kmsg | _Journal | None, str]:
        try:
            return _Kmsg(self._path), ""
        except OSError as error:
            reason = f"{self._path} cannot be read ({error.strerror})"
        if self._journal:
            try:
                return _Journal(self._journal, now), ""
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                reason += f", nor the journal ({error})"
        return None, reason

    def _blind(self, now: datetime, reason: str) -> list[Told]:
        told, self._silent = self._silent, True
        silent = SourceSilent(target=self._target, at=now, source=SOURCE, reason=f"{reason}. {_CURE}.")
        return [] if told else [silent]

    def _lines(self, records: list[_Record], now: datetime, *, fresh: bool) -> list[Told]:
        """Write records as journald does, the short way."""
        if not records:
            return []
        stamps = [now if fresh and abs(now - one.at) > _SKEW else one.at for one in records]
        texts = [f"{_iso(at)} host kernel: {one.text}\n" for at, one in zip(stamps, records, strict=True)]
        first, self._line = self._line + 1, self._line + len(texts)
        return [
            LogLines(
                target=self._target,
                source=SOURCE,
                stream="kernel",
                first_line=first,
                data="".join(texts).encode(errors="replace"),
                read_at=now,
                fresh=fresh,
            )
        ]


class _Record(msgspec.Struct, frozen=True):
    """One message, and its place among all of this boot."""

    number: int
    at: datetime
    text: str


class _Kmsg:
    """One open kmsg, read without waiting."""

    kind = "kmsg"

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""

    def read(self, now: datetime) -> list[_Record]:
        """Return the records that are there.

        Raises:
            OSError: It can no longer be read.
        """
        found: list[_Record] = []
        boot = now - timedelta(seconds=time.clock_gettime(time.CLOCK_MONOTONIC))
        while len(found) < _MOST_RECORDS:
            try:
                data = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:  # the kernel wrote over what we had not read; the next is there
                    continue
                raise
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            found += _records(lines, boot)
        return found

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class _Journal:
    """One running ``journalctl``, read without waiting."""

    kind = "journal"

    def __init__(self, program: str, now: datetime) -> None:
        words = [program, "-k", "-o", "json", "--quiet"]
        shown = subprocess.run(  # noqa: S603 - the system's own program
            [*words, "-n", "1"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_SECONDS, check=False
        )
        if not shown.stdout.strip():
            raise ValueError("it shows no message of the kernel")
        self._process = subprocess.Popen(  # noqa: S603 - the same
            [*words, "-f", "-n", "all", "--since", f"@{int((now - _BACK).timestamp())}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._rest = b""
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)

    def read(self, now: datetime) -> list[_Record]:
        """Return the records that are there.

        Raises:
            ValueError: The program has ended.
        """
        del now
        found: list[_Record] = []
        while self._process.stdout is not None and len(found) < _MOST_RECORDS:
            try:
                data = os.read(self._process.stdout.fileno(), _READ_BYTES)
            except BlockingIOError:
                return found
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
            found += [one for line in lines if (one := _entry(line))]
        if not found and self._process.poll() is not None:
            raise ValueError(f"journalctl ended with status {self._process.returncode}")
        return found

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


class _Entry(msgspec.Struct):
    """One entry as journald spells it; bytes that are no text come as numbers."""

    message: str | list[int] | None = msgspec.field(default=None, name="MESSAGE")
    micros: str = msgspec.field(default="0", name="__REALTIME_TIMESTAMP")
    source_micros: str = msgspec.field(default="", name="_SOURCE_REALTIME_TIMESTAMP")


_entries = msgspec.json.Decoder(_Entry)


def _entry(line: bytes) -> _Record | None:
    try:
        entry = _entries.decode(line)
        micros = int(entry.micros)
        at = datetime.fromtimestamp(int(entry.source_micros or micros) / 1e6, timezone.utc)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return None
    text = entry.message or ""
    text = bytes(one & 255 for one in text).decode(errors="replace") if isinstance(text, list) else text
    return _Record(micros, at, " ".join(text.split()))


def _records(lines: list[bytes], boot: datetime) -> Iterator[_Record]:
    """Read lines of kmsg; what begins with a space goes with the line above and is left out."""
    for raw in lines:
        found = _RECORD.match(raw.decode(errors="replace"))
        if found and not raw.startswith(b" "):
            text = _ESCAPED.sub(lambda one: chr(int(one[1], 16)), found["text"])
            at = boot + timedelta(microseconds=int(found["micros"]))
            yield _Record(int(found["sequence"]), at, " ".join(text.split()))


def _iso(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")


def boot_id() -> str:
    """Return what is new at each boot; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def numbered() -> bool:
    """Say whether the process numbers that the kernel prints are those that we see."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _ROOT_PIDS
    except OSError:
        return True


# --- whom a line is about

_NAMES_PROCESS = (
    re.compile(r"\bKill(?:ed)? process (?P<pid>\d+),? \((?P<name>[^)]*)\)"),
    re.compile(r"\boom-kill:.*\btask=(?P<name>[^,]*),pid=(?P<pid>\d+)"),
    re.compile(r"\boom_reaper: (?:reaped|unable to reap) (?:process )?(?:pid:)?(?P<pid>\d+) \((?P<name>[^)]*)\)"),
    re.compile(r"\bXid \([^)]*\): (?P<xid>\d+), (?:Ch \w+, )?pid='?(?P<pid>\d+)'?(?:, name=(?P<name>[^,]*))?"),
    re.compile(
        r"(?:^|\btraps: )(?P<name>[^\[\s][^\[]{0,15})\[(?P<pid>\d+)\]:? (?:segfault|trap|general protection|bad frame)"
    ),
    re.compile(r"\btask (?P<name>\S{1,15}):(?P<pid>\d+) blocked for more than \d+ seconds"),
)
_CALLER = re.compile(r" invoked oom-killer: ")
"""Who asked for memory is not who is killed; the line that names the victim follows."""

_OF_A_PROGRAM = frozenset({"ignore", "look_before", "restart_app", "check_app"})
"""What an Xid asks for that only befalls the program that used the card."""

_BUS = re.compile(r"\b(?P<bus>[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})(?:\.[0-7])?\b", re.IGNORECASE)


def concerns(text: str, ours: Ours) -> bool:
    """Say whether a line is about our processes or cards, or names neither.

    >>> us = Ours(pids={41772}, buses={"0000:3b:00"})
    >>> concerns("Out of memory: Killed process 41772 (python) total-vm:1kB", us)
    True
    >>> concerns("Out of memory: Killed process 99 (mysqld) total-vm:1kB", us)
    False
    >>> concerns("NVRM: Xid (PCI:0000:af:00): 79, GPU has fallen off the bus.", us)
    False
    """
    if _CALLER.search(text):
        return False
    for pattern in _NAMES_PROCESS:
        found = pattern.search(text)
        if found and not _of_the_card(found):
            if ours.numbered:
                return int(found["pid"]) in ours.pids
            return (found["name"] or "").strip() in {"", *ours.names}
    buses = {bus_of(found["bus"]) for found in _BUS.finditer(text)}
    return not buses or ours.buses is None or bool(buses & {bus_of(one) for one in ours.buses})


def _of_the_card(found: re.Match[str]) -> bool:
    """Say whether an Xid tells of the card itself, whichever process was just using it."""
    code = found.groupdict().get("xid")
    entry = xid.explain(int(code)) if code else None
    return entry is not None and entry.action not in _OF_A_PROGRAM


def bus_of(address: str) -> str:
    """Bring a PCI address to one form: domain of four digits, bus and device.

    >>> bus_of("00000000:3B:00.0")
    '0000:3b:00'
    """
    domain, bus, device = address.lower().partition(".")[0].split(":")[-3:]
    return f"{domain[-4:]:0>4}:{bus}:{device}"
