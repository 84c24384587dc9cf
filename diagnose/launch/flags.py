"""What a server version accepts, and what people write that no version does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import msgspec

from diagnose.errors import ConfigError
from diagnose.launch.spec import Occurrence, fastdeploy_part, scan
from diagnose.launch.table import FLAGS, NEWEST, OLDEST, Version, canonical, kind_of
from diagnose.model.text import Text

_HELP_FLAG = re.compile(r"(?<![\w-])(--[A-Za-z][\w-]*|-[A-Za-z]\w*)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HELP_LINE = re.compile(r"^\s*-")


class FlagProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One word of a command that does not do what was meant.

    Attributes:
        word: The flag or variable, as it stands there.
        better: What to write instead, ready to be copied; empty where it is to be left out.
    """

    word: str
    why: Text
    fix: Text
    better: str = ""


def parse_version(text: str | None) -> Version | None:
    """Read ``2.3.0`` or ``2.4.1rc0`` as (2, 3), (2, 4); ``None`` where that is no version.

    >>> parse_version("2.3.1.post1")
    (2, 3)
    """
    found = re.match(r"v?(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None


def parse_help(text: str) -> tuple[str, ...]:
    """Return the flags that a ``--help`` of argparse names, with their dashes, in order.

    Both the usage and the descriptions are read, whatever a server prints above them; a flag that only a
    description's prose names is not.
    """
    found: dict[str, None] = {}
    usage = False
    for line in _COLOUR.sub("", text).splitlines():
        usage = line.startswith("usage:") or (usage and bool(line.strip()))
        if usage:
            parts = re.findall(r"\[([^\[\]]*)", line) or []
            words = [word for part in parts for word in _HELP_FLAG.findall(part)]
        elif _HELP_LINE.match(line):
            words = _HELP_FLAG.findall(re.split(r"\s{2,}", line.strip(), maxsplit=1)[0])
        else:
            words = []
        found.update(dict.fromkeys(words))
    return tuple(found)


def accepted(version: str | None) -> tuple[str, ...]:
    """Return the flags that a version accepts, from the shipped table.

    An unknown version is taken for the newest that the table knows, one outside 2.0 to 2.6 for the nearest.
    """
    minor = min(max(parse_version(version) or NEWEST, OLDEST), NEWEST)
    found: dict[str, None] = {}
    for flag in FLAGS:
        if flag.since <= minor <= flag.until:
            twin = (f"--no-{flag.name[2:]}",) if flag.kind == "pair" else ()
            found.update(dict.fromkeys((flag.name, *flag.aliases, *twin)))
    return tuple(sorted(found))


@cache
def everywhere() -> tuple[str, ...]:
    """Return the flags that every version of the shipped table accepts, for a server whose version is not known."""
    versions = [accepted(f"{OLDEST[0]}.{minor}") for minor in range(OLDEST[1], NEWEST[1] + 1)]
    return tuple(sorted(set.intersection(*map(set, versions))))


_QUEUE = Text(
    "A queue is bounded by --max-concurrency (429 above it), --max-waiting-time and --scheduler-max-size.",
    "队列由 --max-concurrency（超出返回 429）、--max-waiting-time 和 --scheduler-max-size 限制。",
)
_TP = Text("Several cards share a model by --tensor-parallel-size.", "多卡部署使用 --tensor-parallel-size。")
_UTILIZATION = Text("The share of the card is --gpu-memory-utilization.", "显存占用比例用 --gpu-memory-utilization。")
_NONE_NEEDED = Text("Leave it out: nothing is needed in its place.", "删除即可，无需替代参数。")
_DTYPE = Text(
    "Leave it out: precision comes from the checkpoint and from --quantization.",
    "删除即可：精度由模型权重和 --quantization 决定。",
)
_GRAPH = Text(
    "CUDA graphs are turned off by --graph-optimization-config.",
    "关闭 CUDA Graph 请使用 --graph-optimization-config。",
)
_QUANT = Text(
    "Weights are quantized by --quantization, names in lower case: wint8, wint4, block_wise_fp8.",
    "权重量化用 --quantization，名称为小写：wint8、wint4、block_wise_fp8。",
)
_DEVICES = Text("Cards are chosen by the variable CUDA_VISIBLE_DEVICES.", "用环境变量 CUDA_VISIBLE_DEVICES 选择显卡。")
_KV = Text(
    "The KV cache is quantized through --quantization, as JSON with kv_cache_quant_type.",
    "KV Cache 量化通过 --quantization 的 JSON（kv_cache_quant_type）设置。",
)
_LENGTH = Text("The longest context is --max-model-len.", "最大上下文长度用 --max-model-len。")
_NO_GRAPH = """--graph-optimization-config '{"use_cudagraph":false}'"""

_FOREIGN: Mapping[str, tuple[str, Text]] = {
    "--quantize": ("--quantization {quant}", _QUANT),
    "--queue-size": ("--max-concurrency {value}", _QUEUE),
    "--max-queue-size": ("--max-concurrency {value}", _QUEUE),
    "--engine": ("", _NONE_NEEDED),
    "--backend": ("", _NONE_NEEDED),
    "--trust-remote-code": ("", _NONE_NEEDED),
    "--disable-log-requests": ("", _NONE_NEEDED),
    "--dtype": ("", _DTYPE),
    "--precision": ("", _DTYPE),
    "--enforce-eager": (_NO_GRAPH, _GRAPH),
    "--disable-cuda-graph": (_NO_GRAPH, _GRAPH),
    "--kv-cache-dtype": ("", _KV),
    "--device": ("", _DEVICES),
    "--gpu-ids": ("", _DEVICES),
    "--gpus": ("", _DEVICES),
    "--tp": ("--tensor-parallel-size {value}", _TP),
    "--tp-size": ("--tensor-parallel-size {value}", _TP),
    "--num-gpus": ("--tensor-parallel-size {value}", _TP),
    "--mem-fraction-static": ("--gpu-memory-utilization {value}", _UTILIZATION),
    "--gpu-memory-fraction": ("--gpu-memory-utilization {value}", _UTILIZATION),
    "--context-length": ("--max-model-len {value}", _LENGTH),
    "--max-seq-len": ("--max-model-len {value}", _LENGTH),
    "--model-path": ("--model {value}", Text("The model's folder is --model.", "模型路径用 --model。")),
    "--max-batch-size": (
        "--max-num-seqs {value}",
        Text("The running batch is limited by --max-num-seqs.", "并发批大小用 --max-num-seqs。"),
    ),
}

_VARIABLES: Mapping[str, Text] = {
    "PADDLE_TENSORRT_FP16": Text(
        "Leave it out: no part of FastDeploy 2.x reads it; serving does not use TensorRT.",
        "删除即可：FastDeploy 2.x 不读取该变量，也不使用 TensorRT。",
    ),
    "PADDLE_TENSORRT_INT8": Text("Leave it out: use --quantization wint8.", "删除即可：请使用 --quantization wint8。"),
    "VLLM_USE_V1": Text("Leave it out: it belongs to vLLM.", "删除即可：这是 vLLM 的变量。"),
    "VLLM_ATTENTION_BACKEND": Text(
        "Leave it out: FastDeploy reads FD_ATTENTION_BACKEND.",
        "删除即可：FastDeploy 使用 FD_ATTENTION_BACKEND。",
    ),
}

_QUANT_NAMES: Mapping[str, str] = {
    "int4": "wint4", "int8": "wint8", "int2": "wint2", "4bit": "wint4", "8bit": "wint8",
    "w4a16": "wint4", "w8a16": "wint8", "fp8": "block_wise_fp8",
}  # fmt: skip
_TRUE_QUANT = frozenset({
    "wint8", "wint4", "wint2", "weight_only", "block_wise_fp8", "tensor_wise_fp8",
    "w4a8", "w4afp8", "w8a8", "wfp8afp8", "mix_quant", "kvcache",
})  # fmt: skip


def imaginary(argv: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[FlagProblem, ...]:
    """Return the flags and variables that do not exist in FastDeploy 2.x, each with the real one.

    Args:
        argv: A command, or its arguments alone.
        env: Variables that are set for it; ``A=b`` words in front of the program are read too.

    Source: fastdeploy/engine/args_utils.py: the parser adds nothing for underscores, unknown flags end
    the start with exit code 2.
    """
    try:
        start = fastdeploy_part(argv)
    except ConfigError:
        start = 0
    found = [*scan(argv, start)]
    before = [word.partition("=")[0] for word in argv[:start] if "=" in word]
    problems = [problem for one in found if (problem := _flag_problem(one)) is not None]
    return (*_variables([*before, *(env or {})]), *problems, *_quantization(found))


def _variables(names: Sequence[str]) -> Iterator[FlagProblem]:
    for name in dict.fromkeys(names):
        if name in _VARIABLES:
            why = Text(f"{name} is read by no part of FastDeploy 2.x", f"FastDeploy 2.x 不读取 {name}")
            yield FlagProblem(word=name, why=why, fix=_VARIABLES[name])


def _flag_problem(one: Occurrence) -> FlagProblem | None:
    word, hyphens = one.spelled, one.spelled.replace("_", "-")
    no_such = Text(f"FastDeploy 2.x has no flag {word}", f"FastDeploy 2.x 没有参数 {word}")
    if word in _ALL or word in {"--help", "-h"}:
        return None
    if "_" in word and hyphens in _ALL:
        better = one.name
        return _renamed(one, better, Text(f"{word} is refused: {better} has hyphens", f"{word} 会被拒绝：应使用连字符"))
    if hyphens in _FOREIGN:
        pattern, fix = _FOREIGN[hyphens]
        better = pattern.replace("{value}", one.value or "N").replace("{quant}", quantization_name(one.value))
        return FlagProblem(word=word, why=no_such, fix=fix, better=better)
    if kind_of(one.name) is not None:
        return None  # an abbreviation that argparse completes
    near = nearest(hyphens)
    if near:
        return _renamed(one, near, no_such)
    fix = Text(f"Leave {word} out, or look it up in the server's --help", f"删除 {word}，或查看服务的 --help")
    return FlagProblem(word=word, why=no_such, fix=fix)


def _renamed(one: Occurrence, better: str, why: Text) -> FlagProblem:
    fix = Text(f"Write {better}", f"请写作 {better}")
    return FlagProblem(word=one.spelled, why=why, fix=fix, better=f"{better} {one.value}".strip())


def _quantization(found: Sequence[Occurrence]) -> Iterator[FlagProblem]:
    """The server checks the name only in its workers, minutes later."""
    for one in found:
        given = one.value
        if one.name != "--quantization" or given in _TRUE_QUANT or given.startswith("{"):
            continue
        better = quantization_name(given)
        if better != given:
            why = Text(f"{given} is no quantization of FastDeploy", f"FastDeploy 没有量化方式 {given}")
            yield FlagProblem(word=f"--quantization {given}", why=why, fix=_QUANT, better=f"--quantization {better}")


def quantization_name(given: str) -> str:
    """Return the name that FastDeploy has for a quantization, or ``given`` where none is meant.

    >>> quantization_name("INT4"), quantization_name("nvfp4")
    ('wint4', 'nvfp4')
    """
    plain = given.lower().replace("-", "").replace("_", "")
    real = {name.replace("_", ""): name for name in _TRUE_QUANT}
    return _QUANT_NAMES.get(plain) or real.get(plain, given)


_ALL = frozenset(
    name
    for flag in FLAGS
    for name in (flag.name, *flag.aliases, *([f"--no-{flag.name[2:]}"] if flag.kind == "pair" else []))
)


def nearest(flag: str) -> str:
    """Return the one known flag that is only a slip away from this one, or the empty text.

    >>> nearest("--max-num-seq"), nearest("--gpu-memory-utilisation"), nearest("--frobnicate")
    ('--max-num-seqs', '--gpu-memory-utilization', '')
    """
    most = max(1, len(flag) // 7)
    scored = sorted((_distance(flag, name, most), name) for name in _ALL if abs(len(name) - len(flag)) <= most)
    return canonical(scored[0][1]) if scored and scored[0][0] <= most else ""


def _distance(one: str, other: str, most: int) -> int:
    """Count insertions, deletions, exchanges and swaps between two words; not exact beyond ``most``."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return row[-1]
