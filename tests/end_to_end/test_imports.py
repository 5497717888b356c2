"""A start imports nothing heavy that only some services need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# PyAV is for avatars that are videos, the others are for GPUs, TLS, tokens, bfloat16, and for commands.
FOR_SOME = {"av", "pynvml", "cryptography", "jwt", "openvino", "rich", "matplotlib"}


@pytest.mark.parametrize("service", ["inference", "compositing"])
def test_a_service_imports_only_what_all_of_its_kind_need(service: str) -> None:
    program = f"import json, sys, lipsync_cli.main, {service}_service.service; print(json.dumps(list(sys.modules)))"
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert not FOR_SOME & set(json.loads(made.stdout))
