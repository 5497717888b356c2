"""A service as a process of its own: the ready line, signals, exit codes, what stands on stderr."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .hosting import fetched

PROGRAM = """
import asyncio, gc, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
import grpc
from service_kit import life
from service_kit.grpc_face import grpc_service
from service_kit.service_settings import GrpcSettings
from service_kit.settings import load_settings

one_reads = threading.Lock()

def line():
    with one_reads:
        return sys.stdin.readline()

async def rpc(request, context):
    yield b"began"
    if request == b"collect":
        yield b"%d" % (len(gc.get_objects()) / gc.get_freeze_count() * 100 if gc.get_freeze_count() else 1e9)
    if request == b"hold the loop":
        time.sleep(3600)
    if request == b"wait":
        await asyncio.to_thread(line)
    if request == b"for ever":
        await asyncio.Event().wait()
    if request == b"stubborn":
        reading = asyncio.create_task(asyncio.to_thread(line))
        while not reading.done():
            try:
                await asyncio.shield(reading)
            except asyncio.CancelledError:
                print("goes on", file=sys.stderr, flush=True)
    yield b"done"

@asynccontextmanager
async def open_parts(host):
    handler = grpc.unary_stream_rpc_method_handler(rpc)
    host.server.add_registered_method_handlers("test.Test", {"Rpc": handler})
    async def warm_up():
        if "stuck" in sys.argv[1]:
            await asyncio.Event().wait()
        if "endless" in sys.argv[1]:  # a worker that never returns, and that closing waits for
            pool = ThreadPoolExecutor(1, "worker")
            running = pool.submit(time.sleep, 3600)
            on_close.append(pool.shutdown)
            if "load" in sys.argv[1]:
                print("loading", file=sys.stderr, flush=True)
                await asyncio.wrap_future(running)
        if "broken" in sys.argv[1]:
            raise RuntimeError("the model is broken")
    on_close = []
    print("opened", file=sys.stderr, flush=True)
    try:
        yield warm_up
    finally:
        for close in on_close:
            close()
        if "unclosing" in sys.argv[1]:
            await asyncio.Event().wait()
        print("closed", file=sys.stderr, flush=True)

class OwnSettings(GrpcSettings):
    meaningless = {"server.old_key": "it comes with the package"}

life.CLOSE_SECONDS = 1.0
settings = load_settings(OwnSettings, config=None, overrides=sys.argv[2:], environ={})
services = [grpc_service("tester", ("test.Test",), settings, open_parts)]
if "two" in sys.argv[1]:
    overrides = [*sys.argv[2:], f"server.port={sys.argv[1].split()[1]}"]
    others = load_settings(OwnSettings, config=None, overrides=overrides, environ={})
    services.append(grpc_service("second", ("test.Test",), others, open_parts))
shared = {"section": settings.logging, "traces": settings.tracing}
sys.exit(life.run_services(services, name="both", **shared) if services[1:] else life.run_service(*services))
"""
READY = re.compile(r"ready (?:tester|second) (127\.0\.0\.1:\d+) metrics (127\.0\.0\.1:\d+)\n")
LOCAL = ["server.port=127.0.0.1:0", "server.drain_seconds=0"]


class Process:
    def __init__(self, mode: str, *overrides: str) -> None:
        command = [sys.executable, "-c", PROGRAM, mode, *LOCAL, *overrides]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.popen = subprocess.Popen(command, cwd=Path(__file__).parents[2], text=True, **pipes)
        self.err: list[str] = []
        self._grew = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._grew:
                self.err.append(line)
                self._grew.notify_all()

    def wait_for(self, text: str) -> None:
        """Waits until a line with `text` stands on stderr."""
        with self._grew:
            assert self._grew.wait_for(lambda: any(text in line for line in self.err), timeout=60), self.err

    def ready(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        match = READY.fullmatch(line)
        assert match, (line, self.err)
        self.metrics = match[2]
        return match[1]

    def go_on(self) -> None:
        """Ends the waiting of the call "wait"."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("go on\n")
        self.popen.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        """Exit code, the rest of stdout, stderr."""
        assert self.popen.stdout is not None
        code = self.popen.wait(60)
        self._reader.join(60)
        return code, self.popen.stdout.read(), "".join(self.err)


Launch = Callable[..., Process]


@pytest.fixture
def launch() -> Iterator[Launch]:
    processes: list[Process] = []

    def start(mode: str = "plain", *overrides: str) -> Process:
        processes.append(Process(mode, *overrides))
        return processes[-1]

    yield start
    for process in processes:
        process.popen.kill()
        process.popen.wait()
        process._reader.join()
        for pipe in (process.popen.stdin, process.popen.stdout, process.popen.stderr):
            assert pipe is not None
            pipe.close()


def test_it_may_open_as_many_files_as_the_system_allows(launch: Launch) -> None:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, most - 1), most))
    try:
        process = launch()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    process.ready()
    assert resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE) == (most, most)


