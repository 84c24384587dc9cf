"""What the environment asks of the lab server (``FD_LAB_*``), and what the real variables say."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from fastdeploy.faults import Fault, parse_faults


def _number(name: str, default: float) -> float:
    try:
        return float(os.environ.get(name, "") or default)
    except ValueError:
        return default


@dataclass(frozen=True)
class Settings:
    """The lab's knobs. Times are seconds."""

    era: str = "2.4"
    load_seconds: float = 2.0
    seed: int = 0
    tokens_per_second: float = 50.0
    monitor_seconds: float = 5.0
    orphan_seconds: float = 60.0
    shm: str = "/dev/shm"  # noqa: S108  # where the original puts its signals
    tmp: str = "/tmp"  # noqa: S108  # where the original puts its Prometheus files
    gpus: str = ""
    start: int = 1
    main_pid: int = 0
    faults: tuple[Fault, ...] = field(default=())

    @property
    def modern(self) -> bool:
        """Whether this is the 2.6 era: log channels, no colours, a monitor."""
        return self.era == "2.6"

    @property
    def poll(self) -> float:
        """How often the engine looks; the original looks each second, a short load needs it more often."""
        return max(0.02, min(1.0, self.load_seconds / 40))

    def fault(self, name: str) -> Fault | None:
        """Find a fault that is meant for this start."""
        return next((f for f in self.faults if f.name == name and f.active(self.start)), None)

    def struck(self, name: str) -> None:
        """Write down when a fault came about, the first time: who measures wants to know it."""
        path = Path(self.gpus) / f"struck-{name}"
        if self.gpus and not path.exists():
            with contextlib.suppress(OSError), path.open("x") as file:
                file.write(str(time.time()))


def read_settings() -> Settings:
    """Read the environment, once a process."""
    env = os.environ
    return Settings(
        era="2.6" if env.get("FD_LAB_ERA", "2.4") == "2.6" else "2.4",
        load_seconds=_number("FD_LAB_LOAD_SECONDS", 2.0),
        seed=int(_number("FD_LAB_SEED", 0)),
        tokens_per_second=max(0.1, _number("FD_LAB_TOKENS_PER_SECOND", 50)),
        monitor_seconds=_number("FD_LAB_MONITOR_SECONDS", 5),
        orphan_seconds=_number("FD_LAB_ORPHAN_SECONDS", 60),
        shm=env.get("FD_LAB_SHM", "/dev/shm"),  # noqa: S108  # as above
        tmp=env.get("TMPDIR", "/tmp"),  # noqa: S108  # as above
        gpus=env.get("DIAGNOSE_LAB_GPUS", ""),
        start=int(_number("FD_LAB_START", 1)),
        main_pid=int(_number("FD_LAB_MAIN_PID", 0)),
        faults=parse_faults(env.get("FD_LAB_FAULTS", "")),
    )
