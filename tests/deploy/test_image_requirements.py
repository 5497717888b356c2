"""The compositing image installs a part of the requirements: that must be enough."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
NAMES = ("cpu.txt", "compositing.txt")
# How packages are imported whose names do not say it.
MODULES = {"ml-dtypes": "ml_dtypes", "nvidia-ml-py": "pynvml"}
SERVE = """
import sys
for module in sys.argv[1:]:
    sys.modules[module] = None
import compositing_service.service
import service_kit.settings
import lipsync_cli.main
"""


def test_compositing_starts_without_what_its_image_lacks() -> None:
    whole, part = (set(re.findall(r"^[a-z0-9-]+", (REQUIREMENTS / name).read_text(), re.MULTILINE)) for name in NAMES)
    lacking = [MODULES.get(package, package) for package in sorted(whole - part)]
    assert "onnxruntime" in lacking
    done = subprocess.run([sys.executable, "-c", SERVE, *lacking], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
