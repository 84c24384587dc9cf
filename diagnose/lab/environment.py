"""The environment in which ``python -m fastdeploy.entrypoints.openai.api_server`` is the lab server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

SITE = Path(__file__).parent / "site"
_VERSIONS = Path(__file__).parent / "versions"
MODULE = "fastdeploy.entrypoints.openai.api_server"


def lab_env(
    gpus: Path,
    *,
    era: str = "2.4",
    load_seconds: float = 2.0,
    faults: str | Iterable[str] = (),
    seed: int = 0,
    state: Path | None = None,
    tokens_per_second: float = 50.0,
    base: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Build the whole environment of a lab server.

    Args:
        gpus: The folder that ``make_gpus`` wrote.
        era: ``2.4`` (a log file a logger, no monitor) or ``2.6`` (channels, a monitor).
        load_seconds: How long a start takes, all stages together.
        faults: Names as ``diagnose lab faults`` lists them, with ``@seconds``, ``:key=value`` and
            ``#first`` starts.
        seed: Which hidden overheads the cards have.
        state: Where starts are counted, for ``#first``; the folder of the cards where not given.
        tokens_per_second: The pace of one request.
        base: What to start from; this process's environment where not given.
        extra: What to add last.
    """
    given = dict(os.environ if base is None else base)
    path = [str(SITE), str(_VERSIONS / era)]
    if given.get("PYTHONPATH"):
        path.append(given["PYTHONPATH"])
    text = faults if isinstance(faults, str) else ",".join(faults)
    given |= {
        "PYTHONPATH": os.pathsep.join(path),
        "DIAGNOSE_LAB_GPUS": str(gpus),
        "FD_LAB_ERA": era,
        "FD_LAB_LOAD_SECONDS": str(load_seconds),
        "FD_LAB_FAULTS": text,
        "FD_LAB_SEED": str(seed),
        "FD_LAB_STATE": str(state or gpus),
        "FD_LAB_TOKENS_PER_SECOND": str(tokens_per_second),
    }
    return given | dict(extra or {})
