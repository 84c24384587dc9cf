"""What is asked of one card, and how: each field by itself, so that one that fails hides no other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from diagnose.model.observation import MigDevice

Handle = Any
"""What NVML gives for a card, or tells of one: opaque."""

Error = Any
"""An error of NVML: the binding makes its classes at run time. ``value`` is the code of ``nvml.h``."""

Ask = Callable[[ModuleType, Handle], Mapping[str, Any]]

_TRIES = 3
"""Lists grow between the question for their size and that for their content."""

_RUNNING = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
_SLOWED = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
"""Questions by the names of drivers since 510 and 535, and of those before."""

_THERMAL = 0x20 | 0x40
_REASONS = ((_THERMAL, "thermal"), (0x80, "power_brake"), (0x08, "hardware"), (0x04, "power_cap"))
"""``nvmlClocksEventReason*`` (nvml.h) that make a card slower than its work asks for."""


class Part(NamedTuple):
    """A slice of a split card as yet without its memory, with the handle by which that is asked for."""

    handle: Handle
    device: MigDevice


def text(value: bytes | str) -> str:
    """Take text as old and new versions of the binding give it."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def never_codes(nvml: ModuleType) -> frozenset[int]:
    """Errors that say that this card, driver or user will never get an answer."""
    return frozenset(
        {
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            getattr(nvml, "NVML_ERROR_ARGUMENT_VERSION_MISMATCH", 25),
            getattr(nvml, "NVML_ERROR_DEPRECATED", 26),
        }
    )


def lost_codes(nvml: ModuleType) -> frozenset[int]:
    """Errors that say that the card itself cannot be reached any more."""
    return frozenset(
        {
            nvml.NVML_ERROR_GPU_IS_LOST,
            nvml.NVML_ERROR_NOT_FOUND,
            nvml.NVML_ERROR_RESET_REQUIRED,
            getattr(nvml, "NVML_ERROR_GPU_NOT_FOUND", 28),
        }
    )


def driver_codes(nvml: ModuleType) -> frozenset[int]:
    """Errors that speak of the driver, not of one card."""
    return frozenset(
        {
            nvml.NVML_ERROR_UNINITIALIZED,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            nvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        }
    )


def ask(nvml: ModuleType, handle: Handle, wanted: Mapping[str, Ask], lacks: set[str]) -> dict[str, Any]:
    """Return the fields of `GpuReading` that the card tells now.

    Args:
        lacks: Names of what the card never tells; grows.

    Raises:
        NVMLError: The card, or the driver, is gone.
    """
    told: dict[str, Any] = {}
    for name, question in wanted.items():
        if name not in lacks and (answer := _answer(nvml, handle, name, question, lacks)) is not None:
            told.update(answer)
    return told


def _answer(nvml: ModuleType, handle: Handle, name: str, question: Ask, lacks: set[str]) -> Mapping[str, Any] | None:
    try:
        return question(nvml, handle)
    except AttributeError:  # a binding older than the field
        lacks.add(name)
    except nvml.NVMLError as error:
        if error.value in lost_codes(nvml) | driver_codes(nvml):
            raise
        if error.value in never_codes(nvml):
            lacks.add(name)
    return None


def memory(nvml: ModuleType, handle: Handle, lacks: set[str]) -> tuple[int, int]:
    """Return total and used bytes; zeros of a card that never tells.

    Raises:
        NVMLError: It cannot be told now.
    """
    if "memory" in lacks:
        return 0, 0
    try:
        told = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        if error.value not in never_codes(nvml):
            raise
        lacks.add("memory")
        return 0, 0
    return int(told.total), int(told.used)


def processes(nvml: ModuleType, handle: Handle, lacks: set[str]) -> list[tuple[int, int | None]]:
    """Return the processes that compute on the card, with the bytes that each holds where the driver tells."""
    running = ask(nvml, handle, {"processes": _running}, lacks).get("processes", ())
    return [(int(one.pid), None if one.usedGpuMemory is None else int(one.usedGpuMemory)) for one in running]


