"""The cards are read from files of the lab; a card that cannot be seen is told once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from diagnose.model.observation import GpuSample, SourceSilent
from diagnose.sources.gpu import GpuSense, LabReader, NvmlReader, own_bytes, reader_for

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
ME = os.getpid()


def card(folder, index=0, **fields):
    body = {"index": index, "name": "Lab 80G", "total_bytes": 80, "processes": {}, "leaked": {}, **fields}
    (folder / f"gpu{index}.json").write_text(json.dumps(body))


def test_memory_is_the_sum_of_the_living_and_the_leaked(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    card(tmp_path, processes={str(ME): 30, "1": 10, str(ended.pid): 20}, leaked={"zombie": 5})

    (one,) = LabReader(tmp_path).read({ME, ended.pid})

    assert (one.index, one.name, one.total_bytes, one.used_bytes, one.own_bytes) == (
        0,
        "Lab 80G",
        80,
        45,
        30,
    )


def test_a_zombie_holds_nothing(tmp_path):
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    card(tmp_path, processes={str(zombie.pid): 20})

    (one,) = LabReader(tmp_path).read({zombie.pid})
    zombie.wait()

    assert one.used_bytes == 0


def test_cards_come_by_number_and_only_those_wanted(tmp_path):
    for index in (10, 2, 0):
        card(tmp_path, index)
    reader = LabReader(tmp_path)

    assert [one.index for one in reader.read(())] == [0, 2, 10]
    assert [one.index for one in GpuSense("t", reader, {2}).poll((), NOON)] == [2]


def test_a_sense_that_cannot_see_says_so_once_and_again_after_it_saw(tmp_path):
    sense = GpuSense("t", LabReader(tmp_path))

    (silent,) = sense.poll((), NOON)
    assert isinstance(silent, SourceSilent)
    assert "Start the lab" in silent.reason
    assert sense.poll((), NOON) == []

    card(tmp_path)
    assert isinstance(sense.poll((), NOON)[0], GpuSample)

    (tmp_path / "gpu0.json").write_text('{"index": "x"')
    assert isinstance(sense.poll((), NOON)[0], SourceSilent)
    assert own_bytes(LabReader(tmp_path), ()) is None


def test_the_variable_chooses_the_lab(tmp_path):
    card(tmp_path, processes={str(ME): 7})

    assert own_bytes(reader_for({"DIAGNOSE_LAB_GPUS": str(tmp_path)}), {ME}) == 7
    assert isinstance(reader_for({}), NvmlReader)


def test_nvml_reads_cards_or_says_how_to_get_them():
    seen = GpuSense("t", NvmlReader()).poll({ME}, NOON)

    for one in seen:
        if isinstance(one, SourceSilent):
            assert "nvidia" in one.reason
        else:
            assert 0 <= one.used_bytes <= one.total_bytes


@pytest.mark.parametrize("reader", [NvmlReader(), LabReader(Path("/not/there"))])
def test_no_reader_raises_anything_else(reader):
    for _ in range(2):
        GpuSense("t", reader).poll({ME}, NOON)
