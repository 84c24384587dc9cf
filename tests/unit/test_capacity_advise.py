"""What the advice promises, whatever hypothesis invents; and how it learns from a server that fails."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnose.capacity.advise import advise
from diagnose.capacity.bill import bill
from diagnose.capacity.memory import (
    GIB,
    MIB,
    Card,
    Failed,
    Measured,
    Settings,
    activation_bytes,
    block_bytes,
    capture_bytes,
    min_blocks,
    weight_bytes,
)
from diagnose.capacity.moves import change, coupled, values
from diagnose.capacity.settings import GRAPH, LENGTH, QUANTIZATION, SEQS, TOKENS, UTILIZATION, problems
from diagnose.capacity.shapes import SHAPES

ALLOW = (UTILIZATION, TOKENS, SEQS, QUANTIZATION, LENGTH)
GENTLE = (UTILIZATION, TOKENS, SEQS)
SMALL, MIDDLE = SHAPES["ERNIE-4.5-0.3B"], SHAPES["ERNIE-4.5-21B-A3B"]


def card(gib: float) -> Card:
    return Card(total_bytes=int(gib * GIB))


def advice(shape, given_settings, on, told=None, *, allow=ALLOW, accepted=ALLOW, failures=()):
    return advise(shape, given_settings, on, told, allow=allow, accepted=accepted, failures=failures)


sane = st.builds(
    Settings,
    max_model_len=st.sampled_from([2048, 8192, 32768, 131072, 5000]),
    max_num_seqs=st.integers(2, 256),
    max_num_batched_tokens=st.none() | st.integers(256, 65536),
    gpu_memory_utilization=st.sampled_from([0.5, 0.7, 0.85, 0.9, 0.95, 0.98]),
    quantization=st.sampled_from([None, "wint8", "wint4"]),
    v1_scheduler=st.booleans(),
    chunked_prefill=st.booleans(),
).filter(lambda one: not problems(one))
shapes = st.sampled_from([SMALL, MIDDLE, SHAPES["PaddleOCR-VL-0.9B"]])
sizes = st.floats(1, 100)
flags = st.lists(st.sampled_from([*ALLOW, GRAPH]), unique=True, min_size=1)


def final(shape, start, on, allow):
    """Follow the advice by hand, as text on a command line would be."""
    found = advice(shape, start, on, allow=allow, accepted=[*ALLOW, GRAPH])
    after = start
    for flag, _, value in found.changes:
        typed = {UTILIZATION: float, TOKENS: int, SEQS: int, LENGTH: int}.get(flag, str)(value)
        after = change(after, flag, typed)
    return found, after


@given(shapes, sane, sizes, flags)
@settings(max_examples=150, deadline=None)
def test_advice_never_breaks_a_limit_of_the_server(shape, start, gib, allow):
    found, after = final(shape, start, card(gib), allow)

    if found.changes:
        assert problems(after) == ()
        assert bill(shape, after, card(gib)).fits
        if after.gpu_memory_utilization != start.gpu_memory_utilization:
            assert 0.5 <= after.gpu_memory_utilization <= 0.95
        if after.max_model_len != start.max_model_len:
            assert after.max_model_len % after.block_size == 0
        assert {flag for flag, _, _ in found.changes} <= {*allow, TOKENS}
    assert found.fits == found.bill.fits


# Where a prompt is taken in one step, the tokens of a step follow its length and are no choice.
@given(shapes, sane.filter(lambda one: one.v1_scheduler or one.chunked_prefill), sizes, flags)
@settings(max_examples=100, deadline=None)
def test_each_value_is_the_nearest_that_fits(shape, start, gib, allow):
    found, after = final(shape, start, card(gib), allow)

    for flag, _, _ in found.changes:
        if flag not in allow:
            continue  # it only followed another
        for nearer in values(flag, start):
            if not _nearer(flag, nearer, after, start):
                break
            tried = change(after, flag, nearer)
            if TOKENS not in allow:  # it only followed, and would follow less far
                tried = change(tried, TOKENS, start.max_num_batched_tokens)
            sound = coupled(tried, ALLOW)
            assert sound is None or sound == after or not bill(shape, sound, card(gib)).fits


def _nearer(flag, value, after, start):
    if flag in {QUANTIZATION, GRAPH}:
        return value != after.quantization
    name = {
        UTILIZATION: "gpu_memory_utilization",
        TOKENS: "tokens",
        SEQS: "max_num_seqs",
        LENGTH: "max_model_len",
    }[flag]
    present, chosen = getattr(start, name), getattr(after, name)
    return abs(value - present) < abs(chosen - present) - 1e-9


@given(shapes, sane, sizes, st.floats(0, 20), flags)
@settings(max_examples=100, deadline=None)
def test_a_bigger_card_never_needs_a_bigger_change(shape, start, gib, more, allow):
    lesser = advice(shape, start, card(gib), allow=allow)
    bigger = advice(shape, start, card(gib + more), allow=allow)

    if lesser.fits:
        assert bigger.fits
        assert _own(bigger, allow) <= _own(lesser, allow)


def _own(found, allow):
    """Count the flags that were chosen; where lengths changed, the tokens may only have followed."""
    flags = {flag for flag, _, _ in found.changes} & {*allow}
    return len(flags - {TOKENS}) if flags & {SEQS, LENGTH} else len(flags)


def test_one_flag_is_enough_where_one_is_and_the_gentlest_goes_first():
    start = Settings(max_model_len=32768, max_num_seqs=64, gpu_memory_utilization=0.95)

    found = advice(SMALL, start, card(8), Measured(failed=Failed(phase="capture")))

    assert [flag for flag, _, _ in found.changes] == [UTILIZATION]
    assert float(found.changes[0][2]) < 0.95


def test_too_few_blocks_want_a_higher_share():
    start = Settings(max_model_len=32768, gpu_memory_utilization=0.6, given=frozenset({UTILIZATION}))

    found = advice(SMALL, start, card(16), Measured(at=None, blocks_got=300, blocks_needed=514))

    assert found.changes == ((UTILIZATION, "0.6", "0.62"),)
    assert "needed 514" in " ".join(line.en for line in found.arithmetic)


def test_only_flags_that_the_server_knows_are_written():
    start = Settings(max_model_len=131072)

    found = advice(SMALL, start, card(3.5), accepted=[LENGTH])

    assert {flag for flag, _, _ in found.changes} == {LENGTH}


def test_a_limit_that_a_change_would_break_moves_along():
    start = Settings(max_num_seqs=2, max_model_len=2048)

    found = advice(SMALL, start, card(24))

    assert found.changes == ((TOKENS, None, "4096"),)
    assert "refuses" in found.arithmetic[0].en


def test_without_the_flag_that_must_move_along_there_is_no_advice():
    assert not advice(SMALL, Settings(max_num_seqs=2, max_model_len=2048), card(24), accepted=[SEQS]).fits


def test_where_nothing_fits_it_says_what_would():
    found = advice(SHAPES["ERNIE-4.5-300B-A47B"], Settings(quantization="wint4"), card(80), allow=GENTLE)

    assert not found.fits
    assert found.changes == ()
    assert found.smallest_tensor_parallel == 4
    assert found.smallest_card_bytes >= 147 * GIB
    assert "--tensor-parallel-size 4" in found.arithmetic[-1].en


def test_a_neighbour_on_the_card_is_named():
    crowded = Card(total_bytes=24 * GIB, foreign_bytes=20 * GIB)

    assert "Other processes hold 20.00 GiB" in advice(SMALL, Settings(), crowded).arithmetic[0].en


def test_cuda_graphs_are_switched_off_and_the_rest_of_their_configuration_stays():
    start = Settings(
        graph_config='{"graph_opt_level": 1}',
        max_num_seqs=128,
        max_model_len=8192,
        given=frozenset({GRAPH}),
    )
    told = Measured(failed=Failed(phase="capture"))

    found = advice(SMALL, start, card(4), told, allow=[GRAPH], accepted=[GRAPH])

    assert found.changes == ((GRAPH, '{"graph_opt_level": 1}', '{"graph_opt_level": 1, "use_cudagraph": false}'),)


class World(msgspec.Struct, frozen=True):
    """A server whose overheads the planner cannot know; it fails as the original does."""

    shape: object
    on: Card
    early: float
    late: float
    activations: float
    tells: bool = True

    def start(self, at: Settings) -> Measured | None:
        """Return what a failed start tells, ``None`` for a good one."""
        total = self.on.total_bytes
        weights = weight_bytes(self.shape, at.quantization, at.tensor_parallel)
        base = weights + int(self.early * total) + 500 * MIB
        peak = int(activation_bytes(self.shape, at) * self.activations)
        if base > total:
            return self._oom("load", at, 256 * MIB, 0)
        if base + peak > total:
            return self._oom("profile", at, peak, total - base)
        room = int(total * at.gpu_memory_utilization) - base - peak
        each = block_bytes(self.shape, at)
        blocks = min(room // each, 40000)
        if blocks < min_blocks(at):
            return Measured(at=at, blocks_got=blocks, blocks_needed=min_blocks(at))
        free = total - base - peak - blocks * each
        wanted = capture_bytes(self.shape, at) + int(self.late * total)
        if wanted > free:
            return self._oom("capture", at, wanted // 4, free % (wanted // 4))
        return None

    def _oom(self, phase, at, requested, available):
        allocated = self.on.total_bytes - available
        if not self.tells:
            return Measured(at=at, failed=Failed(phase=phase))
        failed = Failed(phase=phase, requested_bytes=requested, allocated_bytes=allocated, available_bytes=available)
        return Measured(at=at, failed=failed)


worlds = st.builds(
    World,
    shape=st.just(SMALL),
    on=st.floats(3.5, 24).map(card),
    early=st.floats(0, 0.1),
    late=st.floats(0, 0.05),
    activations=st.floats(0.6, 4),
    tells=st.booleans(),
)
starts = st.builds(
    Settings,
    max_model_len=st.sampled_from([4096, 16384, 32768, 65536, 131072]),
    max_num_seqs=st.sampled_from([8, 32, 128, 256]),
    max_num_batched_tokens=st.sampled_from([None, 16384, 32768]),
    gpu_memory_utilization=st.sampled_from([0.5, 0.8, 0.9, 0.95]),
).filter(lambda one: not problems(one))


def climb(world: World, at: Settings, most: int) -> list[Settings]:
    """Start, ask, start again; the settings of every start."""
    tries, told = [at], []
    while (failure := world.start(tries[-1])) and len(tries) <= most:
        found = advice(world.shape, tries[-1], world.on, failure, failures=told)
        told.append(failure)
        if not found.changes:
            break
        after = tries[-1]
        for flag, _, value in found.changes:
            typed = {UTILIZATION: float, QUANTIZATION: str}.get(flag, int)(value)
            after = change(after, flag, typed)
        assert after not in tries
        tries.append(after)
    return tries


@given(worlds, starts)
@settings(max_examples=150, deadline=None)
def test_a_server_with_hidden_overheads_is_brought_up_within_four_changes(world, at):
    tries = climb(world, at, most=5)

    assert world.start(tries[-1]) is None
    assert len(tries) <= 5


@pytest.mark.parametrize("phase", ["load", "profile", "kv", "capture", "serving", ""])
def test_what_failed_once_is_never_advised_again(phase):
    start = Settings(max_model_len=8192, max_num_seqs=32, gpu_memory_utilization=0.9)
    told, at, seen = [], start, set()
    for _ in range(3):
        failure = Measured(at=at, failed=Failed(phase=phase))
        found = advice(SMALL, at, card(24), failure, failures=told)
        told.append(failure)
        key = found.changes
        assert key not in seen
        seen.add(key)
        if not key:
            assert not found.fits
            break
        for flag, _, value in key:
            typed = {UTILIZATION: float, QUANTIZATION: str}.get(flag, int)(value)
            at = change(at, flag, typed)


def test_where_no_one_says_when_it_failed_the_arithmetic_guesses():
    told = Measured(failed=Failed(requested_bytes=GIB))

    found = advice(MIDDLE, Settings(max_model_len=8192), card(24), told)

    assert [flag for flag, _, _ in found.changes] == [QUANTIZATION]


def test_a_tight_fit_is_advised_only_to_a_server_that_is_down():
    start = Settings(max_model_len=32768, max_num_seqs=8, gpu_memory_utilization=0.9)
    on = card(3)
    told = Measured(blocks_got=480, blocks_needed=514)

    down = advice(SMALL, start, on, told, allow=[UTILIZATION], accepted=[UTILIZATION])

    assert down.changes == ((UTILIZATION, None, "0.92"),)
    assert "tight" in down.arithmetic[-1].en
