"""The doctor: finds what is missing, and says so with its exit code."""

from __future__ import annotations

import socket
import sys
import sysconfig

import pytest

from lipsync_cli import doctor, machine, open_ports
from lipsync_cli.doctor import PORTS, State, examine


def findings(models_root):
    return {finding.subject: finding for finding in examine(models_root)}


def test_this_machine_can_run_the_services(run, tmp_path):
    """The tests themselves need everything that the doctor looks for."""
    result = run("doctor", "--models-root", tmp_path)
    assert result.exit_code == 0, result.output
    for subject in ("Python", "processor", "memory", "onnxruntime", "GPU", "OpenCV", "PyAV", "gRPC", "malloc", "port 50051"):
        assert subject in result.stdout
    assert not [finding for finding in examine(tmp_path) if finding.state is State.MISSING]


@pytest.mark.parametrize(
    ("module", "subject"), [("onnxruntime", "onnxruntime"), ("cv2", "OpenCV"), ("av", "PyAV"), ("grpc", "gRPC")]
)
def test_what_is_not_installed_is_missing(run, monkeypatch, tmp_path, module, subject):
    monkeypatch.setitem(sys.modules, module, None)
    finding = findings(tmp_path)[subject]
    assert finding.state is State.MISSING
    assert finding.advice
    result = run("doctor", "--models-root", tmp_path)
    assert result.exit_code == 1
    assert f"missing on this machine: {subject}" in result.stderr


def test_a_gpu_that_is_not_used_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "gpus", lambda: ["NVIDIA H200, 143771 MiB, 580.1"])
    finding = findings(tmp_path)["GPU"]
    assert (finding.state, finding.found) == (State.NOTE, "NVIDIA H200, 143771 MiB, 580.1")
    assert "onnxruntime-gpu" in finding.advice


@pytest.mark.parametrize(
    ("prefix", "arguments", "state"),
    [
        ("/usr", "'--enable-shared' '--prefix=/usr'", State.GOOD),  # Debian's does not tell, and is
        ("/usr/local", "'--enable-optimizations' '--with-lto'", State.GOOD),
        ("/opt/ann/.pyenv/versions/3.11.7", "'--enable-shared'", State.NOTE),
        ("C:\\Python311", None, State.GOOD),  # nothing is known of how it was compiled
    ],
)
def test_a_python_compiled_without_optimisations_is_told(monkeypatch, tmp_path, prefix, arguments, state):
    monkeypatch.setattr(sys, "base_prefix", prefix)
    monkeypatch.setitem(sysconfig.get_config_vars(), "CONFIG_ARGS", arguments)
    finding = findings(tmp_path)["Python"]
    assert finding.state is state
    assert bool(finding.advice) is (state is State.NOTE)


class GpuBuild:
    """onnxruntime's GPU build on a machine where CUDA does not load."""

    __version__ = "1.31.1"

    class InferenceSession:
        def __init__(self, *_args, **_kwargs):
            pass

        def get_providers(self):
            return ["CPUExecutionProvider"]

    def disable_telemetry_events(self):
        pass

    def preload_dlls(self):
        pass

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(("gpus", "words"), [([], "nvidia-smi finds no GPU"), (["NVIDIA H200"], "CUDA cannot be loaded")])
def test_a_gpu_build_that_cannot_use_a_gpu_is_missing_something(monkeypatch, tmp_path, gpus, words):
    monkeypatch.setitem(sys.modules, "onnxruntime", GpuBuild())
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    finding = findings(tmp_path)["GPU"]
    assert finding.state is State.MISSING
    assert words in finding.found


def test_what_tensorrt_needs_is_told_where_there_is_a_gpu(monkeypatch, tmp_path):
    assert "TensorRT" not in findings(tmp_path)
    monkeypatch.setattr(machine, "gpus", lambda: ["NVIDIA L4"])
    found = findings(tmp_path)
    assert (found["TensorRT"].state, found["TensorRT-RTX"].state) == (State.NOTE, State.NOTE)
    assert "onnxruntime-ep-nv-tensorrt-rtx-cu13" in found["TensorRT-RTX"].advice
    monkeypatch.setitem(sys.modules, "onnxruntime", TensorRtBuild())
    assert findings(tmp_path)["TensorRT"].found == "libnvinfer.so.10 is not found"


class TensorRtBuild(GpuBuild):
    def get_available_providers(self):
        return ["TensorrtExecutionProvider", *super().get_available_providers()]


def test_a_port_in_use_is_told_also_where_grpc_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(PORTS, port, "something")
        monkeypatch.setitem(open_ports.LISTS, port, open_ports.LISTS[50051])
        assert "in use" in findings(tmp_path)[f"port {port}"].found


@pytest.mark.parametrize(("name", "key"), [("something", "server.port"), ("its metrics", "metrics.port")])
def test_a_port_in_use_is_told(monkeypatch, tmp_path, name, key):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setitem(PORTS, port, name)
        finding = findings(tmp_path)[f"port {port}"]
    assert finding.state is State.NOTE
    assert "in use" in finding.found
    assert f"--set {key}=" in finding.advice


def test_the_state_of_the_avatars(tmp_path):
    subject = f"avatars in {tmp_path}"
    assert "avatar demo" in findings(tmp_path)[subject].advice
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "avatar.yaml").write_text("nothing: here\n")
    assert "broken: torn" in findings(tmp_path)[subject].found
    assert findings(tmp_path / "absent")[f"avatars in {tmp_path / 'absent'}"].state is State.NOTE


def test_the_probe_of_cuda_is_a_model_that_runs():
    """On the CPU, where every machine can run it: the doctor's verdict must not hang on a bad model."""
    onnxruntime = pytest.importorskip("onnxruntime")

    class OnCpu:
        preload_dlls = staticmethod(lambda: None)

        @staticmethod
        def InferenceSession(model, providers):
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            session.get_providers = lambda: ["CUDAExecutionProvider"]
            return session

    assert doctor._cuda_problem(OnCpu) == ""
