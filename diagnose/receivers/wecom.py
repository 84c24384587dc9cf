"""A group bot of WeCom. It takes a message by ``errcode`` 0; refusals come with HTTP 200, too."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from diagnose.model.rule import Severity
from diagnose.notices.config import WeCom
from diagnose.notices.cut import cut, size
from diagnose.notices.markup import WECOM
from diagnose.notices.message import Message, Writer
from diagnose.notices.pack import Batch
from diagnose.receivers.letter import Letter, as_json
from diagnose.receivers.outcome import Outcome, Reply, by_code
from diagnose.receivers.secrets import of_url, read

MOST_BYTES = 4096
_MOST_TITLE_BYTES = 300
_CODES = {
    -1: Outcome(kind="later", error="busy"),
    45009: Outcome(kind="later", error="too fast", wait=timedelta(minutes=1)),
    45033: Outcome(kind="later", error="too many at once", wait=timedelta(seconds=10)),
    93000: Outcome(kind="barred", error="no such bot; see its key"),
    40058: Outcome(kind="refused", error="bad argument"),
}


class WeComSender:
    """Writes Markdown of at most 4,096 bytes."""

    def __init__(self, config: WeCom, writer: Writer) -> None:
        self.config, self.writer = config, writer

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the message: title and calls first, the body fits what is left."""
        del now
        calls = "".join(f"\n<@{name}>" for name in self.config.mentions)
        message = self.writer.write(batch.posts, MOST_BYTES - 2 * _MOST_TITLE_BYTES - size(calls))
        url = read(self.config.url)
        return Letter(url=url, body=as_json(body(message, self.config)), secrets=of_url(url), note=message.note)

    def judge(self, reply: Reply) -> Outcome:
        """``errcode`` 0, and nothing else."""
        return by_code(reply, "errcode", _CODES)


def body(message: Message, config: WeCom) -> dict[str, Any]:
    """Write the body; colours are ``info`` (green), ``warning`` (orange) and ``comment`` (grey)."""
    colour = "info" if message.over else "comment" if message.severity is Severity.INFO else "warning"
    title = cut(WECOM.escape(message.title), _MOST_TITLE_BYTES)
    calls = "".join(f"\n<@{name}>" for name in config.mentions) if message.calls else ""
    whole = f'<font color="{colour}">{title}</font>\n{message.body}'
    return {"msgtype": "markdown", "markdown": {"content": cut(whole, MOST_BYTES - size(calls)) + calls}}
