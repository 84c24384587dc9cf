"""A custom bot of Feishu or Lark. It takes a message by ``code`` 0; refusals come with HTTP 200, too."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from diagnose.model.rule import Severity
from diagnose.notices.config import Feishu
from diagnose.notices.cut import cut, size
from diagnose.notices.message import Message, Writer
from diagnose.notices.pack import Batch
from diagnose.receivers.letter import Letter, as_json, hmac_base64
from diagnose.receivers.outcome import Outcome, Reply, by_code
from diagnose.receivers.secrets import of_url, read

_MOST_TEXT_BYTES, _MOST_TITLE_BYTES = 12_000, 300
_COLOURS = {Severity.CRITICAL: "red", Severity.ERROR: "orange", Severity.WARNING: "yellow"}
_CODES = {
    11232: Outcome(kind="later", error="too fast", wait=timedelta(seconds=15)),
    19021: Outcome(kind="barred", error="the signature is wrong, or this machine's clock is more than an hour off"),
    19022: Outcome(kind="barred", error="this machine's address is not on the bot's list"),
    19024: Outcome(kind="barred", error="the bot asks for a keyword; set keyword: for this receiver"),
    9499: Outcome(kind="refused", error="malformed"),
}


class FeishuSender:
    """Writes cards."""

    def __init__(self, config: Feishu, writer: Writer) -> None:
        self.config, self.writer = config, writer

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the message; the signature stands in its body."""
        message = self.writer.write(batch.posts, _MOST_TEXT_BYTES)
        url = read(self.config.url)
        whole, secrets = body(message, self.config), of_url(url)
        if self.config.secret:
            secret = read(self.config.secret)
            seconds = int(now.timestamp())
            whole |= {"timestamp": str(seconds), "sign": sign(seconds, secret)}
            secrets += (secret,)
        return Letter(url=url, body=as_json(whole), secrets=secrets, note=message.note)

    def judge(self, reply: Reply) -> Outcome:
        """``code`` 0, and nothing else."""
        return by_code(reply, "code", _CODES)


def sign(seconds: int, secret: str) -> str:
    """Sign: time and secret are the key, the message is empty.

    >>> sign(1700000000, "demo-secret")
    'mYHw2R2SOm8Rw/sne3lQdmz4sOfntKR+1P/8RKKTwmA='
    """
    return hmac_base64(f"{seconds}\n{secret}".encode(), b"")


def body(message: Message, config: Feishu) -> dict[str, Any]:
    """Write a card of the first version, which all clients show."""
    title = f"{cut(message.title, _MOST_TITLE_BYTES - size(config.keyword))} {config.keyword}".rstrip()
    text = message.body + ("\n<at id=all></at>" if config.mention_all and message.calls else "")
    return {
        "msg_type": "interactive",
        "card": {
            "config": {"wide_screen_mode": True},
            "header": {
                "title": {"tag": "plain_text", "content": title},
                "template": "green" if message.over else _COLOURS.get(message.severity, "grey"),
            },
            "elements": [{"tag": "div", "text": {"tag": "lark_md", "content": text}}],
        },
    }
