"""NVML through the real binding, against a library of ours: what it tells, and all that it may say instead."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: the pretended NVML cannot be built")

GIB = 1 << 30
UNINITIALIZED, INVALID, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, INSUFFICIENT_SIZE = 1, 2, 3, 4, 6, 7
NOT_LOADED, TIMEOUT, IS_LOST, RESET_REQUIRED, MISMATCH, UNKNOWN = 9, 10, 15, 16, 18, 999
FULL = {
    "events": "8",
    "processes": "-",
    "busy": "97",
    "celsius": "71",
    "slowdown": "90",
    "milliwatts": "312000",
    "limit": "350000",
    "sm": "1980",
    "memclock": "2619",
    "reasons": "0x44",
    "ecc.0.0": "4",
    "ecc.1.0": "1",
    "ecc.0.1": "9",
    "ecc.1.1": "2",
    "retired.0": "1",
    "retired.1": "2",
    "retired.pending": "0",
    "remapped": "5 3 1 0",
    "pcie.gen": "4",
    "pcie.width": "8",
    "pcie.maxgen": "5",
    "pcie.maxwidth": "16",
    "pcie.replays": "7",
    "mig": "0",
    **{f"link.{link}": "1" for link in range(6)},
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compile the pretended library, once for each set of options."""
    built = {}

    def library(*options):
        if options not in built:
            folder = tmp_path_factory.mktemp("nvml")
            out = str(folder / "libnvidia-ml.so.1")
            soname = "-Wl,-soname,libnvidia-ml.so.1"
            source = str(HERE / "nvml_stub.c")
            subprocess.run(
                [COMPILER, "-shared", "-fPIC", "-O1", *options, soname, "-o", out, source, "-lpthread"], check=True
            )
            built[options] = folder
        return built[options]

    return library


