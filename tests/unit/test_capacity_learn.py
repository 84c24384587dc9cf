"""What a failed start teaches: the lines that FastDeploy prints of its memory, and where a start ended."""

import msgspec
import pytest

from diagnose.capacity.advise import advise
from diagnose.capacity.bill import again, bill
from diagnose.capacity.learn import learn
from diagnose.capacity.memory import GIB, MIB, Card, Failed, Measured, Settings, activation_bytes
from diagnose.capacity.moves import values
from diagnose.capacity.parse import measured_from, phase_of
from diagnose.capacity.settings import BLOCKS, LENGTH, SEQS, TOKENS, UTILIZATION
from diagnose.capacity.shapes import SHAPES

SMALL, MIDDLE = SHAPES["ERNIE-4.5-0.3B"], SHAPES["ERNIE-4.5-21B-A3B"]
GENTLE = (BLOCKS, UTILIZATION, TOKENS, SEQS)
CARD = Card(total_bytes=24 * GIB)


def test_what_is_in_use_before_the_profile_run_is_measured_with_all_that_nobody_counts():
    at = Settings(max_model_len=32768, quantization="wint4")
    told = measured_from({"before_gib": "13.5", "kv": "6.25 GB"}, at)

    known = learn(MIDDLE, CARD, [told])

    assert told.before_bytes == 13.5 * GIB
    assert known.activation(at).size == int(24 * GIB * 0.9) - 6.25 * GIB - 13.5 * GIB
    assert known.used(at).size == int(24 * GIB * 0.9) - 6.25 * GIB
    assert known.used(at).measured


def test_two_measured_peaks_tell_what_more_tokens_cost():
    few, many = Settings(max_num_batched_tokens=4096), Settings(max_num_batched_tokens=16384)
    starts = [
        measured_from({"before_gib": "13", "kv": f"{24 * 0.9 - 13 - peak} GB"}, at)
        for at, peak in ((few, 1.0), (many, 4.0))
    ]

    known = learn(MIDDLE, CARD, starts)

    between = Settings(max_num_batched_tokens=10240)
    assert known.activation(between).size / GIB == pytest.approx(2.5, abs=0.01)


def test_an_allocation_that_fails_in_the_profile_run_says_how_much_was_asked_for():
    at = Settings(max_num_batched_tokens=65536, quantization="wint8", max_model_len=8192)
    failed = Failed(phase="profile", requested_bytes=8 * GIB, allocated_bytes=18 * GIB, available_bytes=6 * GIB)
    told = Measured(at=at, before_bytes=18 * GIB, failed=failed)

    found = advise(MIDDLE, at, CARD, told, allow=(UTILIZATION, TOKENS), accepted=(UTILIZATION, TOKENS))

    assert not bill(MIDDLE, at, CARD, told).fits
    changes = {flag: after for flag, _, after in found.changes}
    assert 0 < int(changes[TOKENS]) < 65536 * 6 / 8


def test_the_graphs_that_were_still_to_come_count():
    at = Settings(max_num_seqs=128, quantization="wint4", max_model_len=8192, gpu_memory_utilization=0.95)
    failed = Failed(phase="capture", requested_bytes=40 * MIB, available_bytes=10 * MIB)
    told = Measured(at=at, before_bytes=14 * GIB, available_kv_bytes=6 * GIB, failed=failed)

    lacked = [
        learn(MIDDLE, CARD, [msgspec.structs.replace(told, captured=captured)]).late.size for captured in (120, 64, 8)
    ]

    assert lacked == sorted(lacked, reverse=True)
    assert lacked[0] > lacked[1]


def test_a_number_of_blocks_set_by_hand_is_left_to_the_server_again():
    at = Settings(max_model_len=8192, num_gpu_blocks_override=40000, given=frozenset({BLOCKS}))
    failed = Failed(phase="kv", requested_bytes=44 * GIB, allocated_bytes=2 * GIB, available_bytes=22 * GIB)

    found = advise(SMALL, at, CARD, Measured(at=at, failed=failed), allow=GENTLE, accepted=GENTLE)

    assert found.changes == ((BLOCKS, "40000", None),)
    assert f"{BLOCKS} 40000 -> -" in " ".join(line.en for line in found.arithmetic)


def test_rather_a_little_of_two_than_all_of_one():
    present = Settings(max_num_batched_tokens=65536, max_num_seqs=128, max_model_len=32768)

    assert min(values(TOKENS, present, mild=True)) == 2048
    assert min(values(SEQS, present, mild=True)) == 32
    assert min(values(LENGTH, present, mild=True)) == 8192
    assert min(values(TOKENS, present)) == 256


def test_a_start_that_died_while_serving_keeps_all_margins():
    at = Settings(quantization="wint4", max_model_len=32768, max_num_seqs=64)
    told = [Measured(at=at, failed=Failed(phase=phase, requested_bytes=2 * GIB)) for phase in ("serving", "capture")]

    serving, capture = (advise(MIDDLE, at, CARD, one, allow=(UTILIZATION,), accepted=(UTILIZATION,)) for one in told)

    assert float(serving.changes[0][2]) < float(capture.changes[0][2])


def test_what_a_neighbour_gave_back_is_room_again():
    at = Settings(quantization="wint4", max_model_len=32768)
    then = Card(total_bytes=24 * GIB, foreign_bytes=10 * GIB)
    told = Measured(at=at, before_bytes=22 * GIB, available_kv_bytes=-2 * GIB, blocks_got=-600)

    assert not bill(MIDDLE, at, then, told).fits
    assert again(MIDDLE, at, CARD, [told], before=then).fits
    assert not again(MIDDLE, at, then, [told], before=then).fits


@pytest.mark.parametrize(
    ("rule", "phase"),
    [
        ("gpu.oom.weights", "load"),
        ("gpu.oom.profile", "profile"),
        ("gpu.oom.kv-allocation", "kv"),
        ("gpu.oom.capture", "capture"),
        ("gpu.oom.load", ""),
        ("kvcache.too-few-blocks", ""),
        ("server.capture", ""),
    ],
)
def test_the_rule_tells_the_phase(rule, phase):
    assert phase_of(rule) == phase


def test_the_least_that_activations_can_be_is_less_than_the_estimate():
    at = Settings(max_num_seqs=256)

    assert activation_bytes(MIDDLE, at, lean=True) < activation_bytes(MIDDLE, at)
