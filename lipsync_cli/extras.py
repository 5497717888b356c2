"""Names the extra of this package that installs a missing module."""

from __future__ import annotations

# Modules that are not part of the base installation, which has what the client needs.
EXTRAS = {
    "cli": ("av", "cv2", "psutil", "pydantic", "pydantic_core", "rich", "soxr", "typer"),
    "services": (
        "cryptography",
        "grpc_health",
        "grpc_reflection",
        "grpc_status",
        "jwt",
        "onnx",
        "opentelemetry",
        "prometheus_client",
        "pynvml",
        "redis",
        "yaml",
    ),
    "gateway": ("aiohttp",),
    "webrtc": ("aiortc",),
    "livekit": ("livekit",),
    "cpu": ("onnxruntime", "openvino"),
}


def advice(error: ImportError) -> str | None:
    """Says which extra to install. Returns None when no extra has the missing module."""
    missing = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if missing in modules:
            others = ", on a machine with a GPU [gpu]" if extra == "cpu" else ""
            how = f"in a clone pip install '.[{extra}]', else pip install 'lipsync-serving[{extra}]'"
            return f"this needs {missing}, which is not installed: {how}{others}"
    return None
