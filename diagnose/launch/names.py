"""Which names of flags and variables hold a secret."""

from __future__ import annotations

import re

MASK = "***"
_NAME = re.compile(r"(^|[-_.])(api-?key|keys?|token|password|passwd|secret)$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Say whether a flag or variable of this name holds a secret.

    >>> is_secret("--api-key"), is_secret("FD_API_KEY"), is_secret("--tokenizer"), is_secret("HF_TOKEN")
    (True, True, False, True)
    """
    return bool(_NAME.search(name.replace("_", "-")))
