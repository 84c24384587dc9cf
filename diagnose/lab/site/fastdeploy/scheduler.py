"""Requests, cache blocks and the pace of tokens: who waits, who runs, who is put back."""

from __future__ import annotations

import hashlib
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastdeploy.engine import Engine
from fastdeploy.logs import Logs
from fastdeploy.metrics import Metrics
from fastdeploy.settings import Settings

_TICK = 0.02
_PREFILL = 160  # prompt tokens take a 160th of the time of generated ones


@dataclass
class Request:
    """One prompt on its way. ``out`` gets the tokens, then None."""

    name: str
    prompt: list[str]
    answer: list[str]
    max_tokens: int
    arrived: float = field(default_factory=time.monotonic)
    out: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    done: int = 0
    blocks: int = 0
    cached: int = 0
    preempted: int = 0
    busy_until: float = 0.0
    started: float = 0.0
    first: float = 0.0


class QueueFullError(Exception):
    """The scheduler's queue takes no more; the text is the original's."""


class Scheduler:
    """Runs in one thread; asleep while nothing is asked."""

    def __init__(self, engine: Engine, settings: Settings, record: Logs, metrics: Metrics) -> None:
        self._engine, self._settings, self._logs, self._metrics = engine, settings, record, metrics
        args = engine.args
        self._block, self._total = args.block_size, engine.blocks
        overload = settings.fault("overload")
        self._slots = int(min(args.max_num_seqs, overload.number("batch", 2)) if overload else args.max_num_seqs)
        self._speed = overload.number("speed", 3) if overload else settings.tokens_per_second
        self._prefix_caching = bool(args.enable_prefix_caching)
        self._largest = args.scheduler_max_size
        self._change = threading.Condition()
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._free = self._total
        self._seen: dict[bytes, None] = {}
        self._ready_at = time.monotonic()
        self._intake_dead = False
        self._step, self._stepped_at = -1, time.monotonic()
        self._decoded = 0
        self._hits = [0, 0, 0, 0]  # requests, of them with a hit, tokens, of them cached
        self._metrics.set(max_batch_size=args.max_num_seqs, max_gpu_block_num=self._total)
        self._publish()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request: Request) -> None:
        """Take a request.

        Raises:
            QueueFullError: The queue is as long as ``--scheduler-max-size`` allows.
        """
        self._metrics.add("requests_number_total")
        if self._due("intake-dead"):
            self._die_once()
            return
        with self._change:
            if 0 < self._largest <= len(self._waiting):
                text = f"Exceeding the max length of the local scheduler (max_size={self._largest})"
                self._logs.error("scheduler", text, "local_scheduler.py:241")
                raise QueueFullError(text)
            self._waiting.append(request)
            self._publish()
            self._change.notify()

    def abort(self, request: Request) -> None:
        """Forget a request whose client has gone."""
        with self._change:
            if request in self._running:
                self._running.remove(request)
                self._give_back(request)
            elif request in self._waiting:
                self._waiting.remove(request)
            self._publish()

    def _die_once(self) -> None:
        if not self._intake_dead:
            self._intake_dead = True
            text = "Engine stops inserting zmq task into scheduler, err:Socket operation on non-socket"
            self._logs.error("llm", text, "common_engine.py:905")

    def _due(self, name: str) -> bool:
        fault = self._settings.fault(name)
        due = fault is not None and time.monotonic() - self._ready_at >= (fault.at or 0.0)
        if due:
            self._settings.struck(name)
        return due

    def _run(self) -> None:
        credit, last = 0.0, time.monotonic()
        while True:
            with self._change:
                idle = not self._running and not self._waiting
                if idle:
                    self._change.wait(0.2)
                    credit, last = 0.0, time.monotonic()
                    self._working(last)
                    continue
                now = time.monotonic()
                credit = min(credit + (now - last) * self._speed, 10 + self._speed * 2 * _TICK)
                last = now
                if self._working(now):
                    self._admit(now)
                    count, credit = int(credit), credit - int(credit)
                    for _ in range(count):
                        self._decode(now)
                self._publish()
            time.sleep(_TICK)

    def _working(self, now: float) -> bool:
        """Whether the workers make steps: tokens come from them, and stop when one is dead or frozen."""
        step = self._engine.steps()
        if step != self._step:
            self._step, self._stepped_at = step, now
        return now - self._stepped_at < 0.5 and step >= 0 and not self._due("stall")

    def _admit(self, now: float) -> None:
        while self._waiting and len(self._running) < self._slots:
            request = self._waiting[0]
            need = math.ceil((len(request.prompt) + request.done + 1) / self._block)
            spare = len(self._running) if request.preempted else 0
            if need + spare > self._free and self._running:
                return
            self._waiting.pop(0)
            request.blocks, self._free = need, self._free - need
            if not request.started:
                request.started = now
                request.cached = self._match_prefix(request)
                self._metrics.observe("request_queue_time_seconds", now - request.arrived)
                self._metrics.add("prompt_tokens_total", len(request.prompt))
            fresh = len(request.prompt) + request.done - request.cached
            request.busy_until = now + fresh / (self._speed * _PREFILL)
            self._running.append(request)
            self._prefill_line(fresh, request.cached)

    def _decode(self, now: float) -> None:
        made = 0
        for request in list(self._running):
            if request not in self._running or request.busy_until > now:
                continue
            need = math.ceil((len(request.prompt) + request.done + 1) / self._block) - request.blocks
            while need > self._free and self._running[-1] is not request:
                self._preempt(self._running[-1])
            if need > self._free:
                self._preempt(request)
                continue
            request.blocks, self._free = request.blocks + need, self._free - need
            self._token(request, now)
            made += 1
        self._decoded += 1
        if made and self._decoded % 5 == 0:
            self._decode_line(made)

    def _token(self, request: Request, now: float) -> None:
        if not request.first:
            request.first = now
            self._metrics.observe("time_to_first_token_seconds", now - request.arrived)
            self._metrics.observe("request_prefill_time_seconds", now - request.started)
            self._metrics.set(first_token_latency=now - request.arrived)
        else:
            self._metrics.observe("time_per_output_token_seconds", 1 / self._speed)
        self._metrics.set(infer_latency=1 / self._speed)
        self._metrics.add("generation_tokens_total")
        request.out.put(request.answer[request.done])
        request.done += 1
        if request.done >= len(request.answer):
            self._finish(request, now)

    def _finish(self, request: Request, now: float) -> None:
        self._running.remove(request)
        self._give_back(request)
        self._metrics.add("request_success_total")
        observe = self._metrics.observe
        observe("e2e_request_latency_seconds", now - request.arrived)
        observe("request_inference_time_seconds", now - request.started)
        observe("request_decode_time_seconds", now - request.first)
        observe("request_prompt_tokens", len(request.prompt))
        observe("request_generation_tokens", request.done)
        observe("request_params_max_tokens", request.max_tokens)
        self._finish_lines(request, now)
        request.out.put(None)

    def _finish_lines(self, request: Request, now: float) -> None:
        ratio = request.done / max(0.001, now - request.first)
        if self._settings.modern:
            detail = f'{{"CachedToken": {request.cached}, "GPU": {request.cached}, "CPU": 0, "Storage": 0}}'
            text = (
                f"Request={request.name}, InputToken={len(request.prompt)}, CachedDetail={detail},"
                f" OutputToken={request.done}, TokenRatio={ratio:.2f},"
                f" TTFT={request.first - request.arrived:.2f}, E2E={now - request.arrived:.2f},"
                f" IsPrefill=False, RecoveryStop=False, PreemptedCount={request.preempted}"
            )
            self._logs.info("llm", text, "token_processor.py:735")
            return
        self._logs.info("llm", f"Request: {request.name} token ratio: {ratio}", "token_processor.py:402")
        text = f"Request: {request.name} finished, number of generated tokens: {request.done}."
        self._logs.info("llm", text, "token_processor.py:408")

    def _preempt(self, request: Request) -> None:
        self._logs.info(
            "llm",
            f"Preemption is triggered! Preempted request id: {request.name}",
            "resource_manager_v1.py:346",
        )
        request.preempted += 1
        self._running.remove(request)
        self._give_back(request)
        self._waiting.insert(0, request)

    def _give_back(self, request: Request) -> None:
        self._free += request.blocks
        request.blocks = 0

    def _match_prefix(self, request: Request) -> int:
        """Tokens of the prompt that an earlier prompt began with, in whole blocks."""
        chain, matched, going = b"", 0, True
        for start in range(0, len(request.prompt) - self._block + 1, self._block):
            text = "".join(request.prompt[start : start + self._block])
            chain = hashlib.blake2b(chain + text.encode("utf-8", "replace"), digest_size=12).digest()
            going = going and chain in self._seen
            matched += self._block if going else 0
            self._seen[chain] = None
        while len(self._seen) > self._total:
            self._seen.pop(next(iter(self._seen)))
        matched = min(matched, len(request.prompt) - 1) if self._prefix_caching else 0
        self._hits = [
            self._hits[0] + 1,
            self._hits[1] + (matched > 0),
            self._hits[2] + len(request.prompt),
            self._hits[3] + matched,
        ]
        self._metrics.add("prefix_cache_token_num_total", matched)
        self._metrics.add("prefix_gpu_cache_token_num_total", matched)
        return matched

    def _publish(self) -> None:
        requests, with_hit, seen, cached = self._hits
        running, total = len(self._running), max(1, self._total)
        self._metrics.set(
            num_requests_running=running,
            num_requests_waiting=len(self._waiting),
            batch_size=running,
            available_batch_size=self._slots - running,
            gpu_cache_usage_perc=(total - self._free) / total,
            free_gpu_block_num=self._free,
            available_gpu_block_num=self._free,
            available_gpu_resource=self._free / total,
            hit_req_rate=with_hit / max(1, requests),
            hit_token_rate=cached / max(1, seen),
            gpu_hit_token_rate=cached / max(1, seen),
        )

    def _usage(self) -> str:
        return f"{(self._total - self._free) / max(1, self._total):.2f}"

    def _prefill_line(self, fresh: int, cached: int) -> None:
        self._batch_line(
            lambda: (
                f"Prefill batch, dp_rank: 0, #new-seq: 1, #new-token: {fresh}, #cached-token: {cached}, "
                f"token usage: {self._usage()}, #free-block: {self._free}, #evictable-block: 0, "
                f"#running-req: {len(self._running)}, #queue-req: {len(self._waiting)}, "
            )
        )

    def _decode_line(self, made: int) -> None:
        self._batch_line(
            lambda: (
                f"Decode batch, dp_rank: 0, #running-req: {len(self._running)}, #token:"
                f" {sum(len(one.prompt) + one.done for one in self._running)}, token usage:"
                f" {self._usage()}, #free-block: {self._free}, #evictable-block: 0, cuda graph: True, gen"
                f" throughput (token/s): {made * self._speed:.2f}, #queue-req: {len(self._waiting)}, "
            )
        )

    def _batch_line(self, text: Callable[[], str]) -> None:
        if self._settings.modern:
            self._logs.info("console", text(), "scheduler_metrics_logger.py:88")
