"""The long tail through apprise, an optional extra. What it reports as sent counts; it tells no more."""

from __future__ import annotations

import importlib
from datetime import datetime
from typing import Any

from diagnose.errors import ConfigError
from diagnose.notices.config import Apprise
from diagnose.notices.message import Writer
from diagnose.notices.pack import Batch
from diagnose.receivers.outcome import SENT, Outcome
from diagnose.receivers.secrets import hidden, read

_MOST_BYTES = 4000


class AppriseSender:
    """Hands messages to apprise; it blocks, so it has a thread of its own.

    Raises:
        ConfigError: apprise is not installed.
    """

    def __init__(self, config: Apprise, writer: Writer) -> None:
        self.config, self.writer = config, writer
        self.apprise = _library()

    def send_now(self, batch: Batch, now: datetime) -> Outcome:
        """Send through apprise.

        Raises:
            ConfigError: The URL is not there.
        """
        del now
        url = read(self.config.url)
        try:
            message = self.writer.write(batch.posts, _MOST_BYTES)
            there = self.apprise.Apprise()
            if not there.add(url):
                return Outcome(kind="barred", error="apprise does not understand the URL of this receiver")
            kind = "success" if message.over else "failure"
            taken = there.notify(title=message.title, body=message.body, notify_type=kind, body_format="text")
        except Exception as error:  # noqa: BLE001 - 150 services, each with its own errors
            return Outcome(kind="later", error=hidden(f"{type(error).__name__}: {error}", [url])[:300])
        return SENT if taken else Outcome(kind="later", error="apprise could not send it; it does not say why")


def _library() -> Any:  # noqa: ANN401 (an optional package without types)
    try:
        return importlib.import_module("apprise")
    except ImportError as error:
        raise ConfigError(
            "alerts: a receiver of kind apprise needs it. Install it: pip install 'fastdeploy-diagnose[apprise]'"
        ) from error
