"""How fast logs are diagnosed, against the plain way: each pattern of each rule on each line.

    python bench/offline.py [--mb 50] [--rounds 3]

Both ways run in turn in one call; read the ratios. The log is made from a seed: ordinary lines of a serving
FastDeploy, one line in two thousand an error. The plain way runs on a small part, its speed does not depend
on the size.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import statistics
import tempfile
import time
from pathlib import Path

from diagnose import offline
from diagnose.catalog import cache, load
from diagnose.model.rule import pattern_leaves

LINES = (
    "INFO     2026-03-01 08:00:{s:02},118 41772 token_processor.py[line:211] Request=chatcmpl-{n}, OutputToken={s}\n",
    '[2026-03-01 08:00:{s:02}] [5512] [INFO] 10.0.0.7:{n} - "POST /v1/chat/completions HTTP/1.1" 200\n',
    "INFO     2026-03-01 08:00:{s:02},120 41772 serving_chat.py[line:97] request: {{'content': 'hello {n}'}}\n",
    "DEBUG    2026-03-01 08:00:{s:02},121 41772 resource_manager_v1.py[line:310] blocks {n} free {s}\n",
)
ERROR = "ERROR    2026-03-01 08:00:{s:02},300 41772 engine.py[line:211] Failed to launch worker processes {n}\n"


def write_log(path: Path, size: int) -> None:
    """Write a log of ``size`` bytes."""
    chance = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        written = 0
        while written < size:
            line = ERROR if chance.random() < 0.0005 else chance.choice(LINES)
            written += file.write(line.format(n=chance.randrange(10**6), s=chance.randrange(60)))


def compiled_by_re(pattern: str) -> re.Pattern[str] | None:
    """Compile a pattern with `re`, which knows a few constructs of RE2 not."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def plain(path: Path, patterns: list[re.Pattern[str]]) -> int:
    """Try each pattern on each line."""
    with path.open(encoding="utf-8") as file:
        return sum(1 for line in file for pattern in patterns if pattern.search(line))


def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    known = load.load()
    matcher = cache.matcher(known)
    leaves = {leaf.pattern for rule in known.rules.values() for leaf in pattern_leaves(rule.when) if leaf.pattern}
    patterns = [compiled for one in sorted(leaves) if (compiled := compiled_by_re(one))]
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large.log", Path(folder) / "small.log"
        write_log(large, options.mb * 1_000_000)
        write_log(small, 200_000)
        ours, theirs = [], []
        for _ in range(options.rounds):
            began = time.perf_counter()
            offline.diagnose([str(large)], knowledge=known, matcher=matcher)
            ours.append(large.stat().st_size / (time.perf_counter() - began) / 1e6)
            began = time.perf_counter()
            plain(small, patterns)
            theirs.append(small.stat().st_size / (time.perf_counter() - began) / 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    mine, naive = statistics.median(ours), statistics.median(theirs)
    print(f"{len(known.rules)} rules, {len(patterns)} patterns, {options.mb} MB, medians of {options.rounds} rounds")
    print(f"diagnose      {mine:8.1f} MB/s   {mine / naive:6.0f} x")
    print(f"plain re      {naive:8.3f} MB/s        1 x")
    print(f"peak memory   {peak:8.0f} MB")


if __name__ == "__main__":
    main()
