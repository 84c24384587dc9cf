"""The lab's own arithmetic of memory, loaded by its path: it is no part of the package."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.lab.environment import SITE
from diagnose.lab.model import make_model

GIB = 1 << 30


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"lab_{name}", SITE / "fastdeploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


memory, faults = load("memory"), load("faults")


@pytest.mark.parametrize(
    ("name", "quantization", "ranks", "gib", "block"),
    [
        ("ERNIE-4.5-0.3B", None, 1, 0.672, 1179648),
        ("ERNIE-4.5-0.3B", "wint4", 1, 0.435, 1179648),
        ("ERNIE-4.5-21B-A3B", None, 1, 40.6, 3670016),
        ("ERNIE-4.5-21B-A3B", "wint8", 1, 20.6, 3670016),
        ("ERNIE-4.5-21B-A3B", "wint4", 2, 11.1, 1835008),
        ("ERNIE-4.5-300B-A47B", "wint4", 4, 147, 3538944),
        ("ERNIE-4.5-300B-A47B", None, 8, 558, 1769472),
    ],
)
def test_sizes_agree_with_the_known_models(tmp_path, name, quantization, ranks, gib, block):
    shape = memory.read_shape(str(make_model(tmp_path, name)))

    need = memory.demand(
        shape,
        quantization=quantization,
        ranks=ranks,
        batched_tokens=8192,
        sequences=8,
        block_size=64,
        graphs=memory.capture_sizes(8, None),
    )

    assert need.weights * ranks / GIB == pytest.approx(gib, rel=0.02)
    assert need.block == block


@given(seed=st.integers(0, 10_000), gib=st.sampled_from([4, 16, 24, 80]))
def test_hidden_overheads_stay_within_an_eighth_of_the_card(seed, gib):
    total = gib * GIB
    hidden = memory.draw_hidden(seed, total)

    weights = total * 0.6
    fixed = hidden.context + hidden.workspace + hidden.neighbour + hidden.fragmentation * weights
    assert 0 < fixed < total * 0.125
    assert hidden == memory.draw_hidden(seed, total)


def test_graphs_are_captured_up_to_the_batch_and_not_at_all_when_off():
    assert memory.capture_sizes(24, None) == (1, 2, 4, 8, 16, 24)
    assert memory.capture_sizes(24, {"use_cudagraph": False}) == ()
    assert memory.capture_sizes(24, {"cudagraph_capture_sizes": [4, 8]}) == (4, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("oom-load", [("oom-load", None, None, {})]),
        ("worker-killed@5:rank=1#2, stall@0.5", [("worker-killed", 5, 2, {"rank": "1"}), ("stall", 0.5, None, {})]),
        ('["oom-load#1", {"name": "kv-too-small", "blocks": 9}]', [
            ("oom-load", None, 1, {}), ("kv-too-small", None, None, {"blocks": "9"}),
        ]),
    ],
)  # fmt: skip
def test_faults_are_read_from_a_list_or_json(text, expected):
    read = [(one.name, one.at, one.first, one.params) for one in faults.parse_faults(text)]

    assert read == expected


def test_a_fault_of_the_first_two_starts_is_gone_at_the_third():
    fault = faults.parse_faults("stall#2")[0]

    assert [fault.active(start) for start in (1, 2, 3)] == [True, True, False]
