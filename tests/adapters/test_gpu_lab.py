"""The lab's cards, and the sense that makes observations of any cards; what cannot be seen is told once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from diagnose.lab.gpus import make_gpus, report_xid, set_reading
from diagnose.model.observation import GpuReading, GpuSample, LogMatch, MigDevice, SourceSees, SourceSilent
from diagnose.ports import GpuUnavailableError, Xid
from diagnose.sources.gpu import GpuSense, LabReader, NvmlReader, PatientReader, chosen, reader_for

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
ME = os.getpid()


def after(seconds):
    return NOON + timedelta(seconds=seconds)


def card(folder, index=0, **fields):
    body = {"index": index, "name": "Lab 80G", "total_bytes": 80, "processes": {}, "leaked": {}, **fields}
    (folder / f"gpu{index}.json").write_text(json.dumps(body))


def reading(index, **fields):
    plain = {"index": index, "name": "L20", "total_bytes": 48, "used_bytes": 8, "own_bytes": 0}
    return GpuReading(**{**plain, "uuid": f"GPU-{index}{index}aa", "pci": f"0000:{index + 65:02x}:00", **fields})


class Cards:
    """A reader whose cards, or errors, a test sets."""

    def __init__(self, *cards):
        self.cards, self.error, self.told = list(cards), None, []

    def read(self, _pids):
        if self.error:
            raise self.error
        return self.cards

    def xids(self, after=0):
        return [one for one in self.told if one.number > after]

    def report(self, index, xid, gpu_instance=None):
        pci = f"0000:{index + 65:02x}:00"
        number = len(self.told) + 1
        self.told.append(Xid(number=number, index=index, pci=pci, xid=xid, gpu_instance=gpu_instance))


# --- the lab


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
    assert [(held.pid, held.used_bytes, held.whose) for held in one.processes] == [(ME, 30, "own"), (1, 10, "other")]


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
    assert [(one.index, one.ordinal) for one in GpuSense("t", reader, ("10", "2")).poll((), NOON)] == [(10, 0), (2, 1)]


def test_the_lab_can_let_a_card_tell_whatever_a_real_one_tells(tmp_path):
    make_gpus(tmp_path, 2, 8 << 30)
    set_reading(tmp_path, 1, celsius=93, slowed=["thermal"], state="lost", error="GPU is lost")
    set_reading(tmp_path, 1, error=None)
    zero, one = LabReader(tmp_path).read(())

    assert (zero.celsius, zero.state) == (None, "ok")
    assert (one.celsius, one.slowed, one.state, one.error) == (93, ("thermal",), "lost", "")


def test_a_card_of_the_lab_that_tells_nonsense_is_one_that_cannot_be_read(tmp_path):
    make_gpus(tmp_path)
    set_reading(tmp_path, 0, celsius="hot")
    with pytest.raises(GpuUnavailableError, match="nonsense"):
        LabReader(tmp_path).read(())


def test_the_lab_tells_errors_of_the_driver_from_now_on(tmp_path):
    make_gpus(tmp_path, 2)
    report_xid(tmp_path, 0, 13)
    reader = LabReader(tmp_path)
    assert list(reader.xids()) == []

    report_xid(tmp_path, 1, 79)
    report_xid(tmp_path, 0, 31)
    assert [(one.number, one.index, one.pci, one.xid) for one in reader.xids()] == [
        (1, 0, "0000:01:00", 31),
        (2, 1, "0000:02:00", 79),
    ]
    assert [one.number for one in reader.xids(1)] == [2]


# --- the sense


def test_a_sense_that_cannot_see_says_so_once_and_again_after_it_saw(tmp_path):
    sense = GpuSense("t", LabReader(tmp_path))

    (silent,) = sense.poll((), NOON)
    assert isinstance(silent, SourceSilent)
    assert "Start the lab" in silent.reason
    assert sense.poll((), NOON) == []

    card(tmp_path)
    sees, sample = sense.poll((), NOON)
    assert (type(sees), sees.source, type(sample)) == (SourceSees, "gpu", GpuSample)
    assert [type(one) for one in sense.poll((), NOON)] == [GpuSample]

    (tmp_path / "gpu0.json").write_text('{"index": "x"')
    assert isinstance(sense.poll((), NOON)[0], SourceSilent)


def test_another_reason_for_not_seeing_is_told_too():
    reader = Cards()
    sense = GpuSense("t", reader)
    told = []
    for kind in ("failed", "failed", "mismatch", "mismatch"):
        reader.error = GpuUnavailableError(f"it {kind}", kind)
        told += [one.kind for one in sense.poll((), NOON)]
    assert told == ["failed", "mismatch"]


def test_a_fault_of_ours_blinds_the_sense_and_ends_nothing():
    reader = Cards()
    reader.error = ZeroDivisionError("of ours")
    (silent,) = GpuSense("t", reader).poll((), NOON)
    assert "A fault of diagnose" in silent.reason


def test_a_reading_that_takes_long_is_told_when_it_is_done_and_begun_once():
    class Slow(Cards):
        def __init__(self):
            super().__init__(reading(0))
            self.go, self.count = threading.Event(), 0

        def read(self, pids):
            self.count += 1
            self.go.wait(10)
            return super().read(pids)

    reader = Slow()
    sense = GpuSense("t", reader)
    for _ in range(3):
        sense.ask((), NOON)
        assert sense.told(NOON) == []
    assert sense.asking
    reader.go.set()
    assert [one.index for one in sense.told(NOON, wait=10)] == [0]
    assert (reader.count, sense.asking) == (1, False)


def test_patience_ends_and_one_reading_that_hangs_is_enough():
    go = threading.Event()

    class Hanging(Cards):
        def read(self, pids):
            go.wait(10)
            return super().read(pids)

    before = threading.active_count()
    reader = PatientReader(Hanging(reading(0)), 0.05)
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(GpuUnavailableError) as raised:
            reader.read(())
        assert raised.value.kind == "hangs"
    assert time.monotonic() - began < 1
    assert threading.active_count() - before <= 1
    go.set()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [one.index for one in reader.read(())] == [0]


# --- whose memory it is


def test_a_worker_above_which_no_server_runs_is_a_leftover(tmp_path):
    script = tmp_path / "worker_process.py"
    script.write_text("import time\ntime.sleep(60)\n")
    shell = f"{sys.executable} {script} --api-key secret >/dev/null 2>&1 & echo $!"
    made = subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, text=True, check=True)
    pid = int(made.stdout)
    under_us = subprocess.Popen([sys.executable, str(script)])
    try:
        above = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        if b"python" in Path(f"/proc/{above}/cmdline").read_bytes():
            pytest.skip("orphans here come to a Python program, which may as well be a server")
        while b"worker_process" not in Path(f"/proc/{under_us.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        card(tmp_path, processes={str(pid): 9, str(under_us.pid): 8})
        (one,) = LabReader(tmp_path).read(())
        assert [(held.pid, held.name, held.whose) for held in one.processes] == [
            (pid, "worker_process.py", "leftover"),
            (under_us.pid, "worker_process.py", "other"),
        ]
    finally:
        os.kill(pid, signal.SIGKILL)
        under_us.kill()
        under_us.wait()


def test_cards_that_are_as_before_are_told_seldom_and_what_is_new_at_once():
    reader = Cards(reading(0, celsius=60), reading(1))
    sense = GpuSense("t", reader)
    every = timedelta(seconds=10)

    def look(seconds, **news):
        reader.cards[0] = msgspec.structs.replace(reader.cards[0], **news)
        sense.ask((), after(seconds))
        while sense.asking:
            told = sense.told(after(seconds), every)
        return [one.label for one in told]

    assert look(0) == ["0", "1"]
    assert look(2, celsius=70, busy_ratio=0.5, used_bytes=9) == []
    assert [one.celsius for one in sense.latest] == [70, None]
    assert look(4, slowed=("thermal",)) == ["0", "1"]
    assert look(6, slowed=("thermal", "power_cap")) == []
    assert look(8, state="lost") == ["0", "1"]
    assert look(17.5) == []
    assert look(18) == ["0", "1"]
    assert look(8) == ["0", "1"], "a clock that was set back"


def test_it_is_time_to_look_again_after_a_while():
    sense = GpuSense("t", Cards(reading(0)))
    assert sense.due(NOON)
    sense.poll((), NOON)
    assert [sense.due(after(seconds)) for seconds in (0, 1.9, 2, 3, -1)] == [False, False, True, True, True]


# --- which cards are meant

SPLIT = reading(
    1,
    slices=(
        MigDevice(uuid="MIG-aaaa-1", gpu_instance=1, compute_instance=0, total_bytes=10, used_bytes=4),
        MigDevice(uuid="MIG-bbbb-2", gpu_instance=5, compute_instance=0, total_bytes=20, used_bytes=0),
    ),
)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(None, [("0", 0), ("1", 1), ("2", 2)], id="not set: all"),
        pytest.param((), [], id="empty: none"),
        pytest.param(("2", "0"), [("2", 0), ("0", 1)], id="numbers, in their order"),
        pytest.param(("GPU-22aa", "GPU-0"), [("2", 0), ("0", 1)], id="UUIDs, whole and begun"),
        pytest.param(("MIG-bbbb-2",), [("1:5:0", 0)], id="a slice"),
        pytest.param(("MIG-GPU-11aa/1/0",), [("1:1:0", 0)], id="a slice, as older drivers name it"),
        pytest.param(("0", "-1", "2"), [("0", 0)], id="nothing behind -1"),
        pytest.param(("NoDevFiles",), [], id="the word for none"),
        pytest.param(("0", "7", "2"), [("0", 0), ("7", None)], id="nothing behind a number that is not there"),
        pytest.param(("GPU-99",), [("GPU-99", None)], id="a UUID that is not there"),
        pytest.param(("GPU-",), [("GPU-", None)], id="a beginning that fits several"),
        pytest.param(("MIG-cccc",), [("MIG-cccc", None)], id="a slice that is not there"),
        pytest.param(("banana",), [("banana", None)], id="nonsense"),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(wanted, expected):
    found = chosen([reading(0), SPLIT, reading(2)], wanted)
    assert [(one.label, one.ordinal) for one in found] == expected
    assert [one.state for one in found if one.ordinal is None] == ["absent" for one in expected if one[1] is None]


def test_of_a_slice_the_memory_is_told():
    (one,) = chosen([reading(0), SPLIT], ("MIG-aaaa-1",))
    assert (one.total_bytes, one.used_bytes, one.index) == (10, 4, 1)


def test_a_card_that_goes_does_not_make_another_one_ours():
    reader = Cards(reading(0), reading(1), reading(2))
    sense = GpuSense("t", reader, ("1", "2"))
    assert [one.label for one in sense.poll((), NOON)] == ["1", "2"]

    gone = reading(1, state="gone")
    moved = reading(1, uuid="GPU-22aa", pci="0000:43:00")
    reader.cards = [reading(0), moved, gone]
    assert [(one.label, one.uuid, one.state) for one in sense.poll((), NOON)] == [
        ("0000:42:00", "GPU-11aa", "gone"),
        ("1", "GPU-22aa", "ok"),
    ]


# --- errors that the driver reports


def kernel_line(pci, xid, source="kernel"):
    text = f"NVRM: Xid (PCI:{pci}): {xid}, pid=4711, name=python, Ch 00000008"
    return LogMatch(
        target="t",
        source=source,
        stream="kernel",
        line=1,
        at=NOON,
        dated=True,
        attempt=1,
        text=text,
        level=None,
        hits=(),
    )


def lines(sense, now):
    return [line.data.decode().rstrip() for line in sense.lines(now)]


def test_what_the_driver_reports_is_told_at_once_and_within_a_second_as_a_line():
    reader = Cards(reading(0))
    reader.report(0, 13)
    sense = GpuSense("t", reader)
    sense.poll((), NOON)
    assert sense.xids(NOON) == []

    reader.report(0, 79)
    (event,) = sense.xids(NOON)
    assert (event.index, event.pci, event.xid) == (0, "0000:41:00", 79)
    assert lines(sense, NOON) == []
    assert lines(sense, after(0.5)) == ["NVRM: Xid (PCI:0000:41:00): 79, told by NVML of GPU 0"]
    assert lines(sense, after(1)) == []


@pytest.mark.parametrize("early", [True, False], ids=["before NVML", "after NVML"])
def test_what_the_kernel_tells_is_not_told_again(early):
    reader = Cards(reading(0))
    sense = GpuSense("t", reader)
    sense.poll((), NOON)
    if early:
        sense.hear(kernel_line("0000:41:00", 79), NOON)
    reader.report(0, 79)
    reader.report(0, 48)
    assert [event.xid for event in sense.xids(after(0.1))] == [79, 48]
    if not early:
        sense.hear(kernel_line("0000:41:00", 79), after(0.3))
    assert lines(sense, after(0.6)) == ["NVRM: Xid (PCI:0000:41:00): 48, told by NVML of GPU 0"]


def test_the_kernel_s_word_of_another_card_or_of_long_ago_silences_nothing():
    reader = Cards(reading(0))
    sense = GpuSense("t", reader)
    sense.poll((), NOON)
    sense.hear(kernel_line("0000:42:00", 79), NOON)
    sense.hear(kernel_line("0000:41:00", 31), NOON)
    reader.report(0, 79)
    reader.report(0, 31)
    sense.xids(after(20))
    assert len(lines(sense, after(21))) == 2


def test_a_slice_is_named_as_the_kernel_names_it():
    reader = Cards(reading(0))
    sense = GpuSense("t", reader)
    reader.report(0, 94, gpu_instance=5)
    sense.xids(NOON)
    assert lines(sense, after(1)) == ["NVRM: Xid (PCI:0000:41:00 GPU-I:05): 94, told by NVML of GPU 0"]


def test_what_is_reported_of_cards_that_are_not_ours_is_not_told():
    reader = Cards(reading(0), reading(1))
    sense = GpuSense("t", reader, ("1",))
    sense.poll((), NOON)
    reader.report(0, 79)
    reader.report(1, 31)
    assert [event.index for event in sense.xids(NOON)] == [1]
    assert len(lines(sense, after(1))) == 1


# --- which reader


def test_the_variable_chooses_the_lab(tmp_path):
    card(tmp_path, processes={str(ME): 7})

    assert [one.own_bytes for one in reader_for({"DIAGNOSE_LAB_GPUS": str(tmp_path)}).read({ME})] == [7]
    assert isinstance(reader_for({}), PatientReader)


def test_nvml_reads_cards_or_says_how_to_get_them():
    seen = GpuSense("t", reader_for({})).poll({ME}, NOON)

    for one in seen:
        if isinstance(one, SourceSilent):
            assert "nvidia" in one.reason
        else:
            assert 0 <= one.used_bytes <= one.total_bytes


@pytest.mark.parametrize("reader", [NvmlReader(), LabReader(Path("/not/there"))])
def test_no_reader_raises_anything_else(reader):
    for _ in range(2):
        GpuSense("t", reader).poll({ME}, NOON)
