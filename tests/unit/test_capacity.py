"""What the bill says: the facts' tables, the failures, and what people write."""

import pytest

from diagnose.capacity.bill import bill
from diagnose.capacity.memory import (
    GIB,
    Card,
    Failed,
    Measured,
    Settings,
    block_bytes,
    min_blocks,
    parameters,
    weight_bytes,
)
from diagnose.capacity.parse import measured_from, parse_bytes
from diagnose.capacity.settings import problems
from diagnose.capacity.shapes import SHAPES, known_shape, shape_from_config
from diagnose.errors import InputError

SMALL, MIDDLE, LARGE = (SHAPES[name] for name in ("ERNIE-4.5-0.3B", "ERNIE-4.5-21B-A3B", "ERNIE-4.5-300B-A47B"))


def card(gib: float, foreign: float = 0) -> Card:
    return Card(total_bytes=int(gib * GIB), foreign_bytes=int(foreign * GIB))


@pytest.mark.parametrize(
    ("shape", "tp", "each"),
    [
        pytest.param(SMALL, 1, 1179648, id="0.3B"),
        pytest.param(MIDDLE, 1, 3670016, id="21B"),
        pytest.param(MIDDLE, 2, 1835008, id="21B on two"),
        pytest.param(MIDDLE, 4, 917504, id="21B on four"),
        pytest.param(LARGE, 4, 3538944, id="300B on four"),
        pytest.param(LARGE, 8, 1769472, id="300B on eight"),
    ],
)
def test_a_block_costs_what_the_facts_say(shape, tp, each):
    assert block_bytes(shape, Settings(tensor_parallel=tp)) == each


@pytest.mark.parametrize(
    ("shape", "quantization", "gib"),
    [
        pytest.param(SMALL, None, 0.672, id="0.3B bf16"),
        pytest.param(SMALL, "wint8", 0.435, id="0.3B wint8"),
        pytest.param(SMALL, "wint4", 0.435, id="0.3B wint4 is wint8: it has no experts"),
        pytest.param(MIDDLE, None, 40.6, id="21B bf16"),
        pytest.param(MIDDLE, "wint8", 20.6, id="21B wint8"),
        pytest.param(MIDDLE, "wint4", 11.1, id="21B wint4"),
        pytest.param(LARGE, None, 558, id="300B bf16"),
        pytest.param(LARGE, "wint8", 280, id="300B wint8"),
        pytest.param(LARGE, "wint4", 147, id="300B wint4"),
        pytest.param(
            MIDDLE,
            '{"quantization": "mix_quant", "dense_quant_type": "wint8", "moe_quant_type": "wint4"}',
            11.1,
            id="21B mixed, spelled out",
        ),
    ],
)
def test_weights_weigh_what_the_facts_say(shape, quantization, gib):
    assert weight_bytes(shape, quantization, 1) / GIB == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("ERNIE-4.5-VL-28B-A3B", 29), ("ERNIE-4.5-VL-424B-A47B", 424), ("PaddleOCR-VL-0.9B", 0.85)],
)
def test_a_vision_model_has_the_published_number_of_parameters(name, billions):
    assert parameters(SHAPES[name]) / 1e9 == pytest.approx(billions, rel=0.08)


@pytest.mark.parametrize(("length", "blocks"), [(32768, 514), (131072, 2050)])
def test_a_start_needs_one_full_sequence_and_two_blocks(length, blocks):
    assert min_blocks(Settings(max_model_len=length)) == blocks


