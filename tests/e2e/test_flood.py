"""A flood of log lines: memory stays bounded, the status shows how far behind the daemon is, and a fault is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import FITS

pytestmark = pytest.mark.timeout(150)

OOM = "Out of memory error on GPU 0. Cannot allocate 3.25GB memory on GPU 0\n"
BLOCK = "INFO     2026-01-01 10:15:03,118 41772 worker_process.py[line:97] a step of the flood, all is well\n" * 100_000


def resident_mib(daemon):
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def test_a_flood_is_read_in_bounded_memory_and_the_fault_in_its_midst_is_found(site):
    here = site(gpu_gib=8)
    daemon = here.daemon(*FITS)
    here.wait_phase("ready")
    before = resident_mib(daemon)
    with (here.folder / "log" / "paddle" / "workerlog.0").open("a") as log:
        for number in range(60):  # 600 MB: far more than may be held in memory
            log.write(BLOCK)
            if number == 30:
                log.write(OOM)
    here.wait(lambda seen: seen.state.targets["default"].meters.latest.get("logs.behind_bytes", 0) > 0, "a lag", 15)
    _, told = here.diagnose("status", "--json", "--state-dir", str(here.state))
    assert json.loads(told)["targets"][0]["numbers"]["logs.behind_bytes"] > 0
    _, shown = here.diagnose("status", "--state-dir", str(here.state))
    assert "MB of the logs wait to be read" in shown
    here.wait(lambda seen: any(one.cause == "gpu_oom_runtime" for one in seen.incidents), "the fault", 90)
    assert resident_mib(daemon) - before < 60
    here.wait(lambda seen: seen.state.targets["default"].meters.latest["logs.behind_bytes"] == 0, "no lag any more", 90)
    assert here.starts() == 1
    assert here.answers()
