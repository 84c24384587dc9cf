"""A folder of logs as users have it: one file for many starts, the newest one leads."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import FITS, TOO_LARGE


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_of_three_starts_in_one_file_the_newest_leads_and_the_older_one_is_history(site, era):
    here = site(era=era, load_seconds=1.5)  # stamps without milliseconds need starts that lie seconds apart
    here.serve(*FITS)
    here.serve(*TOO_LARGE, until="ended")
    here.serve(*FITS, "--quantization", "INT4", until="ended")
    status, words = here.diagnose("report", str(here.folder / "log"), "--format", "json")
    assert status == 1
    newest, *others = json.loads(words)["incidents"]
    assert newest["cause"] == "quantization_unsupported"
    assert newest["state"] == "open"
    assert newest["attempt"] == 3
    history = [one for one in others if one["state"] == "history"]
    assert [(one["cause"], one["attempt"]) for one in history] == [("gpu_oom_load", 2)]
    for incident, words_of_it in ((newest, "Invalid quantization method"), (history[0], "Out of memory error on GPU")):
        proof = next(one for one in incident["evidence"] if words_of_it in one["text"])
        lines = (here.folder / "log" / proof["source"]).read_bytes().decode(errors="replace").split("\n")
        assert words_of_it in lines[proof["line"] - 1], "the right file and line"
        assert "workerlog.0" in proof["source"]
    assert newest["evidence"][0]["line"] > history[0]["evidence"][0]["line"]