@pytest.mark.parametrize(
    ("shape", "settings", "on", "verdict"),
    [
        pytest.param(SMALL, Settings(max_model_len=32768), card(24), "fits", id="roomy"),
        pytest.param(MIDDLE, Settings(), card(24), "weights", id="bf16 on a small card"),
        pytest.param(
            SMALL,
            Settings(max_num_batched_tokens=65536, max_model_len=65536),
            card(3),
            "profile",
            id="huge steps",
        ),
        pytest.param(SMALL, Settings(gpu_memory_utilization=0.5), card(3), "blocks-negative", id="no share"),
        pytest.param(SMALL, Settings(max_model_len=131072), card(4), "blocks-few", id="long sequences"),
        pytest.param(SMALL, Settings(gpu_memory_utilization=0.99), card(4), "capture", id="all taken"),
        pytest.param(SMALL, Settings(max_model_len=8192), card(4, foreign=3), "weights", id="a neighbour"),
    ],
)
def test_the_bill_names_the_place_that_is_too_narrow(shape, settings, on, verdict):
    assert bill(shape, settings, on).verdict == verdict


def test_the_official_settings_fit_the_official_card():
    settings = Settings(max_model_len=32768, max_num_seqs=128, quantization="wint4")

    assert bill(MIDDLE, settings, card(24)).fits
    assert bill(MIDDLE, settings, card(80)).concurrency >= 10


def test_measured_blocks_replace_the_estimate():
    settings = Settings(max_model_len=32768)

    told = bill(SMALL, settings, card(4), Measured(blocks_got=400, blocks_needed=514))

    assert told.verdict == "blocks-few"
    assert told.blocks <= 400
    assert told.needed_blocks == 514


def test_a_start_that_failed_fails_by_the_bill_whatever_the_estimates_say():
    settings = Settings(max_model_len=4096)

    for phase, verdict in [("profile", "profile"), ("capture", "capture"), ("load", "weights")]:
        failed = Measured(failed=Failed(phase=phase))
        assert bill(SMALL, settings, card(80), failed).verdict == verdict


def test_an_override_replaces_the_profile_and_is_capped_by_nothing():
    told = bill(SMALL, Settings(num_gpu_blocks_override=3000), card(80))

    assert told.blocks == 3000
    assert told.kv_bytes == 3000 * told.block_bytes


def test_a_small_model_takes_no_more_than_forty_thousand_blocks():
    assert bill(SMALL, Settings(), card(140)).blocks == 40000


def test_the_arithmetic_is_told_in_both_languages():
    lines = bill(SMALL, Settings(max_model_len=32768), card(4)).lines()

    assert lines[0].en.startswith("KV cache: 4.00 GiB x 0.90 - 0.67 weights - ")
    assert "needed 514 for max-model-len 32768" in lines[1].en
    assert "权重" in lines[0].zh


@pytest.mark.parametrize(
    ("config", "kv_heads", "experts", "dense"),
    [
        pytest.param(
            {
                "hidden_size": 4096,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "num_hidden_layers": 32,
                "intermediate_size": 14336,
                "vocab_size": 128256,
            },
            8,
            0,
            0,
            id="Llama",
        ),
        pytest.param(
            {
                "hidden_size": 2048,
                "num_attention_heads": 32,
                "num_key_value_heads": 4,
                "head_dim": 128,
                "num_hidden_layers": 48,
                "intermediate_size": 6144,
                "vocab_size": 151936,
                "num_experts": 128,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 768,
                "decoder_sparse_step": 1,
            },
            4,
            128,
            0,
            id="Qwen with experts",
        ),
        pytest.param(
            {
                "text_config": {
                    "hidden_size": 2560,
                    "num_attention_heads": 20,
                    "num_key_value_heads": 4,
                    "num_hidden_layers": 28,
                    "intermediate_size": 12288,
                    "vocab_size": 103424,
                    "moe_num_experts": [64, 64],
                    "moe_k": 6,
                    "moe_num_shared_experts": 2,
                    "moe_intermediate_size": [1536, 512],
                    "moe_layer_start_index": [1, 1],
                }
            },
            4,
            64,
            1,
            id="ERNIE with vision experts",
        ),
    ],
)
def test_shapes_are_read_from_the_config_of_any_family(config, kv_heads, experts, dense):
    shape = shape_from_config("m", config)

    assert (shape.kv_heads, shape.experts, shape.dense_layers) == (kv_heads, experts, dense)
    assert weight_bytes(shape, None, 1) > GIB


