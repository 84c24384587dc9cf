"""Any program that takes JSON: our own shape, or that of Alertmanager's webhook (version 4)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from diagnose.errors import ConfigError
from diagnose.notices.config import Webhook
from diagnose.notices.facts import Facts
from diagnose.notices.message import Writer
from diagnose.notices.pack import Batch
from diagnose.receivers.letter import Letter, as_json, hmac_base64
from diagnose.receivers.outcome import SENT, Outcome, Reply, by_status
from diagnose.receivers.secrets import of_url, opened, plain, read

SCHEMA = "diagnose.alert/1"
NO_TIME = "0001-01-01T00:00:00Z"
_MOST_BYTES = 16_000


class WebhookSender:
    """Writes and signs the bodies of a generic webhook."""

    def __init__(self, config: Webhook, writer: Writer, *, link: str = "") -> None:
        self.config, self.writer, self.link = config, writer, link

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the message: each post is told, so that none is missed where one incident has several."""
        config = self.config
        if config.format == "alertmanager":
            body = as_json(v4(batch, receiver=config.name, link=self.link))
            note = ""
        else:
            message = self.writer.write(batch.posts, _MOST_BYTES)
            note = message.note
            body = as_json(own(batch, message.title, message.body, now))
        headers, secrets = opened(config.headers)
        url = plain(config.url)
        if not isinstance(config.url, str):
            secrets += of_url(url)
        if config.secret:
            secret = read(config.secret)
            secrets += (secret,)
            headers |= signature(secret, delivery_id(batch), now, body)
        else:
            headers |= {"webhook-id": delivery_id(batch), "webhook-timestamp": str(int(now.timestamp()))}
        return Letter(url=url, body=body, headers=headers, secrets=secrets, note=note)

    def judge(self, reply: Reply) -> Outcome:
        """Any 2xx is a yes."""
        return by_status(reply) or SENT


def delivery_id(batch: Batch) -> str:
    """Name a message by what is in it: tried again, it has the same name."""
    whole = "\n".join(sorted(post.id for post in batch.posts))
    return f"msg_{hashlib.sha256(whole.encode()).hexdigest()[:24]}"


def signature(secret: str, name: str, now: datetime, body: bytes) -> dict[str, str]:
    """Sign as Standard Webhooks does: ``HMAC-SHA256(key, id.timestamp.body)``, base64, behind ``v1,``.

    Args:
        secret: ``whsec_`` and base64; any other text is the key itself.

    Raises:
        ConfigError: What stands behind ``whsec_`` is no base64.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    seconds = str(int(now.timestamp()))
    try:
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error as error:
        raise ConfigError("alerts: a secret that begins with whsec_ goes on in base64. Make it anew.") from error
    signed = hmac_base64(key, f"{name}.{seconds}.".encode() + body)
    return {"webhook-id": name, "webhook-timestamp": seconds, "webhook-signature": f"v1,{signed}"}


def own(batch: Batch, title: str, text: str, now: datetime) -> dict[str, Any]:
    """Write our own shape (``diagnose.alert/1``): keys are added, never renamed or taken away."""
    events = [
        {"id": post.id, "kind": post.kind, "status": "resolved" if post.facts.over else "firing", **_plain(post.facts)}
        for post in batch.posts
        if post.facts is not None
    ]
    newest = {event["key"]: event["status"] for event in events}
    return {
        "schema": SCHEMA,
        "sent_at": moment(now),
        "status": "firing" if "firing" in newest.values() else "resolved",
        "group": batch.posts[0].group if not batch.merged else "merged",
        "title": title,
        "text": text,
        "alerts": events,
    }


def _plain(facts: Facts) -> dict[str, Any]:
    return {
        "key": facts.key,
        "incident": facts.incident,
        "host": facts.host,
        "target": facts.target,
        "cause": facts.cause,
        "severity": facts.severity.value,
        "state": facts.face.value,
        "practice": facts.practice,
        "started_at": moment(facts.started),
        "ended_at": moment(facts.ended) if facts.ended else None,
        "title": facts.title,
        "why": facts.why,
        "evidence": {"source": facts.place, "text": facts.proof},
        "consequences": list(facts.echoes),
        "done": list(facts.done),
        "asked": facts.asked,
        "command": facts.command,
        "acknowledged_by": facts.acked,
        "link": facts.link,
        "labels": dict(facts.labels),
    }


def v4(batch: Batch, *, receiver: str, link: str) -> dict[str, Any]:
    """Write the body of Alertmanager's webhook, version 4."""
    alerts: dict[str, dict[str, Any]] = {}
    for post in batch.posts:
        if post.facts is None:
            continue
        if post.facts.before:  # known by other labels: those end here
            gone = alert(post.facts, labels=post.facts.before, ended=post.at, link=link)
            alerts[gone["fingerprint"]] = gone
        told = alert(post.facts, labels=post.facts.labels, ended=post.facts.ended, link=link)
        alerts[told["fingerprint"]] = told
    newest = {post.group: post.others for post in batch.posts}  # of each group the last word
    fires = any(one["status"] == "firing" for one in alerts.values()) or any(newest.values())
    every = list(alerts.values())
    group = {} if batch.merged else _common(every, "labels", only={"alertname", "target", "host"})
    return {
        "version": "4",
        "groupKey": f"{{}}/{receiver}:{'merged' if batch.merged else batch.posts[0].group}",
        "truncatedAlerts": 0,
        "status": "firing" if fires else "resolved",
        "receiver": receiver,
        "groupLabels": group,
        "commonLabels": _common(every, "labels"),
        "commonAnnotations": _common(every, "annotations"),
        "externalURL": link,
        "alerts": every,
    }


def alert(facts: Facts, *, labels: Mapping[str, str], ended: datetime | None, link: str) -> dict[str, Any]:
    """Write one alert of version 4."""
    return {
        "status": "resolved" if ended else "firing",
        "labels": dict(labels),
        "annotations": annotations_of(facts),
        "startsAt": moment(facts.started),
        "endsAt": moment(ended) if ended else NO_TIME,
        "generatorURL": facts.link or link,
        "fingerprint": fingerprint(labels),
    }


def annotations_of(facts: Facts) -> dict[str, str]:
    """Write what is said of an incident, but for what sorts it; empty ones are left out."""
    told = {
        "summary": f"{facts.host}/{facts.target}: {facts.title}",
        "description": facts.why,
        "proof": f"{facts.place} {facts.proof}".strip(),
        "done": "; ".join(facts.done),
        "asked": facts.asked,
        "command": facts.command,
        "key": facts.key,
        "state": facts.face.value,
        "acknowledged_by": facts.acked,
    }
    return {name: text for name, text in told.items() if text}


def fingerprint(labels: Mapping[str, str]) -> str:
    """Hash a label set to 16 hex digits."""
    return hashlib.sha256(json.dumps(sorted(labels.items())).encode()).hexdigest()[:16]


def _common(alerts: Sequence[Mapping[str, Any]], field: str, only: set[str] | None = None) -> dict[str, str]:
    if not alerts:
        return {}
    first: Mapping[str, str] = alerts[0][field]
    return {
        name: value
        for name, value in first.items()
        if (only is None or name in only) and all(one[field].get(name) == value for one in alerts)
    }


def moment(at: datetime) -> str:
    """Spell a time as RFC 3339 asks, in UTC, to the millisecond."""
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
