"""The images of compositing and of the gateway install a part of the requirements: that must be enough."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
# How packages are imported whose names do not say it.
MODULES = {"ml-dtypes": "ml_dtypes", "nvidia-ml-py": "pynvml", "opencv-python-headless": "cv2"}
SERVE = """
import sys
service, *lacking = sys.argv[1:]
for module in lacking:
    sys.modules[module] = None
import importlib
importlib.import_module(f"{service}_service.service")
import service_kit.settings
import lipsync_cli.main
"""


@pytest.mark.parametrize(("image", "without"), [("compositing", "onnxruntime"), ("gateway", "onnxruntime")])
def test_a_service_starts_without_what_its_image_lacks(image: str, without: str) -> None:
    whole, part = (
        set(re.findall(r"^[a-z0-9-]+", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE)) for name in ("cpu", image)
    )
    lacking = [MODULES.get(package, package) for package in sorted(whole - part)]
    assert without in lacking
    done = subprocess.run([sys.executable, "-c", SERVE, image, *lacking], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
