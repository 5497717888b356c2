"""Promises of the compose files, checked without an engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from compositing_service.settings import CompositingSettings
from gateway_service.guard.callers import caller_address
from gateway_service.settings import GatewaySettings
from inference_service.settings import InferenceSettings
from service_kit.callers.key_file import read_key_file
from service_kit.callers.keys import key_id_of
from service_kit.clock import SYSTEM_CLOCK
from service_kit.life import CLOSE_SECONDS
from service_kit.limits.opening import store_of
from service_kit.limits.store import Refusal, Stream, Use
from service_kit.metrics import Metrics
from service_kit.settings import load_settings

from ..redis_server import running_redis
from .compose_files import COMBINATIONS, CPU, GPU, MAIN, MULTI, MULTI_TLS, SHARED_LIMITS, TLS, TREE, project, services

OURS = {"init", "keys", "inference", "inference-1", "compositing", "gateway"}
WITHOUT_MODELS = {"gateway", "keys"}
# They run once, and end.
ONCE = {"init", "keys"}
BALANCERS = {"haproxy", "inference-balancer"}
OTHERS = {"valkey"}
PATIENCE_S = 20
CASES = list(COMBINATIONS.items())


@pytest.fixture(params=COMBINATIONS.values(), ids=COMBINATIONS)
def every(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The services of each combination of files that is offered."""
    return services(request.param)


def test_the_gpu_is_reserved_and_the_runtime_is_nvidias() -> None:
    inference = services((MAIN, GPU))["inference"]
    assert inference["runtime"] == "${GPU_RUNTIME:-nvidia}"
    assert inference["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    ]
    assert inference["environment"]["NVIDIA_VISIBLE_DEVICES"] == "${GPUS:-all}"
    assert inference["build"]["target"] == "inference-gpu"
    assert "inference-gpu:" in inference["image"]


def test_without_a_gpu_nothing_of_it_is_left() -> None:
    found = services((MAIN, CPU))
    for name in ("init", "inference"):
        assert found[name]["build"]["target"] == "inference-cpu"
        assert "inference-cpu:" in found[name]["image"]
        assert found[name]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert found["inference"]["runtime"] == "runc"
    assert "deploy" not in found["inference"]


def test_every_container_is_shut_in(every: dict[str, dict[str, Any]]) -> None:
    for name, service in every.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert [place.partition(":")[0] for place in service["tmpfs"]] == ["/tmp"], name
        assert service["logging"]["driver"] == "json-file", name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert service["restart"] == ("no" if name in ONCE else "unless-stopped"), name


def test_only_init_writes_into_the_models(every: dict[str, dict[str, Any]]) -> None:
    mounts = {name: [volume for volume in service.get("volumes", ()) if ":/models" in volume] for name, service in every.items()}
    for name in OURS & set(every) - WITHOUT_MODELS:
        assert mounts[name] == ["${MODELS:-models}:/models" + ("" if name == "init" else ":ro")]
    assert not any(mounts[name] for name in set(every) - OURS | WITHOUT_MODELS)


def test_inference_is_on_the_inner_network_alone(every: dict[str, dict[str, Any]]) -> None:
    for name in OURS & set(every) - ONCE - {"compositing", "gateway"}:
        assert set(every[name]["networks"]) == {"inference"}
    on_it = {name for name, service in every.items() if "inference" in service.get("networks", ())}
    assert on_it <= {"inference", "inference-1", "compositing", "inference-balancer", "prometheus", "jaeger"}
    assert "haproxy" not in on_it


@pytest.mark.parametrize(("name", "files"), CASES, ids=COMBINATIONS)
def test_the_inner_network_leads_nowhere(name: str, files: tuple[str, ...]) -> None:
    assert project(files)["networks"]["inference"] == {"internal": True}, name


def test_ports_are_those_of_the_balancer_and_of_monitoring_on_loopback(every: dict[str, dict[str, Any]]) -> None:
    ports = {name: service["ports"] for name, service in every.items() if "ports" in service}
    assert ports.pop("haproxy") == ["${API_PORT:-50052}:50052", "${GATEWAY_PORT:-8086}:8086"]
    assert set(ports) == {"prometheus", "grafana", "jaeger"}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)


