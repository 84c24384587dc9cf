"""Slack's incoming webhook. It takes a message by answering 200 and ``ok``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from diagnose.model.rule import Severity
from diagnose.notices.config import Slack
from diagnose.notices.cut import cut_chars
from diagnose.notices.markup import SLACK
from diagnose.notices.message import Message, Writer
from diagnose.notices.pack import Batch
from diagnose.receivers.letter import Letter, as_json
from diagnose.receivers.outcome import SENT, Outcome, Reply, by_status
from diagnose.receivers.secrets import of_url, read

MOST_SECTION_CHARS, MOST_HEADER_CHARS, MOST_TEXT_CHARS = 3000, 150, 4000
_COLOURS = {Severity.CRITICAL: "#d00000", Severity.ERROR: "#e8590c", Severity.WARNING: "#f2c744"}
_GREEN, _GREY = "#2eb67d", "#9aa0a6"
_FINAL = frozenset(range(400, 500)) - {408, 425, 429}


class SlackSender:
    """Writes blocks; every piece of log text is escaped, so that no line calls a channel."""

    def __init__(self, config: Slack, writer: Writer) -> None:
        self.config, self.writer = config, writer

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the message."""
        del now
        message = self.writer.write(batch.posts, MOST_SECTION_CHARS)
        url = read(self.config.url)
        return Letter(url=url, body=as_json(body(message)), secrets=of_url(url), note=message.note)

    def judge(self, reply: Reply) -> Outcome:
        """200 and ``ok``; every 4xx but 429 is final."""
        if (failed := by_status(reply, final=_FINAL)) is not None:
            return failed
        said = reply.text
        return SENT if reply.status == 200 and said == "ok" else Outcome(kind="strange", error=f"not ok: {said}")


def body(message: Message) -> dict[str, Any]:
    """Write the body: the text is what notifications show."""
    section = {"type": "section", "text": {"type": "mrkdwn", "text": cut_chars(message.body, MOST_SECTION_CHARS)}}
    title = cut_chars(message.title, MOST_HEADER_CHARS)
    colour = _GREEN if message.over else _COLOURS.get(message.severity, _GREY)
    return {
        "text": cut_chars(str(SLACK.escape(message.title)), MOST_TEXT_CHARS),
        "blocks": [{"type": "header", "text": {"type": "plain_text", "text": title, "emoji": False}}],
        "attachments": [{"color": colour, "blocks": [section]}],
    }
