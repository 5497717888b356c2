"""Child processes: ready lines, the log's end when a start fails, and that none outlives its parent."""

from __future__ import annotations

import signal
import sys

import psutil
import pytest

from lipsync_cli.failures import CliError
from lipsync_cli.processes import ServiceProcess, serve_command

WAIT_S = 60


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def child_of(process: ServiceProcess) -> psutil.Process:
    [child] = [child for child in psutil.Process().children() if child.pid == process.pid]
    return child


READY = "import sys; print('ready box 127.0.0.1:1234 metrics off', flush=True); "


def test_ready(tmp_path):
    with ServiceProcess("box", python(READY + "sys.stdin.read()"), log=tmp_path / "log") as process:
        assert process.wait_ready() == "127.0.0.1:1234"
        child = child_of(process)
    assert not child.is_running()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit('no GPU here')", "box service ended while it started:\n  no GPU here"),
        ("pass", "ended while it started; it logged nothing"),
        ("print('hello', flush=True); input()", "printed 'hello' instead of its ready line"),
        ("print('ready other 127.0.0.1:1', flush=True); input()", "instead of its ready line"),
        ("print('ready box', flush=True); input()", "instead of its ready line"),
        ("input()", "was not ready within 0.1 s"),
    ],
    ids=["ends", "ends silently", "says something else", "another service", "no address", "never ready"],
)
def test_a_start_that_fails_shows_the_log(tmp_path, script, words):
    with ServiceProcess("box", python(script), log=tmp_path / "log") as process:
        with pytest.raises(CliError) as caught:
            process.wait_ready(0.1 if "within" in words else WAIT_S)
        assert words in str(caught.value)
        child = psutil.Process(process.pid)
    assert not child.is_running()


def test_only_the_end_of_a_long_log_is_shown(tmp_path):
    script = "import sys; print(*range(1000), sep='\\n', file=sys.stderr); sys.exit(3)"
    with ServiceProcess("box", python(script), log=tmp_path / "log") as process, pytest.raises(CliError) as caught:
        process.wait_ready()
    assert str(caught.value).split("\n  ")[1:] == [str(k) for k in range(985, 1000)]


def test_a_service_that_ignores_sigterm_is_killed(tmp_path):
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + "sys.stdin.read(); signal.pause()"
    with ServiceProcess("box", python(script), log=tmp_path / "log", stop_timeout_s=0.2) as process:
        process.wait_ready()
        child = child_of(process)
    assert not child.is_running()


def test_none_is_left_when_the_parent_fails(tmp_path):
    def fail():
        with ServiceProcess("box", python(READY + "sys.stdin.read()"), log=tmp_path / "log") as process:
            process.wait_ready()
            children.append(child_of(process))
            raise RuntimeError("in the middle")

    children: list[psutil.Process] = []
    with pytest.raises(RuntimeError):
        fail()
    assert not children[0].is_running()


def test_a_child_ends_when_its_parent_is_killed(start):
    """The child watches its standard input, which nothing but its parent holds open."""
    child = "from lipsync_cli.processes import end_with_stdin; end_with_stdin(); import signal; signal.pause()"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    process = start(command=python(parent))
    pid = int(process.stdout.readline())
    running = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)
    gone, _ = psutil.wait_procs([running], timeout=WAIT_S)
    assert gone


def test_the_command_line_of_a_service():
    command = serve_command("inference", ["server.port=127.0.0.1:0", "models_root=m"])
    assert command[:2] == [sys.executable, "-m"]
    assert command[-4:] == ["--set", "server.port=127.0.0.1:0", "--set", "models_root=m"]
