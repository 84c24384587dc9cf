"""PagerDuty's Events API v2: trigger, acknowledge and resolve under one key; remedies as change events."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from diagnose.model.rule import Severity
from diagnose.notices.config import PagerDuty
from diagnose.notices.cut import cut_chars
from diagnose.notices.facts import Change, Facts
from diagnose.notices.message import Writer
from diagnose.notices.pack import Batch
from diagnose.receivers.letter import Letter, as_json
from diagnose.receivers.outcome import SENT, Outcome, Reply, by_status
from diagnose.receivers.secrets import read
from diagnose.receivers.webhook import moment

MOST_BYTES, MOST_SUMMARY_CHARS, MOST_KEY_CHARS = 512_000, 1024, 255
_SEVERITIES = {Severity.CRITICAL: "critical", Severity.ERROR: "error", Severity.WARNING: "warning"}
_ACTIONS = {"fire": "trigger", "again": "trigger", "ack": "acknowledge", "end": "resolve"}


class PagerDutySender:
    """Writes events, one incident each."""

    def __init__(self, config: PagerDuty, writer: Writer) -> None:
        self.config, self.writer = config, writer

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the event of the newest post."""
        del now
        post, key = batch.posts[-1], read(self.config.routing_key)
        base = self.config.url.rstrip("/")
        if post.change is not None:
            return Letter(url=f"{base}/v2/change/enqueue", body=as_json(changed(post.change, key)), secrets=(key,))
        message = self.writer.write([post], 8_000)
        event = {"routing_key": key, "event_action": _ACTIONS[post.kind], "dedup_key": dedup_key(post.key)}
        if event["event_action"] == "trigger" and post.facts is not None:
            event |= trigger(post.facts, message.title, message.body)
        return Letter(url=f"{base}/v2/enqueue", body=fitted(event), secrets=(key,), note=message.note)

    def judge(self, reply: Reply) -> Outcome:
        """202 and ``success``; 400 is final."""
        if (failed := by_status(reply)) is not None:
            return failed
        if reply.status == 202 and reply.json().get("status") == "success":
            return SENT
        return Outcome(kind="strange", error=f"HTTP {reply.status}: {reply.text}")


def dedup_key(key: str) -> str:
    """Return the key, as long as may be: the end tells incidents apart."""
    return key[-MOST_KEY_CHARS:]


def trigger(facts: Facts, title: str, text: str) -> dict[str, Any]:
    """Write what a trigger needs beside the key."""
    links = [{"href": facts.link, "text": facts.incident}] if facts.link else []
    return {
        "payload": {
            "summary": cut_chars(title, MOST_SUMMARY_CHARS),
            "source": facts.host,
            "severity": _SEVERITIES.get(facts.severity, "info"),
            "timestamp": moment(facts.started),
            "component": facts.target,
            "group": "fastdeploy",
            "class": facts.cause,
            "custom_details": {
                "text": text,
                "why": facts.why,
                "proof": f"{facts.place} {facts.proof}".strip(),
                "done": list(facts.done),
                "asked": facts.asked,
                "command": facts.command,
                "incident": facts.incident,
                "practice": facts.practice,
            },
        },
        "links": links,
        "client": "diagnose",
        **({"client_url": facts.link} if facts.link else {}),
    }


def changed(change: Change, key: str) -> dict[str, Any]:
    """Write a change event: shown beside the incident, pages nobody."""
    what = ", ".join(change.changes) or change.title
    return {
        "routing_key": key,
        "payload": {
            "summary": cut_chars(f"{change.host}/{change.target}: {what}", MOST_SUMMARY_CHARS),
            "timestamp": moment(change.at),
            "source": change.host,
            "custom_details": {"remedy": change.title, "changes": list(change.changes), "incident": change.incident},
        },
    }


def fitted(event: dict[str, Any]) -> bytes:
    """Spell an event; above the limit its details go first."""
    body = as_json(event)
    if len(body) <= MOST_BYTES:
        return body
    payload = {**event["payload"], "custom_details": {"error": "left out: too large"}}
    return as_json({**event, "payload": payload})
