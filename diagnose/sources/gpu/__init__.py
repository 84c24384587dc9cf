"""The GPU sense: the cards as NVML, or the lab's files, show them. It holds no GPU memory and no CUDA context."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from diagnose.ports import GpuReader
from diagnose.sources.gpu.lab import LAB_VARIABLE, LabReader
from diagnose.sources.gpu.nvml import NvmlReader
from diagnose.sources.gpu.patience import PatientReader
from diagnose.sources.gpu.sense import GpuSense
from diagnose.sources.gpu.visible import chosen

__all__ = [
    "LAB_VARIABLE",
    "GpuSense",
    "LabReader",
    "NvmlReader",
    "PatientReader",
    "chosen",
    "reader_for",
]


def reader_for(environ: Mapping[str, str] = os.environ) -> GpuReader:
    """Return the lab's reader where ``DIAGNOSE_LAB_GPUS`` names a folder, else NVML's; one serves all targets."""
    folder = environ.get(LAB_VARIABLE)
    return LabReader(Path(folder)) if folder else PatientReader(NvmlReader())