def test_a_latent_cache_is_not_split_over_ranks():
    config = {
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "num_hidden_layers": 61,
        "intermediate_size": 18432,
        "vocab_size": 129280,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
    }
    shape = shape_from_config("deep", config)

    assert block_bytes(shape, Settings(tensor_parallel=8)) == 2 * 64 * 576 * 61
    assert parameters(shape) / 1e9 == pytest.approx(671, rel=0.02)


@pytest.mark.parametrize("missing", ["hidden_size", "num_attention_heads", "vocab_size", "intermediate_size"])
def test_a_missing_key_is_named(missing):
    whole = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "vocab_size": 100,
    }
    with pytest.raises(InputError, match=missing):
        shape_from_config("m", {key: value for key, value in whole.items() if key != missing})


def test_the_names_of_the_family_do_not_swallow_each_other():
    assert known_shape("baidu/ERNIE-4.5-VL-28B-A3B-Thinking").name == "ERNIE-4.5-VL-28B-A3B"
    assert known_shape("./ERNIE-4.5-0.3B-Paddle").name == "ERNIE-4.5-0.3B"
    assert known_shape("ERNIE-4.5") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("15.503906GB", int(15.503906 * GIB)),
        ("92.03MB", int(92.03 * 1024**2)),
        ("80 GiB", 80 * GIB),
        ("512.000000kB", 512 * 1024),
        ("80g", 80 * GIB),
        ("1024", 1024),
    ],
)
def test_sizes_are_read_as_paddle_and_people_write_them(text, number):
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GiB", "80 pints", "1e9", "nan", "1" * 400])
def test_what_is_no_size_is_refused_with_a_cure(text):
    with pytest.raises(InputError, match="80GiB"):
        parse_bytes(text)


def test_labels_and_lines_of_a_finding_become_measurements():
    line = (
        "Out of memory error on GPU 0. Cannot allocate 1.500000GB memory on GPU 0, "
        "2.000000GB memory has been allocated and available memory is only 1.000000GB."
    )
    told = measured_from({"gpu": "0", "size": "1.500000GB"}, rule_id="gpu.oom.profile", lines=[line])

    assert told.failed == Failed(
        phase="profile",
        requested_bytes=3 * GIB // 2,
        allocated_bytes=2 * GIB,
        available_bytes=GIB,
    )
    blocks = measured_from({"blocks": "-12"}, rule_id="kvcache.blocks-negative")
    assert (blocks.blocks_got, blocks.failed) == (-12, None)
    few = measured_from({}, lines=["current device block num: 300 should be larger than or equal to 514, x"])
    assert (few.blocks_got, few.blocks_needed) == (300, 514)
    assert measured_from({"size": "much", "blocks": "x"}) == Measured()


def test_the_settings_of_a_command_keep_what_was_given():
    flags = {
        "--max-model-len": "32768",
        "--graph-optimization-config": '{"use_cudagraph": false, "x": 1}',
        "--model": "m",
    }
    settings = Settings.from_flags(flags)

    assert settings.given == {"--max-model-len", "--graph-optimization-config"}
    assert not settings.cudagraph
    assert settings.value("--max-num-seqs") is None
    with pytest.raises(InputError, match="--max-num-seqs"):
        Settings.from_flags({"--max-num-seqs": "many"})


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (Settings(max_num_seqs=1, max_model_len=9000), "max_num_seqs"),
        (Settings(max_num_seqs=257), "max_num_seqs"),
        (Settings(max_model_len=16, max_num_batched_tokens=64), "max_model_len"),
        (Settings(max_num_seqs=64, max_num_batched_tokens=32), "below max_num_seqs"),
        (
            Settings(v1_scheduler=False, chunked_prefill=False, max_num_batched_tokens=512),
            "below max_model_len",
        ),
    ],
)
def test_what_the_server_would_refuse_is_told(settings, word):
    assert any(word in sentence for sentence in problems(settings))
