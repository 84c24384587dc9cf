"""From posts to the words of one message: Jinja2 in a sandbox, cut to what the receiver takes."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

import jinja2
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from diagnose.errors import ConfigError
from diagnose.model.rule import Severity
from diagnose.model.text import Duration, Lang
from diagnose.notices import words
from diagnose.notices.book import RANK, Face
from diagnose.notices.cut import cut, size
from diagnose.notices.facts import Facts
from diagnose.notices.markup import PLAIN, Markup
from diagnose.notices.post import Post
from diagnose.report.clean import fill, stripped

DEFAULT = """\
{% block title -%}
{% if practice %}[{{ w.practice }}] {% endif -%}
{% if alerts | length == 1 and not more -%}
{% set a = alerts[0] -%}
[{{ a.tag }}] {{ a.host }}/{{ a.target }}: {% if a.repeated %}{{ w.still }}: {% endif %}{{ a.title }}
{%- else -%}
[{{ worst }}] {{ host }}: {{ counts }}
{%- endif %}
{%- endblock %}

{% block body -%}
{% for a in alerts -%}
{% if level == 2 -%}
{{ b("[" ~ a.tag ~ "]") }} {{ a.target }}: {{ a.title }} ({{ a.incident }}, {{ w.since }} {{ time(a.started) }})
{% else -%}
{% if several %}{{ b("[" ~ a.tag ~ "] " ~ a.target ~ ": " ~ a.title) }}
{% endif -%}
{% if a.why and level == 0 and not a.over %}{{ a.why }}
{% endif -%}
{% if a.proof and not a.over %}{{ b(w.proof) }}: {{ a.place }}
{{ quote(code(a.proof | short(400 if level == 0 else 120))) }}
{% endif -%}
{% if a.echoes and level == 0 and not a.over %}{{ b(w.echoes) }}: {{ a.echoes | join(comma) }}
{% endif -%}
{% if a.done %}{{ b(w.done) }}: {{ (a.done if level == 0 else a.done[-1:]) | join(semicolon) }}
{% endif -%}
{% if a.acked %}{{ b(w.acked) }}: {{ a.acked }}
{% endif -%}
{{ b(w.asked) }}: {{ a.asked | short(700 if level == 0 else 200) }}
{% if a.over %}{{ b(w.lasted) }}: {{ a.lasted }}
{% endif -%}
{{ b(w.look) }}: {{ code(a.command) }}{% if a.link %} {{ link(w.open_link, a.link) }}{% endif %}
{% endif -%}
{% if not loop.last and level < 2 %}
{% endif -%}
{% endfor -%}
{% if more %}{{ more_text }}{{ colon }}{{ more_by | join(comma) }}
{% endif -%}
{% if more or alerts | length > 5 %}{{ w.all }}
{% endif -%}
{% if practice %}{{ w.practice_note }}
{% endif -%}
{% endblock %}
"""

_CURE = "Begin with {% extends 'default' %} and replace its blocks title and body."
_MOST_LISTED = 50
_MOST_IN_FULL = 5


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What one message says.

    Attributes:
        title: One line of plain text, not escaped.
        body: In the receiver's markup.
        severity: The gravest that fires; of what ended where nothing does.
        over: Nothing in it fires.
        note: Why the shipped words were used instead of the site's.
    """

    title: str
    body: str
    severity: Severity
    over: bool
    practice: bool = False
    note: str = ""

    @property
    def calls(self) -> bool:
        """Whether it is worth calling people by name: it fires, is critical, and is no drill."""
        return not self.over and self.severity is Severity.CRITICAL and not self.practice


def newest(posts: Iterable[Post]) -> tuple[Facts, ...]:
    """Return of each incident the newest facts: what fires first, the gravest first, then the oldest."""
    latest = {one.key: one.facts for one in sorted(posts, key=lambda one: one.at) if one.facts is not None}
    return tuple(sorted(latest.values(), key=lambda one: (one.over, -RANK[one.severity], one.started, one.incident)))


