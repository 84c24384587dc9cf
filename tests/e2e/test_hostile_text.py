"""The evidence of every shipped rule, sent by users through the server's own door into its own logs: nothing is done.

The daemon may do anything here (``auto``): what keeps it still is that it tells text of users from words of the server,
and where nobody can (a user's name for a model may forge a whole record) that it wants a second proof of another kind.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from diagnose import journal
from diagnose.catalog import load
from diagnose.model.observation import ProcessExit
from tests.e2e.conftest import FITS

pytestmark = pytest.mark.timeout(200)

EVERY = 1 if os.environ.get("DIAGNOSE_ALL_SCENARIOS") else 3
"""Each rule's first texts always; of the others every so many."""

RED, TITLE, CLEAR = "\x1b[31m", "\x1b]0;root\x07", "\x1b[2K\r"


def texts():
    """Return what makes each shipped rule speak, a text a test inside its file."""
    known = load.read_files([load.shipped("rules")])
    found = []
    for rule in known.rules.values():
        logs = [log for test in rule.tests.hits if (log := test if isinstance(test, str) else test.log)]
        found += [log for at, log in enumerate(logs) if at == 0 or at % EVERY == 0]
    return found


def disguised(text):
    """Yield the text as it is, on lines of its own, behind terminal codes, and as a record of the server's own form."""
    record = "ERROR    2026-01-01 10:15:03,118 41772 engine.py[line:830] "
    yield text
    yield f"hello\n{text}\nbye"
    yield f"{RED}{text}\x1b[0m\r\n{TITLE}{CLEAR}{text}"
    yield f'"}}]}}\n{record}{text}\n{{"messages": [{{"content": "'
    yield f'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nRuntimeError: {text}\n'


class Users:
    """Send what they like."""

    def __init__(self, port):
        self.port = port

    def send(self, method, path, body=b"", **headers):
        door = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            with contextlib.suppress(http.client.InvalidURL, ValueError, UnicodeError):
                door.putrequest(method, path, skip_accept_encoding=True)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    door.putheader(name.replace("_", "-"), value)
                door.endheaders(body)
                return door.getresponse().status
            return 0
        finally:
            door.close()

    def chat(self, **body):
        return self.send("POST", "/v1/chat/completions", json.dumps({"max_tokens": 1, **body}).encode())

    def raw(self, text):
        """A body that is no JSON: the server logs it all the same."""
        return self.send("POST", "/v1/chat/completions", text.encode())

    def all_of(self, text):
        """Put a text wherever a user can."""
        said = [{"role": "user", "content": text}]
        self.chat(messages=said)
        self.chat(messages=[{"role": "system", "content": text}, *said], user=text, stop=[text], request_id=text)
        self.chat(messages=said, model=text)
        self.raw(f'{{"messages": [{{"role": "user", "content": "{text}"}}]}}')
        line = " ".join(text.split())
        self.send(
            "GET", "/" + line.replace(" ", "%20").replace("\x1b", "%1b"), User_Agent=line[:4000], Referer=line[:4000]
        )
        self.send("GET", "/v1/models?" + line.replace(" ", "+").replace("\x1b", ""), X_Request_Id=line[:4000])


def plant_names(folder, found):
    """Make log files whose names carry the texts, terminal codes, and bytes that are no UTF-8."""
    for number, text in enumerate(found):
        name = text.replace("/", "_").replace("\0", "")[:60].encode(errors="ignore")
        with contextlib.suppress(OSError):
            (folder / os.fsdecode(name + b"\n\x1b[31m\xff-%d.log" % number)).write_text("an idle line\n")


@pytest.mark.parametrize("era", ["2.4", "2.6"])
def test_text_of_users_through_the_servers_own_door_leads_to_no_action(site, era):
    here = site(gpu_gib=8, era=era)
    here.env |= {"FD_LOG_REQUESTS": "1", "FD_LOG_REQUESTS_LEVEL": "3", "FD_LAB_TOKENS_PER_SECOND": "5000"}
    flags = (*FITS, "--served-model-name", "ernie")
    here.daemon(*flags)
    here.wait_phase("ready")
    pid, found, users = here.target().pid, texts(), Users(here.port)
    sent = [disguise for text in found for disguise in disguised(text)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(users.all_of, sent))
    plant_names(here.folder / "log", found)
    written = sum(one.stat().st_size for one in (here.folder / "log").rglob("*.log"))
    assert written > 2 * sum(len(one.encode()) for one in sent), "it is in the logs"
    at = here.snapshot().at
    here.wait(lambda seen: (seen.at - at).total_seconds() > 4, "some seconds of thought", 60)
    seen = here.snapshot()
    target = seen.state.targets["default"]
    assert (target.pid, target.generation, target.phase, here.starts()) == (pid, 1, "ready", 1), here.words()
    assert not [(one.cause, one.rule_id) for one in seen.incidents if one.tries]
    for worker in here.processes(worker=True):
        worker.kill()  # and it is not deaf
    here.wait(lambda seen: exits_since(here, at) and seen, "the end of a worker, seen")


def exits_since(here, at):
    told = journal.seen(here.state, at, at + timedelta(minutes=5))
    return [one for one in told if isinstance(one, ProcessExit)]
