"""The HTTP face: endpoints, status codes and bodies of the original, a thread a connection."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from fastdeploy import answers
from fastdeploy.answers import RequestError
from fastdeploy.engine import Engine
from fastdeploy.logs import Logs
from fastdeploy.metrics import Metrics
from fastdeploy.scheduler import QueueFullError, Request, Scheduler
from fastdeploy.settings import Settings
from fastdeploy.text import answer, tokens

_SILENCE_SECONDS = 300  # without a token, after which the original asks whether the workers live
_ROUTES = {"/v1/chat/completions": ["POST"], "/v1/completions": ["POST"], "/v1/models": ["GET"]}


class Slots:
    """The semaphore of one HTTP worker."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a slot, if one is free."""
        with self._lock:
            free = self.used < self.limit
            self.used += free
            return free

    def release(self) -> None:
        """Give it back."""
        with self._lock:
            self.used -= 1

    def status(self) -> dict[str, int]:
        """Describe it as the log does."""
        return {"available": self.limit - self.used, "acquired": self.used, "max_value": self.limit}


@dataclass
class Service:
    """What every connection needs."""

    engine: Engine
    scheduler: Scheduler
    settings: Settings
    record: Logs
    metrics: Metrics
    keys: frozenset[str]
    slots: list[Slots]
    pending: threading.Semaphore
    created: int = field(default_factory=lambda: int(time.time()))
    connections: int = 0

    @property
    def name(self) -> str:
        """The model's name in answers."""
        return str(self.engine.args.served_model_name or self.engine.args.model)


