"""NVIDIA's Xid codes: what each stands for, and what a person does about it.

Source: NVIDIA's Xid catalogue (https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, state of
2025-10-29), in our own words; 173 from gpud's table. Codes that no current data-centre driver raises are left out,
but for 61, 122 and 123, which drivers still in use do. Where the catalogue states no action, ours is the gentlest
that fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from diagnose.model.text import Text

Action = Literal[
    "ignore",
    "look_before",
    "restart_app",
    "check_app",
    "reset_later",
    "reset_gpu",
    "reboot",
    "check_memory",
    "check_nvlink",
    "check_power",
    "update_driver",
    "restart_vm",
    "follow_driver",
    "contact_support",
]
"""What a code asks for. Each has its text in `ACTIONS`."""


class XidEntry(msgspec.Struct, frozen=True):
    """One code: a short name, and the kind of action it asks for."""

    code: int
    name: Text
    action: Action

    @property
    def advice(self) -> Text:
        """Say what a person does."""
        return ACTIONS[self.action]


def explain(code: int) -> XidEntry | None:
    """Look a code up; None for one that means nothing on current drivers.

    >>> entry = explain(79)
    >>> entry.name.en, entry.action
    ('the GPU dropped off the PCIe bus', 'reboot')
    >>> explain(7) is None
    True
    """
    return ENTRIES.get(code)


ACTIONS: Mapping[Action, Text] = {
    "ignore": Text(
        "Nothing to do for this code alone. Watch whether it becomes frequent, or another code follows it.",
        "此编号本身无需处理；留意是否变得频繁，或后面是否跟着别的编号。",
    ),
    "look_before": Text(
        "Nothing to do for this code itself: it follows another error, or the kill of a program that used the GPU. "
        "Read what the kernel log says right before it: dmesg -T | grep -i -B 5 xid.",
        "此编号本身无需处理：它跟在别的错误之后，或是用卡的程序被杀时产生的。"
        "查看内核日志中它之前的内容：dmesg -T | grep -i -B 5 xid。",
    ),
    "restart_app": Text(
        "Restart the server: the program that was hit is lost, the GPU as a rule is fine. If the same GPU reports it "
        "again, drain the machine, keep the output of nvidia-bug-report.sh and give it to the hardware's support.",
        "重启服务：受影响的程序已不可用，显卡通常没有问题。同一张卡再次出现时，切走流量，"
        "保留 nvidia-bug-report.sh 的输出并联系硬件支持。",
    ),
    "check_app": Text(
        "Restart the server, and read its own error of the same second: as a rule the program is at fault, not the "
        "GPU. If it comes again on the same GPU with other programs or versions, drain the machine and test the card "
        "with dcgmi diag -r 3.",
        "重启服务，并查看它同一时刻自己的报错：通常是程序问题而不是显卡。"
        "换了程序或版本仍在同一张卡上出现，就切走流量，用 dcgmi diag -r 3 检测该卡。",
    ),
    "reset_later": Text(
        "Go on serving. At the next quiet moment drain the GPU and reset it (nvidia-smi --gpu-reset -i N) or reboot, "
        "so that the repair takes effect; then look at nvidia-smi -q -d ROW_REMAPPER,ECC. If spare rows run out or it "
        "repeats, have the card replaced.",
        "可以继续服务。择机切走该卡上的任务，重置显卡（nvidia-smi --gpu-reset -i N）或重启机器，使修复生效；"
        "之后查看 nvidia-smi -q -d ROW_REMAPPER,ECC。备用行用尽或反复出现就报修换卡。",
    ),
    "reset_gpu": Text(
        "Take the traffic away, keep the output of nvidia-bug-report.sh, stop every program on the GPU and reset it: "
        "nvidia-smi --gpu-reset -i N (N: its index, or its PCI address as in 0000:cb:00.0). If the reset fails, "
        "reboot; if the code comes back, have the card replaced.",
        "切走流量，保留 nvidia-bug-report.sh 的输出，停掉该卡上的全部程序后重置：nvidia-smi --gpu-reset -i N"
        "（N 为该卡的序号，或形如 0000:cb:00.0 的 PCI 地址）。重置失败就重启机器；再次出现就报修换卡。",
    ),
    "reboot": Text(
        "Keep the output of nvidia-bug-report.sh, take the traffic away and reboot the machine: until then no program "
        "can use the card. If it happens again on the same card, have power, cooling, seating and risers checked, or "
        "the card replaced.",
        "保留 nvidia-bug-report.sh 的输出，切走流量后重启机器；重启前任何程序都用不了这张卡。"
        "同一张卡再次出现，就检查供电、散热、插接和转接卡，或报修换卡。",
    ),
    "check_memory": Text(
        "Restart the server. The codes of the same burst say how far it reaches: 94 hit one program only; with 95 stop "
        "every program on the GPU and reset it (nvidia-smi --gpu-reset -i N); 63 or 64 say whether the bad row could "
        "be put down for replacement. Then look at nvidia-smi -q -d ECC,ROW_REMAPPER; if it repeats, have the card "
        "replaced.",
        "重启服务。同一批编号说明影响范围：94 只影响一个程序；有 95 就停掉该卡上的全部程序并重置"
        "（nvidia-smi --gpu-reset -i N）；63、64 说明坏行是否登记成功。"
        "之后查看 nvidia-smi -q -d ECC,ROW_REMAPPER；反复出现就报修换卡。",
    ),
    "check_nvlink": Text(
        "Look at the links: nvidia-smi nvlink -s; nvidia-smi nvlink -e; journalctl -u nvidia-fabricmanager. Take the "
        "traffic away, stop the programs on all GPUs of the machine and reset them (nvidia-smi --gpu-reset) or reboot. "
        "If the same link fails again, give nvidia-bug-report.sh's output to the hardware's support.",
        "查看链路：nvidia-smi nvlink -s；nvidia-smi nvlink -e；journalctl -u nvidia-fabricmanager。"
        "切走流量，停掉本机所有显卡上的程序并重置（nvidia-smi --gpu-reset），或重启机器。"
        "同一链路再次出错，就把 nvidia-bug-report.sh 的输出交给硬件支持。",
    ),
    "check_power": Text(
        "Take the traffic away, shut the machine down and check the card's auxiliary power cable; until it is plugged "
        "in firmly the card runs at a fraction of its speed.",
        "切走流量后关机，检查显卡的辅助供电线；插紧之前该卡只能低速运行。",
    ),
    "update_driver": Text(
        "Install a driver, and on virtual machines a vGPU manager and guest driver, that belong together; "
        "nvidia-smi shows the version here.",
        "安装相互匹配的驱动（虚拟机上还包括 vGPU 管理程序和客户机驱动）；当前版本用 nvidia-smi 查看。",
    ),
    "restart_vm": Text(
        "Restart the virtual machine: without new keys its confidential GPU session is over.",
        "重启虚拟机：密钥无法更新，机密计算的 GPU 会话已失效。",
    ),
    "follow_driver": Text(
        "Do what the line itself says (reset, reboot or drain; nvidia-smi -q shows it as GPU Recovery Action), after "
        "the traffic is taken away. It overrules the advice for the code before it, but after code 79 reboot in any "
        "case.",
        "切走流量后，按该行自身的提示处理（重置、重启或排空；nvidia-smi -q 中的 GPU Recovery Action 也会显示）。"
        "它优先于前一个编号的建议，但前面若有 79，一律重启机器。",
    ),
    "contact_support": Text(
        "Restart the server and take the machine out of service at the next quiet moment. Give the output of "
        "nvidia-bug-report.sh to the hardware's support (RMA): this does not mend itself.",
        "重启服务，择机下线该机器；把 nvidia-bug-report.sh 的输出交给硬件支持（申请 RMA），此类问题不会自行恢复。",
    ),
}

_SINGLE: tuple[tuple[int, Action, str, str], ...] = (
    (8, "restart_app", "a GPU channel made no progress", "GPU 通道长时间无进展"),
    (11, "check_app", "invalid commands from the program", "程序发出了无效命令"),
    (13, "check_app", "compute exception in a kernel, often an access out of range", "kernel 执行异常，常见于访问越界"),
    (14, "ignore", "test of the error channel", "错误通道的测试信息"),
    (25, "check_app", "illegal command from the program", "程序发出了非法命令"),
    (
        31,
        "check_app",
        "page fault: a program touched GPU memory that is not its own",
        "显存缺页：访问了未映射或无权限的地址",
    ),
    (32, "check_app", "corrupt command stream", "命令流损坏"),
    (37, "ignore", "request that the GPU's firmware does not know", "GPU 固件不认识的请求"),
    (38, "ignore", "watchdog of the GPU's firmware expired", "GPU 固件看门狗超时"),
    (43, "check_app", "the program's channel was reset after an error of its own", "程序出错后其通道被重置"),
    (44, "ignore", "fault while switching GPU contexts", "切换 GPU 上下文时出错"),
    (
        45,
        "look_before",
        "work was torn down early, after another error or a kill",
        "任务被提前清理，源于其他错误或进程被杀",
    ),
    (46, "reset_gpu", "the GPU stopped answering", "GPU 停止响应"),
    (48, "check_memory", "uncorrectable double-bit memory error", "不可纠正的双比特显存错误"),
    (54, "check_power", "auxiliary power is not connected", "辅助供电未接好"),
    (60, "restart_app", "fault of the security co-processor", "安全协处理器出错"),
    (61, "reset_gpu", "the power micro-controller met a breakpoint", "电源管理微控制器异常中断"),
    (62, "reset_gpu", "the power micro-controller halted", "电源管理微控制器停转"),
    (63, "reset_later", "a bad memory row or page is put down for replacement", "显存坏行/坏页已登记，等待替换"),
    (64, "reset_gpu", "a bad memory row or page could not be put down for replacement", "显存坏行/坏页登记失败"),
    (66, "ignore", "illegal register access by the driver", "驱动访问了非法寄存器"),
    (67, "ignore", "an access check of the driver failed", "驱动访问校验失败"),
    (69, "check_app", "wrong compute class used by the program", "程序使用了错误的计算类"),
    (74, "check_nvlink", "NVLink error", "NVLink 错误"),
    (78, "update_driver", "a vGPU could not start", "vGPU 无法启动"),
    (79, "reboot", "the GPU dropped off the PCIe bus", "GPU 从 PCIe 总线掉线"),
    (80, "check_app", "commands arrived damaged at the GPU", "命令到达 GPU 时已损坏（校验不符）"),
    (92, "ignore", "corrected memory errors arrive at a high rate", "可纠正的显存错误频繁出现"),
    (93, "ignore", "the budget of writes to the InfoROM is spent", "InfoROM 写入次数超限"),
    (94, "restart_app", "uncorrectable memory error, contained to one program", "不可纠正的显存错误，仅影响一个程序"),
    (95, "reset_gpu", "uncorrectable memory error, not contained", "不可纠正的显存错误，影响未被隔离"),
    (106, "ignore", "test message of the out-of-band management", "带外管理的测试信息"),
    (107, "ignore", "silent test message of the out-of-band management", "带外管理的静默测试信息"),
    (108, "ignore", "address of another GPU could not be translated", "NVLink 远端地址转换错误"),
    (109, "reset_gpu", "switching GPU contexts timed out", "GPU 上下文切换超时"),
    (110, "reset_gpu", "security fault of the GPU", "GPU 安全故障"),
    (119, "reset_gpu", "the GPU's system processor (GSP) did not answer in time", "GPU 系统处理器（GSP）应答超时"),
    (120, "reset_gpu", "the GPU's system processor (GSP) reported an error", "GPU 系统处理器（GSP）报错"),
    (121, "reset_later", "corrected error of the chip-to-chip link (C2C)", "芯片间链路（C2C）错误，已纠正"),
    (122, "restart_app", "the power micro-controller could not read its flash", "电源管理微控制器读取闪存失败"),
    (123, "reset_gpu", "the power micro-controller could not write its flash", "电源管理微控制器写入闪存失败"),
    (136, "reset_gpu", "training of a high-speed link failed", "高速链路训练失败"),
    (
        137,
        "ignore",
        "access over NVLink was refused, often a mistake of the other GPU",
        "NVLink 访问被拒绝，常因对端访问有误",
    ),
    (
        140,
        "reset_gpu",
        "uncorrectable memory error outside of the usual handling",
        "不可纠正的显存错误，未能走正常处理流程",
    ),
    (141, "ignore", "error of a CUDA fast-path channel", "CUDA 快速通道错误"),
    (142, "contact_support", "fault of video encoder 3", "视频编码器 3 出错"),
    (143, "reset_gpu", "the GPU could not be initialised", "GPU 初始化失败"),
    (144, "check_nvlink", "NVLink error (SAW)", "NVLink 错误（SAW）"),
    (145, "check_nvlink", "NVLink error (RLW)", "NVLink 错误（RLW）"),
    (146, "check_nvlink", "NVLink error (TLW)", "NVLink 错误（TLW）"),
    (147, "check_nvlink", "NVLink error (TREX)", "NVLink 错误（TREX）"),
    (148, "check_nvlink", "NVLink error (NVLPW_CTRL)", "NVLink 错误（NVLPW_CTRL）"),
    (
        149,
        "check_nvlink",
        "NVLink error (NETIR): link down, too many bit errors, or a module",
        "NVLink 错误（NETIR）：断链、误码过多或模块异常",
    ),
    (150, "check_nvlink", "NVLink error (MSE)", "NVLink 错误（MSE）"),
    (151, "restart_vm", "keys of confidential computing could not be renewed", "机密计算密钥轮换失败"),
    (152, "ignore", "memory fault of the deep-learning accelerator (DLA)", "DLA 内存映射错误"),
    (153, "ignore", "the deep-learning accelerator (DLA) timed out", "DLA 超时"),
    (154, "follow_driver", "the driver says how the GPU is to be recovered", "驱动给出了 GPU 的恢复方式"),
    (155, "reset_gpu", "NVLink error raised by software", "软件触发的 NVLink 错误"),
    (156, "reset_gpu", "a part of the GPU was retired", "GPU 的部分资源被停用"),
    (157, "ignore", "a part of the GPU could not be retired", "停用 GPU 部分资源失败"),
    (158, "reset_gpu", "fatal timeout of the GPU", "GPU 致命超时"),
    (159, "check_app", "error of the coherent interface, no data lost", "一致性接口错误，数据未丢失"),
    (160, "ignore", "a channel was retired", "一个通道被停用"),
    (161, "ignore", "a channel could not be retired", "停用通道失败"),
    (162, "ignore", "power smoothing is on again", "功率平滑硬件重新启用"),
    (163, "ignore", "power smoothing is off", "功率平滑硬件已关闭"),
    (164, "ignore", "power smoothing hardware is nearly worn out", "功率平滑硬件寿命将尽"),
    (165, "contact_support", "power smoothing hardware is worn out", "功率平滑硬件寿命耗尽"),
    (166, "check_nvlink", "traffic over NVLink before it was encrypted", "NVLink 加密建立前出现流量"),
    (167, "reboot", "fatal timeout of PCIe", "PCIe 致命超时"),
    (168, "contact_support", "part of the GPU's memory cannot be used", "部分显存不可用"),
    (169, "reset_gpu", "the security co-processor halted", "安全协处理器停转"),
    (170, "check_nvlink", "unexpected NVLink event in confidential mode", "机密模式下出现意外的 NVLink 事件"),
    (171, "check_memory", "uncorrectable memory error in DRAM", "DRAM 中不可纠正的错误"),
    (172, "check_memory", "uncorrectable memory error in SRAM", "SRAM 中不可纠正的错误"),
    (173, "reboot", "the chip-to-chip link (C2C) failed", "芯片间链路（C2C）失效"),
)

ENGINES: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("copy engine", "拷贝引擎", (39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136))),
    ("video decoder", "视频解码器", (68, 83, 84, 88, 89, 96, 97, 98)),
    ("JPEG decoder", "JPEG 解码器", (82, *range(99, 106))),
    ("optical-flow engine", "光流引擎", (86, 139)),
)
"""Engines of one kind, and the code of each from number 0: a restart of the program is what all of them ask for."""


def _entries() -> Iterator[XidEntry]:
    for code, action, english, chinese in _SINGLE:
        yield XidEntry(code, Text(english, chinese), action)
    for english, chinese, codes in ENGINES:
        for number, code in enumerate(codes):
            yield XidEntry(code, Text(f"fault of {english} {number}", f"{chinese} {number} 出错"), "restart_app")


ENTRIES: Mapping[int, XidEntry] = {entry.code: entry for entry in _entries()}
"""All codes that mean something, by code."""
