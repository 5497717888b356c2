"""The compose project, brought up under a name of its own on a port that the system gives."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from .images import OTHERS, PREFIX, TREE

# The SDK leaves the sockets of streams to the garbage collector.
MARKS = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
COMMAND_S = 300
HEALTHY_S = 120
CPU = ("docker-compose.yml", "deploy/compose/cpu.yml")


class Stack:
    """One project. `up` starts it, or brings what runs in line with what is wanted now; `down` removes all of it."""

    def __init__(
        self, client: docker.DockerClient, name: str, files: tuple[str, ...] = CPU, variables: Mapping[str, str] | None = None
    ) -> None:
        self.client = client
        self.name = name
        self.files = [part for file in files for part in ("-f", file)]
        self.environment = _without_ours(os.environ) | {
            "COMPOSE_PROJECT_NAME": name,
            "DOCKER_HOST": _host(client),
            "HAPROXY_IMAGE": OTHERS,
            "VALKEY_IMAGE": OTHERS,
            "IMAGE_PREFIX": PREFIX,
            "API_PORT": "127.0.0.1:0",
            "GATEWAY_PORT": "127.0.0.1:0",
            **(variables or {}),
        }

    def compose(self, *arguments: str) -> str:
        """Runs docker-compose; what it wrote to stdout."""
        return self.run(["docker-compose", *self.files, *arguments])

    def run(self, command: list[str]) -> str:
        """A program with the project's environment; what it wrote to stdout."""
        done = subprocess.run(
            command, check=False, cwd=TREE, env=self.environment, capture_output=True, text=True, timeout=COMMAND_S
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{(done.stdout + done.stderr)[-3000:]}"
        return done.stdout

    def up(self, **scale: int) -> None:
        """All services, as many of each as `scale` says, until each is healthy and the balancer knows all compositors and
        gateways."""
        numbers = [part for service, count in scale.items() for part in ("--scale", f"{service}={count}")]
        assert self.key  # made before the services start, which then know it at once
        self.compose("up", "-d", "--no-build", *numbers)
        self.wait_healthy()
        for service in ("compositing", "gateway"):
            until(lambda service=service: self._known(service) == len(self.containers(service)), within_s=HEALTHY_S)

    def down(self) -> None:
        """Removes containers, networks and volumes."""
        self.compose("down", "--volumes", "--timeout", "60")

    def containers(self, service: str | None = None, *, all: bool = False) -> list[Container]:  # noqa: A002 - the SDK's word
        """Those of the project, by name; `all`: also those that ended."""
        labels = [f"com.docker.compose.project={self.name}"]
        if service:
            labels.append(f"com.docker.compose.service={service}")
        return sorted(self.client.containers.list(all=all, filters={"label": labels}), key=lambda each: str(each.name))

    def one(self, service: str) -> Container:
        """The only container of a service."""
        [container] = self.containers(service)
        return container

    @cached_property
    def key(self) -> str:
        """A caller's key, made as the README says."""
        scopes = [part for scope in ("infer", "read", "admin") for part in ("--scope", scope)]
        return self.compose("run", "--rm", "-T", "keys", "create", "tester", *scopes).strip()

    @property
    def address(self) -> str:
        """Host and port of the balancer for this machine."""
        return self._published(50052)

    @property
    def browser_address(self) -> str:
        """Host and port of the balancer for browsers on this machine."""
        return self._published(8086)

    def _published(self, port: int) -> str:
        container = self.one("haproxy")
        container.reload()
        [binding, *_] = container.ports[f"{port}/tcp"]
        return f"127.0.0.1:{binding['HostPort']}"

    def address_in(self, container: Container, network: str) -> str:
        """The container's own address on one of the project's networks."""
        container.reload()
        return str(container.attrs["NetworkSettings"]["Networks"][f"{self.name}_{network}"]["IPAddress"])

    def wait_healthy(self) -> None:
        """Waits until every container that has a health check passes it."""
        until(lambda: all(health(container) in {"healthy", "none"} for container in self.containers()), within_s=HEALTHY_S)

    def metric(self, container: Container, name: str, *, port: int = 53052, **labels: str) -> float:
        """The sum over all series of a metric that bear the labels; of a container on the front network."""
        with urllib.request.urlopen(f"http://{self.address_in(container, 'front')}:{port}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = [
            line for line in lines if line.partition("{")[0].partition(" ")[0] == name and all(want in line for want in wanted)
        ]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def _known(self, service: str) -> float:
        """Counts them as the balancer has them."""
        return self.metric(self.one("haproxy"), "haproxy_backend_active_servers", port=8404, proxy=service)


def health(container: Container) -> str:
    """healthy, unhealthy, starting; none where there is no check."""
    container.reload()
    return str(container.attrs["State"].get("Health", {}).get("Status", "none"))


def kill(container: Container) -> None:
    """Kills it as the kernel does when memory is short: Docker did not ask for it, so its restart policy holds."""
    container.reload()
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)


def until(true: Callable[[], bool], *, within_s: float) -> None:
    """Looks again and again: what is watched are other processes, so there is no event to wait for."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)


def _host(client: docker.DockerClient) -> str:
    adapter = client.api.get_adapter(client.api.base_url)
    return f"unix://{adapter.socket_path}" if hasattr(adapter, "socket_path") else str(client.api.base_url)


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """Nothing that steers docker-compose from outside."""
    names = {"COMPOSE_FILE", "AUTH", "MODELS", "GPUS", "GPU_RUNTIME", "CERTIFICATES", "CLIENT_CA", "BASE_IMAGE", "IMAGE_TAG"}
    return {key: value for key, value in environment.items() if key not in names}


def chmod_for_containers(folder: Path) -> None:
    """Lets the containers' user read what the tests wrote."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
