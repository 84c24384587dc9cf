"""Loops are told from texts that only look alike from line to line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.engine.repetition import score

LOOPS = {
    "one word": "yes yes yes yes yes yes yes yes yes yes",
    "one sign": "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
    "zeros": "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    "one character": "Answer: 的的的的的的的的的的的的的的的的",
    "a pair": "好的好的好的好的好的好的好的",
    "a phrase": "I think that is right. " * 6,
    "a Chinese sentence": "首先，我们需要分析这个问题。" * 5,
    "after a good start": "Red, green and blue are colours. The next one is " + "a colour of the rainbow and " * 8,
    "numbered": "\n".join(f"{number}. 我们要坚持以人为本的发展理念。" for number in range(1, 12)),
    "numbered English": "\n".join(f"{number}. Please check the documentation again." for number in range(1, 9)),
    "a paragraph": (
        "The city lies on a river that flows from the northern hills to the sea. Its bridges are old and "
        "its harbour is new. Trade made it rich, and a fire made it poor again. People still talk of it. "
    )
    * 6,
    "a Chinese paragraph": (
        "这座城市位于一条大河旁边，河水从北方的山地流向大海。桥梁很古老，港口却很新。贸易使它富裕，大火又使它贫穷。"
    )
    * 6,
    "few lines in no order": "\n\n".join(
        ["State: done", "Name: the name", "State: open", "State: done", "State: Done", "Name: the  name", "State: open"]
        * 2
    ),
    "a line of a table": "| total | 17 | open |\n" * 20,
}

ORDINARY = {
    "empty": "",
    "a word": "Paris",
    "a sentence": "Red, orange and yellow.",
    "Chinese": "彩虹的三种颜色是红色、橙色和黄色，它们按照波长从长到短排列。",
    "laughter in a sentence": "Ha ha ha, that is a good one! Let me think about what to answer.",
    "a list": "\n".join(
        f"- {item}" for item in ["Buy milk", "Buy eggs", "Call the bank", "Call Anna", "Clean the car", "Pay the rent"]
    ),
    "a table": "| Name | Age | City |\n|------|-----|------|\n"
    + "\n".join(
        f"| {name} | {age} | {city} |"
        for name, age, city in [
            ("Ann", 31, "Oslo"),
            ("Bob", 45, "Rome"),
            ("Cid", 29, "Bern"),
            ("Dee", 31, "Oslo"),
            ("Eve", 58, "Bonn"),
        ]
    ),
    "a table of numbers": "\n".join(
        "| " + " | ".join(str((row * 7 + column * 13) % 50) for column in range(6)) + " |" for row in range(8)
    ),
    "a times table": "\n".join(f"{a} x {b} = {a * b}" for a in range(1, 6) for b in range(1, 6)),
    "code": (
        "def area(shape):\n    if shape.kind == 'circle':\n        return 3.14 * shape.r ** 2\n"
        "    if shape.kind == 'square':\n        return shape.a ** 2\n    if shape.kind == 'rect':\n"
        "        return shape.a * shape.b\n    raise ValueError(shape.kind)\n"
    ),
    "C code": "int main(void) {\n  for (int i = 0; i < 3; i++) {\n    if (i) {\n      go();\n    }\n  }\n}",
    "JSON": (
        '[{"id": 1, "name": "ann", "on": true}, {"id": 2, "name": "bob", "on": false}, '
        '{"id": 3, "name": "cid", "on": true}]'
    ),
    "a song with a refrain": (
        "The morning came over the hill,\nthe mill wheel was turning still.\n"
        "Sing low, sing low, my river, sing low.\n"
        "The miller went down to the shore,\nhe heard her singing no more.\n"
        "Sing low, sing low, my river, sing low.\n"
        "The evening was red on the sand,\nhis hat lay alone on the land.\n"
        "Sing low, sing low, my river, sing low.\n"
    ),
    "a Chinese verse with a refrain": (
        "春风吹过小山坡，\n唱吧唱吧我的小河。\n夏雨落在青石桥，\n唱吧唱吧我的小河。\n秋叶飘到旧村落，\n唱吧唱吧我的小河。\n"
    ),
    "Chinese steps": (
        "第一步：打开设置页面，选择网络。\n第二步：关闭代理，然后保存。\n第三步：重启服务，查看日志是否正常。\n"
        "第四步：如果仍然失败，请检查显卡驱动版本。"
    ),
    "long prose": " ".join(
        f"In the year {1800 + 7 * n} the {who} of {where} {did}."
        for n, (who, where, did) in enumerate(
            (who, where, did)
            for who in ("duke", "mayor", "bishop", "miller")
            for where in ("Arden", "Belmont", "Corvin")
            for did in (
                "built a bridge across the river",
                "sold the northern woods",
                "wrote a book about bees",
            )
        )
    ),
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS.keys())
def test_a_loop_is_told(text):
    assert score(text) > 0.5


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY.keys())
def test_ordinary_text_is_let_pass(text):
    assert score(text) < 0.3


@given(st.text(max_size=300))
def test_the_score_is_a_share(text):
    assert 0 <= score(text) <= 1


@given(st.text(st.characters(whitelist_categories=["Lu", "Ll", "Lo"]), min_size=1, max_size=20))
def test_any_sentence_said_twenty_times_is_a_loop(text):
    assert score(f"{text}, and so on. " * 20) > 0.5


def test_a_very_long_text_is_looked_at_in_part():
    assert score("loop " * 1_000_000) == 1.0
