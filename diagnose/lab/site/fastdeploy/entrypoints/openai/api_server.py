"""The main process of the lab server: reads flags, starts the engine, then answers HTTP."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fastdeploy import checks, errors
from fastdeploy.args import parse_args
from fastdeploy.checks import ConfigError
from fastdeploy.engine import Engine, EngineError
from fastdeploy.logs import Logs
from fastdeploy.memory import read_shape
from fastdeploy.settings import Settings, read_settings


def main(argv: list[str]) -> int:
    """Run the server; the status is the original's, which is 0 for some failed starts."""
    settings = read_settings()
    record: list[Logs] = []

    def log() -> Logs:
        if not record:  # no log folder before the flags are read
            record.append(Logs(modern=settings.modern))
        return record[0]

    args = parse_args(
        argv,
        modern=settings.modern,
        error=lambda text: log().error("console", text, "utils.py:298"),
        warning=lambda text: log().warning("console", text, "utils.py:316"),
    )
    settings = replace(settings, start=_count_start(settings))
    with contextlib.suppress(KeyboardInterrupt):
        return _run(args, settings, log())
    return 0


def _run(args: argparse.Namespace, settings: Settings, record: Logs) -> int:
    engine: Engine | None = None

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _notice(f"Handling signal: {'int' if number == signal.SIGINT else 'term'}")
        if engine is not None:
            engine.close()
        _notice("Shutting down: Master")
        sys.stdout.flush()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        _take_port(args, settings)
        record.info("console", f"Number of api-server workers: {args.workers}.", "api_server.py:88")
        if settings.modern:
            _check_ports(args)
        missing = settings.fault("model-missing") is not None
        args.model = checks.resolve_model(args.model, args.revision, missing=missing)
        record.info("api_server", f"FastDeploy LLM API server starting... {os.getpid()}", "api_server.py:104")
        checks.check_model(args.model, args.model_config_name)
        checks.check_settings(args)
        if not settings.gpus:
            _warn_no_gpu(record)
        _dump(args, record)
        engine = Engine(args, settings, record, read_shape(args.model, args.model_config_name).layers)
        if not engine.start():
            text = "Failed to initialize FastDeploy LLM engine, service exit now!"
            record.error("api_server", text, "api_server.py:114")
            _tell_leaks()
            return _end(engine, 0)
        _serve(args, settings, record, engine)
    except ConfigError as problem:
        sys.stderr.write(errors.main_traceback(problem.text, problem.frame))
        return _end(engine, 1)
    except EngineError as problem:
        sys.stderr.write(str(problem))
        return _end(engine, 1)
    while True:
        signal.pause()


def _end(engine: Engine | None, code: int) -> int:
    if engine is not None:
        engine.close()
    return code


def _serve(args: argparse.Namespace, settings: Settings, record: Logs, engine: Engine) -> None:
    from fastdeploy import http_server  # noqa: PLC0415  # heavy, and not needed before the model is there

    record.info("api_server", "FastDeploy LLM engine initialized!\n", "api_server.py:588")
    metrics_port = args.metrics_port if args.metrics_port is not None else args.port
    for what, url in (
        ("metrics", f"{args.host}:{metrics_port}/metrics"),
        ("chat completion", f"{args.host}:{args.port}/v1/chat/completions"),
        ("completion", f"{args.host}:{args.port}/v1/completions"),
    ):
        record.info("console", f"Launching {what} service at http://{url}", "api_server.py:589")
    _check_ports(args)
    time.sleep(settings.load_seconds * 0.05)
    service = http_server.build_service(engine, settings, record)
    if metrics_port != args.port:
        http_server.start(http_server.bind((args.host, metrics_port), http_server.MetricsHandler, service))
    if args.controller_port > 0:
        controller = (args.host, args.controller_port)
        http_server.start(http_server.bind(controller, http_server.MetricsHandler, service))
    record.info("api_server", f"launch Fastdeploy api server... port: {args.port}", "api_server.py:500")
    try:
        server = http_server.bind((args.host, args.port), http_server.Handler, service)
    except OSError as problem:  # somebody took the port since it was looked at
        text = f"launch sync http server error, {problem}, "
        record.error("api_server", text, "api_server.py:515")
        raise EngineError(errors.main_traceback(f"OSError: {problem}", checks.SERVER_PORT)) from None
    _notice("Starting gunicorn 23.0.0")
    _notice(f"Listening at: http://{args.host}:{args.port} ({os.getpid()})")
    _notice("Using worker: fastdeploy.entrypoints.openai.utils.UvicornWorker")
    for _ in range(args.workers):
        _notice(f"Booting worker with pid: {os.getpid()}")
    http_server.start(server)
    if settings.modern:
        threading.Thread(target=engine.watch_workers, daemon=True).start()


def _check_ports(args: argparse.Namespace) -> None:
    checks.check_port("port", args.port, args.host, checks.SERVER_PORT)
    if args.metrics_port not in {None, args.port}:
        checks.check_port("metrics_port", args.metrics_port, args.host, checks.METRICS_PORT)
    checks.check_port("controller_port", args.controller_port, args.host, checks.CONTROLLER_PORT)


def _notice(text: str) -> None:
    """Write one of gunicorn's own lines."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S %z")
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"[{stamp}] [{os.getpid()}] [INFO] {text}\n")
        sys.stderr.flush()


def _warn_no_gpu(record: Logs) -> None:
    text = (
        "You are using GPU version PaddlePaddle, but there is no GPU detected on your machine. Maybe CUDA"
        " devices is not set properly.\n Original Error is list index out of range, "
    )
    record.warning("console", text, "cuda.py:41")


def _tell_leaks() -> None:
    text = "resource_tracker: There appear to be 3 leaked shared_memory objects to clean up at shutdown"
    sys.stderr.write(
        f"/usr/lib/python3.10/multiprocessing/resource_tracker.py:224: UserWarning: {text}\n"
        "  warnings.warn('resource_tracker: There appear to be %d '\n"
    )


def _dump(args: argparse.Namespace, record: Logs) -> None:
    record.info("config", "=================== Configuration Information ===============", "config.py:1985")
    for key, value in vars(args).items():
        if key != "api_key":
            record.info("config", f"{key:<30}: {value}", "config.py:1990")
    record.info("config", "=============================================================", "config.py:1996")


def _count_start(settings: Settings) -> int:
    """Count this start where ``FD_LAB_STATE`` says: a fault can be meant for the first ones only."""
    folder = os.environ.get("FD_LAB_STATE") or settings.gpus
    if not folder:
        return 1
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / "starts").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        count = int(file.read().strip() or 0) + 1
        file.seek(0)
        file.truncate()
        file.write(str(count))
    return count


def _take_port(args: argparse.Namespace, settings: Settings) -> None:
    """For the fault ``port-taken``: a stranger listens where this server wants to, for some time."""
    fault = settings.fault("port-taken")
    if fault is None or not checks.port_free(args.port):
        return
    listener = socket.socket()
    listener.bind(("0.0.0.0", args.port))  # noqa: S104  # a stranger takes all addresses
    listener.listen(1)
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(null, handle)
        time.sleep(fault.number("seconds", 30))
        os._exit(0)
    listener.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
