"""What the daemon keeps is for its own user's eyes; the server's files are as they would be without it."""

from __future__ import annotations

import os
import stat

from tests.e2e.conftest import TOO_LARGE


def test_all_that_the_daemon_writes_is_private_and_the_servers_files_are_as_ever(site):
    here = site()
    before = os.umask(0o022)
    try:
        daemon = here.daemon(*TOO_LARGE)
    finally:
        os.umask(before)
    here.wait_incident("resolved")
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in here.state.rglob("*")}
    assert any("evidence" in path.parts for path in modes)
    open_to_others = {path.name: oct(mode) for path, mode in modes.items() if mode & 0o077}
    assert open_to_others == {"api.sock": "0o660"}
    assert stat.S_IMODE(here.state.stat().st_mode) == 0o700
    logs = [path for path in (here.folder / "log").rglob("*") if path.is_file()]
    assert any(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in logs)
    here.stop(daemon)
