"""Log files of the past, through the same mind: read, match, diagnose. Nothing is acted upon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from diagnose.engine import examine, unsaid
from diagnose.engine.match import Carry, Matcher
from diagnose.engine.templates import Template, mine
from diagnose.model.incident import Incident
from diagnose.model.knowledge import Knowledge
from diagnose.model.observation import LogLines, LogMatch
from diagnose.profiles import fastdeploy
from diagnose.report.build import Scanned
from diagnose.sources.logfiles import open_logs

_MOST_MATCHES = 200_000
"""Matched lines kept in memory; a log with more trouble than that has been told enough."""

_ANSWERS_OF_PIECE, _MOST_ANSWERS = 3, 100
"""Answers are sampled: circles come in many."""

_TEXT_BYTES = 32 * 1024
"""So much of a file is looked at to tell whether it is a model's answer."""

_TOLD = frozenset({"api", "engine", "console", "unknown"})
"""The kinds of log that tell of requests and answers."""

Progress = Callable[[int, int], None]


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What logs tell, and how much of them was read."""

    incidents: tuple[Incident, ...]
    scanned: Scanned
    unexplained: tuple[Template, ...]
    skipped: tuple[str, ...] = ()


def diagnose(
    paths: Sequence[str],
    *,
    knowledge: Knowledge,
    matcher: Matcher,
    target: str = "default",
    progress: Progress = lambda _done, _total: None,
) -> Examined:
    """Diagnose files, folders, archives or standard input (``-``).

    Args:
        progress: Is called with bytes done and bytes in all, as files are read.

    Raises:
        InputError: Something that was named cannot be read.
    """
    began = time.monotonic()
    logs = open_logs(tuple(paths), target=target, stream_of=fastdeploy.stream_of, is_log=fastdeploy.is_log)
    matches: list[LogMatch] = []
    texts: list[LogLines] = []
    tails: list[LogLines] = []
    answers: list[LogLines] = []
    files = read = lines = 0
    for log in logs:
        files += 1
        carry = Carry()
        for piece in log.chunks():
            if log.stream == "unknown" and piece.first_line == 1:
                texts.append(msgspec.structs.replace(piece, data=piece.data[:_TEXT_BYTES]))
            if log.stream in _TOLD and len(answers) < _MOST_ANSWERS:
                answers += islice(_answers(piece), _ANSWERS_OF_PIECE)
            found, carry = matcher.scan(piece, carry)
            matches += found[: _MOST_MATCHES - len(matches)]
            read += len(piece.data)
            lines += piece.data.count(b"\n")
            progress(read, max(logs.size, read))
            last = piece
        if log.stream in _TOLD and carry.tail:
            ends = last.first_line + last.data.count(b"\n")
            first = ends - carry.tail.count(b"\n")
            tails.append(msgspec.structs.replace(last, data=carry.tail, first_line=max(first, 1)))
    seen = examine.examine(matches, knowledge, texts, tails=tails, answers=answers)
    return Examined(
        incidents=seen.incidents,
        scanned=Scanned(files=files, bytes=read, lines=lines, seconds=round(time.monotonic() - began, 3)),
        unexplained=mine(seen.unexplained),
        skipped=tuple(f"{name}: {reason}" for name, reason in logs.skipped),
    )


def _answers(piece: LogLines) -> Iterator[LogLines]:
    """Find long lines that keep an answer, each as a piece of its own; cheaply, for all of a log passes here."""
    data, at = piece.data, 0
    while (found := data.find(fastdeploy.ANSWER, at)) >= 0:
        begin = data.rfind(b"\n", 0, found) + 1
        at = data.find(b"\n", found) + 1 or len(data)
        if at - begin >= unsaid.ANSWER_BYTES:
            number = piece.first_line + data.count(b"\n", 0, begin)
            yield msgspec.structs.replace(piece, data=data[begin:at], first_line=number)
