"""The faults that the lab server knows, in both languages; ``site/fastdeploy`` brings them about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FaultText:
    """One fault: its name, what happens, and how it can be tuned (``key=default`` after a colon)."""

    name: str
    en: str
    zh: str
    params: str = ""


FAULTS = (
    FaultText("oom-load", "GPU memory runs out while weights load; exits 0", "加载权重时显存不足，退出码为 0"),
    FaultText("oom-capture", "GPU memory runs out in CUDA-graph capture", "捕获 CUDA Graph 时显存不足"),
    FaultText("oom-serving", "a worker runs out of GPU memory while serving", "服务过程中显存不足", "rank=0"),
    FaultText(
        "kv-too-small",
        "fewer KV blocks than one full sequence needs",
        "KV 块不足以容纳一条最长序列",
        "blocks=20",
    ),
    FaultText(
        "worker-killed",
        "a rank is killed (-9) some seconds after ready",
        "就绪数秒后某个进程被杀(-9)",
        "rank=0",
    ),
    FaultText("worker-segv", "a rank dies of a segmentation fault", "某个进程段错误", "rank=0"),
    FaultText(
        "worker-error",
        "a worker ends with the words of a failure; with @seconds while serving",
        "某个进程打印一种错误后退出；带 @秒数 时发生在服务过程中",
        "kind=silent|bug|disk|host-memory|illegal-access|library|nccl|no-kernel|shm;rank=0",
    ),
    FaultText("exit-zero", "the start fails and the process exits 0", "启动失败但退出码为 0"),
    FaultText("hang-load", "loading stands still: no line, no CPU", "加载停滞：没有日志，也不占 CPU"),
    FaultText("hang-capture", "the worker dies, the engine waits for ever", "工作进程退出，引擎无限等待"),
    FaultText("port-taken", "another process listens on the HTTP port", "HTTP 端口被其他进程占用", "seconds=30"),
    FaultText("model-missing", "there is no such model", "模型不存在"),
    FaultText(
        "cuda-mismatch",
        "the driver is too old; kind=cudnn: cuDNN is",
        "驱动过旧；kind=cudnn 时为 cuDNN",
        "kind=driver",
    ),
    FaultText(
        "repetition",
        "answers to longer prompts go round in circles",
        "较长提示的回答陷入循环",
        "tokens=200;words=TEXT",
    ),
    FaultText(
        "overload",
        "slow, and few at once: 429s and waiting",
        "速度慢且并发小，出现 429 与排队",
        "speed=3;batch=2;concurrency=8",
    ),
    FaultText("intake-dead", "health is 200 and every request hangs", "健康检查为 200，但请求全部挂起"),
    FaultText("stall", "no tokens any more, health is 200", "不再产生 token,健康检查为 200"),
    FaultText("zombie-memory", "GPU memory stays taken after a stop", "停止后显存仍被占用", "seconds=20"),
    FaultText(
        "log-flood",
        "a worker writes thousands of lines a second",
        "工作进程每秒写出数千行日志",
        "rate=20000;seconds=5",
    ),
)
NAMES = frozenset(fault.name for fault in FAULTS)
