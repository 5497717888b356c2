"""`lipsync bench`: runs the benchmarks of the source tree and shows their figures.

A benchmark is a module benchmarks/NAME.py with a function `run()` that returns its figures, each a mapping as `Figure` says.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from lipsync_cli.failures import CliError
from lipsync_cli.files import replacing
from lipsync_cli.machine import describe

NAMES = ("compositor", "services", "network", "gpu", "audio", "memory", "start", "listing", "import")

_MODULES = {"import": "importing"}  # where a benchmark's name can not be a module's


class Figure(TypedDict):
    """One measured figure."""

    name: str
    value: float
    unit: str
    ratio: NotRequired[float]
    """How many times better than `compared_with`, measured in the same run."""
    compared_with: NotRequired[str]
    goal: NotRequired[str]
    """As the documents state it: ">= 6x", "<= 8 ms"."""
    reached: NotRequired[bool]


@dataclass(frozen=True)
class Benchmarked:
    """What one benchmark gave: its figures, or why there are none."""

    name: str
    figures: Sequence[Figure] = ()
    error: str = ""


def source_tree() -> Path:
    """The folder that holds this package and `benchmarks`. Raises CliError for an installation without them."""
    tree = Path(__file__).resolve().parent.parent
    if not (tree / "benchmarks").is_dir():
        raise CliError(
            "there are no benchmarks here: they come with the source tree, not with the package; run `make bench` there"
        )
    return tree


def run_benchmarks(names: Sequence[str], show: Callable[[str], None]) -> list[Benchmarked]:
    """Runs the named benchmarks, all when none is named, one after the other; `show` is told each one's name.

    Raises CliError for an unknown name before anything runs. A benchmark that fails does not keep the others from running.
    """
    wanted = list(dict.fromkeys(names)) or list(NAMES)
    tree = source_tree()
    for name in wanted:
        if name not in NAMES:
            raise CliError(f"there is no benchmark {name!r}; there are {', '.join(NAMES)}")
        if not (tree / "benchmarks" / f"{_module(name)}.py").is_file():
            raise CliError(f"benchmarks/{_module(name)}.py is missing from the source tree")
    if str(tree) not in sys.path:
        sys.path.insert(0, str(tree))
    return [_run(name, show) for name in wanted]


def _module(name: str) -> str:
    return _MODULES.get(name, name)


def _run(name: str, show: Callable[[str], None]) -> Benchmarked:
    show(name)
    try:
        module = importlib.import_module(f"benchmarks.{_module(name)}")
        return Benchmarked(name, cast("Sequence[Figure]", module.run()))
    except Exception as error:  # a broken benchmark is reported beside the figures of the others
        return Benchmarked(name, error=f"{type(error).__name__}: {error}")


def as_rows(results: Sequence[Benchmarked]) -> list[tuple[str, ...]]:
    """benchmark, figure, measured, ratio, goal, reached."""
    return [(result.name, *_row(figure)) for result in results for figure in result.figures]


def write_json(path: Path, results: Sequence[Benchmarked]) -> None:
    """Writes figures and machine, whole or not at all."""
    report = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "benchmarks": {result.name: {"figures": list(result.figures), "error": result.error or None} for result in results},
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _row(figure: Figure) -> tuple[str, ...]:
    ratio = f"{figure['ratio']:.2f}x {figure.get('compared_with', '')}".strip() if "ratio" in figure else ""
    reached = {True: "yes", False: "no", None: ""}[figure.get("reached")]
    return (figure["name"], f"{figure['value']:.4g} {figure['unit']}", ratio, figure.get("goal", ""), reached)