def build_service(engine: Engine, settings: Settings, record: Logs) -> Service:
    """Put the parts together."""
    args = engine.args
    metrics = Metrics(
        {
            "block_size": args.block_size,
            "gpu_memory_utilization": args.gpu_memory_utilization,
            "num_gpu_blocks": engine.blocks,
            "enable_prefix_caching": args.enable_prefix_caching,
            "cache_dtype": "bfloat16",
            "kv_cache_ratio": args.kv_cache_ratio,
            "swap_space": args.swap_space,
            "total_block_num": engine.blocks,
            "enable_chunked_prefill": True,
        }
    )
    scheduler = Scheduler(engine, settings, record, metrics)
    scheduler.start()
    workers = max(1, args.workers)
    limit = -(-args.max_concurrency // workers)
    overload = settings.fault("overload")
    if overload:
        workers, limit = 1, min(limit, int(overload.number("concurrency", 8)))
    keys = [*(args.api_key or []), *os.environ.get("FD_API_KEY", "").split(",")]
    slots = [Slots(limit) for _ in range(workers)]
    pending = threading.Semaphore(int(os.environ.get("FD_SUPPORT_MAX_CONNECTIONS", "1024")) * workers)
    known = frozenset(key for key in keys if key)
    return Service(engine, scheduler, settings, record, metrics, known, slots, pending)


class Server(ThreadingHTTPServer):
    """Listens; bound only once the model is loaded."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    service: Service

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


def bind(address: tuple[str, int], handler: type[BaseHTTPRequestHandler], service: Service) -> Server:
    """Bind a port; connections wait until `start`."""
    server = Server(address, handler)
    server.service = service
    return server


def start(server: Server) -> None:
    """Answer, in a thread."""
    threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()


class MetricsHandler(BaseHTTPRequestHandler):
    """Only ``/metrics``, for a port of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    server_version, sys_version = "uvicorn", ""

    def do_GET(self) -> None:
        """Answer a GET."""
        if self.path.partition("?")[0] == "/metrics":
            self.send_metrics()
        else:
            self.send(404, {"detail": "Not Found"})

    def send_metrics(self) -> None:
        """Send the metrics text."""
        text = self.server.service.metrics.render(with_http=not self.server.service.settings.modern)
        self.send(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def send(self, status: int, body: dict[str, Any] | bytes, kind: str = "application/json") -> None:
        """Send one answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def version_string(self) -> str:
        """Name the server as the original does."""
        return "uvicorn"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Write nothing: the main handler writes the access log."""


class Handler(MetricsHandler):
    """All endpoints."""

    methods: ClassVar[dict[str, str]] = {}

    def setup(self) -> None:
        """Choose the HTTP worker that this connection belongs to."""
        super().setup()
        service = self.server.service
        service.connections += 1
        self.slots = service.slots[service.connections % len(service.slots)]

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write the access log and count."""
        del size
        status = int(code)
        path = self.path.partition("?")[0]
        self.server.service.metrics.answered(self.command, path, status)
        host, port = self.client_address[:2]
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        line = f'[{when}] [{os.getpid()}] [INFO] {host}:{port} - "{self.command} {path} HTTP/1.1" {status}\n'
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(line)
            sys.stdout.flush()

    def do_GET(self) -> None:
        """Answer a GET."""
        path = self.path.partition("?")[0]
        service = self.server.service
        args = service.engine.args
        if path in {"/health", "/ping"}:
            self._health()
        elif path == "/load":
            routes = [{"path": path, "methods": methods, "tags": []} for path, methods in _ROUTES.items()]
            self.send(200, {"routes": routes})
        elif path == "/v1/models":
            if self._allowed():
                self.send(200, answers.models(service.name, args.model, args.max_model_len, service.created))
        elif path == "/metrics" and args.metrics_port in {None, args.port}:
            self.send_metrics()
        elif path == "/config-info":
            self.send(200, {key: str(value) for key, value in vars(args).items() if key != "api_key"})
        elif path in {"/update_model_weight", "/clear_load_weight"}:
            self.send(404, b"Dynamic Load Weight Disabled.", "text/plain; charset=utf-8")
        elif path in _ROUTES:
            self.send(405, {"detail": "Method Not Allowed"})
        else:
            self.send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        """Answer a POST."""
        path = self.path.partition("?")[0]
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/ping":
            self._health()
        elif path in {"/v1/chat/completions", "/v1/completions"}:
            if self._allowed():
                self._complete(raw, chat=path == "/v1/chat/completions")
        elif path in {"/health", "/metrics", "/load", "/v1/models"}:
            self.send(405, {"detail": "Method Not Allowed"})
        else:
            self.send(404, {"detail": "Not Found"})

    def _health(self) -> None:
        if self.server.service.engine.healthy():
            self.send(200, b"", "text/plain")
        else:
            self.send(404, b"Worker Service Not Healthy", "text/plain; charset=utf-8")

    def _allowed(self) -> bool:
        keys = self.server.service.keys
        if not keys or self.headers.get("Authorization", "").removeprefix("Bearer ") in keys:
            return True
        self.send(401, {"error": "Unauthorized"})
        return False

    def _complete(self, raw: bytes, *, chat: bool) -> None:
        service = self.server.service
        kind = "Chat" if chat else "Completion"
        self._log_content(f"{kind} Received request: {raw.decode('utf-8', 'replace')}")
        if not self.slots.take():
            text = f"Reach max request concurrency, semaphore status: {self.slots.status()}"
            service.record.warning("api_server", text, "api_server.py:290")
            limit = service.engine.args.max_concurrency
            self.send(429, {"detail": f"Too many requests,current max concurrency is {limit}"})
            return
        try:
            self._answer(raw, chat=chat)
        except RequestError as refused:
            service.record.error(
                "api_server", f"request refused: {refused.body['error']['message']}", "engine_client.py:388"
            )
            self.send(refused.status, refused.body)
        finally:
            self.slots.release()

    def _answer(self, raw: bytes, *, chat: bool) -> None:
        service, args = self.server.service, self.server.service.engine.args
        body = answers.check_body(raw, chat=chat)
        model = str(body.get("model") or "default")
        if args.served_model_name and model not in {args.served_model_name, "default"}:
            message = f"Unsupported model: [{model}], support [{args.served_model_name}] or default"
            raise answers.refuse(message, code="model_not_support", param="model")
        prompt = answers.prompt_of(body, chat=chat)
        pieces = tokens(prompt)
        limit = answers.check_lengths(body, len(pieces), args.max_model_len)
        loop = self._loop(len(pieces))
        made, reason = answer(prompt, limit, loop=loop, least=self._least(body, limit))
        name = str(body.get("request_id") or ("chatcmpl-" if chat else "cmpl-") + str(uuid.uuid4()))
        request = Request(name, pieces[: args.max_model_len - 1], made, limit)
        self._log_request(request, prompt)
        self._wait_for_turn(request)
        try:
            service.scheduler.submit(request)
            if body.get("stream"):
                usage = bool((body.get("stream_options") or {}).get("include_usage"))
                self._stream(request, model, reason, chat=chat, usage=usage)
            else:
                self._whole(request, model, reason, chat=chat)
        except QueueFullError as full:
            raise answers.refuse(str(full), kind="internal_error", code="internal_error") from None
        finally:
            service.pending.release()

    def _wait_for_turn(self, request: Request) -> None:
        """Wait as long as ``--max-waiting-time`` allows."""
        service = self.server.service
        longest = service.engine.args.max_waiting_time
        if service.pending.acquire(timeout=None if longest < 0 else longest):
            return
        text = f"request[{request.name}] waiting error: , max waiting time: {longest}"
        service.record.error("api_server", text, "serving_chat.py:131")
        message = f"Request queued time exceed {longest}"
        raise answers.refuse(message, kind="timeout_error", code="timeout")

    @staticmethod
    def _least(body: dict[str, Any], limit: int) -> int:
        return limit + 1 if body.get("ignore_eos") else int(body.get("min_tokens") or 0)

    def _loop(self, length: int) -> str | None:
        """Words that the answer repeats without end; empty for the usual ones, None for a good answer."""
        fault = self.server.service.settings.fault("repetition")
        if fault is None or length <= fault.number("tokens", 200):
            return None
        return fault.params.get("words", "")

    def _log_content(self, text: str) -> None:
        settings = self.server.service.settings
        if not settings.modern or answers.log_level() >= 2:
            self.server.service.record.info("request", text, "api_server.py:330")

    def _log_request(self, request: Request, prompt: str) -> None:
        record, modern = self.server.service.record, self.server.service.settings.modern
        record.info("llm", f"Cache task with request_id ({request.name})", "common_engine.py:888")
        if modern and answers.log_level() == -1:
            return
        shown = prompt if not modern or answers.log_level() >= 2 else "<hidden>"
        text = f"req_id:{request.name}, text:{shown!r}, tokens: {len(request.prompt)}"
        record.info("data_processor", text, "ernie4_5_processor.py:331")

    def _pieces(self, request: Request) -> Iterator[str]:
        """Give tokens as they come; a client that has gone ends it, or a long silence of dead workers."""
        service, silent = self.server.service, 0
        while True:
            try:
                token = request.out.get(timeout=1.0)
            except queue.Empty:
                silent += 1
                if self._gone():
                    service.scheduler.abort(request)
                    raise ConnectionAbortedError from None
                if silent >= _SILENCE_SECONDS and not service.engine.healthy():
                    service.scheduler.abort(request)
                    message = "Engine is not healthy: Worker Service Not Healthy"
                    raise answers.refuse(message, kind="server_error", code=None) from None
                continue
            silent = 0
            if token is None:
                return
            yield token

    def _gone(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        return True

    def _whole(self, request: Request, model: str, reason: str, *, chat: bool) -> None:
        text = "".join(self._pieces(request))
        usage = answers.usage_of(len(request.prompt), request.done, request.cached)
        body = answers.whole(request.name, model, text, reason, usage, chat=chat)
        self._log_content(f"{'Chat' if chat else 'Completion'} response: {json.dumps(body, ensure_ascii=False)}")
        self.send(200, body)

    def _stream(self, request: Request, model: str, reason: str, *, chat: bool, usage: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            if chat:
                self._event(answers.chunk(request.name, model, "", None, chat=chat, role=True))
            for token in self._pieces_or_error(request):
                last = reason if request.done == len(request.answer) and request.out.qsize() <= 1 else None
                self._event(answers.chunk(request.name, model, token, last, chat=chat))
            if usage:
                end = answers.chunk(request.name, model, "", None, chat=chat)
                counted = answers.usage_of(len(request.prompt), request.done, request.cached)
                self._event({**end, "choices": [], "usage": counted})
            self._event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.service.scheduler.abort(request)
            self.close_connection = True

    def _pieces_or_error(self, request: Request) -> Iterator[str]:
        """Give tokens; an error goes into the stream, whose status was sent long ago."""
        try:
            yield from self._pieces(request)
        except RequestError as refused:
            self._event(refused.body)

    def _event(self, data: dict[str, Any] | str) -> None:
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        raw = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
