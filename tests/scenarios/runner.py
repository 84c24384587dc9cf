"""Plays scenarios: the real daemon and the lab server in their own processes, judged by the journal.

python -m tests.scenarios.runner            # those that CI runs, as a table
python -m tests.scenarios.runner NAME...    # these, in both eras
DIAGNOSE_ALL_SCENARIOS=1 python -m tests.scenarios.runner
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx

from diagnose.catalog import load
from diagnose.engine.incidents import LIVE
from diagnose.launch.spec import change
from diagnose.model.effect import Perform, PhaseChanged
from diagnose.model.rule import Severity
from tests.e2e.conftest import HASTENED, Site, configured
from tests.scenarios.fault_cases import ALL, FAULTS, HEALTHY, Case

TWO_AT_ONCE = 2
_HASTENED = (
    *HASTENED,
    "server.lower-memory-use",
    "server.free-port",
    "server.without-cuda-graphs",
    "server.plain-collectives",
)


@dataclass(frozen=True)
class Result:
    """How one scenario went.

    Attributes:
        cause: What was named when the decision fell; empty where nothing was found.
        others: Causes of other incidents beside it.
        end: As in `Case.end`, or what else it came to.
        detect, cure: Seconds from the fault to the incident, and to the proven cure.
        acts: How many intents were carried out.
        changes: What was changed, or would be.
    """

    case: Case
    cause: str = ""
    others: tuple[str, ...] = ()
    end: str = "nothing"
    detect: float | None = None
    cure: float | None = None
    acts: int = 0
    changes: tuple[str, ...] = ()
    words: str = ""

    @property
    def found(self) -> bool:
        """Some incident told of it."""
        return bool(self.cause)

    @property
    def named(self) -> bool:
        """By its right name."""
        return self.cause in self.case.causes

    @property
    def planned(self) -> bool:
        """With the change that helps."""
        return not self.case.plan or any(one.startswith(self.case.plan) for one in self.changes)

    @property
    def cured(self) -> bool:
        """It serves again, by a remedy, proven."""
        return self.end == "cured"


class Stage(Site):
    """A site with what a scenario needs beside: times of its own, requests, things to close."""

    def __init__(self, folder: Path, case: Case) -> None:
        super().__init__(
            folder, gpu_gib=case.card_gib, era=case.era, faults=case.faults, load_seconds=case.load_seconds
        )
        self.flags, self.closing, self.struck = case.flags, [], None
        self.env |= {"FD_LAB_TOKENS_PER_SECOND": str(case.tokens_per_second), "FD_LAB_ORPHAN_SECONDS": "20"}
        self.env |= case.env
        rules = folder / "rules"
        rules.mkdir()
        hasten(rules)
        self.config.write_text(configured(timeout="2s", rules=rules, hastened=_HASTENED, allowed=case.allowed))

    def post(self, body: Any, seconds: float = 4.0) -> int | None:
        """Post to the chat endpoint; the status, ``None`` where there was no answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
            return httpx.post(url, content=raw, timeout=seconds, trust_env=False).status_code
        return None

    def end(self) -> None:
        for close in self.closing:
            close()
        super().end()


def hasten(folder: Path) -> None:
    """Write the shipped rules that wait half a minute or longer for a probe or a standstill, with short times.

    These alone have ``for`` on a line of its own; samples of cards and hosts keep theirs.
    """
    for path in load.shipped("rules").rglob("*.yaml"):
        shipped = path.read_text(encoding="utf-8")
        text = re.sub(r"^(\s+for: )\d+[sm]$", r"\g<1>1500ms", shipped, flags=re.MULTILINE)
        if text != shipped:
            (folder / f"{path.parent.name}-{path.name}").write_text(text, encoding="utf-8")


