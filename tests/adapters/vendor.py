"""A server on loopback that answers as a vendor does: what it is told to answer, in turn, then success for ever."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

GOOD = {
    "webhook": (200, b""),
    "alertmanager": (200, b""),
    "slack": (200, b"ok"),
    "feishu": (200, b'{"code":0,"msg":"success","data":{}}'),
    "dingtalk": (200, b'{"errcode":0,"errmsg":"ok"}'),
    "wecom": (200, b'{"errcode":0,"errmsg":"ok"}'),
    "infoflow": (200, b'{"errcode":0,"errmsg":"ok"}'),
    "pagerduty": (202, b'{"status":"success","message":"Event processed","dedup_key":"k"}'),
}


@dataclass
class Got:
    """One request, and how it was answered."""

    path: str
    query: dict
    headers: dict
    body: bytes
    at: float
    status: int

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Vendor:
    """What came, and what is to be answered next: ``(status, body[, headers])``; ``None`` for no answer at all."""

    good: tuple
    url: str = ""
    answers: list = field(default_factory=list)
    got: list = field(default_factory=list)
    choose: object = None

    @property
    def taken(self):
        """Requests that were answered with success."""
        return [one for one in self.got if one.status == self.good[0]]


@contextmanager
def serving(kind):
    """Serve as a vendor of a kind."""
    vendor = Vendor(good=GOOD[kind])
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # the client was killed on its way: nothing came
                self.close_connection = True
                return
            whole = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(whole.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                if vendor.choose:
                    answer = vendor.choose(body)
                else:
                    answer = vendor.answers.pop(0) if vendor.answers else vendor.good
                status, said, *more = answer or (0, b"")
                mark = status if said == vendor.good[1] or status != vendor.good[0] else -status
                vendor.got.append(Got(whole.path, query, headers, body, time.monotonic(), mark))
            if not status:
                time.sleep(1.0)
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request, client_address):
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield vendor
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
