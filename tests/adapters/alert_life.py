"""One life of the alert path in a process of its own, to be killed: ``FOLDER WEBHOOK PAGER INCIDENTS``.

Each incident opens, and ends some turns later; what an earlier life began, this one goes on with.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from diagnose.model.causes import CAUSES
from diagnose.model.incident import State as Stands
from tests.adapters.alert_path import alerts, live, trouble

_OPEN_AT_ONCE = 12


def main(folder, webhook, pager, count):
    os.environ["ROUTING_KEY"] = "R" * 32
    many = {"timeout": "500ms", "per_minute": 60_000}
    config = alerts(
        {"kind": "webhook", "name": "hook", "url": webhook, **many},
        {"kind": "pagerduty", "name": "pager", "url": pager, "routing_key": {"env": "ROUTING_KEY"}, **many},
        group_wait="1ms",
        group_interval="1ms",
        retry={"first": "2ms", "most": "20ms"},
    )
    causes = sorted(CAUSES)

    async def script(path):
        while True:
            known = path.state.incidents
            still = sorted(name for name, one in known.items() if one.state is Stands.OPEN)
            if len(known) < count and len(still) < _OPEN_AT_ONCE:
                number = len(known)
                path.save(trouble(f"{number:08x}", causes[number % len(causes)]))
            elif still:
                path.end(known[still[0]])
            await anyio.sleep(0.006)
            told = all(_told(one) for one in path.alerting.book.alerts.values())
            if len(known) == count and not still and told and not path.waiting:
                return

    live(Path(folder), config, script, pause=0.004)


def _told(alert):
    return alert.over and all(told.face.value == "resolved" for told in alert.told.values())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
