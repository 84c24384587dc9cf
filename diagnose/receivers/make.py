"""From the configuration to senders; what cannot be used is said at once."""

from __future__ import annotations

from pathlib import Path

from diagnose.errors import ConfigError
from diagnose.model.text import Lang
from diagnose.notices import config as kinds
from diagnose.notices import markup
from diagnose.notices.config import Alerts, Receiver, Secret
from diagnose.notices.message import Writer
from diagnose.receivers import bridge
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


def sender(config: Receiver, alerts: Alerts) -> Sender | Blocking:
    """Make the sender of one receiver.

    Raises:
        ConfigError: Its template or a secret cannot be read, or a package is missing.
    """
    check(config)
    lang = config.lang or alerts.lang
    if isinstance(config, kinds.Alertmanager):
        return AlertmanagerSender(config, link=alerts.link)
    if isinstance(config, kinds.Webhook):
        return WebhookSender(config, _writer(config, alerts, lang, markup.PLAIN), link=alerts.link)
    if isinstance(config, kinds.Slack):
        return SlackSender(config, _writer(config, alerts, lang, markup.SLACK))
    if isinstance(config, kinds.Feishu):
        return FeishuSender(config, _writer(config, alerts, lang, markup.FEISHU))
    if isinstance(config, kinds.DingTalk):
        return DingTalkSender(config, _writer(config, alerts, lang, markup.DINGTALK))
    if isinstance(config, kinds.WeCom):
        return WeComSender(config, _writer(config, alerts, lang, markup.WECOM))
    if isinstance(config, kinds.InfoFlow):
        return InfoFlowSender(config, _writer(config, alerts, lang, markup.INFOFLOW))
    if isinstance(config, kinds.PagerDuty):
        return PagerDutySender(config, _writer(config, alerts, lang, markup.PLAIN))
    if isinstance(config, kinds.Email):
        return MailSender(config, _writer(config, alerts, lang, markup.PLAIN))
    bridge.library()
    return AppriseSender(config, _writer(config, alerts, lang, markup.PLAIN))


def check(config: Receiver) -> None:
    """See that all secrets of a receiver are there; their values are not kept.

    Raises:
        ConfigError: One is not.
    """
    for name in config.__struct_fields__:
        value = getattr(config, name)
        for one in (value, *(value.values() if isinstance(value, dict) else ())):
            if isinstance(one, Secret):
                read(one)


def _writer(config: Receiver, alerts: Alerts, lang: Lang, style: markup.Markup) -> Writer:
    own = ""
    if config.template:
        try:
            own = Path(config.template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"alerts: {config.template}: {error}. Name a readable template, or none.") from error
    return Writer(style, lang, alerts.zone, own=own, name=config.template)
