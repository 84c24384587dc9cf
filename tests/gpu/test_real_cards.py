"""Real cards, real driver. Skipped where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from diagnose.engine import cards as engine
from diagnose.model.observation import GpuSample
from diagnose.ports import GpuUnavailableError
from diagnose.sources.gpu import GpuSense, NvmlReader, PatientReader

HELD_BYTES = 512 << 20
HOLDER = f"""
import ctypes, time
cuda = ctypes.CDLL("libcuda.so.1")
def ask(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        raise SystemExit(f"{{name}}: CUDA error {{code}}")
device, context, place = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
ask("cuInit", 0)
ask("cuDeviceGet", ctypes.byref(device), 0)
ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
ask("cuCtxSetCurrent", context)
ask("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t({HELD_BYTES}))
print("holds", flush=True)
time.sleep(120)
"""


def why_not():
    try:
        NvmlReader().read(())
    except GpuUnavailableError as error:
        return f"no usable NVIDIA card here: {error}"
    return ""


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture
def reader():
    return NvmlReader()


def used(reader, pids=()):
    return reader.read(pids)[0].used_bytes


def wait_for(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
    return true()


def test_each_card_tells_who_it_is_and_how_it_is(reader):
    for one in reader.read(()):
        assert one.state == "ok"
        assert one.uuid.startswith("GPU-")
        assert one.name
        assert len(one.pci.split(":")) == 3
        assert 0 <= one.used_bytes <= one.total_bytes
        assert one.celsius is None or 0 < one.celsius < 130
        assert one.busy_ratio is None or 0 <= one.busy_ratio <= 1
        assert one.slowed is not None
        assert engine.described(one).startswith(f"GPU {one.index}")


def test_reading_takes_no_memory_of_the_card_and_loads_no_cuda(reader):
    before = used(reader)
    reader.xids()
    sense = GpuSense("t", PatientReader(reader))
    for _ in range(20):
        assert all(isinstance(one, GpuSample) for one in sense.poll({os.getpid()}, datetime.now(timezone.utc)))
    card = reader.read({os.getpid()})[0]
    assert card.own_bytes == 0
    assert os.getpid() not in {one.pid for one in card.processes}
    assert "libcuda.so" not in Path("/proc/self/maps").read_text()
    assert abs(card.used_bytes - before) < HELD_BYTES  # others may come and go


def test_memory_of_a_killed_process_is_seen_and_seen_to_be_free_again(reader):
    before = used(reader)
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline().strip() == "holds", "the process that is to hold memory could not get it"
            card = reader.read({holder.pid})[0]
            assert card.used_bytes - before > HELD_BYTES * 0.9
            if card.processes and holder.pid in {one.pid for one in card.processes}:  # a container may number otherwise
                assert card.own_bytes >= HELD_BYTES
        finally:
            holder.kill()
    assert wait_for(lambda: used(reader) - before < HELD_BYTES * 0.5)
    assert reader.read({holder.pid})[0].own_bytes == 0


def test_listening_for_errors_of_the_driver_begins_and_tells_none(reader):
    assert list(reader.xids()) == []
    reader.read(())
    time.sleep(1)
    reader.read(())
    assert list(reader.xids()) == []
