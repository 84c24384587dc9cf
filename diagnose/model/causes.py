"""The classes of root cause, and what each is called.

Extend where a real class is missing; never rename: reports, journals and alerts carry these names.
"""

from __future__ import annotations

from collections.abc import Mapping

from diagnose.model.text import Text

CAUSES: Mapping[str, Text] = {
    "unknown": Text("Failed, cause not in this log", "失败，但日志中看不到原因"),
    "blind_spot": Text("Something cannot be observed", "有一处无法观测"),
    # GPU software stack
    "cuda_version_mismatch": Text("CUDA version mismatch", "CUDA 版本不匹配"),
    "driver_too_old": Text("NVIDIA driver too old", "NVIDIA 驱动过旧"),
    "gpu_arch_unsupported": Text("GPU generation not supported by this build", "当前安装包不支持该 GPU 架构"),
    "quantization_unsupported": Text("Quantization not supported here", "不支持所选量化方式"),
    "gpu_not_visible": Text("No usable GPU visible", "看不到可用的 GPU"),
    "nvml_mismatch": Text("Driver library and kernel module differ", "驱动库与内核模块版本不一致"),
    "fabric_manager": Text("NVSwitch fabric manager not running", "NVSwitch Fabric Manager 未运行"),
    "missing_shared_library": Text("Shared library not found", "缺少动态库"),
    "abi_mismatch": Text("Library does not fit (ABI)", "动态库 ABI 不匹配"),
    "illegal_instruction": Text("CPU lacks an instruction set", "CPU 不支持所需指令集"),
    # memory
    "gpu_memory_taken": Text("GPU memory held by other processes", "显存被其他进程占用"),
    "gpu_oom_load": Text("Out of GPU memory while loading", "加载阶段显存不足"),
    "gpu_oom_runtime": Text("Out of GPU memory while serving", "运行阶段显存不足"),
    "host_oom": Text("Out of host memory", "主机内存不足"),
    "kv_cache_insufficient": Text("Too little memory left for the KV cache", "KV Cache 空间不足"),
    "shm_exhausted": Text("Shared memory (/dev/shm) exhausted", "共享内存 (/dev/shm) 不足"),
    "disk_full": Text("Disk full", "磁盘已满"),
    "fd_limit": Text("Too many open files", "打开的文件数过多"),
    # requests
    "context_too_long": Text("Prompt longer than the limit", "输入超过长度上限"),
    "repetition": Text("Repeated output", "输出重复"),
    "overload_503": Text("Overloaded: requests are refused", "过载：请求被拒绝"),
    "queue_timeout": Text("Requests wait too long", "请求排队超时"),
    "upstream_unreachable": Text("Model server not reachable from the gateway", "网关无法连接模型服务"),
    "client_error": Text("Wrong request, server is fine", "请求有误，服务正常"),
    # start and configuration
    "port_in_use": Text("Port already in use", "端口被占用"),
    "model_not_found": Text("Model not found", "找不到模型"),
    "model_download_failed": Text("Model download failed", "模型下载失败"),
    "model_format_mismatch": Text("Model of another format", "模型格式不符"),
    "unsupported_model": Text("Model architecture not supported", "不支持该模型结构"),
    "invalid_argument": Text("Wrong start option", "启动参数有误"),
    "permission_denied": Text("Permission denied", "权限不足"),
    "dependency_conflict": Text("Python packages do not go together", "Python 依赖冲突"),
    "missing_module": Text("Python module missing", "缺少 Python 模块"),
    "package_unavailable": Text("No such package for this Python or platform", "没有适用的安装包"),
    "network_timeout": Text("Network unreachable or too slow", "网络不可达或过慢"),
    "build_failed": Text("Compilation failed", "编译失败"),
    # processes
    "worker_launch_failed": Text("A worker did not come up; cause in its own log", "工作进程启动失败，原因在其日志中"),
    "worker_crash": Text("A worker crashed", "工作进程崩溃"),
    "hang_on_load": Text("Start-up hangs", "启动卡住"),
    "engine_stall": Text("The engine makes no progress", "引擎停滞"),
    "framework_bug": Text("Bug in the server or framework", "服务或框架自身缺陷"),
    "cuda_illegal_access": Text("A GPU kernel failed", "GPU 内核执行出错"),
    "nccl_comm": Text("Communication between GPUs failed", "GPU 间通信失败"),
    # hardware
    "gpu_xid": Text("The driver reports a GPU error (Xid)", "驱动报告 GPU 错误 (Xid)"),
    "gpu_ecc": Text("GPU memory error (ECC)", "GPU 显存 ECC 错误"),
    "gpu_lost": Text("GPU lost from the bus", "GPU 掉卡"),
    "gpu_thermal": Text("GPU throttled by heat", "GPU 过热降频"),
    "gpu_slowed": Text("GPU held back by power or its bus", "GPU 因供电或总线受限"),
    "nvlink_fault": Text("NVLink error", "NVLink 错误"),
}
