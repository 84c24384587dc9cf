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
        first_token_seconds: From the question to the first token; ``None`` where it came whole or not at all.
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
    first_token_seconds: float | None = None


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One process that holds memory of a card.

    Attributes:
        used_bytes: ``None`` where the driver does not tell (MIG, virtual machines).
        name: Its program, for a Python program the script: no arguments, they may hold secrets.
        whose: ``own`` (of the target), ``leftover`` (a worker of FastDeploy above which no server runs), ``other``.
    """

    pid: int
    used_bytes: int | None
    name: str = ""
    whose: Literal["own", "leftover", "other"] = "other"


class MigDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One slice of a card that is split (MIG), by its ids as ``nvidia-smi -L`` and Xid lines give them."""

    uuid: str
    gpu_instance: int
    compute_instance: int
    total_bytes: int
    used_bytes: int


class GpuReading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One card at one moment. What it does not tell, now or ever, is ``None``.

    Attributes:
        index: Its number as ``nvidia-smi`` counts.
        total_bytes, used_bytes: 0 where the card does not tell. Of a lost card the last total, and nothing used.
        own_bytes: Held by processes of the target.
        uuid, pci: Which card it is; ``pci`` as the kernel's Xid lines write it, ``0000:41:00``.
        state: ``lost`` (there, but the driver cannot reach it), ``gone`` (no longer there), ``absent`` (asked for by
            ``CUDA_VISIBLE_DEVICES``, but not there), ``unreadable`` (its memory cannot be read now).
        error: What NVML says where ``state`` is not ``ok``.
        ordinal: The number by which the server knows it; ``None`` where it may not use it.
        mig: The slice that is meant: then memory is that of the slice.
        processes: The largest few, largest first.
        slowed: Why clocks are lower than they could be: ``thermal``, ``power_brake``, ``hardware``, ``power_cap``.
        ecc_corrected, ecc_uncorrected: Memory errors since the driver was loaded; ``_ever``: in the card's life.
        retired_pages, remapped_rows: Memory taken out of use for errors (remapped: for uncorrectable ones);
            ``_pending``: waits for a reset of the card; ``remap_failed``: no spare row was left.
        pcie_width: Lanes in use, of ``pcie_most_width`` that card and slot have; so the generation.
        nvlinks: Links that are up, of ``nvlinks_most`` that were seen up since the daemon reads the card.
        slices: Where the card is split.
    """

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    own_bytes: int
    uuid: str = ""
    pci: str = ""
    state: Literal["ok", "lost", "gone", "absent", "unreadable"] = "ok"
    error: str = ""
    ordinal: int | None = None
    mig: str = ""
    processes: tuple[GpuProcess, ...] = ()
    busy_ratio: float | None = None
    celsius: int | None = None
    slowdown_celsius: int | None = None
    watts: float | None = None
    limit_watts: float | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    slowed: tuple[str, ...] | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    ecc_corrected_ever: int | None = None
    ecc_uncorrected_ever: int | None = None
    retired_pages: int | None = None
    retired_pending: bool | None = None
    remapped_rows: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_most_generation: int | None = None
    pcie_most_width: int | None = None
    pcie_replays: int | None = None
    nvlinks: int | None = None
    nvlinks_most: int | None = None
    slices: tuple[MigDevice, ...] = ()

    @property
    def label(self) -> str:
        """Which card it is, for people: its number, with the slice where it is split.

        Numbers of cards that are gone are given anew: these go by their address, one never seen by what was asked for.
        """
        if self.index < 0 or self.state == "gone":
            return self.pci or self.uuid
        part = next((one for one in self.slices if one.uuid == self.mig), None)
        return f"{self.index}:{part.gpu_instance}:{part.compute_instance}" if part else str(self.index)


class GpuSample(GpuReading, frozen=True, kw_only=True, omit_defaults=True, tag="gpu"):
    """What NVML, or the lab, tells of one card that the target may use."""

    target: str
    at: datetime


class XidEvent(msgspec.Struct, frozen=True, kw_only=True, tag="xid"):
    """The driver reported an error of a card, through NVML's events and not through the kernel's log.

    Attributes:
        index: The card's number as ``nvidia-smi`` counts.
        pci: ``0000:41:00``.
    """

    target: str
    at: datetime
    index: int
    pci: str
    xid: int


class Numbers(msgspec.Struct, frozen=True, kw_only=True, tag="numbers"):
    """What a sense measured at one moment, by name; the unit stands in the name.

    Attributes:
        generation: The launch that they speak of; 0 for what belongs to none, as the host's memory.
        values: ``server.*`` (its metrics), ``process.*`` (its tree), ``host.*``, ``gpu.*``.
        labels: Which one was measured where there are several: ``{"gpu": "0"}``, ``{"place": "logs"}``.
    """

    target: str
    at: datetime
    values: Mapping[str, float]
    generation: int = 0
    labels: Mapping[str, str] = {}


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


class Surroundings(msgspec.Struct, frozen=True, kw_only=True, tag="surroundings"):
    """What stood around one start of the server: all that may explain why it fails where another did not.

    Attributes:
        facts: Name and value of each thing, by kind (`diagnose.model.surroundings.KINDS`). A kind that could
            not be looked at is not there; one of which nothing is there is empty. Secrets are fingerprints.
    """

    target: str
    at: datetime
    generation: int
    facts: Mapping[str, Mapping[str, str]]


class SourceSilent(msgspec.Struct, frozen=True, kw_only=True, tag="silent"):
    """A sense that cannot see, said once, with the cure.

    Attributes:
        kind: Why, in one word that rules can ask for; empty where a sense has but one reason.
    """

    target: str
    at: datetime
    source: str
    reason: str
    kind: str = ""


class SourceSees(msgspec.Struct, frozen=True, kw_only=True, tag="sees"):
    """A sense that was silent sees again."""

    target: str
    at: datetime
    source: str


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """How one step of a remedy went.

    Attributes:
        zh: ``text`` in Chinese; empty for an error, whose words are those of programs.
    """

    action: str
    ok: bool
    text: str
    zh: str = ""


RECOVERED = "recover"
"""The action of a `StepResult` that tells of an intent which an earlier daemon left without outcome."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag="outcome"):
    """How an intent went: the hands' answer."""

    target: str
    at: datetime
    intent_id: str
    ok: bool
    results: tuple[StepResult, ...]


