"""The host sense: what the machine has left, and what its container lets our processes have.

It reads a handful of files of ``/proc`` and ``/sys`` and judges nothing; rates are the engine's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from diagnose.model.observation import Numbers

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_SHM = Path("/dev/shm")  # noqa: S108 - it is measured, nothing is written there
_NO_LIMIT = 1 << 60
"""cgroup v1 spells "none" as a number near 2^63."""


class HostSense:
    """Measures the host of one target.

    Args:
        places: Folders whose disks count, by what they are for: ``logs``, ``state``, ``model``.
        wall: Seconds since the epoch, as the host's clock tells them.
    """

    def __init__(
        self,
        target: str,
        places: Mapping[str, Path],
        *,
        proc: Path = _PROC,
        shm: Path = _SHM,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._target, self._places, self._proc, self._shm = target, dict(places), proc, shm
        self._wall = wall
        self._clock: float | None = None

    def poll(self, now: datetime) -> list[Numbers]:
        """Return the host's numbers, and those of each disk; what cannot be read is left out."""
        values = {**_memory(self._proc), **_room(self._shm, "host.shm"), **self._load(), **self._jump()}
        values |= _oom_kills("host.", self._proc / "vmstat")
        told = [Numbers(target=self._target, at=now, values=values)]
        for names, place in self._disks().items():
            if room := _room(place, "host.disk"):
                told.append(Numbers(target=self._target, at=now, values=room, labels={"place": names}))
        return told

    def _load(self) -> dict[str, float]:
        try:
            return {"host.load_per_cpu": os.getloadavg()[0] / (os.cpu_count() or 1)}
        except OSError:
            return {}

    def _jump(self) -> dict[str, float]:
        """Tell by how much the clock was put since the last look: against one that nobody puts."""
        offset = self._wall() - time.clock_gettime(time.CLOCK_BOOTTIME)
        before, self._clock = self._clock, offset
        return {} if before is None else {"host.clock_jump_seconds": abs(offset - before)}

    def _disks(self) -> dict[str, Path]:
        """Name each disk once, by all that lies there."""
        found: dict[int, tuple[list[str], Path]] = {}
        for name, place in self._places.items():
            here = next((one for one in (place, *place.parents) if one.exists()), None)
            if here is not None:
                found.setdefault(here.stat().st_dev, ([], here))[0].append(name)
        return {", ".join(sorted(names)): place for names, place in found.values()}


def _memory(proc: Path) -> dict[str, float]:
    read = _fields(proc / "meminfo")
    total, available = read.get("MemTotal", 0) << 10, read.get("MemAvailable", 0) << 10
    if not total:
        return {}
    return {
        "host.memory_total_bytes": total,
        "host.memory_available_bytes": available,
        "host.memory_available_ratio": available / total,
    }


def _oom_kills(prefix: str, place: Path) -> dict[str, float]:
    """Return how often the kernel killed for want of memory; it counts so since Linux 4.13, for all to read."""
    kills = _fields(place).get("oom_kill")
    return {} if kills is None else {f"{prefix}oom_kills_total": float(kills)}


