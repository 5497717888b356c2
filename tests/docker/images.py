"""Images without a registry: bases from the distribution's packages, ours built on them.

What was downloaded is kept for the next time on the same machine; nothing of how it was reached gets into an image.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import docker

TREE = Path(__file__).resolve().parents[2]
KEPT = Path("/tmp/lipsync-test-images")
EXTRA_AUTHORITIES = Path("/usr/local/share/ca-certificates")

BASE = "lipsync-test/base:latest"
OTHERS = "lipsync-test/others:latest"
PREFIX = "lipsync-test/"
TARGETS = ("compositing", "gateway", "inference-cpu")
REQUIREMENTS = ("build", "compositing", "gateway", "cpu")
# The newest HAProxy that a Debian has is nearer to the one that docker-compose.yml names than that of the other base.
SYSTEMS = {
    BASE: ("bookworm", ("ca-certificates", "espeak-ng", "python3", "python3-venv")),
    OTHERS: ("trixie", ("ca-certificates", "haproxy", "valkey-server", "wget")),
}
BASE_PYTHON = "3.11"
BOOTSTRAP_S = 600
DOWNLOAD_S = 900


def build_all(client: docker.DockerClient) -> None:
    """Both bases, and the images of this tree under PREFIX."""
    KEPT.mkdir(exist_ok=True)
    with ThreadPoolExecutor() as pool:
        systems = [pool.submit(_import_system, client, name, *system) for name, system in SYSTEMS.items()]
        wheels = pool.submit(_download_wheels).result()
        for system in systems:
            system.result()
    with _served(wheels) as url:
        for target in TARGETS:
            _build(client, target, url)


def _build(client: docker.DockerClient, target: str, wheels: str) -> None:
    client.images.build(
        path=str(TREE),
        dockerfile="deploy/docker/Dockerfile",
        target=target,
        tag=f"{PREFIX}{target}:latest",
        network_mode="host",
        rm=True,
        forcerm=True,
        buildargs={"BASE_IMAGE": BASE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels},
    )


def _import_system(client: docker.DockerClient, name: str, suite: str, packages: tuple[str, ...]) -> None:
    tar = KEPT / f"{suite}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:16]}.tar"
    if not tar.exists():
        with TemporaryDirectory(dir=KEPT) as work:
            root, unfinished = Path(work, "root"), Path(work, "tar")
            command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(root)]
            _run(command, BOOTSTRAP_S)
            _add_authorities(root)
            leave_out = [
                f"--exclude=./{folder}/*" for folder in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "proc", "sys")
            ]
            _run(["tar", "-C", str(root), *leave_out, "-cf", str(unfinished), "."], BOOTSTRAP_S)
            unfinished.rename(tar)
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_file(
        str(tar),
        repository=repository,
        tag=tag,
        changes=["ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    )


def _add_authorities(root: Path) -> None:
    """Those that this machine trusts besides the usual ones."""
    extra = list(EXTRA_AUTHORITIES.glob("*.crt"))
    for certificate in extra:
        shutil.copy(certificate, root / "usr/local/share/ca-certificates")
    if extra:
        _run(["chroot", str(root), "update-ca-certificates"], BOOTSTRAP_S)


def _download_wheels() -> Path:
    """Fetches the images' wheels in the way that this machine does; returns their folder."""
    files = [TREE / "requirements" / f"{name}.txt" for name in REQUIREMENTS]
    key = hashlib.sha256(BASE_PYTHON.encode() + b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    wheels = KEPT / f"wheels-{key}"
    if not wheels.exists():
        with TemporaryDirectory(dir=KEPT) as work:
            unfinished = Path(work, "wheels")
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                f"--dest={unfinished}",
            ]
            command += ["--only-binary=:all:", f"--python-version={BASE_PYTHON}"]
            for file in files:
                _run([*command, "-r", str(file)], DOWNLOAD_S)
            unfinished.rename(wheels)
    return wheels


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The folder over HTTP on loopback, which a build on the host's network reaches. Yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Nobody reads it."""


def _run(command: list[str], timeout_s: float) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{' '.join(command)}\n{(done.stdout + done.stderr)[-3000:]}"