class OutputScored(msgspec.Struct, frozen=True, kw_only=True, tag="output"):
    """An answer of the model that a gateway handed in because it looked wrong; its text is not kept.

    Attributes:
        repetition: 0 (none) to 1 (nothing else).
        characters: How long it was.
        digest: The first 16 hex digits of its SHA-256, to find it again in the gateway.
    """

    target: str
    at: datetime
    repetition: float
    characters: int
    digest: str
    request_id: str = ""


class Order(msgspec.Struct, frozen=True, kw_only=True, tag="order"):
    """What a person asks of the daemon; answered by an `diagnose.model.effect.Answered` of the same turn.

    Attributes:
        id: Chosen by who asks, to know the answer by.
        kind: ``approve`` or ``reject`` the plan that waits, ``apply`` it whatever the mode is, ``rollback``
            what remedies changed, ``restart`` the server as it is, ``pause`` all remedies of the target, ``resume``
            them.
        by: Who asks, as the history will name them.
        incident: Whose plan; for ``rollback``: only what this incident changed, all where it is empty.
        until: When an approval or a pause ends by itself.
        why: Shown with a pause.
    """

    target: str
    at: datetime
    id: str
    kind: Literal["approve", "reject", "apply", "rollback", "restart", "pause", "resume"]
    by: str
    incident: str = ""
    until: datetime | None = None
    why: str = ""


Observation = (
    LogMatch
    | ServerStarted
    | ProcessSample
    | ProcessExit
    | ProbeResult
    | GpuSample
    | XidEvent
    | Numbers
    | ServerFacts
    | Surroundings
    | SourceSilent
    | SourceSees
    | Outcome
    | OutputScored
    | Order
)
