"""Tries what ``alerts:`` names before anybody has to be told: secrets, and templates with a sample."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from diagnose.model.knowledge import Knowledge
from diagnose.model.rule import Severity
from diagnose.notices import asks
from diagnose.notices.book import Face, alert_of
from diagnose.notices.config import Alerts, Receiver
from diagnose.notices.facts import facts_of
from diagnose.notices.message import Writer
from diagnose.notices.post import Post
from diagnose.notices.question import AskDrill
from diagnose.receivers import make

_HOST, _TARGET, _CAUSE = "host", "target", "gpu_oom_load"
_MOST_BYTES = 4_000


def troubles(alerts: Alerts, knowledge: Knowledge, now: datetime) -> Iterator[str]:
    """Yield what is amiss though it can be used, each with its cure.

    Raises:
        ConfigError: A receiver cannot be used: a secret, a template or a package is missing.
    """
    for number, one in enumerate(alerts.receivers):
        place = f"alerts.receivers[{number}] ({one.name})"
        sender = make.sender(one, alerts)
        for secret in make.secrets_of(one):
            if secret.file and (open_to_all := exposed(Path(secret.file))):
                yield f"{place}: {open_to_all}"
        writer = getattr(sender, "writer", None)
        if isinstance(writer, Writer) and one.template and (note := _tried(writer, one, alerts, knowledge, now)):
            yield f"{place}.template: {one.template}: {note}. Mend it; docs/alerts.md names what it may use."


def exposed(file: Path) -> str:
    """Say that everybody on the host can read a secret; empty where that is not so."""
    mode = stat.S_IMODE(file.stat().st_mode)
    return (
        f"{file}: everybody on this host can read it (mode {mode:04o}). Run: chmod 640 {file}" if mode & 0o007 else ""
    )


def _tried(writer: Writer, one: Receiver, alerts: Alerts, knowledge: Knowledge, now: datetime) -> str:
    """Write a sample of what fires and of its end; return what the template fails with."""
    incident = asks.practice(AskDrill(by="config check", cause=_CAUSE, target=_TARGET), now)
    fired = msgspec.structs.replace(alert_of(incident, _HOST, now), practice=incident)
    for alert in (fired, msgspec.structs.replace(fired, face=Face.RESOLVED)):
        facts = facts_of(alert, None, knowledge, one.lang or alerts.lang, host=_HOST, link=alerts.link)
        post = Post(
            id="sample",
            receiver=one.name,
            key=alert.key,
            group="sample",
            kind="end" if alert.over else "fire",
            at=now,
            severity=Severity.CRITICAL,
            facts=facts,
        )
        if note := writer.write([post], _MOST_BYTES).note:
            return note.removeprefix("template: ")
    return ""
