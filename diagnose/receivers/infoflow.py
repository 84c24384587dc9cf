"""A group robot of Baidu InfoFlow (Ruliu)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from diagnose.notices.config import InfoFlow
from diagnose.notices.cut import cut
from diagnose.notices.markup import INFOFLOW
from diagnose.notices.message import Message, Writer
from diagnose.notices.pack import Batch
from diagnose.receivers.letter import Letter, as_json
from diagnose.receivers.outcome import Outcome, Reply, by_code
from diagnose.receivers.secrets import of_url, read

_MOST_TEXT_BYTES, _MOST_TITLE_BYTES = 2048, 300


class InfoFlowSender:
    """Writes Markdown."""

    def __init__(self, config: InfoFlow, writer: Writer) -> None:
        self.config, self.writer = config, writer

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the message."""
        del now
        message = self.writer.write(batch.posts, _MOST_TEXT_BYTES - _MOST_TITLE_BYTES)
        url = read(self.config.url)
        return Letter(url=url, body=as_json(body(message, self.config)), secrets=of_url(url), note=message.note)

    def judge(self, reply: Reply) -> Outcome:
        """``errcode`` 0, and nothing else."""
        return by_code(reply, "errcode", {})


def body(message: Message, config: InfoFlow) -> dict[str, Any]:
    """Write the body."""
    title = cut(INFOFLOW.escape(message.title), _MOST_TITLE_BYTES)
    text = f"#### {title}\n{message.body}"
    header = {"header": {"toid": list(config.groups)}} if config.groups else {}
    return {"message": {**header, "body": [{"type": "MD", "content": text}]}}