def test_a_collection_of_garbage_passes_over_what_was_there_from_the_start(launch: Launch) -> None:
    with grpc.insecure_channel(launch().ready()) as channel:
        for _ in range(100):  # the process is ready, and then does this
            _, percent, _ = channel.unary_stream("/test.Test/Rpc")(b"collect", timeout=60)
            if int(percent) < 20:
                return
            time.sleep(0.1)
    pytest.fail(f"a collection looks at {int(percent)} objects for each 100 that were there")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_lets_the_running_call_finish_and_the_process_ends_in_order(launch: Launch, number: signal.Signals) -> None:
    process = launch("plain", "logging.buffered_logging=false")
    with grpc.insecure_channel(process.ready()) as channel:
        call = channel.unary_stream("/test.Test/Rpc")(b"wait", timeout=60)
        assert next(call) == b"began"
        process.popen.send_signal(number)
        process.wait_for("draining")
        process.go_on()
        assert list(call) == [b"done"]
    code, out, err = process.end()
    assert (code, out) == (0, "")
    stages = [err.index(text) for text in ("starting", "opened", "ready", "draining", "closed", "stopped")]
    assert stages == sorted(stages)
    assert "Traceback" not in err


def test_a_second_signal_ends_it_at_once(launch: Launch) -> None:
    process = launch("plain", "server.drain_seconds=600", "server.grace_seconds=3600")
    with grpc.insecure_channel(process.ready()) as channel:
        call = channel.unary_stream("/test.Test/Rpc")(b"for ever", timeout=60)
        assert next(call) == b"began"
        process.popen.terminate()
        process.wait_for("draining")
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        while next(watch).status != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        process.popen.terminate()
        assert call.code() is grpc.StatusCode.UNAVAILABLE
    code, _, err = process.end()
    assert code == 0
    assert "1 running calls are cut off" in err
    assert "closed" in err


def test_a_thread_that_never_ends_does_not_keep_the_process(launch: Launch) -> None:
    process = launch("plain", "server.grace_seconds=0")
    with grpc.insecure_channel(process.ready()) as channel:
        call = channel.unary_stream("/test.Test/Rpc")(b"wait", timeout=60)
        assert next(call) == b"began"
        process.popen.terminate()
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        code, _, err = process.end()  # before its standard input is closed, for which the thread waits
    assert code == 0
    assert "ended by force" in err
    assert "asyncio_0 in " in err


def test_two_services_in_one_process_end_together_when_the_last_call_of_either_has(launch: Launch) -> None:
    process = launch("two 127.0.0.1:0", "logging.buffered_logging=false")  # for the order of lines
    addresses = [process.ready(), process.ready()]
    with grpc.insecure_channel(addresses[0]) as first, grpc.insecure_channel(addresses[1]) as second:
        calls = [channel.unary_stream("/test.Test/Rpc")(b"wait", timeout=60) for channel in (first, second)]
        assert [next(call) for call in calls] == [b"began"] * 2
        process.popen.terminate()
        for address in addresses:
            while new_call(address) is grpc.StatusCode.OK:
                pass
        process.go_on()
        assert process.popen.poll() is None
        process.go_on()
        assert [list(call) for call in calls] == [[b"done"]] * 2
    code, out, err = process.end()
    assert (code, out) == (0, "")
    assert [err.count(text) for text in ("INFO    both ready", "draining", "closed")] == [2, 2, 2]
    assert err.index("draining") < err.index("closed")
    assert "cut off" not in err


