"""A stand-in for PaddlePaddle: only the launcher, for the lab server."""

from __future__ import annotations

import os

__version__ = "3.3.1" if os.environ.get("FD_LAB_ERA", "2.4") == "2.6" else "3.2.0"


def is_compiled_with_cuda() -> bool:
    """Say yes, as the GPU wheels do."""
    return True
