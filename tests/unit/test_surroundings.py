"""What is not as it was at the last healthy start: named, most suspicious first, secrets unread."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from diagnose.engine.policy import Policy
from diagnose.engine.state import State
from diagnose.engine.step import step
from diagnose.engine.targets import Target, compared, observe
from diagnose.launch import surroundings as pure
from diagnose.launch.surroundings import MOST_THINGS, Sealer, bounded, compare
from diagnose.model import codec
from diagnose.model.incident import Incident
from diagnose.model.launch import LaunchSpec
from diagnose.model.observation import (
    GpuProcess,
    GpuReading,
    ProbeResult,
    ProcessExit,
    ServerStarted,
    Surroundings,
)
from diagnose.model.surroundings import KINDS, Change, Comparison
from diagnose.report import markdown, terminal, texts
from diagnose.report.build import Scanned, build, encode
from diagnose.testing import NOON, finding, incident, knowledge

API = ("python", "-m", "fastdeploy.entrypoints.openai.api_server")
GIB = 1 << 30
KEYED = Sealer(b"k" * 32)


def command(*words, env=None, cwd="/srv", program=API):
    return LaunchSpec(argv=(*program, *words), env=env or {}, cwd=cwd)


def around(generation=1, at=NOON, **facts):
    return Surroundings(target="default", at=at, generation=generation, facts=facts)


def told(comparison):
    return [(one.kind, one.name, one.before, one.after) for one in comparison.changes]


# --- what is told of a start


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        pytest.param(
            command("--max-num-seqs", "8"),
            command("--max-num-seqs=128"),
            [("--max-num-seqs", "8", "128")],
            id="a value, however it is written",
        ),
        pytest.param(command(), command("--enable-logprob"), [("--enable-logprob", None, "on")], id="a switch"),
        pytest.param(command("--max-model-len", "1"), command("--max_model_len", "1"), [], id="only the spelling"),
        pytest.param(
            command("--engine-worker-queue-port", "8002"),
            command("--engine-worker-queue-port", "9002"),
            [],
            id="a port that the daemon chose",
        ),
        pytest.param(command(), command(cwd="/opt"), [("folder", "/srv", "/opt")], id="the folder"),
        pytest.param(
            command(),
            command(program=("/new/bin/python", *API[1:])),
            [("program", " ".join(API), " ".join(("/new/bin/python", *API[1:])))],
            id="the interpreter",
        ),
    ],
)
def test_a_command_is_compared_flag_by_flag(before, after, changes):
    one, other = (
        around(command=pure.of_command(spec, KEYED, chosen={"--engine-worker-queue-port"})) for spec in (before, after)
    )
    assert told(compare(one, other)) == [("command", *change) for change in changes]


def test_what_remedies_changed_is_told_apart_from_the_operators_words():
    wish, runs = command("--max-num-seqs", "128", "--enable-logprob"), command("--max-num-seqs", "64")
    assert pure.of_remedies(wish, runs, KEYED) == {"--enable-logprob": "-", "--max-num-seqs": "64"}
    assert pure.of_remedies(wish, wish, KEYED) == {}


@pytest.mark.parametrize("name", ["HF_TOKEN", "FD_API_KEY"])
@given(before=st.text(min_size=4), after=st.text(min_size=4))
def test_a_secret_is_never_told_but_that_it_changed_is(name, before, after):
    one, other = (pure.of_env({name: text}, KEYED) for text in (before, after))
    assert one[name].startswith("*** (")
    assert len(one[name]) == len("*** (12345678)")
    assert (one == other) == (before == after)
    assert pure.of_env({name: before}, Sealer()) == pure.of_env({name: after}, Sealer()) == {name: "***"}


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        pytest.param("https_proxy", "http://me:hunter2@proxy:3128", "hunter2", id="user and password of a proxy"),
        pytest.param("--rsync-config", '{"host": "a", "auth_token": "hunter2"}', "hunter2", id="within JSON"),
        pytest.param("--scheduler-password", "hunter2", "hunter2", id="by the flag's name"),
    ],
)
def test_secrets_within_values_are_fingerprints(name, value, secret):
    shown = KEYED.named(name, value)
    assert secret not in shown
    assert "*** (" in shown
    assert KEYED.named(name, value.replace(secret, "other")) != shown


def test_a_secret_in_front_of_the_program_is_a_fingerprint():
    spec = LaunchSpec(argv=("env", "FD_API_KEY=hunter2", *API, "--api-key", "swordfish", "--api-key", "s2"), cwd="/")
    shown = pure.of_command(spec, KEYED)
    assert "hunter2" not in str(shown)
    assert "swordfish" not in str(shown)
    assert shown["--api-key"].count("***") == 2


def test_of_the_environment_only_what_can_decide_a_start_is_kept_and_what_the_configuration_names():
    env = {
        "FD_LOG_DIR": "a", "CUDA_VISIBLE_DEVICES": "0", "NCCL_DEBUG": "INFO", "FLAGS_x": "1", "LD_PRELOAD": "j.so",
        "PATH": "/bin", "PYTHONPATH": "x", "no_proxy": "*", "HF_HOME": "/hf", "SHLVL": "2", "SSH_CLIENT": "1.2.3.4",
        "MY_SETTING": "1",
    }  # fmt: skip
    kept = pure.of_env(env, KEYED, given=["MY_SETTING", "NOT_SET"])
    assert kept.keys() == env.keys() - {"SHLVL", "SSH_CLIENT"}


def card(*processes, used=0.0, own=0.0, **more):
    return GpuReading(
        index=0,
        name="H100",
        total_bytes=80 * GIB,
        used_bytes=int(used * GIB),
        own_bytes=int(own * GIB),
        processes=processes,
        **more,
    )


def process(pid, gib, name="python train.py", whose="other"):
    return GpuProcess(pid=pid, used_bytes=int(gib * GIB), name=name, whose=whose)


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        pytest.param(card(), card(process(7, 20), used=20), ["GPU 0: python train.py"], id="somebody came"),
        pytest.param(card(process(7, 20), used=20), card(process(9, 20.1), used=20.1), [], id="the same program anew"),
        pytest.param(
            card(process(7, 20), used=20),
            card(process(7, 10), process(8, 30), used=40),
            ["GPU 0: python train.py"],
            id="it takes more",
        ),
        pytest.param(card(), card(process(7, 20, whose="own"), used=20, own=20), [], id="our own"),
        pytest.param(card(used=0.5), card(used=12), ["GPU 0: no process"], id="what a dead process left"),
        pytest.param(card(used=0.5), card(used=0.6), [], id="the driver's own"),
    ],
)
def test_neighbours_are_compared_by_program_and_memory_not_by_number(before, after, names):
    one, other = (around(neighbour=pure.of_neighbours([cards], fresh=True)) for cards in (before, after))
    assert [change.name for change in compare(one, other).changes] == names


def test_what_no_process_holds_is_not_asked_of_a_server_that_runs_already():
    found = around(neighbour=pure.of_neighbours([card(used=70)], fresh=False))
    started = around(neighbour=pure.of_neighbours([card(used=0.5)], fresh=True))
    assert compare(found, started).changes == ()


def test_a_card_is_another_where_its_name_memory_or_state_is():
    one, lost = card(uuid="GPU-1"), card(uuid="GPU-1", state="lost")
    assert pure.of_cards([one]) == {"GPU 0": "H100, 80.00 GiB, GPU-1"}
    assert told(compare(around(gpu=pure.of_cards([one])), around(gpu=pure.of_cards([lost])))) == [
        ("gpu", "GPU 0", "H100, 80.00 GiB, GPU-1", "H100, 80.00 GiB, GPU-1, lost")
    ]


# --- how two starts differ


def test_the_most_suspicious_stands_first():
    one = around(**{kind: {"zz": "1.00 GiB", "a": "1"} for kind in KINDS})
    other = around(**{kind: {"zz": "2.00 GiB", "a": "1"} for kind in KINDS})
    assert [change.kind for change in compare(one, other).changes] == list(KINDS)
    packages = ("aa", "numpy", "nvidia-cublas-cu12", "paddlepaddle-gpu", "fastdeploy-gpu")
    one, other = (around(package=dict.fromkeys(packages, version)) for version in "12")
    assert [change.name for change in compare(one, other).changes] == [
        "fastdeploy-gpu", "paddlepaddle-gpu", "numpy", "nvidia-cublas-cu12", "aa"
    ]  # fmt: skip


def test_without_a_healthy_start_nothing_is_compared_and_that_is_told():
    assert compare(None, around(env={"A": "1"})).since is None


def test_what_could_not_be_seen_is_no_change_and_is_told():
    comparison = compare(around(env={"A": "1"}, package={"numpy": "1"}), around(env={"A": "1"}))
    assert comparison.changes == ()
    assert "package" in comparison.unseen
    assert "env" not in comparison.unseen


def test_a_model_in_another_folder_is_one_change_and_not_one_a_file():
    one = around(model={"folder": "/a", "config.json": "1", "model.safetensors": "2"})
    gone = around(model={"folder": "/a is no folder here"})
    assert told(compare(one, gone)) == [("model", "folder", "/a", "/a is no folder here")]


@given(
    facts=st.dictionaries(
        st.sampled_from(KINDS), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4), max_size=5
    )
)
def test_a_start_does_not_differ_from_itself(facts):
    one = around(**facts)
    assert compare(one, one).changes == ()
    assert codec.decode(codec.encode(one), Surroundings) == one


NAMES = st.text(st.characters(exclude_characters="."), min_size=1, max_size=3)
"""Never empty, and never the three dots that stand for what was left out."""


@given(before=st.dictionaries(NAMES, st.text(max_size=3)), after=st.dictionaries(NAMES, st.text(max_size=3)))
def test_each_difference_is_told_once_and_nothing_else(before, after):
    found = compare(around(env=before), around(env=after))
    assert {(one.name, one.before, one.after) for one in found.changes} == {
        (name, before.get(name), after.get(name)) for name in {*before, *after} if before.get(name) != after.get(name)
    }


def test_what_is_kept_is_bounded_and_a_change_beyond_the_bound_still_shows():
    many = {f"package-{n:04}": "1" for n in range(3 * MOST_THINGS)}
    later = {**many, "package-0899": "2"}
    long = {"PATH": "x" * 5000 + "a"}
    assert len(bounded(many)) == MOST_THINGS + 1
    assert [one.name for one in compare(around(package=bounded(many)), around(package=bounded(later))).changes] == [
        "..."
    ]
    assert len(bounded(long)["PATH"]) < 1100
    assert bounded(long) != bounded({"PATH": "x" * 5000 + "b"})
    one_more = {"aaa": "1", **many}
    names = [one.name for one in compare(around(package=bounded(many)), around(package=bounded(one_more))).changes]
    assert names == ["..."], "what was pushed beyond the bound is not told to be gone"
    most = compare(around(env={}), around(env=bounded({f"A{n}": "1" for n in range(150)})))
    assert (len(most.changes), most.more) == (100, 50)


# --- kept by the mind


def started(generation, at=NOON, *words):
    return ServerStarted(
        target="default", at=at, generation=generation, pid=generation, how="spawned", spec=command(*words)
    )


def ready(generation, at=NOON):
    return ProbeResult(
        target="default", at=at, generation=generation, probe="completion", answer="ok", seconds=0.1, tokens=3
    )


def live(*observations, target=None):
    target = target or Target(name="default")
    for one in observations:
        target = observe(target, one, Policy()).target
    return target


def test_the_surroundings_of_a_start_count_as_healthy_when_it_answers_with_tokens():
    first = around(1, env={"A": "1"})
    target = live(started(1), first)
    assert (target.surroundings, target.healthy) == (first, None)
    assert live(ready(1), target=target).healthy == first
    late = live(started(1), ready(1), first)
    assert late.healthy == first, "also when they are known only after it was ready"


def test_a_start_is_compared_with_the_last_healthy_one_not_with_the_last():
    later = NOON + timedelta(hours=1)
    target = live(started(1), around(1, env={"A": "1"}), ready(1), started(2), around(2, env={"A": "2"}))
    target = live(started(3), around(3, at=later, env={"A": "3"}), target=target)
    last = target.starts[-1].compared
    assert last.since == NOON
    assert told(last) == [("env", "A", "1", "3")]


def test_news_of_another_start_or_twice_of_one_change_nothing():
    target = live(started(1), around(1, env={"A": "1"}), ready(1), started(2))
    assert live(around(1, env={"A": "9"}), target=target) == target
    once = live(around(2, env={"A": "2"}), target=target)
    assert live(around(2, env={"A": "3"}), target=once) == once


def test_an_incident_tells_of_its_start_only_if_that_never_became_ready():
    one = incident(finding(attempt=2))
    target = live(started(1), around(1, env={"A": "1"}), ready(1), started(2), around(2, env={"A": "2"}))
    failed = compared(one, target)
    assert told(failed.compared) == [("env", "A", "1", "2")]
    assert compared(failed, live(ready(2), target=target)).compared is None
    assert compared(one, live(ready(2), target=target)).compared is None
    far = live(*(started(n) for n in range(3, 20)), target=target)
    assert compared(failed, far) == failed, "kept when the start itself is forgotten"


def test_the_turn_in_which_a_failed_start_is_looked_at_saves_its_incident_with_the_changes():
    state, later = State(), NOON + timedelta(minutes=1)
    failed = ProcessExit(target="default", at=later, generation=2, role="main", pid=2, code=1)
    for seen in (
        [started(1), around(1, env={"A": "1"}), ready(1)],
        [started(2), failed],
        [around(2, env={"A": "2"})],
    ):
        opened = incident(finding(attempt=2))
        incidents = state.incidents or ({opened.id: opened} if seen[0].generation == 2 else {})
        state = State(targets=state.targets, windows=state.windows, incidents=dict(incidents), intents=state.intents)
        state, effects = step(state, seen, knowledge=knowledge(), policy=Policy(), now=later)
    saved = [effect.incident for effect in effects if hasattr(effect, "incident")]
    assert [told(one.compared) for one in saved] == [[("env", "A", "1", "2")]]


# --- and told


def report(one: Incident, lang="en"):
    return build(
        target="default",
        generated_at=NOON,
        scanned=Scanned(),
        incidents=[one],
        knowledge=knowledge(),
        unexplained=(),
        lang=lang,
    )


def drawn(told, lang="en", width=100):
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(terminal.render(told, lang=lang, width=width))
    return capture.get()


def with_changes(*changes, before=True, **more):
    one = incident()
    comparison = Comparison(since=NOON if before else None, changes=changes, **more)
    return Incident(**{**{name: getattr(one, name) for name in one.__struct_fields__}, "compared": comparison})


CHANGES = (
    Change(kind="command", name="--max-num-seqs", before="8", after="128"),
    Change(kind="package", name="numpy", before="1.26.4", after=None),
    Change(kind="env", name="LD_LIBRARY_PATH", before="/a" * 60 + "/cuda-12.4", after="/a" * 60 + "/cuda-12.6"),
)


def test_the_report_shows_what_changed_in_every_format():
    made = report(with_changes(*CHANGES, unseen=("model",)))
    text, page, plain = drawn(made), markdown.render(made, lang="en"), encode(made)
    for shown in (text, page):
        assert "Changed since the last healthy start (2026-03-01 12:00:00 UTC):" in shown
        assert "8 → 128" in shown
        assert "1.26.4 → -" in shown.replace("\\-", "-")
        assert "cuda-12.6" in shown
        assert "Could not be compared: model file." in shown
    assert '"changed_since": "2026-03-01T12:00:00Z"' in plain
    assert '"after": "128"' in plain
    assert '"not_compared": [\n        "model"\n      ]' in plain


def test_that_nothing_changed_is_told_too():
    made = report(with_changes())
    assert "Nothing changed since the last healthy start (2026-03-01 12:00:00 UTC)." in drawn(made)
    assert "Nothing changed since" in markdown.render(made, lang="en")
    assert '"changed": []' in encode(made)


def test_that_no_healthy_start_is_known_is_told_too():
    made = report(with_changes(before=False, unseen=KINDS))
    assert "No healthy start of this server is known yet" in drawn(made)
    assert "No healthy start" in markdown.render(made, lang="en")
    assert "compared:" not in drawn(made)
    assert '"changed": []' in encode(made)
    assert "changed_since" not in encode(made)


def test_what_is_no_failed_start_says_nothing_of_changes():
    made = report(incident())
    assert "healthy start" not in drawn(made) + markdown.render(made, lang="en")
    assert '"changed' not in encode(made)


def test_it_is_told_in_chinese():
    made = report(with_changes(*CHANGES), lang="zh")
    for shown in (drawn(made, "zh"), markdown.render(made, lang="zh")):
        assert "与最近一次正常启动（2026-03-01 12:00:00 UTC）相比有以下变化：" in shown
        assert "启动命令" in shown
        assert "环境变量" in shown


def test_hostile_names_and_values_are_shown_as_text():
    hostile = Change(kind="env", name="[red]x", before="\x1b[31m*a*", after="</b> @all\ud800")
    made = report(with_changes(hostile))
    assert "\\x1b[31m*a*" in drawn(made)
    assert "[red]x" in drawn(made)
    assert "</b>" not in markdown.render(made, lang="en")
    assert encode(made)


def test_a_line_for_the_status_names_the_first_few():
    many = tuple(Change(kind="env", name=f"A{n}", before=None, after="1") for n in range(9))
    line = texts.changed_line(with_changes(*many, more=1).compared, "en")
    assert line.endswith("A0, A1, A2, A3, A4, +5")
    assert "\n" not in line
