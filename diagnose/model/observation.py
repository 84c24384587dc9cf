"""What the senses tell: typed, timed, of one target. Senses judge nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from diagnose.model.launch import LaunchSpec, ModelShape

Stream = str
"""The kind of a log, not its name: ``worker``, ``launch``, ``console``, ``engine``, ``api``, ``data``,
``cache``, ``access``, ``error``, ``kernel``, ``install``, or ``unknown`` where nothing tells.
"""


class LogLines(msgspec.Struct, frozen=True, kw_only=True):
    """Whole lines of one file, as read. Raw bytes: nothing is decoded before it matters.

    Attributes:
        source: The file's name as people know it, e.g. ``log/workerlog.0``.
        first_line: Number of the first line in its file, from 1.
        data: Whole lines, each with its newline; only the last may lack it.
        read_at: When it was read, or the file's last change where it was read offline.
        generation: The launch (live) that the lines belong to; 0 where nobody counts.
        fresh: False for what was in the file before the daemon began to watch.
    """

    target: str
    source: str
    stream: Stream
    first_line: int
    data: bytes
    read_at: datetime
    generation: int = 0
    fresh: bool = True


class Hit(msgspec.Struct, frozen=True):
    """One pattern of one rule (``leaf`` counts a rule's patterns in reading order), and its named groups.

    A mark of the profile has the id ``@start``, ``@ready``, ... and leaf 0.
    """

    rule_id: str
    leaf: int
    labels: Mapping[str, str] = {}


class LogMatch(msgspec.Struct, frozen=True, kw_only=True, tag="log"):
    """One line that patterns hit, decoded and cleaned.

    Attributes:
        at: The line's own time; where it has none, that of the nearest dated line above, then
            below, else the time of reading.
        dated: Whether ``at`` comes from the log itself.
        attempt: Which start of the server this line belongs to: the generation (live), or the
            count of start marks (offline), from 1.
        text: The line as people read it: no colours, no transport prefix, at most 4 KiB.
        block: The traceback or error block around it, oldest line first, deciding line included;
            empty for a lone line. At most 200 lines and 64 KiB.
    """

    target: str
    source: str
    stream: Stream
    line: int
    at: datetime
    dated: bool
    attempt: int
    text: str
    level: str | None
    hits: tuple[Hit, ...]
    block: tuple[str, ...] = ()
    fresh: bool = True


class ServerStarted(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The server runs: newly spawned, or found running and taken over.

    Attributes:
        spec: The effective command: what runs.
        desired: The operator's command, without what remedies laid over it; ``None`` where ``spec`` is that.
    """

    target: str
    at: datetime
    generation: int
    pid: int
    how: Literal["spawned", "adopted", "attached"]
    spec: LaunchSpec
    desired: LaunchSpec | None = None


class ProcessSample(msgspec.Struct, frozen=True, kw_only=True, tag="process"):
    """The process tree at one moment.

    Attributes:
        workers: Model workers alive.
        cpu_seconds: Processor time of the whole tree since its start.
        log_bytes: Bytes of all logs so far: growth is progress.
    """

    target: str
    at: datetime
    generation: int
    alive: bool
    workers: int
    cpu_seconds: float
    rss_bytes: int
    log_bytes: int


class ProcessExit(msgspec.Struct, frozen=True, kw_only=True, tag="exit"):
    """A process of the server ended.

    Attributes:
        code: Exit status; negative for a signal, as Python counts; ``None`` where it is not our
            child and the kernel does not tell.
        expected: We stopped it.
    """

    target: str
    at: datetime
    generation: int
    role: Literal["main", "worker"]
    pid: int
    code: int | None
    expected: bool = False


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """One question put to the server over HTTP, and its answer.

    Attributes:
        probe: ``health`` or ``completion``.
        answer: ``ok``; ``refused`` (nobody listens); ``timeout``; ``unhealthy`` (404 with the
            server's own body); ``cleared`` (304); ``missing`` (404 of another kind); ``busy``
            (429); ``error`` (anything else, or an answer without tokens).
        repetition: 0 (none) to 1 (nothing else) of the completion's text; ``None`` without text.
    """

    target: str
    at: datetime
    generation: int
    probe: Literal["health", "completion"]
    answer: Literal["ok", "refused", "timeout", "unhealthy", "cleared", "missing", "busy", "error"]
    status: int | None = None
    seconds: float = 0.0
    detail: str = ""
    repetition: float | None = None
    tokens: int = 0


class GpuSample(msgspec.Struct, frozen=True, kw_only=True, tag="gpu"):
    """Memory of one GPU, from NVML or the lab.

    Attributes:
        own_bytes: Held by processes of the target.
    """

    target: str
    at: datetime
    index: int
    name: str
    total_bytes: int
    used_bytes: int
    own_bytes: int


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True, tag="facts"):
    """What was learned about the server's software and model before it started.

    Attributes:
        flags: Flags that this server version accepts, with their dashes.
        flags_from: ``help`` (asked the server itself) or ``table`` (shipped).
        config: What the command's ``--config`` file sets, by flag; the command line wins.
    """

    target: str
    at: datetime
    version: str | None
    flags: tuple[str, ...]
    flags_from: Literal["help", "table"]
    model: ModelShape | None = None
    config: Mapping[str, str] = {}


class SourceSilent(msgspec.Struct, frozen=True, kw_only=True, tag="silent"):
    """A sense that cannot see, said once, with the cure."""

    target: str
    at: datetime
    source: str
    reason: str


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one step of a remedy went."""

    action: str
    ok: bool
    text: str


RECOVERED = "recover"
"""The action of a `StepResult` that tells of an intent which an earlier daemon left without outcome."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag="outcome"):
    """How an intent went: the hands' answer."""

    target: str
    at: datetime
    intent_id: str
    ok: bool
    results: tuple[StepResult, ...]


Observation = (
    LogMatch
    | ServerStarted
    | ProcessSample
    | ProcessExit
    | ProbeResult
    | GpuSample
    | ServerFacts
    | SourceSilent
    | Outcome
)
