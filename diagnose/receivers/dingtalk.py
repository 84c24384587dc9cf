"""A custom robot of DingTalk. It takes a message by ``errcode`` 0; refusals come with HTTP 200, too."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from diagnose.notices.config import DingTalk
from diagnose.notices.cut import cut, size
from diagnose.notices.markup import DINGTALK
from diagnose.notices.message import Message, Writer
from diagnose.notices.pack import Batch
from diagnose.receivers.letter import Letter, as_json, hmac_base64
from diagnose.receivers.outcome import Outcome, Reply, by_code
from diagnose.receivers.secrets import of_url, read

_MOST_TEXT_BYTES, _MOST_TITLE_BYTES = 12_000, 300
_CODES = {
    -1: Outcome(kind="later", error="busy"),
    130101: Outcome(kind="later", error="too fast: muted for ten minutes", wait=timedelta(minutes=10)),
    310000: Outcome(kind="barred", error="keyword, signature, clock or address; see the robot's security settings"),
    300001: Outcome(kind="barred", error="no such robot; see its access token"),
}


class DingTalkSender:
    """Writes Markdown."""

    def __init__(self, config: DingTalk, writer: Writer) -> None:
        self.config, self.writer = config, writer

    def compose(self, batch: Batch, now: datetime) -> Letter:
        """Write the message; the signature stands in the query."""
        message = self.writer.write(batch.posts, _MOST_TEXT_BYTES)
        url = read(self.config.url)
        secrets = of_url(url)
        if self.config.secret:
            secret = read(self.config.secret)
            millis = int(now.timestamp() * 1000)
            url += f"{'&' if '?' in url else '?'}timestamp={millis}&sign={quote(sign(millis, secret), safe='')}"
            secrets += (secret,)
        return Letter(url=url, body=as_json(body(message, self.config)), secrets=secrets, note=message.note)

    def judge(self, reply: Reply) -> Outcome:
        """``errcode`` 0, and nothing else."""
        return by_code(reply, "errcode", _CODES)


def sign(millis: int, secret: str) -> str:
    """Sign: the secret is the key, time and secret the message.

    >>> sign(1700000000001, "SECdemo")
    'PTs+dsurGspsy8LSQV/Ud2CTvBpozdeoue2U2fgKqxI='
    """
    return hmac_base64(secret.encode(), f"{millis}\n{secret}".encode())


def body(message: Message, config: DingTalk) -> dict[str, Any]:
    """Write the body: the title is what the list of chats shows."""
    title = f"{cut(message.title, _MOST_TITLE_BYTES - size(config.keyword))} {config.keyword}".rstrip()
    mobiles = config.mobiles if message.calls else ()
    lines = message.body.replace("\n", "  \n")  # a single line end is none to it
    called = "".join(f"\n\n@{mobile}" for mobile in mobiles)
    return {
        "msgtype": "markdown",
        "markdown": {
            "title": title,
            "text": f"#### {DINGTALK.escape(title)}\n{lines}{called}",
        },
        "at": {"atMobiles": list(mobiles), "atUserIds": [], "isAtAll": False},
    }
