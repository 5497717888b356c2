"""Balancers before real compositing services: the documented examples with other addresses, as processes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.processes import Service, free_port, running
from tests.programs import program

NOWHERE = "127.0.0.1:1"
# Backends without TLS, with the checks that need DNS or a fixed port left out: those of gateways need neither.
_TEMPLATE = re.compile(r'^ *server-template \S+ \d+ "?(compositing|gateway)\b\S* (check proto h2|check)$', re.MULTILINE)
_DOORS = {"compositing": 50052, "gateway": 8086}


@dataclass(frozen=True)
class Balancer:
    """A balancer under test: how it is told of servers, checked and started."""

    name: str
    """nginx, envoy, haproxy (of docker-compose) or front (of Kubernetes)."""

    def configure(self, repository: Path, folder: Path, servers: Mapping[str, list[str]], ports: Mapping[str, int]) -> Path:
        """Its example, with other addresses: those of compositing services and of gateways, and the balancer's ports for each."""
        text = "".join((repository / "deploy" / part).read_text() for part in _FILES[self.name])
        known = {name: servers.get(name) or [NOWHERE] for name in _DOORS}
        listens = {name: ports.get(name) or free_port() for name in _DOORS}
        change = {"nginx": self._nginx, "envoy": self._envoy}.get(self.name, self._haproxy)
        text = change(text, folder, known, listens)
        assert all(server.rsplit(":", 1)[1] in text for name in known for server in known[name])
        target = folder / Path(_FILES[self.name][-1]).name
        target.write_text(text)
        return target

    def _nginx(self, text: str, folder: Path, servers: Mapping[str, list[str]], listens: Mapping[str, int]) -> str:
        for name, port in _DOORS.items():
            lines = "\n".join(f"server {server} max_fails=1 fail_timeout=1s;" for server in servers[name])
            text, count = re.subn(rf"server {name}:{port}[^;]*;", lines, text)
            assert count == 1
            text = text.replace(f"listen {port}", f"listen 127.0.0.1:{listens[name]}")
        return text.replace("/tmp/", f"{folder}/")

    def _envoy(self, text: str, folder: Path, servers: Mapping[str, list[str]], listens: Mapping[str, int]) -> str:
        endpoint = "              - endpoint: {{address: {{socket_address: {{address: {0}, port_value: {1}}}}}}}"
        for name, port in _DOORS.items():
            lines = "\n".join(endpoint.format(*server.rsplit(":", 1)) for server in servers[name])
            text = text.replace(endpoint.format(name, port), lines)
            text = text.replace(f"0.0.0.0, port_value: {port}", f"127.0.0.1, port_value: {listens[name]}")
        return re.sub(r"(?:0\.0\.0\.0|127\.0\.0\.1), port_value: (50051|9901)", "127.0.0.1, port_value: 0", text)

    def _haproxy(self, text: str, folder: Path, servers: Mapping[str, list[str]], listens: Mapping[str, int]) -> str:
        def lines(template: re.Match[str]) -> str:
            how = "proto h2" if template[1] == "compositing" else "check"
            return "\n".join(f"    server s{place} {server} {how}" for place, server in enumerate(servers[template[1]]))

        text, count = _TEMPLATE.subn(lines, text)
        assert count == len(_DOORS)
        for name, port in _DOORS.items():
            text = re.sub(rf"bind :{port}(?= proto h2$|$)", f"bind 127.0.0.1:{listens[name]}", text, flags=re.MULTILINE)
        return text.replace(":8404", f"127.0.0.1:{free_port()}")

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
    "haproxy": ["haproxy/haproxy.cfg", "haproxy/compositing.cfg", "haproxy/gateway.cfg"],
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
def gateways(compositing: Service, logs: Path, count: int, *overrides: str) -> Iterator[list[Service]]:
    """So many before one compositing service."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                running("gateway", f"compositing_server.url={compositing.address}", *overrides, log=logs / f"gateway-{place}")
            )
            for place in range(count)
        ]


@contextmanager
def balancing(
    balancer: Balancer, repository: Path, folder: Path, servers: list[Service], kind: str = "compositing"
) -> Iterator[str]:
    """The balancer before these services, `kind` being compositing or gateway; its address for their callers."""
    port = free_port()
    config = balancer.configure(repository, folder, {kind: [server.address for server in servers]}, {kind: port})
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(balancer.command(config, check=False), cwd=folder, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