def test_of_two_services_one_that_cannot_start_ends_both(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, out, err = launch(f"two 127.0.0.1:{taken.getsockname()[1]}").end()
    assert (code, out) == (1, "")
    assert "cannot start: server.port: " in err
    assert [err.count(text) for text in ("opened", "closed")] == [1, 1]


def test_a_worker_that_never_returns_cannot_keep_a_service_that_was_told_to_stop(launch: Launch) -> None:
    process = launch("endless", "server.grace_seconds=0")
    process.ready()
    process.popen.terminate()
    code, _, err = process.end()
    assert code == 1
    [line] = [line for line in err.splitlines() if " ERROR " in line]
    assert "worker_0" in line


def test_a_worker_that_never_returns_cannot_keep_a_service_that_was_told_to_stop_while_it_starts(launch: Launch) -> None:
    process = launch("endless load")
    process.wait_for("loading")
    process.popen.terminate()
    code, _, err = process.end()
    assert code == 1
    assert "worker_0" in err


def test_an_event_loop_that_hangs_cannot_keep_it_either(launch: Launch) -> None:
    process = launch("plain", "server.grace_seconds=0")
    with grpc.insecure_channel(process.ready()) as channel:
        call = channel.unary_stream("/test.Test/Rpc")(b"hold the loop", timeout=60)
        assert next(call) == b"began"
        process.popen.terminate()
        code, _, err = process.end()
    assert code == 1
    assert "MainThread" in err


def test_a_part_that_does_not_close_cannot_keep_it_either(launch: Launch) -> None:
    process = launch("unclosing")
    process.ready()
    process.popen.terminate()
    code, _, err = process.end()
    assert code == 1
    assert " ERROR " in err


def check(channel: grpc.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    status: int = stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status
    return status


def new_call(address: str, request: bytes = b"") -> grpc.StatusCode:
    """On a connection of its own."""
    # With retries gRPC's client can wait for ever when the server stops just as it is called.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(address, options) as channel:
        call = channel.unary_stream("/test.Test/Rpc")(request, timeout=60)
        with suppress(grpc.RpcError):
            assert list(call) == [b"began", b"done"]
        code: grpc.StatusCode = call.code()
        return code


def test_from_the_signal_on_it_is_not_ready_and_serves_on_for_those_who_have_not_noticed(launch: Launch) -> None:
    process = launch("plain", "server.drain_seconds=600")
    address = process.ready()
    with grpc.insecure_channel(address) as channel:
        assert check(channel) == health_pb2.HealthCheckResponse.SERVING
        assert fetched(process.metrics, "/health/ready") == (200, "ok\n")
        process.popen.terminate()
        process.wait_for("draining")
        assert fetched(process.metrics, "/health/ready") == (503, "the service is shutting down\n")
        assert fetched(process.metrics, "/health/live") == (200, "ok\n")
        assert check(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert new_call(address) is grpc.StatusCode.OK
    process.popen.terminate()
    assert process.end()[0] == 0


def test_after_the_drain_only_running_calls_go_on_and_their_end_is_that_of_the_process(launch: Launch) -> None:
    process = launch("plain", "server.grace_seconds=3600")
    address = process.ready()
    with grpc.insecure_channel(address) as channel:
        running = channel.unary_stream("/test.Test/Rpc")(b"wait", timeout=60)
        assert next(running) == b"began"
        process.popen.terminate()
        process.wait_for("draining")
        while new_call(address) is grpc.StatusCode.OK:
            pass
        assert new_call(address) is grpc.StatusCode.UNAVAILABLE
        assert process.popen.poll() is None
        assert fetched(process.metrics, "/health/ready")[0] == 503
        process.go_on()
        assert list(running) == [b"done"]
    code, _, err = process.end()
    assert code == 0
    assert "cut off" not in err


def test_calls_that_outlive_the_grace_end_with_unavailable_and_the_process_with_0(launch: Launch) -> None:
    process = launch("plain", "server.grace_seconds=0.2", "logging.buffered_logging=false")  # for the order of lines
    with grpc.insecure_channel(process.ready()) as channel:
        calls = [channel.unary_stream("/test.Test/Rpc")(b"for ever", timeout=60) for _ in range(3)]
        assert [next(call) for call in calls] == [b"began"] * 3
        process.popen.terminate()
        assert [call.code() for call in calls] == [grpc.StatusCode.UNAVAILABLE] * 3
    code, _, err = process.end()
    assert code == 0
    assert "3 running calls are cut off" in err
    assert err.index("cut off") < err.index("closed")


def test_a_handler_that_will_not_be_cancelled_cannot_hold_its_caller(launch: Launch) -> None:
    """And more signals than two are no different from two."""
    process = launch("plain", "server.drain_seconds=600", "server.grace_seconds=3600")
    with grpc.insecure_channel(process.ready()) as channel:
        call = channel.unary_stream("/test.Test/Rpc")(b"stubborn", timeout=60)
        assert next(call) == b"began"
        process.popen.terminate()
        process.wait_for("draining")
        for _ in range(3):
            process.popen.terminate()
        process.wait_for("running calls are cut off")
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        process.go_on()
    assert process.end()[0] == 0


def test_a_signal_while_it_warms_up_ends_it_in_order(launch: Launch) -> None:
    process = launch("stuck")
    process.wait_for("opened")
    process.popen.terminate()
    code, out, err = process.end()
    assert (code, out) == (0, "")
    assert "closed" in err
    assert "Traceback" not in err


def test_a_failed_warm_up_is_told_with_its_stack_and_never_ready(launch: Launch) -> None:
    code, out, err = launch("broken").end()
    assert (code, out) == (1, "")
    assert "RuntimeError: the model is broken" in err
    assert "closed" in err


def test_a_taken_port_is_one_sentence_and_exit_code_1(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = launch("plain", f"server.port=127.0.0.1:{port}").end()
    assert (code, out) == (1, "")
    assert f"cannot start: server.port: 127.0.0.1:{port} is in use" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2  # "starting" and this


def test_json_logs_hold_the_settings_and_are_json_to_the_last_line(launch: Launch) -> None:
    process = launch(
        "plain", "logging.format=json", "logging.auto_flush=false", "logging.flush_interval_ms=60000", "server.old_key=x"
    )
    address = process.ready()
    process.popen.terminate()
    _, _, err = process.end()
    lines = [json.loads(line) for line in err.splitlines() if line not in {"opened", "closed"}]
    warning = "server.old_key: no effect here; it comes with the package"
    assert [line["message"] for line in lines] == ["starting", warning, "ready", "draining", "stopped"]
    assert lines[0]["settings"]["logging.format"] == "json"
    assert lines[2]["address"] == address
    assert {line["service"] for line in lines} == {"tester"}
