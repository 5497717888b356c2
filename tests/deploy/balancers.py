"""Balancers before real compositing services: the documented examples with other addresses, as processes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.processes import Service, free_port, running
from tests.programs import program


@dataclass(frozen=True)
class Balancer:
    """A balancer under test: how it is told of servers, checked and started."""

    name: str
    """nginx, envoy, haproxy (of docker-compose) or front (of Kubernetes)."""

    def configure(self, repository: Path, folder: Path, servers: list[str], port: int) -> Path:
        """Its example, with other addresses."""
        text = "".join((repository / "deploy" / part).read_text() for part in _FILES[self.name])
        if self.name == "nginx":
            lines = "\n".join(f"server {server} max_fails=1 fail_timeout=1s;" for server in servers)
            text, count = re.subn(r"server compositing:50052[^;]*;", lines, text)
            assert count == 1
            text = text.replace("listen 50052", f"listen 127.0.0.1:{port}").replace("/tmp/", f"{folder}/")
        elif self.name == "envoy":
            endpoint = "              - endpoint: {{address: {{socket_address: {{address: {0}, port_value: {1}}}}}}}"
            lines = "\n".join(endpoint.format(*server.rsplit(":", 1)) for server in servers)
            text = text.replace(endpoint.format("compositing", 50052), lines)
            text = text.replace("0.0.0.0, port_value: 50052", f"127.0.0.1, port_value: {port}")
            text = re.sub(r"(?:0\.0\.0\.0|127\.0\.0\.1), port_value: (50051|9901)", "127.0.0.1, port_value: 0", text)
        else:
            # Without the checks, which need DNS and a fixed port.
            lines = "\n".join(f"    server s{place} {server} proto h2" for place, server in enumerate(servers))
            text, count = re.subn(r"^ *server-template .* check proto h2$", lines, text, flags=re.MULTILINE)
            assert count == 1
            text = text.replace(":50052 proto h2", f"127.0.0.1:{port} proto h2").replace(":8404", f"127.0.0.1:{free_port()}")
        assert all(server.rsplit(":", 1)[1] in text for server in servers)
        target = folder / Path(_FILES[self.name][-1]).name
        target.write_text(text)
        return target

    def command(self, config: Path, *, check: bool) -> list[str]:
        if self.name == "nginx":
            nginx = program("nginx", "nginx-light")
            return [nginx, "-c", str(config), *(["-t"] if check else ["-g", "daemon off;"])]
        if self.name == "envoy":
            envoy = Path(sys.executable).with_name("envoy")
            return [
                str(envoy),
                "-c",
                str(config),
                *(["--mode", "validate"] if check else ["--use-dynamic-base-id", "-l", "warn"]),
            ]
        return [program("haproxy", "haproxy"), *(["-c"] if check else ["-db"]), "-f", str(config)]


_FILES = {
    "nginx": ["balancers/nginx.conf"],
    "envoy": ["balancers/envoy.yaml"],
    "haproxy": ["haproxy/haproxy.cfg", "haproxy/compositing.cfg"],
    "front": ["kubernetes/base/haproxy/front.cfg"],
}


@contextmanager
def compositors(models_root: Path, logs: Path, count: int) -> Iterator[list[Service]]:
    """One inference service, and so many before it."""
    with ExitStack() as stack:
        root = f"models_root={models_root}"
        inference = stack.enter_context(running("inference", root, log=logs / "inference"))
        upstream = f"inference_server.url={inference.address}"
        names = [f"compositing-{place}" for place in range(count)]
        yield [
            stack.enter_context(running("compositing", root, upstream, "server.drain_seconds=3", log=logs / name))
            for name in names
        ]


@contextmanager
def balancing(balancer: Balancer, repository: Path, folder: Path, servers: list[Service]) -> Iterator[str]:
    """The balancer before these services; its address."""
    port = free_port()
    config = balancer.configure(repository, folder, [server.address for server in servers], port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(balancer.command(config, check=False), cwd=folder, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
