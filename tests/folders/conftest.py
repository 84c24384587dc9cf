"""One workshop for the whole run: folders are made two at a time, while others are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diagnose import offline
from diagnose.catalog import cache, load
from tests.folders.cases import ALL, Case
from tests.folders.maker import Workshop


@pytest.fixture(scope="session")
def folder_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Path]]:
    """Give the folder of a case by name; those that the selected tests need are made in their order."""
    workshop = Workshop(tmp_path_factory.mktemp("folders"))

    def order(case: Case) -> Path:
        workshop.order(case.name, case.era, case.make, **case.host)
        return workshop.folder(case.name)

    for item in request.session.items:
        case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
        if isinstance(case, Case):
            workshop.order(case.name, case.era, case.make, **case.host)
    yield lambda name: order(ALL[name])
    workshop.close()


@pytest.fixture(scope="session")
def examined() -> Callable[[Path], offline.Examined]:
    """Diagnose a folder as ``diagnose report FOLDER`` does."""
    knowledge = load.load()
    matcher = cache.matcher(knowledge)
    return lambda folder: offline.diagnose([str(folder)], knowledge=knowledge, matcher=matcher)
