"""Each fault and each attack has tests that exist."""

from __future__ import annotations

from .table import entries, missing


def test_every_row_has_tests_that_exist() -> None:
    table = entries()
    assert [each.number for each in table if each.number.isdigit()] == [str(number) for number in range(1, 69)]
    assert not [each.number for each in table if not each.tests]
    assert not [test for each in table for test in each.tests if missing(test)]
