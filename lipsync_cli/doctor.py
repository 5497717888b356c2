"""`lipsync doctor`: looks at what this machine can run, what is missing and what to do about it."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import ModuleType

import psutil

from avatar_kit.cores import usable_cores
from lipsync_cli import machine
from lipsync_cli.open_ports import open_to_all

TENSORRT_LIBRARY = "libnvinfer.so.10"
TENSORRT_RTX_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
OLDEST_PYTHON = (3, 11)
SLOW_PYTHON = (
    "services take some hundredths more of the processor: make .venv anew with your system's (`rm -r .venv; make setup "
    "PYTHON=/usr/bin/python3`), or compile yours with `PYTHON_CONFIGURE_OPTS='--enable-optimizations --with-lto' pyenv install`"
)
LEAST_MEMORY_GB = 2.0
PORTS = {
    50051: "inference gRPC",
    50052: "compositing gRPC",
    50053: "monolithic gRPC",
    8086: "gateway",
    53051: "inference metrics",
    53052: "compositing metrics",
    11086: "gateway metrics",
}
ASK_FOR_KEYS = "give the service auth.keys_file (`lipsync key create`), or let it listen on 127.0.0.1 alone"
INSTALL = "install this project's requirements (`make setup`)"


class State(StrEnum):
    """The weight of a finding. Only MISSING keeps the services from running."""

    GOOD = "good"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do."""

    subject: str
    state: State
    found: str
    advice: str = ""


def examine(models_root: Path) -> Iterator[Finding]:
    """Looks at everything, one thing after the other."""
    yield _python()
    yield _processor()
    yield _memory()
    yield from _inference()
    yield _package("OpenCV", "cv2", _jpeg_library)
    yield _package("PyAV", "av", _video_encoder)
    yield _package("gRPC", "grpc", lambda grpc: Finding("gRPC", State.GOOD, str(grpc.__version__)))
    yield _malloc()
    yield _models(models_root)
    yield from map(_port, PORTS)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", State.MISSING, version, "install Python 3.11 or newer")
    found = f"{version} ({platform.system()} {platform.machine()})"
    if not machine.python_is_optimised():
        return Finding("Python", State.NOTE, f"{found}, compiled without optimisations", SLOW_PYTHON)
    return Finding("Python", State.GOOD, found)


def _processor() -> Finding:
    flags = machine.cpu_flags()
    found = f"{machine.cpu_model()}, {usable_cores()} usable cores{', ' if flags else ''}{' '.join(flags)}"
    if platform.machine() == "x86_64" and "avx2" not in flags:
        return Finding("processor", State.NOTE, found, "no AVX2: the network runs slowly")
    return Finding("processor", State.GOOD, found)


def _memory() -> Finding:
    total_gb, available_gb = (size / 1e9 for size in psutil.virtual_memory()[:2])
    found = f"{total_gb:.1f} GB, {available_gb:.1f} GB available"
    if available_gb < LEAST_MEMORY_GB:
        return Finding("memory", State.NOTE, found, f"less than {LEAST_MEMORY_GB:g} GB available: load few avatars")
    return Finding("memory", State.GOOD, found)


def _inference() -> Iterator[Finding]:
    gpus = machine.gpus()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    extra = f"install this project with the extra `{'gpu' if gpus else 'cpu'}`"
    yield _package("onnxruntime", "onnxruntime", _providers, advice=extra)
    onnxruntime, _ = _imported("onnxruntime")
    providers = onnxruntime.get_available_providers() if onnxruntime else []
    named = "; ".join(gpus) or "none found by nvidia-smi"
    if onnxruntime and "CUDAExecutionProvider" not in providers:
        yield _engine()
    if onnxruntime is None or (not gpus and "CUDAExecutionProvider" not in providers):
        yield Finding("GPU", State.NOTE, named, "networks run on the CPU" if onnxruntime else "")
    elif "CUDAExecutionProvider" not in providers:
        yield Finding("GPU", State.NOTE, named, "not used: install the extra `gpu` (onnxruntime-gpu) in place of `cpu`")
    elif not gpus:
        found = "onnxruntime is its GPU build, but nvidia-smi finds no GPU"
        yield Finding("GPU", State.MISSING, found, "install the driver, or the extra `cpu`, or set gpus.enabled=false")
    elif problem := _cuda_problem(onnxruntime):
        advice = "install the extra `gpu`, which has CUDA and cuDNN, and a driver that is new enough for them"
        yield Finding("GPU", State.MISSING, f"{named}; {problem}", advice)
    else:
        yield Finding("GPU", State.GOOD, f"{named}; a convolution ran on it")
    if gpus and onnxruntime:
        yield _tensorrt(providers)
        yield _tensorrt_rtx()


def _engine() -> Finding:
    from monolithic_service.cpu_engine import cpu_engine

    engine = cpu_engine()
    return Finding("engine", State.NOTE if engine.advice else State.GOOD, engine.told, engine.advice)


def _providers(onnxruntime: ModuleType) -> Finding:
    onnxruntime.disable_telemetry_events()
    providers = ", ".join(onnxruntime.get_available_providers())
    return Finding("onnxruntime", State.GOOD, f"{onnxruntime.__version__}: {providers}")


