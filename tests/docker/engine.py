"""A container engine: the one that runs, or one of our own for the length of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import requests
from docker.errors import DockerException

PROGRAMS = {"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap", "haproxy": "haproxy"}
OURS = "lipsync-test-docker"
START_S = 60
STOP_S = 60
INSTALL_S = 600


class NoEngineError(Exception):
    """Says why there is none."""


def install_programs(*, allowed: bool) -> None:
    """From the distribution, what is missing. Raises NoEngineError when that cannot be, or is not allowed."""
    missing = [package for program, package in PROGRAMS.items() if _where(program) is None]
    if not missing:
        return
    if not allowed:
        raise NoEngineError(f"not installed: {', '.join(missing)}; `make test-docker` installs them")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise NoEngineError(f"{', '.join(missing)} not installed, and only root on Debian can change that")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", *command], check=False, env=environment, capture_output=True, text=True, timeout=INSTALL_S
        )
        if done.returncode:
            raise NoEngineError(f"apt-get {command[0]} failed: {(done.stdout + done.stderr)[-1000:]}")


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine. Raises NoEngineError."""
    try:
        client = docker.from_env()
        client.ping()
    except (DockerException, requests.RequestException):
        pass
    else:
        yield client
        client.close()
        return
    if os.geteuid() != 0:
        raise NoEngineError("no engine runs, and only root can start one")
    with _own_engine() as host:
        client = docker.DockerClient(base_url=host, timeout=300)
        yield client
        client.close()


@contextmanager
def _own_engine() -> Iterator[str]:
    """Starts dockerd beside whatever else there is; ends it, and leaves nothing of it. Yields its address."""
    data, run = Path("/var/lib", OURS), Path("/run", OURS)
    host = f"unix://{run}/docker.sock"
    problems = []
    for storage in (None, "vfs"):
        run.mkdir(exist_ok=True)
        with (run / "log").open("wb") as log:
            command = [_where("dockerd") or "dockerd", f"--data-root={data}", f"--exec-root={run}/exec", f"--pidfile={run}/pid"]
            command += [f"--host={host}", *([f"--storage-driver={storage}"] if storage else [])]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            if _answers(process, host):
                yield host
                return
            problems.append((run / "log").read_text(errors="replace")[-1500:])
        finally:
            _end(process)
            for folder in (data, run):
                _remove(folder)
    raise NoEngineError("dockerd does not start here:\n" + "\n".join(problems))


def _answers(process: subprocess.Popen[bytes], host: str) -> bool:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client = docker.DockerClient(base_url=host, timeout=5)
        except (DockerException, requests.RequestException):
            time.sleep(0.2)  # the process of another project: there is nothing to wait for but its answer
            continue
        client.close()
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove(folder: Path) -> None:
    """With what dockerd has mounted in it and leaves."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in reversed([place for place in mounted if Path(place).is_relative_to(folder)]):
        subprocess.run(["umount", "--lazy", place], check=False, timeout=STOP_S)
    shutil.rmtree(folder, ignore_errors=True)


def _where(program: str) -> str | None:
    """Also in the folders that only an administrator's PATH has."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