class Nvml:
    """A pretended driver, and a process that asks it."""

    def __init__(self, folder, world):
        self.world, self.facts = world, {}
        self.child = None
        self.library = folder

    def start(self):
        env = {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.library),
            "NVML_STUB_WORLD": str(self.world),
            "PYTHONPATH": str(HERE.parent.parent),
        }
        command = [sys.executable, str(HERE / "nvml_child.py")]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def says(self, **facts):
        """Change what the driver says; None takes it back. A dot in a key is written as two underscores."""
        for key, value in facts.items():
            name = key.replace("__", ".").lstrip("_")
            self.facts[name] = value
        lines = "".join(f"{key} {value}\n" for key, value in self.facts.items() if value is not None)
        fresh = self.world.with_suffix(".new")
        fresh.write_text(lines)
        fresh.replace(self.world)

    def card(self, index, **fields):
        """Put a card in, with all that a card may tell."""
        told = {
            "uuid": f"GPU-0000000{index}-aaaa",
            "name": "NVIDIA L20",
            "pci": f"0 {65 + index} 0",
            "memory": f"{48 * GIB} {2 * GIB}",
            **FULL,
            **fields,
        }
        self.facts.update({f"{index}.{name}": value for name, value in told.items()})
        self.says(count=str(len({key.split(".")[0] for key in self.facts if key.endswith(".uuid")})))

    def ask(self, name, *arguments):
        if self.child is None:
            self.start()
        self.child.stdin.write(json.dumps([name, arguments]) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def cards(self, pids=()):
        return self.ask("read", list(pids))["cards"]

    def states(self):
        return [(one["index"], one.get("state", "ok")) for one in self.cards()]

    def end(self):
        if self.child is not None:
            self.says(hang=None)
            self.child.stdin.close()
            self.child.stdout.close()
            try:
                self.child.wait(10)
            finally:
                self.child.kill()
                self.child.wait()


@pytest.fixture
def nvml(build, tmp_path):
    nvml = Nvml(build(), tmp_path / "world")
    nvml.says(count="0")
    yield nvml
    nvml.end()


# --- what it tells


def test_all_that_a_card_tells_is_read(nvml):
    nvml.card(0)
    (one,) = nvml.cards()

    assert one["uuid"] == "GPU-00000000-aaaa"
    assert one["pci"] == "0000:41:00"
    assert (one["name"], one["total_bytes"], one["used_bytes"]) == ("NVIDIA L20", 48 * GIB, 2 * GIB)
    assert (one["busy_ratio"], one["celsius"], one["slowdown_celsius"]) == (0.97, 71, 90)
    assert (one["watts"], one["limit_watts"], one["sm_mhz"], one["memory_mhz"]) == (312.0, 350.0, 1980, 2619)
    assert one["slowed"] == ["thermal", "power_cap"]
    assert [one[f"ecc_{kind}"] for kind in ("corrected", "uncorrected", "corrected_ever", "uncorrected_ever")] == [
        4,
        1,
        9,
        2,
    ]
    assert (one["retired_pages"], one["retired_pending"]) == (3, False)
    assert (one["remapped_rows"], one["remap_pending"], one["remap_failed"]) == (3, True, False)
    assert (one["pcie_generation"], one["pcie_width"], one["pcie_most_generation"], one["pcie_most_width"]) == (
        4,
        8,
        5,
        16,
    )
    assert (one["pcie_replays"], one["nvlinks"], one["nvlinks_most"]) == (7, 6, 6)


@pytest.mark.parametrize(
    ("reasons", "slowed"),
    [
        pytest.param("0x0", [], id="nothing"),
        pytest.param("0x1", [], id="idle"),
        pytest.param("0x20", ["thermal"], id="heat, by software"),
        pytest.param("0x48", ["thermal", "hardware"], id="heat, by hardware"),
        pytest.param("0x88", ["power_brake", "hardware"], id="power brake"),
        pytest.param("0x4", ["power_cap"], id="power limit"),
        pytest.param("0x112", [], id="clocks that were set, and sync"),
    ],
)
def test_why_a_card_is_slow(nvml, reasons, slowed):
    nvml.card(0, reasons=reasons)
    assert nvml.cards()[0]["slowed"] == slowed


def test_memory_is_told_by_process(nvml):
    me = os.getpid()
    nvml.card(0, processes=f"{me}:{3 * GIB},4000000:{GIB},4000001:-")
    (one,) = nvml.cards([me])

    assert one["own_bytes"] == 3 * GIB
    assert [(held["pid"], held["used_bytes"], held.get("whose", "other")) for held in one["processes"]] == [
        (me, 3 * GIB, "own"),
        (4000000, GIB, "other"),
        (4000001, None, "other"),
    ]


def test_a_list_that_grows_while_it_is_asked_for_is_asked_for_again(nvml):
    nvml.card(0, processes=f"4000000:{GIB}", grows="2")
    assert [held["pid"] for held in nvml.cards()[0]["processes"]] == [4000000]


def test_a_list_that_never_stands_still_hides_nothing_else(nvml):
    nvml.card(0, processes=f"4000000:{GIB}", grows="99")
    (one,) = nvml.cards()
    assert not one.get("processes")
    assert one["celsius"] == 71


def test_an_old_driver_is_asked_as_it_knows_it(build, tmp_path):
    nvml = Nvml(build("-DOLD_DRIVER"), tmp_path / "world")
    nvml.card(0, processes=f"4000000:{GIB}")
    try:
        (one,) = nvml.cards()
    finally:
        nvml.end()
    assert one["slowed"] == ["thermal", "power_cap"]
    assert one["processes"][0]["used_bytes"] == GIB


def test_slices_of_a_split_card_have_their_own_memory(nvml):
    nvml.card(0, mig="1", migmax="7")
    nvml.says(**{"0.mig.0": f"MIG-aaaa 1 0 {10 * GIB} {GIB}", "0.mig.3": f"MIG-bbbb 5 0 {20 * GIB} 0"})
    (one,) = nvml.cards()

    assert one["slices"] == [
        {"uuid": "MIG-aaaa", "gpu_instance": 1, "compute_instance": 0, "total_bytes": 10 * GIB, "used_bytes": GIB},
        {"uuid": "MIG-bbbb", "gpu_instance": 5, "compute_instance": 0, "total_bytes": 20 * GIB, "used_bytes": 0},
    ]
    nvml.says(**{"0.mig.0": None})
    assert [part["uuid"] for part in nvml.cards()[0]["slices"]] == ["MIG-bbbb"]


# --- what it says instead


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION], ids=["not supported", "no permission"])
def test_what_a_card_never_tells_is_asked_for_once(nvml, code):
    nvml.card(0, celsius=f"!{code}")
    for _ in range(3):
        (one,) = nvml.cards()
        assert "celsius" not in one
        assert one["busy_ratio"] == 0.97
    assert nvml.ask("calls", "nvmlDeviceGetTemperature") == 1
    assert nvml.ask("calls", "nvmlDeviceGetUtilizationRates") == 3


