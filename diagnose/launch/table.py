"""The flags of FastDeploy 2.0 to 2.6: their kinds, and the versions that know them.

Read from ``fastdeploy/engine/args_utils.py`` and ``fastdeploy/entrypoints/openai/utils.py`` of
PaddlePaddle/FastDeploy at several commits. Where the first version is not certain the table names the
later one: a flag wrongly taken for unknown costs a remedy, one wrongly written costs a start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import msgspec

Kind = Literal["value", "switch", "pair", "list", "repeat"]
Version = tuple[int, int]

OLDEST: Version = (2, 0)
NEWEST: Version = (2, 6)


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """One flag.

    Attributes:
        name: As the newest server that knows it spells it, with its dashes.
        kind: ``value`` takes one; ``switch`` none; ``pair`` none, and has a ``--no-`` twin; ``list`` takes
            all words up to the next flag; ``repeat`` may be given several times.
        since, until: First and last minor version that accept it.
        aliases: Other spellings with the same meaning.
    """

    name: str
    kind: Kind
    since: Version = OLDEST
    until: Version = NEWEST
    aliases: tuple[str, ...] = ()


_TABLE = """
value   host port workers metrics-port config
value   model served-model-name model-config-name tokenizer max-model-len block-size task
value   use-warmup limit-mm-per-prompt reasoning-parser speculative-config
value   quantization graph-optimization-config guided-decoding-backend
value   tensor-parallel-size=-tp engine-worker-queue-port
value   max-num-seqs num-gpu-blocks-override max-num-batched-tokens
value   gpu-memory-utilization data-parallel-size local-data-parallel-id kv-cache-ratio swap-space
value   prealloc-dec-block-slot-num-threshold cache-queue-port static-decode-blocks ips
value   max-num-partial-prefills max-long-partial-prefills long-prefill-token-threshold
value   splitwise-role cache-transfer-protocol pd-comm-port rdma-comm-ports
value   scheduler-name scheduler-max-size scheduler-ttl scheduler-host scheduler-port scheduler-db
value   scheduler-password scheduler-topic scheduler-min-load-score scheduler-load-shards-num
value   scheduler-sync-period scheduler-expire-period scheduler-release-load-expire-period
value   scheduler-reader-parallel scheduler-writer-parallel scheduler-reader-batch-size
value   scheduler-writer-batch-size
switch  enable-mm enable-expert-parallel enable-chunked-prefill
switch  disable-custom-all-reduce
switch  -2.2 use-cudagraph
value   -2.2 innode-prefill-ports
switch  -2.2 enable-prefix-caching
value   2.1-2.2 load_choices
value   2.1 max-concurrency max-waiting-time controller-port mm-processor-kwargs early-stop-config
value   2.1 tool-call-parser chat-template tool-parser-plugin revision load-strategy
value   2.1 guided-decoding-disable-any-whitespace
value   2.2 seed tokenizer-base-url plas-attention-config
switch  2.1 dynamic-load-weight enable-early-stop enable-logprob
switch  2.2 lm_head-fp32 enable-mm-output
value   2.3 load-choices timeout timeout-graceful-shutdown router max-logprobs logprobs-mode eplb-config
pair    2.3 enable-prefix-caching
list    2.3 logits-processors
switch  2.3 enable-eplb use-internode-ll-two-stage disable-sequence-parallel-moe disable-chunked-mm-input
value   2.4 runner convert override-pooler-config max-encoder-cache max-processor-cache rsync-config
value   2.4 chunked-moe-size
repeat  2.4 api-key
switch  2.4 enable-chunked-moe
value   2.5 kvcache-storage-backend write-policy routing-replay-config model-impl
switch  2.5 enable-entropy enable-overlap-schedule enable-flashinfer-allreduce-fusion
pair    2.5 enable-output-caching shutdown-comm-group-if-worker-idle
switch  2.6 enable-keep-sampling-mask
value   2.6 output-fallback output-fallback-plugin output-fallback-config deploy-modality
"""


def _version(text: str, default: Version) -> Version:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if text else default


def _rows() -> Iterator[Flag]:
    for line in _TABLE.split("\n"):
        words = line.split()
        if not words:
            continue
        kind = next(known for known in get_args(Kind) if known == words[0])
        span = words[1] if words[1][0] in "-2" else ""
        since, _, until = span.partition("-")
        for word in words[2:] if span else words[1:]:
            name, _, alias = word.partition("=")
            yield Flag(
                name=f"--{name}",
                kind=kind,
                since=_version(since, OLDEST),
                until=_version(until, NEWEST),
                aliases=(alias,) if alias else (),
            )


FLAGS: tuple[Flag, ...] = tuple(_rows())
"""All rows; a flag that changed its kind has one for each."""


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


BY_NAME: Mapping[str, Flag] = {flag.name: flag for flag in FLAGS}
"""The newest row of each name."""

_SPELLINGS: dict[str, str] = {}
for _flag in FLAGS:
    _canonical = "--load-choices" if _flag.name == "--load_choices" else _flag.name
    for _name in (_flag.name, _hyphens(_flag.name), *_flag.aliases):
        _SPELLINGS[_name] = _canonical
    if _flag.kind == "pair":
        _SPELLINGS[f"--no-{_flag.name[2:]}"] = f"--no-{_flag.name[2:]}"


def canonical(name: str) -> str:
    """Return the name under which a flag is known here, or ``name`` with hyphens where it is not.

    Underscores, aliases and abbreviations that only one flag begins with (argparse takes them) are
    understood.

    >>> canonical("--max_model_len"), canonical("-tp"), canonical("--max-model"), canonical("--non_sense")
    ('--max-model-len', '--tensor-parallel-size', '--max-model-len', '--non-sense')
    """
    plain = _hyphens(name)
    for spelling in (name, plain):
        if spelling in _SPELLINGS:
            return _SPELLINGS[spelling]
    if plain.startswith("--"):
        fits = {full for start, full in _SPELLINGS.items() if start.startswith(plain)}
        if len(fits) == 1:
            return fits.pop()
    return plain


def kind_of(name: str) -> Kind | None:
    """Return how a flag takes its values; ``None`` for one that no version knows.

    Args:
        name: The canonical name; the ``--no-`` twin of a pair is a ``switch`` itself.
    """
    if name in BY_NAME:
        return BY_NAME[name].kind
    return "switch" if name in _SPELLINGS else None
