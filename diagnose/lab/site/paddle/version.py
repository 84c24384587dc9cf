"""What the stand-in claims to be built with."""

from __future__ import annotations

from paddle import __version__ as full_version

commit = "0" * 40


def cuda() -> str:
    """CUDA version of the wheel."""
    return "12.6"


def cudnn() -> str:
    """CuDNN version of the wheel."""
    return "9.5.1"


def show() -> None:
    """Print the versions, one a line."""
    print(f"full_version: {full_version}\ncuda: {cuda()}\ncudnn: {cudnn()}")