def _running(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    return {"processes": _list(nvml, partial(_either, nvml, handle, *_RUNNING))}


def _either(nvml: ModuleType, handle: Handle, newer: str, older: str) -> Any:  # noqa: ANN401 - whatever is asked for
    """Ask a question that an old driver, or an old binding, knows by another name only."""
    question = getattr(nvml, newer, None)
    if question is not None:
        with contextlib.suppress(nvml.NVMLError_FunctionNotFound):
            return question(handle)
    return getattr(nvml, older)(handle)


def _list(nvml: ModuleType, question: Callable[[], Sequence[Any]]) -> Sequence[Any]:
    for _ in range(_TRIES - 1):
        with contextlib.suppress(nvml.NVMLError_InsufficientSize):
            return question()
    return question()


# --- one function a question


def _busy(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    return {"busy_ratio": nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100}


def _celsius(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    """Bindings of CUDA 14 and later know the question by its newer name only."""
    question = getattr(nvml, "nvmlDeviceGetTemperature", None) or nvml.nvmlDeviceGetTemperatureV
    return {"celsius": int(question(handle, nvml.NVML_TEMPERATURE_GPU))}


def _watts(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    return {"watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}


def _sm_clock(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    return {"sm_mhz": int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))}


def _memory_clock(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    return {"memory_mhz": int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))}


def _slowed(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    reasons = int(_either(nvml, handle, *_SLOWED))
    return {"slowed": tuple(name for bits, name in _REASONS if reasons & bits)}


def _slowdown(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    asked = nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    return {"slowdown_celsius": int(nvml.nvmlDeviceGetTemperatureThreshold(handle, asked))}


def _limit(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    return {"limit_watts": nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000}


def _ecc(name: str, kind: str, counter: str) -> Ask:
    def question(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
        kinds = (getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{kind}"), getattr(nvml, f"NVML_{counter}_ECC"))
        return {name: int(nvml.nvmlDeviceGetTotalEccErrors(handle, *kinds))}

    return question


def _retired(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    causes = (
        nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
        nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
    )
    return {
        "retired_pages": sum(len(_list(nvml, partial(nvml.nvmlDeviceGetRetiredPages, handle, one))) for one in causes)
    }


def _retired_pending(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    return {"retired_pending": bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle))}


def _remapped(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    _, uncorrectable, pending, failed = nvml.nvmlDeviceGetRemappedRows(handle)
    return {"remapped_rows": int(uncorrectable), "remap_pending": bool(pending), "remap_failed": bool(failed)}


def _number(name: str, function: str) -> Ask:
    def question(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
        return {name: int(getattr(nvml, function)(handle))}

    return question


def _nvlinks(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    """Count the links that are up. Beyond its last link a card calls the number wrong."""
    up = int(nvml.nvmlDeviceGetNvLinkState(handle, 0))
    with contextlib.suppress(nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotSupported):
        for link in range(1, nvml.NVML_NVLINK_MAX_LINKS):
            up += int(nvml.nvmlDeviceGetNvLinkState(handle, link))
    return {"nvlinks": up}


FAST: Mapping[str, Ask] = {
    "busy": _busy,
    "celsius": _celsius,
    "watts": _watts,
    "sm_clock": _sm_clock,
    "memory_clock": _memory_clock,
    "slowed": _slowed,
}
"""Asked with every reading."""

SLOW: Mapping[str, Ask] = {
    "slowdown": _slowdown,
    "limit": _limit,
    "ecc_corrected": _ecc("ecc_corrected", "CORRECTED", "VOLATILE"),
    "ecc_uncorrected": _ecc("ecc_uncorrected", "UNCORRECTED", "VOLATILE"),
    "ecc_corrected_ever": _ecc("ecc_corrected_ever", "CORRECTED", "AGGREGATE"),
    "ecc_uncorrected_ever": _ecc("ecc_uncorrected_ever", "UNCORRECTED", "AGGREGATE"),
    "retired": _retired,
    "retired_pending": _retired_pending,
    "remapped": _remapped,
    "pcie_generation": _number("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration"),
    "pcie_width": _number("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth"),
    "pcie_most_generation": _number("pcie_most_generation", "nvmlDeviceGetMaxPcieLinkGeneration"),
    "pcie_most_width": _number("pcie_most_width", "nvmlDeviceGetMaxPcieLinkWidth"),
    "pcie_replays": _number("pcie_replays", "nvmlDeviceGetPcieReplayCounter"),
    "nvlinks": _nvlinks,
}
"""Asked seldom: these change seldom, and some take milliseconds."""


# --- slices


def parts(nvml: ModuleType, handle: Handle, lacks: set[str]) -> list[Part]:
    """Return the slices of a card; empty where it is not split."""
    found: list[Part] = ask(nvml, handle, {"mig": _parts}, lacks).get("parts", [])
    return found


def _parts(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    current, _ = nvml.nvmlDeviceGetMigMode(handle)
    found: list[Part] = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if current else 0):
        with contextlib.suppress(nvml.NVMLError_NotFound):  # so many there may be, not so many there are
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
            device = MigDevice(
                uuid=text(nvml.nvmlDeviceGetUUID(part)),
                gpu_instance=int(nvml.nvmlDeviceGetGpuInstanceId(part)),
                compute_instance=int(nvml.nvmlDeviceGetComputeInstanceId(part)),
                total_bytes=0,
                used_bytes=0,
            )
            found.append(Part(part, device))
    return {"parts": found}


def slices(nvml: ModuleType, found: Sequence[Part]) -> tuple[MigDevice, ...]:
    """Return each slice with its memory; one that was taken away meanwhile is left out."""
    told = ((one.device, ask(nvml, one.handle, {"memory": _held}, set())) for one in found)
    return tuple(msgspec.structs.replace(device, **held) for device, held in told if held)


def _held(nvml: ModuleType, handle: Handle) -> Mapping[str, Any]:
    """A slice that was taken away meanwhile is not found: that is no loss of the card."""
    with contextlib.suppress(nvml.NVMLError_NotFound):
        told = nvml.nvmlDeviceGetMemoryInfo(handle)
        return {"total_bytes": int(told.total), "used_bytes": int(told.used)}
    return {}
