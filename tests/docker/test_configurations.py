"""docker-compose reads every combination of files, HAProxy every balancer, and the images hold what they should."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from ..deploy.compose_files import COMBINATIONS
from .certificates import make_certificates
from .images import BASE, OTHERS, PREFIX, TARGETS, TREE
from .stack import MARKS, Stack

pytestmark = MARKS

LEFT = """
import glob, os, shutil
for found in glob.glob("/opt/lipsync/lib/python3*/site-packages/*"):
    print(os.path.basename(found))
places = ["/build", "/opt/build", os.path.expanduser("~/.cache"), *glob.glob("/tmp/*")]
print(*filter(os.path.exists, places))
for folder, _, names in os.walk("/"):
    if not folder.startswith(("/proc", "/sys", "/usr/share/python-wheels")):
        print(*(os.path.join(folder, name) for name in names if name.endswith(".whl")))
print(*filter(None, map(shutil.which, ("gcc", "cc", "make"))))
"""
# Paths of shells and of what installs programs; of Python's, its modules too.
INSTALLERS = """
import glob, importlib.util, os
names = "sh ash bash dash rbash busybox ksh zsh apt* dpkg* pip* easy_install*"
folders = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/opt/lipsync/bin")
print(*sorted(found for folder in folders for name in names.split() for found in glob.glob(f"{folder}/{name}")))
print(*filter(importlib.util.find_spec, ("pip", "ensurepip")))
print(*glob.glob("/usr/share/python-wheels/*"))
"""
TLS = {"plain": {}, "tls": {"TLS": "on", "CLIENT_CA": ""}, "mtls": {"TLS": "on", "CLIENT_CA": "/etc/lipsync/tls/ca.crt"}}


@pytest.mark.parametrize("files", COMBINATIONS.values(), ids=COMBINATIONS)
def test_docker_compose_reads_them(client: docker.DockerClient, files: tuple[str, ...]) -> None:
    assert "services:" in Stack(client, "lipsync-test-config", files).compose("--profile", "monitoring", "config")


@pytest.mark.parametrize("balancer", ["compositing", "inference", "gateway"])
@pytest.mark.parametrize("environment", TLS.values(), ids=TLS)
def test_haproxy_reads_it(images: docker.DockerClient, tmp_path: Path, balancer: str, environment: dict[str, str]) -> None:
    make_certificates(tmp_path)
    tmp_path.chmod(0o755)
    mounts = {str(TREE / "deploy/haproxy"): "/etc/haproxy/lipsync", str(tmp_path): "/etc/lipsync/tls"}
    command = ["haproxy", "-c", "-f", "/etc/haproxy/lipsync/haproxy.cfg", "-f", f"/etc/haproxy/lipsync/{balancer}.cfg"]
    said = images.containers.run(
        OTHERS,
        command,
        environment=environment,
        volumes={source: {"bind": place, "mode": "ro"} for source, place in mounts.items()},
        user="10001:10001",
        stderr=True,
        remove=True,
    ).decode()
    assert "ALERT" not in said
    assert "WARNING" not in said


@pytest.mark.parametrize("target", TARGETS)
def test_images_say_what_they_are_and_hold_no_trace_of_the_build(images: docker.DockerClient, target: str) -> None:
    image = images.images.get(f"{PREFIX}{target}:latest")
    settings = image.attrs["Config"]
    assert settings["User"] == "10001:10001"
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Entrypoint"] == ["lipsync"]
    assert settings["Healthcheck"]["Test"] == ["CMD", "/usr/local/bin/lipsync-ready"]
    assert settings["Labels"]["org.opencontainers.image.title"].startswith("lipsync ")
    variables = dict(entry.split("=", 1) for entry in settings["Env"])
    assert variables["ORT_DISABLE_TELEMETRY"] == "1"
    assert int(variables["MALLOC_MMAP_THRESHOLD_"]) == 32 << 20
    assert int(variables["MALLOC_TRIM_THRESHOLD_"]) == 256 << 20
    own = image.history()[: -len(images.images.get(BASE).history())]
    assert "PIP_" not in str([settings, own])
    left = _listed(images, image.id)
    assert "lipsync_cli" in left
    assert not {"pip", "setuptools", "wheel"} & set(left)
    assert not [each for each in left if each.startswith("/")]


@pytest.mark.parametrize("target", TARGETS)
def test_no_program_has_the_rights_of_its_owner(images: docker.DockerClient, target: str) -> None:
    command = ["/", "-xdev", "-type", "f", "-perm", "/6000"]
    assert images.containers.run(BASE, ["find", *command], remove=True).split(), "the base has some"
    assert images.containers.run(f"{PREFIX}{target}:latest", command, entrypoint="find", user="0", remove=True) == b""


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_has_a_shell_or_a_package_manager(images: docker.DockerClient, target: str) -> None:
    assert "/bin/sh" in _installers(images, BASE), "the base has some"
    assert _installers(images, f"{PREFIX}{target}:latest") == []
    container = images.containers.create(f"{PREFIX}{target}:latest", ["-c", "true"], entrypoint="sh")
    try:
        with pytest.raises(docker.errors.APIError, match="executable file not found"):
            container.start()
    finally:
        container.remove()


@pytest.mark.parametrize("target", ["compositing", "gateway"])
def test_images_of_services_without_networks_lack_what_runs_them(images: docker.DockerClient, target: str) -> None:
    assert not {"onnx", "onnxruntime", "openvino"} & set(_listed(images, f"{PREFIX}{target}:latest"))


def _installers(client: docker.DockerClient, image: str) -> list[str]:
    """Paths of the image's shells and package managers, and names of Python's."""
    return client.containers.run(image, ["-c", INSTALLERS], entrypoint="/usr/bin/python3", remove=True).decode().split()


def _listed(client: docker.DockerClient, image: str) -> list[str]:
    """Names of the image's Python packages, and paths of all that a build could have left."""
    return client.containers.run(image, ["-c", LEFT], entrypoint="python3", remove=True).decode().split()