class Writer:
    """Writes the messages of one receiver.

    Args:
        own: The text of the site's template; it may extend ``default``.

    Raises:
        ConfigError: The template cannot be used.
    """

    def __init__(self, markup: Markup, lang: Lang, zone: tzinfo, *, own: str = "", name: str = "") -> None:
        self.lang, self.zone, self.markup = lang, zone, markup
        self._bodies = _environment(markup, {"default": DEFAULT, "own": own or DEFAULT})
        self._titles = _environment(PLAIN, {"default": DEFAULT, "own": own or DEFAULT})
        try:
            blocks = self._bodies.get_template("own").blocks
        except jinja2.TemplateError as error:
            line = f":{error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise ConfigError(f"{name}{line}: {error}. {_CURE}") from error
        if not blocks.keys() & {"title", "body"}:
            raise ConfigError(f"{name}: there is neither a block title nor a block body. {_CURE}")

    def write(self, posts: Sequence[Post], most_bytes: int) -> Message:
        """Write a message that is at most so long; what does not fit is told shorter, then counted."""
        try:
            return self._write("own", posts, most_bytes)
        except Exception as error:  # noqa: BLE001 - whatever a site's template does, the alert goes out
            shipped = self._write("default", posts, most_bytes)
            return msgspec.structs.replace(shipped, note=f"template: {type(error).__name__}: {error}")

    def _write(self, name: str, posts: Sequence[Post], most_bytes: int) -> Message:
        facts = newest(posts)
        render = functools.partial(self._body, name, facts)
        firing = [one for one in facts if not one.over]
        severity = max((one.severity for one in firing or facts), key=RANK.__getitem__)
        return Message(
            title=" ".join(self._block(self._titles, name, "title", facts[:_MOST_LISTED], facts, 0).split()),
            body=fit(render, len(facts), most_bytes).strip(),
            severity=severity,
            over=not firing,
            practice=all(one.practice for one in facts),
        )

    def _body(self, name: str, facts: Sequence[Facts], count: int, level: int) -> str:
        return self._block(self._bodies, name, "body", facts[:count], facts, level)

    def _block(
        self,
        environment: jinja2.Environment,
        name: str,
        block: str,
        shown: Sequence[Facts],
        facts: Sequence[Facts],
        level: int,
    ) -> str:
        template = environment.get_template(name)
        if block not in template.blocks:
            template = environment.get_template("default")
        context = template.new_context(self._names(shown, facts, level))
        return "".join(template.blocks[block](context))

    def _names(self, shown: Sequence[Facts], facts: Sequence[Facts], level: int) -> dict[str, Any]:
        zh = self.lang == "zh"
        firing = [one for one in facts if not one.over]
        left = Counter(one.name for one in facts[len(shown) :])
        worst = max((one.severity for one in firing), key=RANK.__getitem__, default=None)
        said = {name.replace("-", "_"): text.in_(self.lang) for name, text in words.WORDS.items()}
        counted = {"firing": len(firing), "resolved": len(facts) - len(firing), "count": len(facts) - len(shown)}
        counts = {name: str(number) for name, number in counted.items()}
        return {
            "alerts": [self._shown(one) for one in shown],
            "several": len(facts) > 1,
            "more": counted["count"],
            "more_text": fill(said["more"], counts),
            "more_by": [f"{cause} {count}" for cause, count in left.most_common(8)],
            "counts": fill(said["storm"], counts),
            "worst": words.SEVERITIES[worst].in_(self.lang) if worst else said["resolved"],
            "practice": all(one.practice for one in facts),
            "host": facts[0].host if facts else "",
            "lang": self.lang,
            "level": level,
            "w": said,
            "comma": "、" if zh else ", ",
            "semicolon": "；" if zh else "; ",
            "colon": "：" if zh else ": ",
            "time": self._time,
        }

    def _shown(self, facts: Facts) -> dict[str, Any]:
        severity = words.SEVERITIES[facts.severity].in_(self.lang)
        face = words.FACES[facts.face].in_(self.lang)
        tag = {Face.RESOLVED: face, Face.OPEN: severity}.get(facts.face, f"{severity}, {face}")
        lasted = (facts.ended or facts.changed) - facts.started
        return {
            **msgspec.structs.asdict(facts),
            "severity": facts.severity.value,
            "face": facts.face.value,
            "over": facts.over,
            "tag": tag if self.lang == "en" else tag.replace(", ", "，"),
            "lasted": str(Duration(seconds=max(round(lasted.total_seconds()), 0))),
        }

    def _time(self, at: datetime) -> str:
        local = at.astimezone(self.zone)
        return local.strftime("%m-%d %H:%M:%S" + (" UTC" if local.utcoffset() == timedelta(0) else ""))


def fit(render: Callable[[int, int], str], count: int, most_bytes: int) -> str:
    """Choose how many are told and in how many words, so that all of it fits.

    Args:
        render: Writes the first so many, at a level: 0 in full, 1 short, 2 a line each.
    """
    listed = min(count, _MOST_LISTED)
    for level in (0, 1, 2) if count <= _MOST_IN_FULL else (2,):
        text = render(listed, level)
        if size(text) <= most_bytes:
            return text
    while listed > 1:
        listed = listed * 2 // 3
        text = render(listed, 2)
        if size(text) <= most_bytes:
            return text
    return cut(text, most_bytes)


def _environment(markup: Markup, sources: Mapping[str, str]) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.DictLoader(sources),
        autoescape=False,  # escaped by `finalize`, as each receiver needs it
        finalize=markup.escape,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        extensions=[],
    )
    environment.globals.clear()
    environment.globals |= {"b": markup.bold, "code": markup.code, "quote": markup.quote, "link": markup.link}
    environment.filters["short"] = stripped
    return environment
