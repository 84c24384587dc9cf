"""One turn of the alert path: what changed, what people asked, what time it is; out come posts.

It looks at what is, not at what happened: whoever was told something else than what is now, is told. So nothing
is lost by a restart, a changed configuration, or a silence that ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from diagnose.model.effect import Effect, Perform, SaveIncident
from diagnose.model.incident import Incident, Intent
from diagnose.model.knowledge import Knowledge
from diagnose.model.rule import Severity
from diagnose.notices import quiet
from diagnose.notices.book import RANK, Alert, Book, Face, Group, Told, alert_of, face_of
from diagnose.notices.config import Alertmanager, Alerts, PagerDuty, Receiver
from diagnose.notices.facts import Facts, change_of, facts_of
from diagnose.notices.post import Kind, Post

_LOOK_EVERY = timedelta(seconds=5)
_MOST_POSTS = 200
_FEW = 500
"""So many alerts are looked at whenever one changes; of more only those that changed, and all every few seconds."""
_FORGET_AFTER = timedelta(minutes=10)
_NEWS = frozenset({"fire", "end"})
_END_SAID_FOR = timedelta(minutes=5)
"""An Alertmanager that was restarted knows of no alert: it is told of an end for so long."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn needs to know beside the book.

    Attributes:
        host: How messages call this machine.
        find: Finds an incident by its id.
    """

    config: Alerts
    knowledge: Knowledge
    host: str
    find: Callable[[str], Incident | None]


def heard(book: Book, effects: Iterable[Effect], world: World, now: datetime) -> tuple[Book, tuple[Post, ...]]:
    """Take note of what changed; remedies that are news to somebody come back as posts."""
    alerts: dict[str, Alert] = {}
    posts: list[Post] = []
    for effect in effects:
        if isinstance(effect, SaveIncident):
            one = effect.incident
            taken = _taken(alerts.get(one.id) or book.alerts.get(one.id), one, world.host, now)
            if taken is not None:
                alerts[one.id] = taken
        elif isinstance(effect, Perform):
            posts += _changes(effect.intent, {**book.alerts, **alerts}, world, now)
    changed = {name: one for name, one in alerts.items() if book.alerts.get(name) != one}
    if not changed:
        return book, tuple(posts)
    alerts = {**book.alerts, **changed}
    scan = None if len(alerts) <= _FEW else book.scan
    dirty = book.dirty | changed.keys()
    return msgspec.structs.replace(book, alerts=alerts, look=now, scan=scan, dirty=dirty), tuple(posts)


def begun(book: Book, incidents: Iterable[Incident], world: World, now: datetime) -> Book:
    """Take up the book after a start of the daemon: what it missed is caught up with."""
    alerts = dict(book.alerts)
    there = {one.id: one for one in incidents}
    for one in there.values():
        taken = _taken(alerts.get(one.id), one, world.host, now)
        if taken is not None:
            alerts[one.id] = taken
    for name, alert in alerts.items():
        if name not in there and alert.practice is None and not alert.over:
            alerts[name] = msgspec.structs.replace(alert, face=Face.RESOLVED, changed=now)
    return book.changed(now, alerts=alerts)


def turn(book: Book, world: World, now: datetime) -> tuple[Book, tuple[Post, ...]]:
    """Say who is to be told what now."""
    if book.look is None or now < book.look:
        return book, ()
    return _Turn(book, world, now).result()


def _taken(alert: Alert | None, incident: Incident, host: str, now: datetime) -> Alert | None:
    face = face_of(incident)
    if alert is None:
        if face is Face.RESOLVED:
            return None
        return alert_of(incident, host, now)
    treated = bool(incident.tries)
    if (alert.face, alert.cause, alert.severity) == (face, incident.cause, incident.severity):
        return alert if alert.treated == treated else msgspec.structs.replace(alert, treated=treated)
    return msgspec.structs.replace(
        alert, face=face, cause=incident.cause, severity=incident.severity, changed=now, treated=treated
    )


def _changes(intent: Intent, alerts: Mapping[str, Alert], world: World, now: datetime) -> list[Post]:
    alert = alerts.get(intent.incident_id)
    posts = []
    for one in world.config.receivers:
        if not isinstance(one, PagerDuty) or not one.changes or alert is None:
            continue
        if one.name in alert.told or one.name in quiet.receivers_for(alert, world.config, now):
            change = change_of(intent, one.lang or world.config.lang, host=world.host)
            posts.append(
                Post(
                    id=f"{one.name}/{intent.id}/change",
                    receiver=one.name,
                    key=f"{alert.key}/change",
                    group=f"{one.name}/change",
                    kind="change",
                    at=now,
                    severity=Severity.INFO,
                    change=change,
                )
            )
    return posts


class _Turn:
    """One turn's working memory."""

    def __init__(self, book: Book, world: World, now: datetime) -> None:
        self.world, self.config, self.now = world, world.config, now
        self.receivers: dict[str, Receiver] = {one.name: one for one in world.config.receivers}
        self.alerts, self.groups = dict(book.alerts), dict(book.groups)
        self.silences = {name: one for name, one in book.silences.items() if one.holds(now)}
        self.full = book.scan is None or book.scan <= now
        self.dirty = book.dirty
        self.posts: list[Post] = []
        self.left: set[str] = set()
        self.owed: set[str] = set()
        self.echoes: dict[str, frozenset[str]] = {}
        self.look = self.scan = now + _LOOK_EVERY
        if book.scan is not None and not self.full:
            self._scan_at(book.scan)

    def result(self) -> tuple[Book, tuple[Post, ...]]:
        if self.full:
            self._end_drills()
            self._end_silences()
        looked = list(self.alerts) if self.full else [name for name in self.dirty if name in self.alerts]
        self.there = quiet.open_ones(self.alerts.values())
        self.firing = Counter(name for one in self.alerts.values() if not one.over for name in one.groups.values())
        news: dict[str, list[tuple[Alert, Kind]]] = {}  # by receiver's group
        for alert in [self.alerts[name] for name in looked]:
            wanted = self._wanted(alert)
            if any(kind in _NEWS for _, kind in wanted):
                self.owed.add(alert.id)
            for receiver, kind in wanted:
                group = self._group_of(alert, receiver)
                news.setdefault(group, []).append((alert, kind))
        self._calm(news)
        for group in sorted(news, key=lambda name: _gravity(news[name])):
            self._tell(group, news[group])
        if self.full:
            self._forget()
        book = Book(
            alerts=self.alerts,
            groups=self.groups,
            silences=self.silences,
            look=self.look if self.alerts or self.silences else None,
            scan=self.scan,
            dirty=frozenset(self.left),
        )
        return book, tuple(self.posts)

    def _calm(self, news: Mapping[str, Sequence[tuple[Alert, Kind]]]) -> None:
        """Let go of the appointments of groups whose news is none any more."""
        for name, group in list(self.groups.items()):
            if group.due is not None and name not in news:
                self.groups[name] = msgspec.structs.replace(group, due=None)
                if group.last is None:
                    del self.groups[name]

    def _end_drills(self) -> None:
        for name, alert in self.alerts.items():
            if alert.until and alert.practice and not alert.over:
                if alert.until <= self.now:
                    self.alerts[name] = msgspec.structs.replace(alert, face=Face.RESOLVED, changed=self.now)
                else:
                    self._scan_at(alert.until)

    def _end_silences(self) -> None:
        """Those until resolved end with the last incident that they cover."""
        for name, silence in list(self.silences.items()):
            if silence.until is not None:
                self._scan_at(silence.until)
            elif not any(silence.covers(one) and not one.over for one in self.alerts.values()):
                del self.silences[name]

    def _wanted(self, alert: Alert) -> list[tuple[str, Kind]]:
        """Name the receivers that are to be told, and as what."""
        known = [name for name in alert.told if name in self.receivers]
        cured_untold = alert.over and alert.treated and all(told.times == 1 for told in alert.told.values())
        if alert.over and not cured_untold:
            # Whoever knows of it learns of its end, whatever routes and silences say by now.
            return self._ends(alert, known)
        routed = [name for name in quiet.receivers_for(alert, self.config, self.now) if name in self.receivers]
        silences = self.silences.values()
        hushed = quiet.hushed(alert, self.there, silences, self.config, self._explains, self.now)
        if alert.over:
            quick = not hushed and all(told.face is Face.RESOLVED for told in alert.told.values())
            late = [name for name in routed if quick and name not in known and _reads(self.receivers[name])]
            return [*self._ends(alert, known), *((name, "end") for name in late)]
        names = dict.fromkeys((*routed, *known))
        wanted = [(name, self._news_for(alert, self.receivers[name], hushed=hushed)) for name in names]
        return [(name, kind) for name, kind in wanted if kind]

    def _ends(self, alert: Alert, known: Iterable[str]) -> list[tuple[str, Kind]]:
        wanted = [(name, self._end(alert, self.receivers[name])) for name in known]
        return [(name, kind) for name, kind in wanted if kind]

    def _end(self, alert: Alert, receiver: Receiver) -> Kind | None:
        told = alert.told[receiver.name]
        if quiet.is_news(alert, told):
            return "end" if receiver.resolved else None
        again = isinstance(receiver, Alertmanager) and self._said_again(alert, told, receiver)
        return "again" if again else None

    def _news_for(self, alert: Alert, receiver: Receiver, *, hushed: bool) -> Kind | None:
        told = alert.told.get(receiver.name)
        if alert.ack and told and receiver.name not in alert.acks:
            return "ack"
        if told and isinstance(receiver, Alertmanager):  # it would take silence for the end
            if quiet.is_news(alert, told):
                return "fire"
            return "again" if self._said_again(alert, told, receiver) else None
        if hushed:
            return None
        if quiet.is_news(alert, told):
            return "fire"
        return "fire" if told and not alert.ack and self._repeats(told, receiver) else None

    def _said_again(self, alert: Alert, told: Told, receiver: Alertmanager) -> bool:
        if alert.over and (not receiver.resolved or self.now - alert.changed >= _END_SAID_FOR):
            return False
        due = told.at + receiver.resend_every
        self._scan_at(due)
        return due <= self.now

    def _repeats(self, told: Told, receiver: Receiver) -> bool:
        due = told.at + (receiver.repeat_interval or self.config.repeat_interval)
        self._scan_at(due)
        return due <= self.now

    def _explains(self, cause: str) -> frozenset[str]:
        if cause not in self.echoes:
            rules = self.world.knowledge.rules.values()
            self.echoes[cause] = frozenset(echo for rule in rules if rule.cause == cause for echo in rule.explains)
        return self.echoes[cause]

    def _group_of(self, alert: Alert, receiver: str) -> str:
        if receiver in alert.groups:
            return alert.groups[receiver]
        values = {"target": alert.target, "cause": alert.cause, "severity": alert.severity.value}
        parts = [receiver, *(["practice"] if alert.practice else []), *(values[name] for name in self.config.group_by)]
        return "/".join(parts)

    def _tell(self, name: str, news: Sequence[tuple[Alert, Kind]]) -> None:
        """Tell a group's news, if it is time; what is no news to people waits for nothing."""
        receiver = self.receivers[name.split("/", 1)[0]]
        group = self.groups.get(name, Group())
        real = [one for one in news if one[1] in _NEWS]
        if real:
            due = group.due or self._due(group, real, receiver)
            if due > self.now:
                self._look_at(due)
                self.groups[name] = msgspec.structs.replace(group, due=due)
                self.left.update(alert.id for alert, _ in real)
                news = [one for one in news if one[1] not in _NEWS]
                real = []
        told = sorted(news, key=lambda one: _gravity([one]))[: max(_MOST_POSTS - len(self.posts), 0)]
        firing = self.firing[name] - sum(kind != "end" and name in alert.groups.values() for alert, kind in told)
        for alert, kind in told:
            self._post(alert, kind, receiver, name, firing)
        if len(told) < len(news):
            self.left.update(alert.id for alert, _ in news)
            self._look_at(self.now)
        elif real:
            self.groups[name] = Group(last=self.now)

    def _due(self, group: Group, news: Sequence[tuple[Alert, Kind]], receiver: Receiver) -> datetime:
        if all(alert.practice for alert, _ in news):
            return self.now
        first = min(alert.changed if receiver.name in alert.told else alert.since for alert, _ in news)
        soon = first + self.config.group_wait
        if group.last is None:
            return soon
        return max(soon, group.last + (receiver.group_interval or self.config.group_interval))

    def _post(self, alert: Alert, kind: Kind, receiver: Receiver, group: str, others: int) -> None:
        alert = self.alerts[alert.id]
        before = alert.told.get(receiver.name)
        facts = self._facts(alert, receiver, repeated=kind == "fire" and not quiet.is_news(alert, before))
        if before and before.labels and before.labels != facts.labels:
            facts = msgspec.structs.replace(facts, before=before.labels)
        times = (before.times if before else 0) + 1
        known = before if kind == "ack" and before else alert  # an acknowledgement tells no news of the trouble
        told = Told(
            at=self.now,
            face=known.face,
            severity=known.severity,
            cause=known.cause,
            labels=facts.labels,
            times=times,
        )
        self.alerts[alert.id] = msgspec.structs.replace(
            alert,
            told={**alert.told, receiver.name: told},
            groups={**alert.groups, receiver.name: group},
            acks=(*alert.acks, receiver.name) if kind == "ack" else alert.acks,
        )
        self.posts.append(
            Post(
                id=f"{receiver.name}/{alert.id}/{times}",
                receiver=receiver.name,
                key=alert.key,
                group=group,
                kind=kind,
                at=self.now,
                severity=alert.severity,
                facts=facts,
                others=max(others, 0),
            )
        )

    def _facts(self, alert: Alert, receiver: Receiver, *, repeated: bool) -> Facts:
        facts = facts_of(
            alert,
            self.world.find(alert.id),
            self.world.knowledge,
            receiver.lang or self.config.lang,
            host=self.world.host,
            link=self.config.link,
        )
        return msgspec.structs.replace(facts, repeated=True) if repeated else facts

    def _forget(self) -> None:
        """Forget what is over and told; what was never told, at once."""
        for name, alert in list(self.alerts.items()):
            if alert.over and name not in self.owed and (not alert.told or self.now - alert.changed > _FORGET_AFTER):
                del self.alerts[name]
        for name, group in list(self.groups.items()):
            if group.due is None and group.last and self.now - group.last > timedelta(days=1):
                del self.groups[name]

    def _scan_at(self, at: datetime) -> None:
        """Look at all of them then."""
        self.scan = min(self.scan, at)
        self._look_at(at)

    def _look_at(self, at: datetime) -> None:
        self.look = min(self.look, at)


def _reads(receiver: Receiver) -> bool:
    """Say whether people read there of an end whose beginning they never saw; elsewhere it ends nothing."""
    return receiver.resolved and not receiver.keyed and not isinstance(receiver, Alertmanager)


def _gravity(news: Sequence[tuple[Alert, Kind]]) -> tuple[bool, int, datetime]:
    """Order: what fires before what ended, the gravest first, then the oldest."""
    worst = max((kind == "fire", RANK[alert.severity]) for alert, kind in news)
    return not worst[0], -worst[1], min(alert.since for alert, _ in news)
