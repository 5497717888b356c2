"""`lipsync doctor`: what this machine can run, what is missing and what to do about it."""

from __future__ import annotations

import importlib
import os
import platform
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType

import psutil

from avatar_kit.cores import usable_cores
from lipsync_cli import machine

OLDEST_PYTHON = (3, 11)
LEAST_MEMORY_GB = 2.0
PORTS = {50051: "inference gRPC", 50052: "compositing gRPC", 53051: "inference metrics", 53052: "compositing metrics"}
INSTALL = "install this project's requirements (`make setup`)"


class State(StrEnum):
    """What a finding means."""

    GOOD = "good"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `advice` says what to do; only MISSING keeps the services from running."""

    subject: str
    state: State
    found: str
    advice: str = ""


def examine(models_root: Path) -> Iterator[Finding]:
    """Looks at everything, one thing after the other."""
    yield _python()
    yield from _processor_and_memory()
    yield from _inference()
    yield from _pictures()
    yield from _sound_and_film()
    yield _rpc()
    yield _malloc()
    yield _models(models_root)
    yield from map(_port, PORTS)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", State.MISSING, version, "install Python 3.11 or newer")
    return Finding("Python", State.GOOD, f"{version} ({platform.system()} {platform.machine()})")


def _processor_and_memory() -> Iterator[Finding]:
    flags = machine.cpu_flags()
    found = f"{machine.cpu_model()}, {usable_cores()} usable cores{', ' if flags else ''}{' '.join(flags)}"
    slow = platform.machine() == "x86_64" and "avx2" not in flags
    yield Finding("processor", State.NOTE if slow else State.GOOD, found, "no AVX2: the network runs slowly" if slow else "")
    memory = psutil.virtual_memory()
    found = f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB available"
    if memory.available / 1e9 < LEAST_MEMORY_GB:
        yield Finding("memory", State.NOTE, found, f"less than {LEAST_MEMORY_GB:g} GB available: load few avatars")
    else:
        yield Finding("memory", State.GOOD, found)


def _inference() -> Iterator[Finding]:
    gpus = machine.gpus()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime, problem = _imported("onnxruntime")
    if onnxruntime is None:
        package = "gpu" if gpus else "cpu"
        yield Finding("onnxruntime", State.MISSING, problem, f"install this project with the extra `{package}`")
        yield Finding("GPU", State.NOTE, "; ".join(gpus) or "none found by nvidia-smi")
        return
    onnxruntime.disable_telemetry_events()
    providers = list(onnxruntime.get_available_providers())
    yield Finding("onnxruntime", State.GOOD, f"{onnxruntime.__version__}: {', '.join(providers)}")
    yield _gpu(gpus, onnxruntime, providers)


def _gpu(gpus: list[str], onnxruntime: ModuleType, providers: list[str]) -> Finding:
    if "CUDAExecutionProvider" not in providers:
        if gpus:
            return Finding(
                "GPU", State.NOTE, "; ".join(gpus), "not used: install the extra `gpu` (onnxruntime-gpu) in place of `cpu`"
            )
        return Finding("GPU", State.NOTE, "none found by nvidia-smi", "networks run on the CPU")
    if not gpus:
        return Finding(
            "GPU",
            State.MISSING,
            "onnxruntime is its GPU build, but nvidia-smi finds no GPU",
            "install the driver, or the extra `cpu`, or set gpus.enabled=false",
        )
    problem = _cuda_problem(onnxruntime)
    if problem:
        return Finding(
            "GPU",
            State.MISSING,
            f"{'; '.join(gpus)}; {problem}",
            "install the extra `gpu`, which brings CUDA and cuDNN, and a driver new enough for them",
        )
    return Finding("GPU", State.GOOD, f"{'; '.join(gpus)}; a convolution ran on it")


def _cuda_problem(onnxruntime: ModuleType) -> str:
    """Runs one convolution on the GPU: CUDA and cuDNN are loaded so late that nothing less shows whether they work."""
    import numpy as np
    from onnx import TensorProto, ValueInfoProto, helper

    def tensor(name: str) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8])

    kernel = helper.make_tensor("kernel", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "kernel"], ["y"], pads=[1, 1, 1, 1])], "probe", [tensor("x")], [tensor("y")], [kernel]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    try:
        onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
        if session.get_providers()[0] != "CUDAExecutionProvider":
            return "CUDA cannot be loaded"
        session.run(None, {"x": np.ones((1, 1, 8, 8), np.float32)})
    except Exception as error:  # the runtime's errors have no common base
        return f"a convolution fails: {str(error).splitlines()[0][:200]}"
    return ""


def _pictures() -> Iterator[Finding]:
    cv2, problem = _imported("cv2")
    if cv2 is None:
        yield Finding("OpenCV", State.MISSING, problem, INSTALL)
        return
    jpeg = re.search(r"JPEG:\s*(.+)", cv2.getBuildInformation())
    library = jpeg.group(1).strip() if jpeg else "no JPEG library"
    found = f"{cv2.__version__}, {library}"
    if "turbo" not in library.lower():
        yield Finding(
            "OpenCV",
            State.MISSING,
            found,
            "frames are encoded with libjpeg-turbo: install opencv-python-headless from the package index",
        )
    else:
        yield Finding("OpenCV", State.GOOD, found)


def _sound_and_film() -> Iterator[Finding]:
    av, problem = _imported("av")
    if av is None:
        yield Finding("PyAV", State.MISSING, problem, INSTALL)
        return
    from lipsync_cli.movie import video_encoder

    encoder = video_encoder()
    found = f"{av.__version__}, video encoder {encoder or 'none'}"
    if encoder is None:
        yield Finding("PyAV", State.MISSING, found, "install av from the package index, whose wheel has H.264")
    elif encoder == "mpeg4":
        yield Finding(
            "PyAV", State.NOTE, found, "no H.264: films play in players, not in browsers; install av from the package index"
        )
    else:
        yield Finding("PyAV", State.GOOD, found)


def _rpc() -> Finding:
    grpc, problem = _imported("grpc")
    if grpc is None:
        return Finding("gRPC", State.MISSING, problem, INSTALL)
    return Finding("gRPC", State.GOOD, str(grpc.__version__))


def _malloc() -> Finding:
    """The services tune glibc's malloc themselves; another allocator has its own ways."""
    preloaded = [name for name in ("jemalloc", "tcmalloc", "mimalloc") if name in os.environ.get("LD_PRELOAD", "")]
    if preloaded:
        return Finding("malloc", State.GOOD, f"{preloaded[0]} is preloaded")
    library, version = platform.libc_ver()
    if library == "glibc":
        return Finding("malloc", State.GOOD, f"glibc {version}, which the services tune for large messages")
    return Finding("malloc", State.NOTE, library or "not glibc", "preload jemalloc for full speed with large messages")


