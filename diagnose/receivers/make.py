"""From the configuration to senders; what cannot be used is said at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diagnose.errors import ConfigError
from diagnose.notices import config as kinds
from diagnose.notices import markup
from diagnose.notices.config import Alerts, Receiver, Secret
from diagnose.notices.markup import Markup
from diagnose.notices.message import Writer
from diagnose.receivers.alertmanager import AlertmanagerSender
from diagnose.receivers.bridge import AppriseSender
from diagnose.receivers.dingtalk import DingTalkSender
from diagnose.receivers.feishu import FeishuSender
from diagnose.receivers.infoflow import InfoFlowSender
from diagnose.receivers.letter import Sender
from diagnose.receivers.mail import MailSender
from diagnose.receivers.pagerduty import PagerDutySender
from diagnose.receivers.secrets import read
from diagnose.receivers.slack import SlackSender
from diagnose.receivers.webhook import WebhookSender
from diagnose.receivers.wecom import WeComSender

Blocking = MailSender | AppriseSender

_KINDS: Mapping[type[Receiver], tuple[Callable[[Any, Writer], Sender | Blocking], Markup]] = {
    kinds.Slack: (SlackSender, markup.SLACK),
    kinds.Feishu: (FeishuSender, markup.FEISHU),
    kinds.DingTalk: (DingTalkSender, markup.DINGTALK),
    kinds.WeCom: (WeComSender, markup.WECOM),
    kinds.InfoFlow: (InfoFlowSender, markup.INFOFLOW),
    kinds.PagerDuty: (PagerDutySender, markup.PLAIN),
    kinds.Email: (MailSender, markup.PLAIN),
    kinds.Apprise: (AppriseSender, markup.PLAIN),
}


def senders(alerts: Alerts) -> dict[str, Sender | Blocking]:
    """Make the senders of all receivers, by name.

    Raises:
        ConfigError: A template or a secret cannot be read, or a package is missing.
    """
    return {one.name: sender(one, alerts) for one in alerts.receivers}


def sender(config: Receiver, alerts: Alerts) -> Sender | Blocking:
    """Make the sender of one receiver.

    Raises:
        ConfigError: Its template or a secret cannot be read, or a package is missing.
    """
    for secret in secrets_of(config):
        read(secret)  # it is there; its value is not kept
    if isinstance(config, kinds.Alertmanager):
        return AlertmanagerSender(config, link=alerts.link)
    if isinstance(config, kinds.Webhook):
        return WebhookSender(config, _writer(config, alerts, markup.PLAIN), link=alerts.link)
    made, style = _KINDS[type(config)]
    return made(config, _writer(config, alerts, style))


def secrets_of(config: Receiver) -> Iterator[Secret]:
    """Yield where the secrets of a receiver are kept."""
    for name in config.__struct_fields__:
        value = getattr(config, name)
        for one in (value, *(value.values() if isinstance(value, dict) else ())):
            if isinstance(one, Secret):
                yield one


def _writer(config: Receiver, alerts: Alerts, style: Markup) -> Writer:
    own = ""
    if config.template:
        try:
            own = Path(config.template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            told = error.strerror if isinstance(error, OSError) else "no text"
            raise ConfigError(f"alerts: {config.template}: {told}. Name a readable template, or none.") from error
    return Writer(style, config.lang or alerts.lang, alerts.zone, own=own, name=config.template)