@pytest.mark.parametrize("field", ["celsius", "ecc.1.0", "processes", "link.0"])
def test_one_bad_field_hides_no_other_and_is_asked_for_again(nvml, field):
    for code in (TIMEOUT, UNKNOWN, INVALID, INSUFFICIENT_SIZE, 11, 14, 17, 20, 22, 4711):
        nvml.ask("new")
        nvml.card(0, **{field: f"!{code}"})
        (one,) = nvml.cards()
        assert one.get("state", "ok") == "ok", code
        assert one["watts"] == 312.0, code
        nvml.card(0, processes=f"4000000:{GIB}")
        nvml.ask("later", 31)
        (one,) = nvml.cards()
        assert (one["celsius"], one["ecc_uncorrected"], one["nvlinks"], len(one["processes"])) == (71, 1, 6, 1), code


def test_a_card_that_tells_nothing_but_its_name_is_no_trouble(nvml):
    nvml.card(0, **dict.fromkeys([*FULL, "memory"]))
    (one,) = nvml.cards()
    assert (one["name"], one["total_bytes"]) == ("NVIDIA L20", 0)
    assert "celsius" not in one


@pytest.mark.parametrize("code", [IS_LOST, RESET_REQUIRED, NOT_FOUND, 28])
def test_a_lost_card_is_told_and_the_others_go_on(nvml, code):
    nvml.card(0)
    nvml.card(1)
    assert nvml.states() == [(0, "ok"), (1, "ok")]

    nvml.says(**{"1.memory": f"!{code}"})
    zero, one = nvml.cards()
    assert zero["celsius"] == 71
    assert (one["state"], one["total_bytes"], one["used_bytes"], one["pci"]) == ("lost", 48 * GIB, 0, "0000:42:00")
    assert one["error"]


def test_a_card_lost_in_the_middle_of_a_reading_is_lost(nvml):
    nvml.card(0)
    nvml.card(1, celsius=f"!{IS_LOST}")
    assert nvml.states() == [(0, "ok"), (1, "lost")]


def test_a_lost_card_that_comes_back_is_found_after_a_while(nvml):
    nvml.card(0)
    nvml.card(1)
    nvml.cards()
    nvml.says(**{"1.lost": "1"})
    assert nvml.states() == [(0, "ok"), (1, "lost")]

    nvml.says(**{"1.lost": None})
    assert nvml.states() == [(0, "ok"), (1, "lost")]
    nvml.ask("later", 31)
    assert nvml.states() == [(0, "ok"), (1, "ok")]
    assert nvml.cards()[1]["nvlinks_most"] == 6


def test_a_card_that_stays_lost_is_looked_for_ever_more_seldom(nvml):
    nvml.card(0, lost="1")
    nvml.card(1)
    begun = []
    for _ in range(10):
        nvml.states()
        nvml.ask("later", 31)
        begun.append(nvml.ask("calls", "nvmlInit"))
    assert begun == [1, 2, 2, 3, 3, 3, 3, 4, 4, 4]
    nvml.says(**{"0.lost": None})
    for _ in range(10):
        nvml.ask("later", 31)
        states = nvml.states()
    assert states == [(0, "ok"), (1, "ok")]


def test_a_card_that_is_taken_out_is_told_as_gone_by_its_address_until_it_is_back(nvml):
    for index in range(3):
        nvml.card(index)
    nvml.cards()

    moved = {key.replace("2.", "1.", 1): value for key, value in nvml.facts.items() if key.startswith("2.")}
    kept = dict(nvml.facts)
    nvml.says(**moved, count="2")
    told = nvml.cards()
    assert sorted((one["uuid"], one.get("state", "ok")) for one in told) == [
        ("GPU-00000000-aaaa", "ok"),
        ("GPU-00000001-aaaa", "gone"),
        ("GPU-00000002-aaaa", "ok"),
    ]

    nvml.says(**kept)
    assert sorted(nvml.states()) == [(0, "ok"), (1, "ok"), (2, "ok")]


