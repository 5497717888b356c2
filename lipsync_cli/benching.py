"""`lipsync bench`: finds the benchmarks, which are part of the source tree and not of the package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from lipsync_cli.failures import CliError


def benchmark_suite() -> ModuleType:
    """Imports `benchmarks.suite`. Raises CliError for an installation without the source tree."""
    tree = Path(__file__).resolve().parent.parent
    if not (tree / "benchmarks").is_dir():
        raise CliError(
            "there are no benchmarks here: they come with the source tree, not with the package; run `make bench` there"
        )
    if str(tree) not in sys.path:
        sys.path.insert(0, str(tree))
    return importlib.import_module("benchmarks.suite")
