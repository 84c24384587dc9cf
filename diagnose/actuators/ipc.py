"""``ipc.clean``: remove the shared memory and sockets that this instance left, and no other's."""

from __future__ import annotations

from diagnose.actuators.server import Server
from diagnose.model.incident import Intent, Plan
from diagnose.model.remedy import Step
from diagnose.model.text import Text


class CleanIpc:
    """Cleans up behind a server that is gone."""

    action = "ipc.clean"

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self, step: Step, plan: Plan) -> Text:  # noqa: ARG002 - the port's words
        """Name the ports whose files would go. Touches nothing."""
        handle = self._server.handle
        ports = [port for port in (handle.ports.http, *handle.ports.queue) if port] if handle else []
        named = ", ".join(map(str, ports)) or "-"
        return Text(
            f"Remove the shared memory and sockets of ports {named} if no process of this server lives",
            f"若该服务已无存活进程，则删除端口 {named} 遗留的共享内存和套接字",
        )

    def perform(self, step: Step, intent: Intent) -> Text:  # noqa: ARG002 - the port's words
        """Remove them. While the server lives nothing is its leftover: then this does nothing and is well.

        Raises:
            ActuatorError: Another server uses the ports, or a file cannot be removed.
        """
        handle = self._server.handle
        if handle is None:
            return Text("no server was started yet; nothing to remove", "服务尚未启动过，无可清理")
        if self._server.alive():
            return Text(
                "the server runs: its shared memory is in use; nothing removed", "服务仍在运行，共享内存在用，未清理"
            )
        removed = self._server.controller.clean(handle)
        names = f": {', '.join(removed)}" if removed else ""
        return Text(f"removed {len(removed)} leftovers{names}", f"已清理 {len(removed)} 项残留{names}")
