"""The engine, the images and the stack that most tests share.

REQUIRE_DOCKER=1, as `make test-docker` sets it: what is missing is installed, and where no engine can be started the tests fail
instead of being skipped.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from .engine import NoEngineError, engine, install_programs
from .images import build_all
from .stack import Stack, chmod_for_containers, until


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """A client of the engine."""
    required = os.environ.get("REQUIRE_DOCKER") == "1"
    try:
        install_programs(allowed=required)
        with engine() as found:
            yield found
    except NoEngineError as error:
        if required:
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def images(client: docker.DockerClient) -> docker.DockerClient:
    """The client, once the images are there."""
    build_all(client)
    return client


@pytest.fixture(scope="session")
def stack(images: docker.DockerClient) -> Iterator[Stack]:
    """Everything, from nothing: an empty volume, the CPU's override."""
    project = Stack(images, "lipsync-test")
    project.down()
    try:
        project.up()
        yield project
    finally:
        project.down()


@pytest.fixture
def one_of_each(stack: Stack) -> Stack:
    """The shared stack with one compositor, and none that still comes or goes."""
    stack.up(compositing=1)
    until(lambda: len(stack.containers("compositing")) == 1, within_s=60)
    return stack


@pytest.fixture
def three(stack: Stack) -> Iterator[Stack]:
    """The shared stack with three compositors, known to the balancer; one is left after the test."""
    stack.up(compositing=3)
    yield stack
    stack.up(compositing=1)
    until(lambda: len(stack.containers("compositing")) == 1, within_s=60)


@pytest.fixture(scope="session")
def models(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, on this machine, of the models that the init step wrote into the stack's volume."""
    folder = tmp_path_factory.mktemp("from-volume")
    stream, _ = stack.one("inference").get_archive("/models")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11 has it from 3.11.4 on
        archive.extractall(folder)
    chmod_for_containers(folder)
    return folder / "models"