def _models(models_root: Path) -> Finding:
    subject = f"avatars in {models_root}"
    if not models_root.is_dir():
        return Finding(
            subject, State.NOTE, "no such folder", f"`lipsync avatar demo --models-root {models_root}` makes it with an avatar"
        )
    from lipsync_cli.avatars import listed

    avatars = listed(models_root)
    broken = [avatar.id for avatar in avatars if avatar.error]
    if broken:
        return Finding(
            subject, State.NOTE, f"{len(avatars)}, broken: {', '.join(broken)}", f"`lipsync avatar verify {broken[0]}` tells why"
        )
    return Finding(
        subject, State.GOOD if avatars else State.NOTE, f"{len(avatars)}", "" if avatars else "`lipsync avatar demo` makes one"
    )


def _port(port: int) -> Finding:
    subject = f"port {port}"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - where the services listen by default
        except OSError as error:
            return Finding(
                subject,
                State.NOTE,
                f"{PORTS[port]}: {error.strerror}",
                "another service uses it; choose others with --set server.port=:N",
            )
    return Finding(subject, State.GOOD, f"{PORTS[port]}: free")


def _imported(name: str) -> tuple[ModuleType | None, str]:
    """A module, or None and why it cannot be imported: absent, or its native parts do not load."""
    try:
        return importlib.import_module(name), ""
    except ImportError as error:
        return None, "not installed" if isinstance(error, ModuleNotFoundError) else f"does not load: {error}"
