"""How each kind of receiver writes bold, code and links, and how text of logs is kept from being any of these."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

_ZERO = "\u200b"


class Marked(str):
    """Text in a receiver's own markup: not to be escaped again."""

    __slots__ = ()


class Markup(msgspec.Struct, frozen=True, kw_only=True):
    """One way of writing.

    Attributes:
        escapes: What each special character is written as.
        bold_, code_, quote_, link_: With ``{}`` for the text (and ``{url}``).
        no_links: There is no escape for links: something that nobody sees is put into them.
        raw_code: Within code nothing but ``&``, ``<`` and ``>`` is to be escaped.
    """

    escapes: Mapping[str, str] = MappingProxyType({})
    bold_: str = "{}"
    code_: str = "{}"
    quote_: str = "{}"
    link_: str = "{}: {url}"
    no_links: bool = False
    raw_code: bool = False

    def escape(self, value: object) -> Marked:
        """Write text so that it is shown as it is, whatever it holds."""
        if isinstance(value, Marked):
            return value
        text = "".join(self.escapes.get(char, char) for char in str(value))
        return Marked(self._unlinked(text))

    def _unlinked(self, text: str) -> str:
        return text.replace("](", f"]{_ZERO}(") if self.no_links else text

    def bold(self, value: object) -> Marked:
        """Write it bold."""
        return Marked(self.bold_.replace("{}", self.escape(value)))

    def code(self, value: object) -> Marked:
        """Write it as code: a command, a line of a log."""
        if self.code_ == "{}":
            return self.escape(value)
        text = re.sub(r"\s+", " ", str(value).replace("`", "'")).strip()
        if self.raw_code:
            text = "".join(self.escapes.get(char, char) if char in "&<>" else char for char in text)
            return Marked(self.code_.replace("{}", self._unlinked(text)))
        return Marked(self.code_.replace("{}", self.escape(text)))

    def quote(self, value: object) -> Marked:
        """Write it as a quotation of one line."""
        return Marked(self.quote_.replace("{}", self.escape(value)))

    def link(self, value: object, url: str) -> Marked:
        """Write a link."""
        safe = re.sub(r"[\s()<>\"'|\\]", "", url)
        return Marked(self.link_.replace("{url}", safe).replace("{}", self.escape(value)))


_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

PLAIN = Markup()
"""Mail, and all that shows text as it is."""

SLACK = Markup(escapes=_HTML, bold_="*{}*", code_="`{}`", quote_="> {}", link_="<{url}|{}>", raw_code=True)
"""mrkdwn: ``&``, ``<`` and ``>`` are all that is to be escaped, or a log line could call the whole channel."""

FEISHU = Markup(
    escapes={**_HTML, **{char: f"&#{ord(char)};" for char in "*_~[]()#`!\\"}},
    bold_="**{}**",
    link_="[{}]({url})",
)
"""lark_md: special characters are written as entities."""

DINGTALK = Markup(
    escapes={char: f"\\{char}" for char in "\\`*_[]()!#><~|"}, bold_="**{}**", quote_="> {}", link_="[{}]({url})"
)
"""A subset of Markdown without code."""

WECOM = Markup(
    escapes=_HTML, bold_="**{}**", code_="`{}`", quote_="> {}", link_="[{}]({url})", no_links=True, raw_code=True
)
"""A subset of Markdown; ``<@user>`` would call somebody."""

INFOFLOW = DINGTALK
"""Markdown; of its code nothing is known."""