def play(case: Case, folder: Path) -> Result:
    """Play one scenario to its end; every process that it started is ended."""
    here = Stage(folder, case)
    try:
        if case.before:
            case.before(here)
        here.daemon(*case.flags)
        if case.strike or case.traffic or case.end == "calm":
            here.wait_phase("ready")
            here.struck = time.time()
        with _traffic(here, case):
            if case.strike:
                case.strike(here)
            _watch(here, case)
        answers = here.answers()
        for daemon in here.daemons:
            if daemon.poll() is None:
                here.stop(daemon)
        return _judged(here, case, answers=answers)
    except AssertionError as error:
        return Result(case=case, end="broken", words=str(error))
    finally:
        here.end()


def _watch(here: Stage, case: Case) -> None:
    """Wait until nothing is under way any more, or the time is over."""
    deadline = time.monotonic() + (case.keep if case.end == "calm" else case.seconds)
    quiet_since = None
    while time.monotonic() < deadline:
        seen = here.snapshot()
        assert here.daemons[-1].poll() is None, f"the daemon ended: {here.words()}"
        over = seen is not None and case.end != "calm" and _over(seen)
        quiet_since = (quiet_since or time.monotonic()) if over else None
        if quiet_since and time.monotonic() - quiet_since > 0.7:
            return
        time.sleep(0.05)


def _over(seen: Any) -> bool:
    """Say whether all troubles were decided upon: done with, given up, or left to a person."""
    troubles = _troubles(seen.incidents)
    return bool(troubles) and all(
        one.state not in LIVE or one.state.value == "exhausted" or one.held in {"advice", "approve", "suggest"}
        for one in troubles
    )


def _troubles(incidents: Iterable[Any]) -> list[Any]:
    return [one for one in incidents if one.severity is not Severity.INFO and one.state.value != "history"]


@contextlib.contextmanager
def _traffic(here: Stage, case: Case) -> Iterator[None]:
    """Keep so many requests under way."""
    over = threading.Event()
    count, body = case.traffic or (0, {})

    def ask() -> None:
        while not over.is_set():
            if here.post(body, seconds=6.0) is None:
                over.wait(0.2)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for one in threads:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in threads:
            one.join()


def _judged(here: Stage, case: Case, *, answers: bool) -> Result:
    seen, turns = here.snapshot(), here.turns()
    assert seen is not None, here.words()
    acts = [one.intent for turn in turns for one in turn.effects if isinstance(one, Perform)]
    troubles = _troubles(seen.incidents)
    if not troubles:
        return Result(case=case, end="calm", acts=len(acts), words=here.words())
    first = min(troubles, key=lambda one: (not one.tries, -one.severity.rank, one.first_seen))
    began = _onset(here, turns, case)
    opened = first.timeline[0].at
    resolved = next((one.at for one in first.timeline if one.kind == "resolved"), None)
    return Result(
        case=case,
        cause=_decided(first),
        others=tuple(sorted({one.cause for one in troubles if one is not first})),
        end=_end(first, answers=answers),
        changes=_changes(first),
        detect=max(0.0, (opened - began).total_seconds()),
        cure=(resolved - began).total_seconds() if resolved else None,
        acts=len(acts),
        words=here.words(),
    )


def _decided(incident: Any) -> str:
    """Name the cause that stood when something was done, or left, about it."""
    cause = ""
    for entry in incident.timeline:
        if entry.kind in {"acting", "held"}:
            break
        if entry.kind in {"opened", "cause", "settled"}:
            cause = entry.params.get("cause", cause)
    return cause


def _changes(incident: Any) -> tuple[str, ...]:
    plan = incident.plan
    return tuple(change(one.flag, one.before, one.after) for one in plan.changes) if plan else ()


def _end(incident: Any, *, answers: bool) -> str:
    if incident.state.value == "resolved":
        kept = any(one.result == "kept" for one in incident.tries)
        return "cured" if kept and answers else "passed" if not kept else "silent"
    return incident.held or incident.state.value


