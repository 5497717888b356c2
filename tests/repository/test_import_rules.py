"""Arrows point down only, and never in a circle."""

from __future__ import annotations

import graphlib
from functools import cache
from pathlib import Path

import pytest

from .imports import imported
from .tree import modules

SERVICE = {"service_kit", "avatar_kit", "shared_proto"}
HALVES = {"inference_service", "compositing_service"}
COMMAND = SERVICE | {"avatar_tools", "gateway_service", "monolithic_service", "lipsync_adapters", "lipsync_client", "benchmarks"}
MAY_IMPORT = {
    "shared_proto": set(),
    "service_kit": set(),
    "avatar_kit": set(),
    "avatar_tools": {"avatar_kit"},
    "inference_service": SERVICE,
    "compositing_service": SERVICE,
    "monolithic_service": SERVICE | HALVES | {"gateway_service"},
    "lipsync_client": {"shared_proto"},
    "gateway_service": {"service_kit", "lipsync_client"},
    "lipsync_adapters": {"service_kit", "lipsync_client"},
    "pipecat_lipsync": {"lipsync_client"},
    "livekit": set(),  # the agents' plug-in: it knows the worker by HTTP alone
    "lipsync_cli": COMMAND,
    "benchmarks": COMMAND | HALVES | {"lipsync_cli", "pipecat_lipsync"},
    "tools": COMMAND | HALVES | {"lipsync_cli"},
    "deploy": set(),
}


@cache
def imports() -> dict[str, set[str]]:
    """By module: what it imports of ours."""
    known = modules()
    return {name: imported(name, path, known.keys()) for name, path in known.items()}


def top(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_its_rule() -> None:
    assert {top(module) for module in imports()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in imports().items()
        if top(module) == package
        for other in others
        if top(other) not in {package, *MAY_IMPORT[package]}
    ]
    assert wrong == []


def test_only_the_process_of_both_halves_imports_both() -> None:
    """Benchmarks and tools import one half a module."""
    both = [name for name, others in imports().items() if {top(other) for other in others} >= HALVES]
    assert {top(name) for name in both} == {"monolithic_service"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        graphlib.TopologicalSorter(imports()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import kit", {"kit"}),
        ("import kit.part as p, os", {"kit.part"}),
        ("import kit.part.Class", {"kit.part"}),
        ("from kit import part", {"kit.part"}),
        ("from kit import thing", {"kit"}),
        ("from kit.part import thing, other", {"kit.part"}),
        ("from . import part", {"kit.part"}),
        ("from .part import thing", {"kit.part"}),
        ("def run():\n    from kit.part import thing", {"kit.part"}),
        ("if TYPE_CHECKING:\n    from kit.part import thing\nelse:\n    import kit", {"kit", "kit.part"}),
        ("import typing\nif typing.TYPE_CHECKING:\n    import kit.part", {"kit.part"}),
        ("import other", set()),
    ],
)
def test_the_judge_itself(tmp_path: Path, text: str, found: set[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert imported("kit.module", path, {"kit", "kit.part", "kit.module"}) == found
