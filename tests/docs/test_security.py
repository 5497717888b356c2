"""SECURITY.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
TEXT = (TREE / "SECURITY.md").read_text(encoding="utf-8")
DEFENDED = TEXT.partition("## What is defended")[2].partition("\n## ")[0]
ROWS = [line for line in DEFENDED.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip()[:30] for row in ROWS])
def test_each_defence_is_held_by_tests_that_there_are(row: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
    assert named
    for file, test in named:
        text = (TREE / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {test}\b" if test else r"^(async )?def test_", text, re.MULTILINE), (file, test)


def test_there_is_a_table() -> None:
    assert len(ROWS) > 10