def _onset(here: Stage, turns: Sequence[Any], case: Case) -> datetime:
    """Return when the fault came about: as the lab or we wrote down, else with the start."""
    struck = [float(path.read_text() or 0) for path in (here.folder / "gpus").glob("struck-*")]
    struck = [one for one in struck if one] or ([here.struck] if here.struck else [])
    if struck:
        return datetime.fromtimestamp(max(struck), tz=timezone.utc)
    phases = [one for turn in turns for one in turn.effects if isinstance(one, PhaseChanged)]
    served = "repetition" in case.causes and any(one.phase == "ready" for one in phases)
    return next(one.at for one in phases if one.phase == ("ready" if served else "starting"))


# --- many


def chosen(names: Sequence[str] = ()) -> list[Case]:
    """Return the cases to play: those named, all, or what fits into CI: each once, the eras in turn."""
    if names:
        return [case for case in ALL.values() if case.name in names or case.key in names]
    if os.environ.get("DIAGNOSE_ALL_SCENARIOS"):
        return list(ALL.values())
    return [*in_turn(FAULTS), *in_turn(HEALTHY)]


def in_turn(cases: Sequence[Case]) -> list[Case]:
    """Take each name once, one era after the other."""
    names = list(dict.fromkeys(case.name for case in cases))
    taken = []
    for place, name in enumerate(names):
        eras = [case for case in cases if case.name == name]
        taken.append(eras[place % len(eras)])
    return taken


def play_all(cases: Sequence[Case], folder: Path) -> list[Result]:
    """Play them two at a time, each told on stderr once it is over; results in the order of the cases."""

    def played(case: Case) -> Result:
        result = play(case, folder / case.key)
        print(f"{case.key}: {result.cause or '-'}, {result.end}", file=sys.stderr, flush=True)
        return result

    with ThreadPoolExecutor(TWO_AT_ONCE) as pool:
        return list(pool.map(played, cases))


def shares(results: Sequence[Result]) -> dict[str, float]:
    """Return the shares that were found, rightly named, and cured where a cure without a person exists."""
    faults = [one for one in results if one.case.end != "calm"]
    curable = [one for one in faults if one.case.end == "cured"]
    return {
        "found": _share(one.found for one in faults),
        "named": _share(one.named for one in faults),
        "cured": _share(one.cured for one in curable),
    }


def _share(values: Iterable[bool]) -> float:
    each = list(values)
    return sum(each) / len(each) if each else 1.0


def table(results: Sequence[Result]) -> str:
    """Put results into a Markdown table."""
    rows = [
        "| scenario | era | cause named | change | end | acts | s to detect | s to cured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        wrong = "" if one.named or not one.case.causes else f" (expected {' or '.join(one.case.causes)})"
        missed = "" if one.end == one.case.end else f" (expected {one.case.end})"
        missed += "" if one.planned else f" (expected {one.case.plan})"
        others = f" + {', '.join(one.others)}" if one.others else ""
        rows.append(
            f"| {one.case.name} | {one.case.era} | {(one.cause or '-') + wrong + others} "
            f"| {'; '.join(one.changes)} | {one.end + missed} "
            f"| {one.acts} | {_seconds(one.detect)} | {_seconds(one.cure)} |"
        )
    return "\n".join(rows)


def summary(results: Sequence[Result]) -> str:
    """Say the three shares, and how calm it was at healthy servers."""
    share, calm = shares(results), [one for one in results if one.case.end == "calm"]
    faults = len(results) - len(calm)
    curable = sum(one.case.end == "cured" for one in results)
    return (
        f"{faults} faults: found {share['found']:.0%}, right cause {share['named']:.0%}, "
        f"cured without a person {share['cured']:.0%} of {curable} curable; "
        f"{len(calm)} healthy servers: {sum(one.acts for one in calm)} actions"
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def main(names: Sequence[str]) -> int:
    """Play and print."""
    with tempfile.TemporaryDirectory() as folder:
        results = play_all(chosen(names), Path(folder))
    print(table(results))
    print()
    print(summary(results))
    for one in results:
        if os.environ.get("DIAGNOSE_SCENARIO_WORDS") and (
            one.end != one.case.end or (one.case.causes and not one.named)
        ):
            print(f"\n--- {one.case.key}: {one.end}\n{one.words}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
