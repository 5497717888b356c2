"""Common parts of the steps: their options, their device, and files with a line of JSON for each result."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suite import describe_machine


@dataclass(frozen=True)
class Step:
    """The options of a step."""

    on_gpu: bool
    json_lines: Path
    """The file of results, which begins with a line for the machine."""

    def write(self, result: Mapping[str, Any]) -> None:
        """Appends a result and sees it to the disk: this process may be killed at any time."""
        with self.json_lines.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(result) + "\n")
            lines.flush()
            os.fsync(lines.fileno())


def step_from(arguments: Sequence[str] | None = None) -> Step:
    """Reads the command line `--device cuda|cpu FILE`, and begins the file."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("json_lines", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    step = Step(given.device == "cuda", given.json_lines)
    step.json_lines.unlink(missing_ok=True)
    step.write({"machine": describe_machine()})
    return step
