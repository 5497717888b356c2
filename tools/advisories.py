"""Looks for known advisories against the pinned packages: `python -m tools.advisories requirements/cpu.txt ...`.

pip-audit asks PyPI and OSV. Where neither answers it cannot say anything, and that is no failure; the output tells who answered.
An index that mirrors PyPI without its advisories answers as if it knew no package: that is no answer either.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 15


@dataclass(frozen=True)
class Answer:
    """The answer of one source about the packages of one file."""

    looked_up: int = 0
    """The number of packages that the source knows."""
    found: tuple[str, ...] = ()
    """Advisories, a line each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a source knows an advisory, and 0 otherwise."""
    parser = argparse.ArgumentParser(description="looks for known advisories against pinned packages")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--osv-url", help="asks this OSV service alone")
    given = parser.parse_args(arguments)
    sources = {"PyPI": ["--vulnerability-service=pypi"], "OSV": ["--vulnerability-service=osv"]}
    if given.osv_url:
        sources = {given.osv_url: [*sources["OSV"], f"--osv-url={given.osv_url}"]}
    failed = False
    for path in given.files:
        for source, options in sources.items():
            answer = _ask(path, options)
            said = f"{answer.looked_up} packages looked up, {len(answer.found)} advisories" if answer.looked_up else "no answer"
            print(f"{path} at {source}: {said}", *answer.found, sep="\n  ")  # noqa: T201
            failed = failed or bool(answer.found)
    return int(failed)


def _ask(path: Path, options: Sequence[str]) -> Answer:
    """Asks one source. An error of its own is no answer."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off"]
    command += ["--format=json", f"--timeout={TIMEOUT_S}", "--requirement", str(path), *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        packages = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        return Answer()
    known = [each for each in packages if "skip_reason" not in each]
    found = [f"{each['name']} {each['version']}: {advisory['id']}" for each in known for advisory in each["vulns"]]
    return Answer(len(known), tuple(found))


if __name__ == "__main__":
    sys.exit(main())
