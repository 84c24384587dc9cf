"""Flags are read as any version spells them, and written as the server's own does; unknown ones never."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnose.agent.config import TargetConfig
from diagnose.agent.given import unused_attach, unused_command
from diagnose.engine import plan
from diagnose.engine.targets import Target
from diagnose.errors import FileError
from diagnose.launch.config import flag_values, lookup, merged
from diagnose.launch.flags import accepted, everywhere, parse_help
from diagnose.launch.overlays import effective, writable
from diagnose.launch.spec import occurrences, set_flag, value
from diagnose.launch.table import FLAGS
from diagnose.model.launch import LaunchSpec, Overlay
from diagnose.model.observation import ServerFacts
from diagnose.model.remedy import FlagSet
from diagnose.ports import Handle, Ports
from diagnose.report import texts
from diagnose.testing import NOON, incident, remedy

API = ("python", "-m", "fastdeploy.entrypoints.openai.api_server")


def command(*words, env=None, cwd="/srv"):
    return LaunchSpec(argv=(*API, *words), env=env or {}, cwd=cwd)


def overlay(flag, after, before=None):
    return Overlay(flag=flag, before=before, after=after, incident_id="a", at=NOON)


def facts(flags, config=None):
    return ServerFacts(target="t", at=NOON, version=None, flags=tuple(flags), flags_from="help", config=config or {})


# --- writing


@pytest.mark.parametrize(
    ("version", "flag", "written"),
    [
        pytest.param("2.2.0", "--load-choices", "--load_choices", id="2.2 has the underscore"),
        pytest.param("2.4.0", "--load-choices", "--load-choices", id="2.4 has not"),
        pytest.param("2.0.0", "--lm_head-fp32", None, id="unknown then: not written"),
        pytest.param("2.6.0", "--lm-head-fp32", "--lm_head-fp32", id="its true underscore"),
        pytest.param("2.2.0", "--router", None, id="later than this server: not written"),
        pytest.param("2.6.0", "--frobnicate", None, id="known to no version: not written"),
    ],
)
def test_an_overlay_is_written_as_the_version_spells_it_or_not_at_all(version, flag, written):
    spec = effective(command("--port", "1"), [overlay(flag, "x")], accepted(version))
    found = [word for word in spec.argv[3:] if word not in {"--port", "1", "x"}]
    assert found == ([written] if written else [])
    assert writable(flag, accepted(version)) == bool(written)


@given(
    flag=st.sampled_from([one.name for one in FLAGS]), minor=st.integers(0, 6), text=st.sampled_from(["1", "", "a b"])
)
def test_no_overlay_ever_writes_what_the_version_does_not_take(flag, minor, text):
    known = accepted(f"2.{minor}")
    spec = effective(command("--model", "m"), [overlay(flag, text)], known)
    assert {one.spelled for one in occurrences(spec.argv)} <= set(known)


def test_taking_out_a_flag_that_the_server_refuses_is_possible():
    assert effective(command("--router", "x"), [overlay("--router", None)], accepted("2.0")).argv == API


def test_a_value_keeps_its_form_and_all_other_words_stay():
    quoted = '{"use_cudagraph": true, "x": "a b"}'
    spec = command("--graph-optimization-config", quoted, "--max-num-seqs=8", "-tp", "2")
    assert set_flag(spec, "--max-num-seqs", "4").argv == (
        *API, "--graph-optimization-config", quoted, "--max-num-seqs=4", "-tp", "2"
    )  # fmt: skip
    assert value(spec, "--graph-optimization-config") == quoted


def planned(target):
    one = remedy(steps=(FlagSet(set={"--load-choices": "dummy", "--max-num-seqs": "4"}),))
    made = plan.build(one, 0, incident(), target, now=NOON)
    return made.after.argv[3:] if made else None


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param(facts(accepted("2.2")), ("--load_choices", "dummy", "--max-num-seqs", "4"), id="as 2.2 spells it"),
        pytest.param(facts(["--max-num-seqs"]), ("--max-num-seqs", "4"), id="only what the help named"),
        pytest.param(None, ("--max-num-seqs", "4"), id="not asked yet: only what every version takes"),
        pytest.param(facts(["--port"]), None, id="nothing of it is known: no plan"),
    ],
)
def test_a_plan_writes_only_what_the_server_takes(known, expected):
    assert planned(Target(name="t", generation=1, desired=command(), facts=known)) == expected


def test_what_every_version_takes_is_in_every_table():
    assert {"--max-model-len", "--gpu-memory-utilization", "--max-num-seqs"} <= set(everywhere())
    for minor in range(7):
        assert set(everywhere()) <= set(accepted(f"2.{minor}"))


def test_a_help_in_colours_of_a_newer_python_is_read_too():
    text = (
        "loading\n\x1b[1;34musage: \x1b[0ma.py [\x1b[32m--model MODEL\x1b[0m]\n\n  \x1b[32m--port\x1b[0m PORT  words\n"
    )
    assert parse_help(text) == ("--model", "--port")


# --- the file behind --config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("max_model_len: 32768", {"--max-model-len": "32768"}, id="a number"),
        pytest.param("max-model-len: 32768", {}, id="hyphens: dropped, as the server does"),
        pytest.param("frobnicate: 1", {}, id="unknown: dropped"),
        pytest.param("model: /m\nmodel: /n", {"--model": "/n"}, id="the last of two"),
        pytest.param("max_model_len: ''", {}, id="empty: the default"),
        pytest.param("max_model_len:", {}, id="null"),
        pytest.param("enable_logprob: true", {"--enable-logprob": ""}, id="a switch"),
        pytest.param("enable_logprob: 0", {}, id="a switch that is off"),
        pytest.param("enable_logprob: 'false'", {"--enable-logprob": ""}, id="a text is never off"),
        pytest.param("enable_prefix_caching: false", {"--no-enable-prefix-caching": ""}, id="a pair"),
        pytest.param("lm_head_fp32: true", {"--lm_head-fp32": ""}, id="a true underscore"),
        pytest.param(
            "graph_optimization_config: {use_cudagraph: false}",
            {"--graph-optimization-config": '{"use_cudagraph": false}'},
            id="a mapping",
        ),
        pytest.param("engine_worker_queue_port: [1, 2]", {"--engine-worker-queue-port": "1,2"}, id="a list of ports"),
        pytest.param("", {}, id="an empty file"),
    ],
)
def test_the_file_is_read_as_the_server_reads_it(text, expected):
    assert flag_values(text) == expected


@pytest.mark.parametrize("text", ["- a\n- b", "a: [", "just words", "a: !!python/object:os.system {}"])
def test_a_file_that_is_no_mapping_is_refused_with_its_place_and_runs_nothing(text):
    with pytest.raises(FileError) as caught:
        flag_values(text, "c.yaml")
    assert "c.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "text", "flag", "expected"),
    [
        pytest.param([], "max_num_seqs: 4", "--max-num-seqs", "4", id="the file alone"),
        pytest.param(["--max-num-seqs", "8"], "max_num_seqs: 4", "--max-num-seqs", "8", id="the command wins"),
        pytest.param(["--max_num_seqs=8"], "max_num_seqs: 4", "--max-num-seqs", "8", id="in any spelling"),
        pytest.param(
            ["--no-enable-prefix-caching"],
            "enable_prefix_caching: true",
            "--enable-prefix-caching",
            None,
            id="off wins",
        ),
        pytest.param(
            ["--enable-prefix-caching"], "enable_prefix_caching: false", "--enable-prefix-caching", "", id="on wins"
        ),
        pytest.param([], "port: 1", "--max-num-seqs", None, id="in neither"),
    ],
)
def test_the_command_line_wins_over_the_file(words, text, flag, expected):
    spec, config = command("--config", "c.yaml", *words), flag_values(text)
    assert lookup(spec, flag, config) == expected
    assert merged(spec, config).get(flag) == expected


def test_a_plan_starts_from_what_the_file_says():
    known = facts(accepted("2.4"), config={"--max-num-seqs": "64"})
    target = Target(name="t", generation=1, desired=command("--config", "c.yaml"), facts=known)
    assert planned(target)[-2:] == ("--max-num-seqs", "4")


# --- what was given for a server that runs already


def handle(spec, **more):
    given = {"instance": "o:default/1/x", "ports": Ports(http=8000)}
    return Handle(target="t", generation=1, pid=77, ticks=1, started=0.0, boot_id="b", spec=spec, **{**given, **more})


@pytest.mark.parametrize(
    ("runs", "wanted", "changes"),
    [
        pytest.param(command("--port", "1"), command("--port=1"), (), id="the same"),
        pytest.param(
            command("--engine-worker-queue-port", "1"),
            command("--engine-worker-queue-port", "2"),
            (),
            id="ports that the daemon chooses",
        ),
        pytest.param(
            command("--max-num-seqs", "8"), command("--max-num-seqs", "16"), ("--max-num-seqs 8 -> 16",), id="a flag"
        ),
        pytest.param(command("--api-key", "a"), command("--api-key", "b"), ("--api-key *** -> ***",), id="a secret"),
        pytest.param(command(), command(cwd="/opt"), ("cwd /srv -> /opt",), id="the folder"),
        pytest.param(command(env={"A": "1"}), command(env={"A": "2"}), ("env A 1 -> 2",), id="a variable"),
        pytest.param(
            command(),
            LaunchSpec(argv=("/n/python", *API[1:]), cwd="/srv"),
            (f"{' '.join(API)} -> /n/python {' '.join(API[1:])}",),
            id="the interpreter",
        ),
    ],
)
def test_a_command_that_differs_from_what_runs_is_told(runs, wanted, changes):
    config = TargetConfig(command=wanted.argv[:3])
    unused = unused_command(config, wanted, runs, handle(runs))
    assert (unused.changes if unused else ()) == changes


def test_of_a_server_that_somebody_else_started_only_what_was_given_is_compared():
    runs = LaunchSpec(argv=("/usr/bin/python3.10", *API[1:], "--port", "1"), env={"X": "1", "Y": "2"}, cwd="/srv")
    other = handle(runs, instance="")
    config = TargetConfig(command=API, env={"Y": "3"})
    assert unused_command(TargetConfig(command=API), command("--port", "1"), runs, other) is None
    assert unused_command(config, command("--port", "1", env={"Y": "3"}), runs, other).changes == ("env Y 2 -> 3",)


def test_another_port_or_process_than_the_server_that_runs_is_told():
    one = handle(command("--port", "8000"))
    assert unused_attach(8000, one, frozenset()) is None
    assert unused_attach(77, one, frozenset()) is None
    assert unused_attach(78, one, frozenset({78})) is None
    unused = unused_attach(9000, one, frozenset({78}))
    line = texts.unused_text(unused.pid, unused.changes, "en")
    assert "--attach 8000 -> 9000" in line
    assert "kill 77" in line
    assert "\n" not in line
    assert "kill 77" in texts.unused_text(unused.pid, unused.changes, "zh")
