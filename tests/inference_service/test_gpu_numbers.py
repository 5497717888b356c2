"""The numbers of GPUs are CUDA's, whatever the driver counts."""

from __future__ import annotations

import pytest

from inference_service.engines.gpu_memory import places_seen_by_cuda

UUIDS = ["GPU-8932f937-d72c", "GPU-0a3b9c11-5f20", "GPU-89aa0000-1111"]


@pytest.mark.parametrize(
    ("named", "places"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("1, 0", [1, 0]),
        ("0,7,1", [0]),
        ("GPU-0a3b9c11-5f20", [1]),
        ("GPU-89aa,1", [2, 1]),
        ("GPU-89,1", []),
        ("no", []),
        ("MIG-2a1b", [0, 1, 2]),
    ],
)
def test_places_are_those_that_the_variable_names(named: str | None, places: list[int]) -> None:
    assert places_seen_by_cuda(UUIDS, named) == places
