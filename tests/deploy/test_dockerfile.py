"""Stages of the Dockerfile, read without an engine."""

from __future__ import annotations

import re

import pytest

from .compose_files import TREE

TEXT = (TREE / "deploy/docker/Dockerfile").read_text()
# By the stage's name: what it is made from, and its instructions.
STAGES = {
    name: (base, re.findall(r"^[A-Z]+ .*", body, re.MULTILINE))
    for base, name, body in re.findall(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL)
}


@pytest.mark.parametrize("image", ["gateway", "compositing", "inference-cpu", "inference-gpu"])
def test_every_image_is_closed_by_the_last_program_that_runs_in_it(image: str) -> None:
    """Also the one for GPUs, which is too large to be built by the other tests."""
    instructions: list[str] = []
    stage = image
    while stage in STAGES:
        stage, own = STAGES[stage]
        instructions = own + instructions
    assert [each for each in instructions if each.startswith("RUN ")][-1] == 'RUN ["/bin/sh", "/usr/local/sbin/close.sh"]'
    assert [each for each in instructions if each.startswith("USER ")][-1] == "USER 10001:10001"
