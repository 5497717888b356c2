"""Runs benchmarks by name, for `lipsync bench`. A benchmark is a module here whose `run()` returns its figures."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

import psutil

from avatar_kit.cores import usable_cores
from benchmarks.figures import Figure
from lipsync_cli import machine
from lipsync_cli.failures import CliError

NAMES = (
    "compositor",
    "services",
    "interpreters",
    "live",
    "overload",
    "h264",
    "gateway",
    "webrtc",
    "adapters",
    "network",
    "avatars",
    "gpu",
    "audio",
    "memory",
    "start",
    "listing",
    "import",
)
COLUMNS = ("benchmark", "figure", ">measured", ">ratio", ">goal", "reached")
PACKAGES = ("grpcio", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "opencv-python-headless", "av", "protobuf")


@dataclass(frozen=True)
class Result:
    """The figures of one benchmark, or the error that ended it."""

    name: str
    figures: Sequence[Figure] = ()
    error: str = ""

    def rows(self) -> list[tuple[str, ...]]:
        """Returns a row of COLUMNS for each figure."""
        return [(self.name, *_row(figure)) for figure in self.figures]


def run(names: Sequence[str], show: Callable[[str], None]) -> list[Result]:
    """Runs the named benchmarks, or all of them, one after the other; calls `show` with each name.

    Raises CliError for an unknown name before anything runs. The others run even if one fails.
    """
    for name in names:
        if name not in NAMES:
            raise CliError(f"there is no benchmark {name!r}; there are {', '.join(NAMES)}")
    return [_result(name, show) for name in dict.fromkeys(names or NAMES)]


def module_name(name: str) -> str:
    """Returns the module of a benchmark, under `benchmarks`. `import` cannot be the name of one."""
    return {"import": "importing", "gpu": "gpu.service"}.get(name, name)


def report(results: Sequence[Result]) -> dict[str, object]:
    """Returns figures and machine, for a JSON file."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "benchmarks": {result.name: {"figures": list(result.figures), "error": result.error or None} for result in results},
    }


def describe_machine() -> dict[str, object]:
    """Returns everything that a figure depends on."""
    return {
        "cpu": machine.cpu_model(),
        "cores": usable_cores(),
        "cpu_flags": machine.cpu_flags(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": machine.gpus(),
        "system": platform.platform(),
        "python": platform.python_version() + ("" if machine.python_is_optimised() else ", compiled without optimisations"),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _result(name: str, show: Callable[[str], None]) -> Result:
    show(name)
    try:
        return Result(name, importlib.import_module(f"benchmarks.{module_name(name)}").run())
    except Exception as error:  # a broken benchmark is reported beside the figures of the others
        return Result(name, error=f"{type(error).__name__}: {error}")


def _row(figure: Figure) -> tuple[str, ...]:
    ratio = f"{figure['ratio']:.2f}x {figure.get('compared_with', '')}".strip() if "ratio" in figure else ""
    reached = {True: "yes", False: "no", None: ""}[figure.get("reached")]
    return (figure["name"], f"{figure['value']:.4g} {figure['unit']}", ratio, figure.get("goal", ""), reached)