def _cuda_problem(onnxruntime: ModuleType) -> str:
    """Runs one convolution on the GPU. CUDA and cuDNN are loaded so late that nothing less shows if they work."""
    import numpy as np

    from avatar_tools.networks.graph import Graph

    graph, shape = Graph(), [1, 1, 8, 8]
    convolved = graph.node("Conv", graph.input("x", shape), np.ones((1, 1, 3, 3), np.float32), pads=[1, 1, 1, 1])
    model = graph.model("probe", {"y": (convolved, shape)})
    try:
        onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
        if session.get_providers()[0] != "CUDAExecutionProvider":
            return "CUDA cannot be loaded"
        session.run(None, {"x": np.ones(shape, np.float32)})
    except Exception as error:  # the runtime's errors have no common base
        return f"a convolution fails: {str(error).splitlines()[0][:200]}"
    return ""


def _tensorrt(providers: list[str]) -> Finding:
    """Looks for the library that ONNX Runtime's own provider is built for."""
    if "TensorrtExecutionProvider" not in providers:
        return Finding("TensorRT", State.NOTE, "not in this onnxruntime", "to use it, install the extra `gpu`")
    try:
        ctypes.CDLL(TENSORRT_LIBRARY)
    except OSError:
        advice = "to use it, install tensorrt-cu13 10.16, whose libraries are then on the library path"
        return Finding("TensorRT", State.NOTE, f"{TENSORRT_LIBRARY} is not found", advice)
    return Finding("TensorRT", State.GOOD, f"{TENSORRT_LIBRARY} is there; name it in onnx.providers, with onnx.tensorrt_cache")


def _tensorrt_rtx() -> Finding:
    if importlib.util.find_spec(TENSORRT_RTX_MODULE) is None:
        advice = "to use it on a GPU of compute capability 7.5, 8.6, 8.9 or 12.0, install onnxruntime-ep-nv-tensorrt-rtx-cu13"
        return Finding("TensorRT-RTX", State.NOTE, "not installed", advice)
    return Finding("TensorRT-RTX", State.GOOD, "installed; name NvTensorRTRTXExecutionProvider in onnx.providers")


def _jpeg_library(cv2: ModuleType) -> Finding:
    match = re.search(r"JPEG:\s*(.+)", cv2.getBuildInformation())
    library = match.group(1).strip() if match else "no JPEG library"
    found = f"{cv2.__version__}, {library}"
    if "turbo" in library.lower():
        return Finding("OpenCV", State.GOOD, found)
    advice = "frames are encoded with libjpeg-turbo: install opencv-python-headless from the package index"
    return Finding("OpenCV", State.MISSING, found, advice)


def _video_encoder(av: ModuleType) -> Finding:
    from lipsync_cli.movie import video_encoder

    encoder = video_encoder()
    found = f"{av.__version__}, video encoder {encoder or 'none'}"
    if encoder is None:
        return Finding("PyAV", State.MISSING, found, "install av from the package index, whose wheel has H.264")
    if encoder == "mpeg4":
        advice = "no H.264: films play in players, not in browsers; install av from the package index"
        return Finding("PyAV", State.NOTE, found, advice)
    return Finding("PyAV", State.GOOD, found)


def _malloc() -> Finding:
    """Looks for glibc's malloc, which the services tune, or for an allocator that needs no tuning."""
    preloaded = [name for name in ("jemalloc", "tcmalloc", "mimalloc") if name in os.environ.get("LD_PRELOAD", "")]
    library, version = platform.libc_ver()
    if preloaded:
        return Finding("malloc", State.GOOD, f"{preloaded[0]} is preloaded")
    if library == "glibc":
        return Finding("malloc", State.GOOD, f"glibc {version}, which the services tune for large messages")
    return Finding("malloc", State.NOTE, library or "not glibc", "preload jemalloc for full speed with large messages")


def _models(models_root: Path) -> Finding:
    from lipsync_cli.avatars import listed

    subject, demo = f"avatars in {models_root}", f"`lipsync avatar demo --models-root {models_root}` makes one"
    if not models_root.is_dir():
        return Finding(subject, State.NOTE, "no such folder", demo)
    avatars = listed(models_root)
    if broken := [avatar.id for avatar in avatars if avatar.error]:
        advice = f"`lipsync avatar verify {broken[0]}` says why"
        return Finding(subject, State.NOTE, f"{len(avatars)}, broken: {', '.join(broken)}", advice)
    return Finding(subject, State.GOOD, f"{len(avatars)}") if avatars else Finding(subject, State.NOTE, "0", demo)


def _port(port: int) -> Finding:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - where the services listen by default
        except OSError as error:
            if open_port := open_to_all(port):
                return Finding(f"port {port}", State.NOTE, f"{PORTS[port]}: {open_port}", ASK_FOR_KEYS)
            key = "metrics.port" if PORTS[port].endswith("metrics") else "server.port"
            advice = f"fine if it is a service of yours that runs; else choose another one with --set {key}=:N"
            return Finding(f"port {port}", State.NOTE, f"{PORTS[port]}: {error.strerror}", advice)
    return Finding(f"port {port}", State.GOOD, f"{PORTS[port]}: free")


def _package(subject: str, module: str, look: Callable[[ModuleType], Finding], *, advice: str = INSTALL) -> Finding:
    """Looks at an imported module, or finds that it cannot be imported."""
    found, problem = _imported(module)
    return Finding(subject, State.MISSING, problem, advice) if found is None else look(found)


def _imported(name: str) -> tuple[ModuleType | None, str]:
    """Imports a module. Returns None and the reason when it is not installed or its native parts do not load."""
    try:
        return importlib.import_module(name), ""
    except ImportError as error:
        return None, "not installed" if isinstance(error, ModuleNotFoundError) else f"does not load: {error}"
