"""The shell around the mind: it owns the order of things, and nothing else."""

import sys

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
# httpx's own command line, which brings click, rich and pygments: 5 MB. httpx does without where it cannot be imported.
