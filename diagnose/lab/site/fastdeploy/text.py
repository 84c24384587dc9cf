"""Answers without a model: sentences drawn from the prompt's hash, in the prompt's language."""

from __future__ import annotations

import hashlib
import random
import re

_TOKEN = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_EN = (
    (
        "The river",
        "A teacher",
        "This method",
        "Our city",
        "The engine",
        "A careful reader",
        "The second example",
        "Every winter",
        "The old library",
        "A small team",
        "The answer",
        "One window",
        "The morning train",
        "Good bread",
    ),
    (
        "explains",
        "follows",
        "changes",
        "carries",
        "improves",
        "describes",
        "reaches",
        "keeps",
        "measures",
        "supports",
        "surprises",
        "needs",
        "remembers",
        "crosses",
    ),
    (
        "a clear idea",
        "the long road",
        "many quiet people",
        "its own limits",
        "the next step",
        "a simple rule",
        "three useful numbers",
        "the wide valley",
        "a new question",
        "some warm light",
        "the whole story",
        "a better plan",
    ),
    (
        "before noon.",
        "in most cases.",
        "without much noise.",
        "for a good reason.",
        "as expected.",
        "in the end.",
        "near the harbour.",
        "with great care.",
        "after the rain.",
        "for the first time.",
        "and nothing else.",
    ),
)
_ZH = (
    (
        "这条河",
        "一位老师",
        "这个方法",
        "我们的城市",
        "这台机器",
        "细心的读者",
        "第二个例子",
        "每年冬天",
        "老图书馆",
        "一个小团队",
        "清晨的火车",
    ),
    (
        "说明了",
        "跟随着",
        "改变了",
        "带来了",
        "改善了",
        "描述了",
        "到达了",
        "保留着",
        "测量了",
        "支持着",
        "记得",
    ),
    (
        "清楚的想法",
        "漫长的道路",
        "许多安静的人",
        "自己的边界",
        "下一步",
        "简单的规则",
        "三个有用的数字",
        "新的问题",
        "温暖的灯光",
        "完整的故事",
    ),
    (
        "，而且恰到好处。",
        "，在多数情况下如此。",
        "，没有什么声音。",
        "，这是有原因的。",
        "，正如预期。",
        "，就在港口附近。",
        "，雨后更明显。",
        "，这是第一次。",
    ),
)
_LOOP = {True: "我们需要再想一想，", False: "and then we think about it again, "}


def tokens(text: str) -> list[str]:
    """Cut a text into pieces that count as tokens; joined again with their spaces they are the text."""
    pieces = []
    last = 0
    for found in _TOKEN.finditer(text):
        pieces.append(text[last : found.end()])
        last = found.end()
    return pieces


def answer(prompt: str, limit: int, *, loop: str | None, least: int = 0) -> tuple[list[str], str]:
    """Give the answer's tokens, at most ``limit``, and why it ends (``stop`` or ``length``).

    Args:
        loop: Words to repeat until the limit, empty for some of our own; None for a good answer.
    """
    chinese = bool(_HAN.search(prompt))
    if loop is not None:
        unit = tokens(loop or _LOOP[chinese])
        return [unit[n % len(unit)] for n in range(limit)], "length"
    dice = random.Random(hashlib.sha256(prompt.encode("utf-8", "replace")).digest())
    wanted = max(least, dice.randint(24, 90))
    found: list[str] = []
    used: set[str] = set()
    while len(found) < wanted:
        sentence = (
            "".join(dice.choice(part) for part in _ZH) if chinese else " ".join(dice.choice(part) for part in _EN)
        )
        if sentence in used and len(used) < 500:
            continue
        used.add(sentence)
        found += tokens(sentence if chinese or not found else f" {sentence}")
    return (found[:limit], "length") if len(found) > limit else (found, "stop")
