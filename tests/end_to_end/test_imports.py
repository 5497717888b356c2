"""A start imports nothing heavy that only some services need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# For GPUs, TLS, tokens, traces, shared limits, bfloat16, and for commands.
FOR_SOME = {"pynvml", "cryptography", "jwt", "opentelemetry", "redis", "openvino", "rich", "matplotlib"}


@pytest.mark.parametrize(
    ("service", "for_some"),
    [("inference", FOR_SOME | {"av"}), ("compositing", FOR_SOME)],  # PyAV is for avatars that are videos, and for H.264
    ids=["inference", "compositing"],
)
def test_a_service_imports_only_what_all_of_its_kind_need(service: str, for_some: set[str]) -> None:
    program = f"import json, sys, lipsync_cli.main, {service}_service.service; print(json.dumps(list(sys.modules)))"
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert not for_some & set(json.loads(made.stdout))
