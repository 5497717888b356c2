"""Writes docs/licences.md from what is installed: `python -m tools.licence_list docs/licences.md .venv/bin/python`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "requirements" / "cpu.txt"
INTRODUCTION = """\
# Licences of the packages that the services use

Made by `make licences` from what the packages say of themselves; a test fails when a pinned package is missing, or has a licence
of another kind.

Two of them hold more than their own licence says. The wheels of `av` carry FFmpeg's libraries with x264, under the GPL:
a program of your own that imports `av` and that you give to others falls under it; a service that you run for others does not.
`soxr` is under the LGPL. The GPU's image adds NVIDIA's packages (CUDA, cuDNN), under NVIDIA's own licence.
"""


def page(python: str) -> str:
    """Returns the whole page, Markdown. `python` is the interpreter of the environment with the packages."""
    names = re.findall(r"^([\w.-]+)==", PINS.read_text(encoding="utf-8"), re.MULTILINE)
    command = [sys.executable, "-m", "piplicenses", "--python", python, "--from", "mixed", "--format", "markdown", "--packages"]
    table = subprocess.run([*command, *names], capture_output=True, text=True, check=True).stdout  # noqa: S603
    return f"{INTRODUCTION}\n{table}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(sys.argv[2]), encoding="utf-8")