def test_a_card_that_cannot_be_asked_from_the_start_hides_no_other(nvml):
    nvml.card(0)
    nvml.card(1, handle=f"!{IS_LOST}")
    zero, one = nvml.cards()
    assert zero.get("state", "ok") == "ok"
    assert (one["state"], one["name"]) == ("lost", "")


def test_memory_that_cannot_be_read_now_is_told_and_read_again(nvml):
    nvml.card(0)
    nvml.card(1)
    nvml.says(**{"1.memory": f"!{UNKNOWN}"})
    assert nvml.states() == [(0, "ok"), (1, "unreadable")]
    nvml.card(1)
    assert nvml.states() == [(0, "ok"), (1, "ok")]


def test_where_no_card_can_be_read_the_driver_fails_as_a_whole(nvml):
    nvml.card(0, memory=f"!{UNKNOWN}")
    nvml.card(1, memory=f"!{TIMEOUT}")
    told = nvml.ask("read")
    assert told["kind"] == "failed"
    assert "Unknown Error" in told["text"]


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        pytest.param(NOT_LOADED, "missing", "Driver Not Loaded", id="driver not loaded"),
        pytest.param(MISMATCH, "mismatch", "reboot", id="library and module differ"),
        pytest.param(UNKNOWN, "failed", "Unknown Error", id="unknown error, as in a container that lost its devices"),
        pytest.param(NO_PERMISSION, "failed", "Permissions", id="no permission"),
        pytest.param(4711, "failed", "4711", id="a code of a later driver"),
    ],
)
def test_a_driver_that_cannot_be_begun_says_why_and_is_asked_again_later(nvml, code, kind, word):
    nvml.card(0)
    nvml.says(init=f"!{code}")
    told = nvml.ask("read")
    assert told["kind"] == kind
    assert word in told["text"]

    nvml.says(init=None)
    assert nvml.ask("read")["kind"] == kind
    assert nvml.ask("calls", "nvmlInit") == 1
    nvml.ask("later", 6)
    assert nvml.states() == [(0, "ok")]


@pytest.mark.parametrize("code", [UNINITIALIZED, NOT_LOADED, MISMATCH, UNKNOWN])
def test_a_driver_that_dies_is_a_state_and_one_that_comes_back_is_read(nvml, code):
    nvml.card(0)
    nvml.ask("xids")
    assert nvml.states() == [(0, "ok")]

    nvml.says(driver=f"!{code}")
    assert "kind" in nvml.ask("read")
    assert "kind" in nvml.ask("read")

    nvml.says(driver=None)
    nvml.ask("later", 6)
    assert nvml.states() == [(0, "ok")]
    assert nvml.ask("threads").count("gpu-events") == 1


def test_a_driver_without_cards_says_so(nvml):
    assert nvml.ask("read")["kind"] == "missing"


def test_a_library_that_is_none_is_missing(nvml, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "libnvidia-ml.so.1").write_text("no library at all")
    nvml.library = broken
    told = nvml.ask("read")
    assert told["kind"] == "missing"
    assert "--gpus all" in told["text"]


def test_a_library_that_is_taken_away_while_it_is_used_changes_nothing(build, tmp_path):
    folder = tmp_path / "library"
    shutil.copytree(build(), folder)
    nvml = Nvml(folder, tmp_path / "world")
    nvml.card(0)
    try:
        assert nvml.states() == [(0, "ok")]
        shutil.rmtree(folder)
        assert nvml.states() == [(0, "ok")]
        nvml.ask("new")
        assert nvml.states() == [(0, "ok")]
    finally:
        nvml.end()


def test_a_driver_that_hangs_holds_nobody_up(nvml):
    nvml.card(0)
    assert "cards" in nvml.ask("patient")
    nvml.says(hang="1")
    began = time.monotonic()
    told = [nvml.ask("patient") for _ in range(5)]
    assert {one["kind"] for one in told} == {"hangs"}
    assert time.monotonic() - began < 2

    nvml.says(hang=None)
    deadline = time.monotonic() + 10
    while "cards" not in nvml.ask("patient") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "cards" in nvml.ask("patient")