def _room(place: Path, name: str) -> dict[str, float]:
    """Measure a file system as its users find it: what is kept for root is no room, and counts as used by none."""
    try:
        found = os.statvfs(place)
    except OSError:
        return {}
    used, free = (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_bavail * found.f_frsize
    if not used + free:
        return {}
    values = {f"{name}_used_bytes": used, f"{name}_free_bytes": free, f"{name}_free_ratio": free / (used + free)}
    if found.f_files:
        values[f"{name}_free_inodes_ratio"] = found.f_favail / found.f_files
    return {key: float(value) for key, value in values.items()}


# --- processes


def tree_numbers(pids: Collection[int], *, proc: Path = _PROC) -> dict[str, float]:
    """Measure a tree of processes: threads, descriptors of the fullest, zombies among their children."""
    threads, zombies, fullest = 0, 0, 0.0
    for pid in pids:
        threads += _fields(proc / str(pid) / "status").get("Threads", 0)
        fullest = max(fullest, _descriptors(proc / str(pid)))
        zombies += sum(_state(proc / child) == "Z" for child in _children(proc, pid))
    return {
        "process.threads": float(threads),
        "process.descriptors_ratio": fullest,
        "process.zombies": float(zombies),
    }


def threads_of(pids: Collection[int], *, proc: Path = _PROC) -> set[int]:
    """Return the numbers of all threads: the kernel names these, not their processes."""
    return {int(name) for pid in pids for name in _names(proc / str(pid) / "task") if name.isdigit()}


def names_of(pids: Collection[int], *, proc: Path = _PROC) -> set[str]:
    """Return what the kernel calls these processes."""
    return {name for pid in pids if (name := _text(proc / str(pid) / "comm").strip())}


def _children(proc: Path, pid: int) -> list[str]:
    return _text(proc / str(pid) / "task" / str(pid) / "children").split()


def _state(process: Path) -> str:
    return _text(process / "stat").rpartition(")")[2].strip()[:1]


def _descriptors(process: Path) -> float:
    limit = next((line.split()[3] for line in _text(process / "limits").splitlines() if "open files" in line), "")
    return len(_names(process / "fd")) / int(limit) if limit.isdigit() and int(limit) else 0.0


# --- containers


def container_numbers(pid: int, *, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> dict[str, float]:
    """Measure what a process's control groups (v1 or v2) let it have; empty where nothing limits it."""
    return {
        **_memory_limit(pid, proc, cgroups),
        **_memory_kills(pid, proc, cgroups),
        **_processor_limit(pid, proc, cgroups),
        **_process_limit(pid, proc, cgroups),
    }


def _memory_limit(pid: int, proc: Path, cgroups: Path) -> dict[str, float]:
    """Find the tightest limit on the way up; what the kernel can give back at once (file cache) is not used."""
    rows: list[tuple[float, float]] = []
    for group, v2 in _groups(pid, "memory", proc, cgroups):
        limit = _number(group / ("memory.max" if v2 else "memory.limit_in_bytes"))
        usage = _number(group / ("memory.current" if v2 else "memory.usage_in_bytes"))
        cache = _fields(group / "memory.stat").get("inactive_file" if v2 else "total_inactive_file", 0)
        if limit is not None and usage is not None and 0 < limit < _NO_LIMIT:
            rows.append((limit, max(0.0, usage - cache)))
    if not rows:
        return {}
    limit, used = min(rows, key=lambda row: row[0] - row[1])
    return {
        "process.container_memory_bytes": used,
        "process.container_memory_free_bytes": limit - used,
        "process.container_memory_ratio": used / limit,
    }


def _memory_kills(pid: int, proc: Path, cgroups: Path) -> dict[str, float]:
    """Return how often the kernel killed in the process's own group, for that group's limit or one above it."""
    for group, v2 in _groups(pid, "memory", proc, cgroups):
        return _oom_kills("process.container_", group / ("memory.events" if v2 else "memory.oom_control"))
    return {}


def _processor_limit(pid: int, proc: Path, cgroups: Path) -> dict[str, float]:
    for group, _ in _groups(pid, "cpu", proc, cgroups):
        told = _fields(group / "cpu.stat")
        if told.get("nr_periods"):
            periods, throttled = told["nr_periods"], told.get("nr_throttled", 0)
            return {
                "process.container_periods_total": float(periods),
                "process.container_throttled_total": float(throttled),
            }
    return {}


def _process_limit(pid: int, proc: Path, cgroups: Path) -> dict[str, float]:
    shares = [
        used / limit
        for group, _ in _groups(pid, "pids", proc, cgroups)
        if (limit := _number(group / "pids.max")) and (used := _number(group / "pids.current")) is not None
    ]
    return {"process.container_pids_ratio": max(shares)} if shares else {}


def _groups(pid: int, controller: str, proc: Path, cgroups: Path) -> Iterator[tuple[Path, bool]]:
    """Yield a process's control group for something and all above it, and whether they are of v2.

    A path that is not there is seen from outside of our container: its own top is what we see.
    """
    for line in _text(proc / str(pid) / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        v2 = not controllers
        if not v2 and controller not in controllers.split(","):
            continue
        if v2 and not (cgroups / "cgroup.controllers").exists():
            continue  # both kinds at once: the controllers are those of v1
        top = cgroups if v2 else cgroups / controller
        group = top / path.lstrip("/")
        group = group if ".." not in path and group.is_dir() else top
        while True:
            yield group, v2
            if group == top:
                break
            group = group.parent


# --- small files


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208 - a Path for each descriptor and thread costs too much
    except OSError:
        return []


def _number(path: Path) -> float | None:
    text = _text(path).strip()
    return float(text) if text.isdigit() else None


def _fields(path: Path) -> dict[str, int]:
    """Read ``name value`` and ``Name:  value kB`` lines."""
    pairs = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in pairs if len(words) > 1 and words[1].isdigit()}
