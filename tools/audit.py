"""What diagnose is made of at run time: an SBOM (CycloneDX), and what is known against any of it.

Audits what is installed here of the run-time dependencies, not the tools of developers. Exit 1: something is known
against a version in use. Where the service that knows cannot be reached it says so, and that is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PRODUCT = "fastdeploy-diagnose"
SBOM = Path("build/sbom.cdx.json")
MOST_SECONDS = 40
ONE_ANSWER_SECONDS = 5


def closure(name: str) -> dict[str, Distribution]:
    """Return what a package needs at run time, itself included, by canonical name."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        one = distribution(waiting.pop())
        key = canonicalize_name(one.name)
        if key not in found:
            found[key] = one
            needs = [Requirement(text) for text in one.requires or ()]
            waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return dict(sorted(found.items()))


def sbom(parts: Mapping[str, Distribution]) -> str:
    """Spell the parts, and who needs whom, as CycloneDX 1.6."""
    components = {key: _component(key, one) for key, one in parts.items()}
    bom = Bom(components=[one for key, one in components.items() if key != PRODUCT])
    bom.metadata.component = components[PRODUCT]
    for key, one in parts.items():
        needs = {canonicalize_name(Requirement(text).name) for text in one.requires or ()}
        bom.register_dependency(components[key], [components[need] for need in sorted(needs & parts.keys())])
    return JsonV1Dot6(bom).output_as_string(indent=1)


def _component(key: str, one: Distribution) -> Component:
    purl = PackageURL("pypi", name=key, version=one.version)
    kind = ComponentType.APPLICATION if key == PRODUCT else ComponentType.LIBRARY
    return Component(name=key, version=one.version, type=kind, purl=purl, bom_ref=str(purl))


def audit(parts: Mapping[str, Distribution]) -> tuple[int, int, list[str]]:
    """Ask what is known against each part.

    Returns:
        How many were judged, how many not, and a line for each thing that is known.
    """
    pins = "".join(f"{key}=={one.version}\n" for key, one in parts.items() if key != PRODUCT)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pins)
        file.flush()
        words = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
        words += ["--format", "json", "--progress-spinner", "off", "--timeout", str(ONE_ANSWER_SECONDS)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)  # noqa: S603 - our own words
            told = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            return 0, len(parts) - 1, []
    judged = [one for one in told if "skip_reason" not in one]
    return len(judged), len(told) - len(judged), list(known_of(judged))


def known_of(judged: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Spell what pip-audit knows, a line for each thing, with its cure."""
    for one in judged:
        for vuln in one["vulns"]:
            cure = f"use {' or '.join(vuln['fix_versions'])}" if vuln["fix_versions"] else "no version is free of it"
            yield f"{one['name']} {one['version']}: {vuln['id']}; {cure}"


def main() -> int:
    """Write the SBOM, and say what is known."""
    parts = closure(PRODUCT)
    SBOM.parent.mkdir(exist_ok=True)
    SBOM.write_text(sbom(parts), encoding="utf-8")
    judged, unjudged, known = audit(parts)
    print(f"{SBOM}: {len(parts) - 1} packages at run time")
    if unjudged:
        print(f"audit: {unjudged} of them could not be judged: what is known of them cannot be asked for from here")
    print(f"audit: {judged} judged, {len(known)} known weaknesses")
    for line in known:
        print(line, file=sys.stderr)
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