# --- cost


def test_what_changes_seldom_is_read_seldom_and_cards_are_listed_once(nvml):
    for index in range(8):
        nvml.card(index)
    for _ in range(10):
        assert len(nvml.cards()) == 8
        nvml.ask("later", 1)

    assert nvml.ask("calls", "nvmlDeviceGetHandleByIndex") == 8
    assert nvml.ask("calls", "nvmlDeviceGetUUID") == 8
    assert nvml.ask("calls", "nvmlDeviceGetTotalEccErrors") == 8 * 4
    assert nvml.ask("calls", "nvmlDeviceGetRemappedRows") == 8
    assert nvml.ask("calls", "nvmlDeviceGetTemperature") == 80
    nvml.ask("later", 30)
    nvml.cards()
    assert nvml.ask("calls", "nvmlDeviceGetRemappedRows") == 16
    assert nvml.ask("calls", "nvmlInit") == 1


def test_a_lost_link_is_seen_against_the_links_that_were_up(nvml):
    nvml.card(0)
    nvml.cards()
    nvml.says(**{"0.link.2": "0"})
    nvml.ask("later", 31)
    (one,) = nvml.cards()
    assert (one["nvlinks"], one["nvlinks_most"]) == (5, 6)


# --- events


def events(nvml, count, after=0):
    """Wait for so many events, as long as it takes, within reason."""
    deadline = time.monotonic() + 10
    while len(told := nvml.ask("xids", after)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return told


def test_an_xid_is_told_at_once_and_once(nvml):
    nvml.card(0)
    nvml.card(1)
    nvml.says(xids="0:13")
    assert nvml.ask("xids") == []
    nvml.cards()
    assert nvml.ask("threads").count("gpu-events") == 1
    wait_until_listening(nvml)

    began = time.monotonic()
    nvml.says(xids="0:13,1:79,0:94:5")
    first, second = events(nvml, 2)
    assert time.monotonic() - began < 1
    assert (first["index"], first["pci"], first["xid"], first.get("gpu_instance")) == (1, "0000:42:00", 79, None)
    assert (second["index"], second["xid"], second["gpu_instance"]) == (0, 94, 5)
    assert nvml.ask("xids", second["number"]) == []


def wait_until_listening(nvml):
    deadline = time.monotonic() + 10
    while not nvml.ask("calls", "nvmlEventSetWait") and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_card_without_events_is_left_out_and_the_others_are_heard(nvml):
    nvml.card(0, events=f"!{NOT_SUPPORTED}")
    nvml.card(1)
    nvml.ask("xids")
    nvml.cards()
    wait_until_listening(nvml)
    nvml.says(xids="0:31,1:31")
    assert [one["index"] for one in events(nvml, 1)] == [1]


def test_where_no_card_has_events_nobody_waits_for_them(nvml):
    nvml.card(0, events=f"!{NOT_SUPPORTED}")
    nvml.ask("xids")
    for _ in range(3):
        nvml.cards()
        nvml.ask("later", 10)
    assert nvml.ask("calls", "nvmlEventSetCreate") == 1
    assert nvml.ask("threads").count("gpu-events") == 0


@pytest.mark.parametrize("code", [IS_LOST, UNKNOWN, UNINITIALIZED])
def test_waiting_that_fails_is_begun_again(nvml, code):
    nvml.card(0)
    nvml.ask("xids")
    nvml.cards()
    wait_until_listening(nvml)
    nvml.says(wait=f"!{code}")
    deadline = time.monotonic() + 10
    while "gpu-events" in nvml.ask("threads") and time.monotonic() < deadline:
        time.sleep(0.01)

    nvml.says(wait=None)
    nvml.ask("later", 6)
    asked = nvml.ask("calls", "nvmlEventSetWait")
    nvml.cards()
    deadline = time.monotonic() + 10
    while nvml.ask("calls", "nvmlEventSetWait") == asked and time.monotonic() < deadline:
        time.sleep(0.01)
    nvml.says(xids="0:48")
    assert [one["xid"] for one in events(nvml, 1)] == [48]