def test_gateways_count_by_the_address_that_the_balancer_tells(every: dict[str, dict[str, Any]]) -> None:
    """Docker's networks lie in private address space, and no port of a gateway is published."""
    environment = {name: default(str(value)) for name, value in every["gateway"]["environment"].items()}
    settings = load_settings(GatewaySettings, config=None, environ=environment)
    assert "ports" not in every["gateway"]
    for balancer in ("172.18.0.3", "10.89.0.2", "192.168.0.7", "fd00::3"):
        assert caller_address(balancer, ["203.0.113.5"], settings.guard.trusted_proxies) == "203.0.113.5"


def test_the_store_of_limits_is_reached_by_compositing_alone() -> None:
    files = (MAIN, CPU, SHARED_LIMITS)
    found = services(files)
    on_it = {name for name, service in found.items() if "limits" in service.get("networks", ())}
    assert on_it == {"valkey", "compositing"}
    assert project(files)["networks"]["limits"] == {"internal": True}
    assert found["valkey"]["networks"] == ["limits"]
    assert "ports" not in found["valkey"]
    users = {name for name, service in found.items() if "store-users:" in str(service.get("volumes"))}
    assert users == {"keys", "valkey"}


async def test_the_store_lets_in_who_has_the_password(tmp_path: Path) -> None:
    """A real server with the file of users that `keys` makes, and the settings of docker-compose."""
    made = tmp_path / "keys"
    run_keys(services((MAIN, CPU, SHARED_LIMITS)), made)
    password = (made / "compositing/store.password").read_text().strip()
    assert len(password) == 64
    users = made / "store/users.acl"
    assert password not in users.read_text()
    compositing = services((MAIN, CPU, SHARED_LIMITS))["compositing"]["environment"]
    environ = {key: default(value) for key, value in compositing.items() if key.startswith("LIPSYNC_QUOTAS__")}
    quotas = load_settings(CompositingSettings, config=None, environ=environ).quotas
    with running_redis(tmp_path / "redis", "--aclfile", str(users)) as server:
        section = quotas.store.model_copy(
            update={"url": server.url, "password_file": made / "compositing/store.password", "timeout_seconds": PATIENCE_S}
        )
        metrics = Metrics()
        async with store_of(section, SYSTEM_CLOCK, metrics) as store:
            once = [Use("loads/alice", 1 / 3600, 1, 1)]
            assert [await store.take(once), await store.take(once)] == [None, Refusal("loads/alice", pytest.approx(3600, abs=60))]
            stream = Stream("session", "a" * 32, ("sessions/alice",))
            assert await store.begin(stream, [1], []) is None
            await store.renew([stream])
            await store.end(stream, is_over=True)
            await store.charge(once)
        assert not metrics.registry.get_sample_value("lipsync_quota_unchecked_total", {"operation": "take"})
        assert metrics.registry.get_sample_value("lipsync_quota_store_up") == 1
        async with Redis(port=server.port) as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.ping()


def test_docker_waits_longer_than_services_need_to_end(every: dict[str, dict[str, Any]]) -> None:
    for name in OURS & set(every) - ONCE:
        environment = every[name]["environment"]
        drain, grace, stop = (
            int(re.sub(r"\D", "", default(value)))
            for value in (
                environment["LIPSYNC_SERVER__DRAIN_SECONDS"],
                environment["LIPSYNC_SERVER__GRACE_SECONDS"],
                every[name]["stop_grace_period"],
            )
        )
        assert drain >= 2  # four times what the balancer needs to notice
        assert stop > drain + grace + CLOSE_SECONDS
    for name in BALANCERS & set(every):
        assert every[name]["stop_signal"] == "SIGUSR1"


def test_every_service_is_checked(every: dict[str, dict[str, Any]]) -> None:
    for name in (OURS | BALANCERS | OTHERS) & set(every) - ONCE:
        assert every[name]["healthcheck"]["test"], name


def test_with_tls_every_side_has_its_own_key_only() -> None:
    found = services((MAIN, CPU, MULTI, TLS, MULTI_TLS))
    for name, own in {
        "inference": {"ca.crt", "inference.crt", "inference.key"},
        "compositing": {"ca.crt", "compositing.crt", "compositing.key"},
        "gateway": {"ca.crt", "gateway.crt", "gateway.key"},
        "haproxy": {"ca.crt", "haproxy.pem"},
        "inference-balancer": {"ca.crt", "haproxy.pem"},
    }.items():
        mounted = {volume.rpartition("/")[2] for volume in found[name]["volumes"] if "/etc/lipsync/tls/" in volume}
        assert mounted == {f"{file}:ro" for file in own}


