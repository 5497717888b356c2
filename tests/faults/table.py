"""Runs the tests that table.toml names, and prints a line for each fault and each attack: `python -m tests.faults.table`."""

from __future__ import annotations

import ast
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("table.toml")


@dataclass(frozen=True)
class Entry:
    """A line of the table."""

    number: str
    what: str
    tests: tuple[str, ...]
    struck: str
    """The reason for proving nothing, or less than the fault says."""


def entries() -> list[Entry]:
    """All faults, and then all attacks."""
    read = tomllib.loads(FILE.read_text())
    faults = [Entry(str(each["row"]), each["fault"], tuple(each["tests"]), each.get("struck", "")) for each in read["fault"]]
    attacks = enumerate(read["attack"], 1)
    return faults + [Entry(f"A{number}", each["clause"], tuple(each["tests"]), "") for number, each in attacks]


@cache
def functions(path: Path) -> frozenset[str]:
    """The names of the tests of a file."""
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def missing(test: str) -> bool:
    """True where there is no such test."""
    file, _, name = test.partition("::")
    path = TESTS / file
    return not path.is_file() or bool(name and name not in functions(path))


class _Results:
    """Collects the results of a run, the worst for each test."""

    ORDER = ("passed", "skipped", "failed")

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each step of each test."""
        place, _, name = report.nodeid.removeprefix("tests/").partition("::")
        for key in (place, f"{place}::{name.partition('[')[0]}"):
            known = self.found.get(key, "passed")
            self.found[key] = max(known, report.outcome, key=self.ORDER.index)


def main() -> int:
    """Returns pytest's exit status."""
    table = entries()
    results = _Results()
    wanted = sorted({f"{TESTS}/{test}" for each in table for test in each.tests})
    status = pytest.main(["-q", "--no-header", "--tb=short", *sys.argv[1:], *wanted], plugins=[results])
    print()
    for each in table:
        lines = [(test, results.found.get(test, "not run")) for test in each.tests]
        for place, (test, result) in enumerate(lines):
            head = (each.number, each.what) if place == 0 else ("", "")
            print(f"{head[0]:>3}  {head[1]:62.62}  {result:8}  {test}")
        if each.struck:
            print(f"     struck: {each.struck}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
