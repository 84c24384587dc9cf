"""A client of Alertmanager's API v2: what fires is sent again and again, its end for five minutes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from diagnose.notices.config import Alertmanager
from diagnose.notices.facts import Facts
from diagnose.notices.pack import Batch
from diagnose.receivers.letter import Letter, as_json
from diagnose.receivers.outcome import SENT, Outcome, Reply, by_status
from diagnose.receivers.secrets import opened, plain
from diagnose.receivers.webhook import annotations_of, fingerprint, moment

_MISSED = 4
"""An alert that was not sent again for so many turns has ended: the daemon may be dead."""


class AlertmanagerSender:
    """Writes the lists that Alertmanager takes."""

    def __init__(self, config: Alertmanager, *, link: str = "") -> None:
        self.config, self.link = config, link

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the list: of each label set what is newest."""
        config = self.config
        body = as_json(alerts(batch, now=now, holds=config.resend_every * _MISSED, link=self.link))
        headers, secrets = opened(config.headers)
        url = f"{plain(config.url).rstrip('/')}/api/v2/alerts"
        return Letter(url=url, body=body, headers=headers, secrets=secrets)

    def judge(self, reply: Reply) -> Outcome:
        """HTTP 200 is a yes, and nothing else."""
        if (failed := by_status(reply)) is not None:
            return failed
        return SENT if reply.status == 200 else Outcome(kind="strange", error=f"HTTP {reply.status}: {reply.text}")


def alerts(batch: Batch, *, now: datetime, holds: timedelta, link: str) -> list[dict[str, Any]]:
    """Write the body of ``POST /api/v2/alerts``."""
    found: dict[str, dict[str, Any]] = {}
    for post in batch.posts:
        if post.facts is None:
            continue
        if post.facts.before:
            found[fingerprint(post.facts.before)] = _alert(post.facts, dict(post.facts.before), post.at, link)
        ends = post.facts.ended if post.facts.over else now + holds
        found[fingerprint(post.facts.labels)] = _alert(post.facts, dict(post.facts.labels), ends, link)
    return list(found.values())


def _alert(facts: Facts, labels: dict[str, str], ends: datetime | None, link: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "labels": labels,
        "annotations": annotations_of(facts),
        "startsAt": moment(facts.started),
    }
    if ends:
        told["endsAt"] = moment(max(ends, facts.started + timedelta(milliseconds=1)))
    where = facts.link or link
    return {**told, "generatorURL": where} if where else told
