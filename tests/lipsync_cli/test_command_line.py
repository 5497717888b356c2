"""The command line as scripts see it: help at once, exit codes, where output goes."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys

import pytest

from service_kit.version import product_version

COMMANDS = [
    ("serve",),
    ("render",),
    ("talk",),
    ("sessions",),
    ("sessions", "list"),
    ("sessions", "end"),
    ("demo",),
    ("bench",),
    ("bench", "suite"),
    ("bench", "stream"),
    ("doctor",),
    ("avatar",),
    *[("avatar", name) for name in ("demo", "benchmark", "list", "verify", "inspect")],
]


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_help(run, command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_it_tells_its_version(run):
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"lipsync {product_version()}\n")


def test_help_imports_nothing_heavy():
    """Slow imports are left to the commands that need them."""
    script = (
        "import sys\n"
        "from lipsync_cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print('IMPORTED', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    imported = set(output.rpartition("IMPORTED")[2].split())
    assert "typer" in imported
    assert not imported & {
        "grpc",
        "google",
        "numpy",
        "cv2",
        "av",
        "onnx",
        "onnxruntime",
        "psutil",
        "yaml",
        "avatar_kit",
        "avatar_tools",
        "service_kit",
    }


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("serve",), ("serve", "nonsense"), ("render",), ("avatar", "nonsense"), ("doctor", "--nonsense")],
    ids=" ".join,
)
def test_wrong_usage_is_code_2_and_goes_to_stderr(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error" in result.stderr


@pytest.mark.parametrize("service", ["inference", "compositing"])
def test_serve_passes_settings_on_and_returns_the_code(run, monkeypatch, tmp_path, service):
    module = importlib.import_module(f"{service}_service.service")
    given = []
    monkeypatch.setattr(module, "serve", lambda settings: given.append(settings) or 7)
    monkeypatch.setenv("LIPSYNC_SERVER__GRACE_SECONDS", "3")
    config = tmp_path / "service.yaml"
    config.write_text("server: {port: ':7001', drain_seconds: 2}\n")
    result = run("serve", service, "--config", config, "--set", "server.port=127.0.0.1:7002", "--set", f"models_root={tmp_path}")
    assert result.exit_code == 7, result.output
    [settings] = given
    assert (settings.server.port.host, settings.server.port.port) == ("127.0.0.1", 7002)
    assert (settings.server.drain_seconds, settings.server.grace_seconds, settings.models_root) == (2, 3, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "server.prot=:1"), "server.prot: unknown key"),
        (("--set", "server.port=house"), "house"),
        (("--config", "absent.yaml"), "absent.yaml"),
        (("--set", "no-equals-sign"), "no-equals-sign"),
    ],
    ids=str,
)
def test_serve_names_what_is_wrong_with_the_settings(run, arguments, words):
    result = run("serve", "inference", *arguments)
    assert result.exit_code == 1
    assert re.match(r"error: .+", result.stderr)
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_that_nobody_foresaw_is_one_sentence_too(run, monkeypatch):
    from inference_service import service

    def broken(settings):
        raise KeyError("wheel")

    monkeypatch.setattr(service, "serve", broken)
    result = run("serve", "inference")
    assert result.exit_code == 1
    assert result.stderr == "error: unexpected KeyError: 'wheel' (--debug shows where)\n"


def test_a_closed_pipe_ends_quietly(start):
    process = start("doctor")
    process.stdout.close()
    assert process.wait(60) == 1
    assert "Traceback" not in process.stderr.read()


def test_a_choice_that_there_is_not_is_told_without_the_words_of_libraries(run):
    result = run("serve", "everything")
    assert result.exit_code == 2
    assert "Invalid value for 'service': 'everything' is not one of" in " ".join(result.stderr.replace("│", " ").split())


def test_ctrl_c_while_the_command_is_imported(start):
    script = (
        "import signal, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'lipsync_cli.main': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from lipsync_cli.__main__ import main\n"
        "main()"
    )
    process = start(command=(sys.executable, "-c", script))
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGINT, "")


def test_ctrl_c_before_anything_runs(start):
    """The signal may come while Python is still importing."""
    script = (
        "import os, signal, sys, lipsync_cli.main as m; m.app = lambda: os.kill(os.getpid(), signal.SIGINT) or input(); m.main()"
    )
    process = start(command=(sys.executable, "-c", script))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors
