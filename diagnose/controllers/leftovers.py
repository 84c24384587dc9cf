"""What a killed server leaves in shared memory: names that carry the ports of one instance.

Sources: fastdeploy/inter_communicator/ipc_signal.py, zmq_server.py, engine_worker_queue.py and
fastdeploy/cache_manager of FastDeploy 2.x. A file whose name does not carry the port is never touched.
"""

from __future__ import annotations

import re
from pathlib import Path

from diagnose.controllers import procfs
from diagnose.ports import Handle

SHM = Path("/dev/shm")  # noqa: S108 - where FastDeploy puts them
TMP = Path("/tmp")  # noqa: S108 - where FastDeploy puts them

_SIGNALS = re.compile(r"\w+").findall("""
worker_ready_signal loaded_model_signal launched_cache_manager_signal launched_expert_service_signal
get_profile_block_num exist_task_signal exist_tasks_intra_signal exist_swapped_task_signal
exist_prefill_task_signal worker_healthy_live_signal cache_ready_signal swap_space_ready_signal
cache_transfer_inited_signal model_weights_status prefix_tree_status kv_cache_status need_block_num_signal
cache_task_broadcast_signal cache_task_is_paused cache_task_inflight
rearrange_experts_status rearrange_experts_ips_size rearrange_experts_ips_list
signal_update_weight_from_tensor local_experts_token_stats all_experts_token_stats
signal_clear_experts_token_stats signal_update_weight_from_disk result_update_weight_from_disk
fd_lock_gpu_cache_lock
""")
_QUEUE = r"({signals})\.{port}(_dp\d+(_tp\d+)?)?|fd_task_queue_{port}\.sock|ctrl_[wc]2e_rank\d+_{port}"
_HTTP = r"{port}\.socket|router_{port}\.ipc|response_{port}_w\d+\.pull"
_PID = r"{pid}\.socket|router_{pid}\.ipc"  # up to 2.2 named by the main process


def leftovers(handle: Handle, *, shm: Path = SHM, tmp: Path = TMP) -> tuple[Path, ...]:
    """Return the files that carry this instance's ports, sorted.

    Args:
        shm, tmp: The folders to look in.
    """
    signals = "|".join(_SIGNALS)
    patterns = [_QUEUE.format(signals=signals, port=port) for port in handle.ports.queue]
    lock = rf"fd_weight_clear_update_lock__pid{handle.pid}_port\d+\.lock"
    if handle.ports.http is not None:
        patterns.append(_HTTP.format(port=handle.ports.http))
    if procfs.stat(handle.pid) is None:
        patterns.append(_PID.format(pid=handle.pid))
    return (*_matching(shm, "|".join(patterns)), *_matching(tmp, lock))


def _matching(folder: Path, pattern: str) -> list[Path]:
    fits = re.compile(pattern)
    try:
        return sorted(path for path in folder.iterdir() if pattern and fits.fullmatch(path.name))
    except OSError:
        return []
