"""The ``alerts:`` part of the configuration: receivers, routes, windows of silence, patience."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone, tzinfo
from typing import ClassVar, Literal

import msgspec

from diagnose.model.causes import CAUSES
from diagnose.model.hours import Hours
from diagnose.model.rule import Severity
from diagnose.model.text import Duration, Lang

_NAME = re.compile(r"[\w.-]+")


class Secret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a secret is kept: in a file of its own, or in a variable of the daemon's environment. Never here.

    Attributes:
        file: Its first line is the secret.
        env: The variable's name.
    """

    file: str = ""
    env: str = ""

    def __post_init__(self) -> None:
        if bool(self.file) == bool(self.env):
            raise ValueError("a secret is read from a file or a variable: write {file: PATH} or {env: NAME}")


class _Receiver(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all receivers have.

    Attributes:
        name: As routes and ``diagnose status`` call it.
        lang: ``en`` or ``zh``; that of ``alerts`` where it is empty.
        template: A Jinja2 file that replaces the shipped text.
        per_minute: Messages a minute at most; what is more is merged, never dropped. The vendor's limit where 0.
        timeout: For one message.
        resolved: Whether it is told of the end, too.
        group_interval, repeat_interval: Replace those of ``alerts``.
    """

    name: str
    lang: Lang | Literal[""] = ""
    template: str = ""
    per_minute: int = 0
    timeout: Duration = Duration(seconds=10)
    resolved: bool = True
    group_interval: Duration | None = None
    repeat_interval: Duration | None = None

    most_per_minute: ClassVar[int] = 120
    most_per_second: ClassVar[int] = 20
    vendors_limit: ClassVar[bool] = True
    """The vendor punishes who sends more: a site can lower it, never raise it."""
    keyed: ClassVar[bool] = False
    """Each incident is told by itself, under its own key, in order."""

    @property
    def limit(self) -> int:
        """Messages a minute that are allowed."""
        if not self.per_minute:
            return self.most_per_minute
        return min(self.per_minute, self.most_per_minute) if self.vendors_limit else self.per_minute

    @property
    def limit_of_a_second(self) -> int:
        """Messages a second that are allowed."""
        return self.most_per_second if self.vendors_limit else max(self.most_per_second, self.limit // 60)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.per_minute < 0:
            raise ValueError("a receiver has a name of letters, digits, - and _, and per_minute is 0 or more")


class Webhook(_Receiver, frozen=True, kw_only=True, tag="webhook"):
    """Any program that takes JSON over HTTP.

    Attributes:
        format: ``diagnose`` (docs/alerts.md) or ``alertmanager`` (its webhook, version 4).
        secret: Signs each message as Standard Webhooks does (``webhook-id``, ``-timestamp``, ``-signature``).
        headers: Sent along; values that are secret are read from where they are kept.
    """

    url: str | Secret
    format: Literal["diagnose", "alertmanager"] = "diagnose"
    secret: Secret | None = None
    headers: Mapping[str, str | Secret] = {}

    most_per_minute: ClassVar[int] = 600
    vendors_limit: ClassVar[bool] = False


class Alertmanager(_Receiver, frozen=True, kw_only=True, tag="alertmanager"):
    """A Prometheus Alertmanager, told as Prometheus tells it: what fires is sent again and again.

    Attributes:
        url: Where it is, as ``http://alertmanager:9093``; ``/api/v2/alerts`` is put behind it.
        resend_every: Must be shorter than its ``resolve_timeout``.
        headers: For a proxy in front of it.
    """

    url: str | Secret
    resend_every: Duration = Duration(minutes=1)
    headers: Mapping[str, str | Secret] = {}

    most_per_minute: ClassVar[int] = 600
    vendors_limit: ClassVar[bool] = False


class Slack(_Receiver, frozen=True, kw_only=True, tag="slack"):
    """A Slack incoming webhook; its URL is a secret."""

    url: Secret

    most_per_minute: ClassVar[int] = 40
    most_per_second: ClassVar[int] = 1


class Feishu(_Receiver, frozen=True, kw_only=True, tag="feishu"):
    """A custom bot of Feishu or Lark; its URL is a secret.

    Attributes:
        secret: Where the bot asks for signatures.
        keyword: Where the bot asks for one: stands in each message.
        mention_all: Call everybody for what is critical and fires.
    """

    url: Secret
    secret: Secret | None = None
    keyword: str = ""
    mention_all: bool = False

    most_per_minute: ClassVar[int] = 90
    most_per_second: ClassVar[int] = 4


class DingTalk(_Receiver, frozen=True, kw_only=True, tag="dingtalk"):
    """A custom robot of DingTalk; its URL is a secret. More than 20 messages a minute mute it for ten.

    Attributes:
        mobiles: Called for what is critical and fires.
    """

    url: Secret
    secret: Secret | None = None
    keyword: str = ""
    mobiles: tuple[str, ...] = ()

    most_per_minute: ClassVar[int] = 18
    most_per_second: ClassVar[int] = 2


class WeCom(_Receiver, frozen=True, kw_only=True, tag="wecom"):
    """A group bot of WeCom; its URL is a secret.

    Attributes:
        mentions: User ids that are called for what is critical and fires.
    """

    url: Secret
    mentions: tuple[str, ...] = ()

    most_per_minute: ClassVar[int] = 18
    most_per_second: ClassVar[int] = 2


class PagerDuty(_Receiver, frozen=True, kw_only=True, tag="pagerduty"):
    """A service of PagerDuty (Events API v2).

    Attributes:
        routing_key: Of the service's integration.
        url: ``https://events.eu.pagerduty.com`` for accounts in the EU.
        changes: Tell each remedy as a change event, which pages nobody.
    """

    routing_key: Secret
    url: str = "https://events.pagerduty.com"
    changes: bool = True

    keyed: ClassVar[bool] = True
    vendors_limit: ClassVar[bool] = False


class InfoFlow(_Receiver, frozen=True, kw_only=True, tag="infoflow"):
    """A group robot of Baidu InfoFlow (Ruliu); its URL is a secret.

    Attributes:
        groups: Ids of the groups.
    """

    url: Secret
    groups: tuple[int, ...] = ()

    most_per_minute: ClassVar[int] = 18
    most_per_second: ClassVar[int] = 2


class Email(_Receiver, frozen=True, kw_only=True, tag="email"):
    """Mail through an SMTP server.

    Attributes:
        tls: ``starttls``, ``tls`` (from the first byte) or ``none``.
        ca_file: Certificates (PEM) of authorities that are trusted beside the host's own, as of a company's server.
    """

    server: str
    sender: str
    to: tuple[str, ...]
    port: int = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: str = ""
    user: str = ""
    password: Secret | None = None

    most_per_minute: ClassVar[int] = 20
    most_per_second: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.to:
            raise ValueError("mail needs somebody to go to")


class Apprise(_Receiver, frozen=True, kw_only=True, tag="apprise"):
    """Any service that apprise knows (``pip install 'fastdeploy-diagnose[apprise]'``); its URL is a secret."""

    url: Secret

    most_per_minute: ClassVar[int] = 18
    most_per_second: ClassVar[int] = 1


Receiver = (
    Webhook | Alertmanager | Slack | Feishu | DingTalk | WeCom | PagerDuty | InfoFlow | Email | Apprise
)  # each is decided by its ``kind``


class Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which incidents; what is empty asks for nothing.

    Attributes:
        severity: This one and graver ones.
    """

    causes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    severity: Severity | None = None

    def __post_init__(self) -> None:
        _known(self.causes)

    def fits(self, *, cause: str, target: str, severity: Severity) -> bool:
        """Say whether an incident is one of these."""
        return (
            (not self.causes or cause in self.causes)
            and (not self.targets or target in self.targets)
            and (self.severity is None or severity.rank >= self.severity.rank)
        )


class Route(Match, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told of these incidents. The first route that fits counts, unless it says ``go_on``.

    Attributes:
        hours: Only then.
        to: Names of receivers; empty: nobody is told.
    """

    hours: Hours | None = None
    to: tuple[str, ...] = ()
    go_on: bool = False


class Maintenance(Match, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When nobody is told of these incidents: each day at some hours, or once.

    Attributes:
        since, until: Once, as ``"2026-03-01T22:00:00+08:00"``, with the quotes, or YAML makes no text of it.
    """

    name: str
    hours: Hours | None = None
    since: str = ""
    until: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.since) != bool(self.until) or bool(self.since) == bool(self.hours):
            raise ValueError(f"the maintenance {self.name!r} has either hours, or since and until")
        if self.since and _moment(self.since) >= _moment(self.until):
            raise ValueError(f"the maintenance {self.name!r} ends before it begins")

    def holds(self, now: datetime, zone: tzinfo) -> bool:
        """Say whether it is on."""
        if self.hours:
            return self.hours.hold(now.astimezone(zone))
        return _moment(self.since) <= now < _moment(self.until)


class Inhibit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """While one of ``by`` is open, those of ``quiet`` are not told: what rules explain needs no such line.

    Attributes:
        same: ``target``: only of the same server; ``host``: of all servers here.
    """

    by: tuple[str, ...]
    quiet: tuple[str, ...]
    same: Literal["target", "host"] = "target"

    def __post_init__(self) -> None:
        _known((*self.by, *self.quiet))


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pause after a failure, doubled with each, with jitter; a receiver's own ``Retry-After`` counts."""

    first: Duration = Duration(seconds=1)
    most: Duration = Duration(minutes=5)


class Alerts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it.

    Attributes:
        host: How messages call this machine; its own name where empty.
        link: Where people can look, for links in messages.
        timezone: Of all hours here, and of times in messages.
        severity: The least that is told.
        group_by: What is told in one message: ``target``, ``cause``, ``severity``.
        group_wait: From the first sign to the first notice, so that the root cause is known.
        group_interval: Between two notices of one group.
        repeat_interval: After so long without change what still fires, and nobody acknowledged, is told again.
        give_up_after: A message that could not be sent for so long is put aside (``diagnose alerts resend``).
        keep: How long messages that were sent are kept for ``diagnose alerts``.
    """

    receivers: tuple[Receiver, ...] = ()
    routes: tuple[Route, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    inhibit: tuple[Inhibit, ...] = ()
    host: str = ""
    link: str = ""
    lang: Lang = "en"
    timezone: str = "UTC"
    severity: Severity = Severity.WARNING
    group_by: tuple[Literal["target", "cause", "severity"], ...] = ("target", "cause")
    group_wait: Duration = Duration(seconds=4)
    group_interval: Duration = Duration(seconds=30)
    repeat_interval: Duration = Duration(hours=4)
    give_up_after: Duration = Duration(hours=24)
    retry: Retry = Retry()
    keep: Duration = Duration(days=7)

    def __post_init__(self) -> None:
        names = [one.name for one in self.receivers]
        if len(set(names)) != len(names):
            raise ValueError("two receivers have the same name; give each its own")
        for number, route in enumerate(self.routes):
            if strange := [name for name in route.to if name not in names]:
                raise ValueError(
                    f"routes[{number}].to: {strange[0]!r} is no receiver; write one of: {', '.join(names) or 'none'}"
                )
        try:
            _ = self.zone
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"no time zone {self.timezone!r}; write it like Asia/Shanghai or UTC") from error

    @property
    def zone(self) -> tzinfo:
        """The zone as one to reckon with."""
        if self.timezone == "UTC":  # many images have no tzdata
            return timezone.utc
        from zoneinfo import ZoneInfo  # noqa: PLC0415 - looks for its files when it is loaded

        return ZoneInfo(self.timezone)


def _known(causes: Iterable[str]) -> None:
    if strange := [cause for cause in causes if cause not in CAUSES]:
        raise ValueError(f"no cause {strange[0]!r}; diagnose rules list names them")


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time; write it like 2026-03-01T22:00:00+08:00") from error
    if found.tzinfo is None:
        raise ValueError(f"{text!r} names no zone; write it like 2026-03-01T22:00:00+08:00")
    return found
