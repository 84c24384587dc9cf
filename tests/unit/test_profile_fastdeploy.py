"""The kind of a log follows from its name, in both eras of FastDeploy's logging."""

from __future__ import annotations

import pytest
import re2

from diagnose.profiles import fastdeploy


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("log/workerlog.0", "worker"),
        ("log/paddle/workerlog.11", "worker"),
        ("workerlog.0.gz", "worker"),
        ("log/launch_worker.log", "launch"),
        ("console.log", "console"),
        ("server.out", "console"),
        ("nohup.out", "console"),
        ("stderr", "console"),
        ("server.log", "console"),
        ("fastdeploy.log", "engine"),
        ("fastdeploy.log.2025-09-02", "engine"),
        ("fastdeploy.log.2025-09-02.gz", "engine"),
        ("fastdeploy.log.1", "engine"),
        ("fastdeploy_dprank3.log", "engine"),
        ("gpu_model_runner.log", "engine"),
        ("worker_process.log", "engine"),
        ("default_2026-03-01-08.log", "engine"),
        ("current_default.log", "engine"),
        ("api_server.log", "api"),
        ("request.log", "api"),
        ("trace.log", "api"),
        ("data_processor.log", "data"),
        ("error.log", "error"),
        ("fastdeploy_error.log", "error"),
        ("api_server_error.log.2025-09-02", "error"),
        ("error_2026-03-01-08.log", "error"),
        ("cache_transfer_manager_0.log", "cache"),
        ("launch_cache_transfer_manager_0.log", "cache"),
        ("cache_queue_manager.log", "cache"),
        ("prefix_cache_manager.log", "cache"),
        ("splitwise_connector_0.log", "cache"),
        ("/var/log/kern.log", "kernel"),
        ("/var/log/syslog.1", "kernel"),
        ("dmesg.txt", "kernel"),
        ("messages-20250902", "kernel"),
        ("C:\\logs\\workerlog.0", "worker"),
        ("my.log", "unknown"),
        ("backup_env.0.json", "unknown"),
        ("envlog.0", "unknown"),
    ],
)
def test_the_name_tells_the_kind(path, stream):
    assert fastdeploy.stream_of(path) == stream
    assert fastdeploy.is_log(path) is (stream != "unknown")


def test_every_mark_is_a_pattern():
    for mark in fastdeploy.MARKS.values():
        assert not re2.compile(mark.pattern).search("")