def test_every_side_has_its_own_key_only(every: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """`keys` makes the files that the services' settings name, and they let each of them call as far as it must."""
    made = tmp_path / "keys"
    run_keys(every, made)
    key = run_keys(every, made, "create", "alice")
    known = read_key_file(made / "known" / "keys.json")
    assert {record.caller: set(record.scopes) for record in known.keys} == {
        "compositing": {"infer", "admin"},
        "gateway": {"infer", "read", "delegate"},
        "alice": {"infer", "read"},
    }
    assert key_id_of(key) in known.by_id
    before = {path: path.read_bytes() for path in made.rglob("*.*")}
    run_keys(every, made)  # as at every start
    assert {path: path.read_bytes() for path in made.rglob("*.*")} == before
    for name, kind in {
        "inference": InferenceSettings,
        "inference-1": InferenceSettings,
        "compositing": CompositingSettings,
        "gateway": GatewaySettings,
    }.items():
        if name not in every:
            continue
        mounts = {mount for mount in every[name]["volumes"] if ":/keys/" in mount}
        own = set() if kind is InferenceSettings else {f"{name}-key:/keys/{name}:ro"}
        assert mounts == {"known-keys:/keys/known:ro"} | own
        environ = {key: default(value) for key, value in every[name]["environment"].items() if key.startswith("LIPSYNC_")}
        assert load_settings(kind, config=None, environ=environ).auth.is_on
        assert not load_settings(kind, config=None, environ=environ | {"LIPSYNC_AUTH__ENABLED": "false"}).auth.is_on
        files = {Path(value) for value in environ.values() if value.startswith("/keys/")}
        has_store = "valkey" in every and kind is CompositingSettings
        assert len(files) == {InferenceSettings: 1, CompositingSettings: 2, GatewaySettings: 3}[kind] + has_store
        for file in files:
            assert f":{file.parent}:ro" in "".join(mounts)
            there = made / file.relative_to("/keys")
            assert there.stat().st_mode & 0o077 == (0o044 if file.name == "keys.json" else 0)
    writers = {
        name for name, service in every.items() if any(re.search(r":/keys/\w+$", each) for each in service.get("volumes", ()))
    }
    assert writers == {"keys"}


@pytest.mark.parametrize(
    ("image", "lacking"),
    [("compositing", {"onnx", "onnxruntime", "aiohttp"}), ("gateway", {"onnx", "onnxruntime"})],
)
def test_some_images_need_a_part_of_what_the_rest_needs(image: str, lacking: set[str]) -> None:
    """Their requirements are pins of cpu.txt, neither more nor others; and those of GPUs agree where both have a package."""
    cpu, gpu, part = (pins(name) for name in ("cpu", "gpu", image))
    assert part.items() <= cpu.items()
    assert part.items() <= gpu.items()
    assert not lacking & set(part)


def test_the_package_is_built_by_what_the_project_names() -> None:
    project_file = (TREE / "pyproject.toml").read_text()
    assert f'requires = ["{next(iter(pins("build").values())).split()[0]}"]' in project_file


def test_files_are_small_enough_for_a_build_context() -> None:
    """Only what the Dockerfile copies is sent to the engine."""
    ignore = (TREE / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(\S+)", (TREE / "deploy/docker/Dockerfile").read_text(), re.MULTILINE)
    for source in copied:
        assert any(f"!{allowed}" in ignore for allowed in (source, source.partition("/")[0])), source


def run_keys(every: dict[str, dict[str, Any]], folder: Path, *command: str) -> str:
    """Runs the container `keys` with `folder` in place of /keys, by a command of its own or this one; what it wrote to stdout."""
    keys = every["keys"]
    program, *arguments = [*keys["entrypoint"], *(command or keys["command"])]
    there = {"/keys": folder, "/keys/known": folder / "known"}
    there[keys["working_dir"]].mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *(str(there.get(argument, argument)) for argument in arguments)],
        cwd=there[keys["working_dir"]],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def default(value: object) -> str:
    """Returns the default in a value with a variable, taken when the variable is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def pins(name: str) -> dict[str, str]:
    """By package: version and hashes."""
    text = (TREE / "requirements" / f"{name}.txt").read_text()
    blocks = re.findall(r"^[a-z0-9].*(?:\n +.*)*", text, re.MULTILINE)
    return {block.split("==")[0]: block for block in blocks}
