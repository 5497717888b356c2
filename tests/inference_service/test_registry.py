"""Loading on demand and making room, with real sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from avatar_kit.catalog import AvatarCatalog
from avatar_kit.onnx_io import DEMO_PRODUCER
from inference_service.engines.crop_arena import CROP_BYTES, CropArena
from inference_service.engines.devices import THE_CPU, Device, find_devices
from inference_service.metrics import InferenceMetrics
from inference_service.models.model import ModelLoader, memory_of_all
from inference_service.models.registry import ModelRegistry
from inference_service.settings import InferenceSettings
from service_kit.clock import SYSTEM_CLOCK, Clock
from service_kit.errors import FailedPrecondition, InvalidRequest, NotFound, ResourceExhausted
from service_kit.metrics import Metrics

from ..virtual_clock import VirtualClock
from .conftest import MakeAvatar, encoder, foreign_model, network


def registry(
    root: Path, devices: int = 1, metrics: Metrics | None = None, clock: Clock = SYSTEM_CLOCK, **changes: object
) -> ModelRegistry:
    settings = InferenceSettings.model_validate({"models_root": root / "models", **changes})
    cpu = find_devices(settings.gpus, settings.onnx)[0]
    places = [cpu] if devices == 1 else [Device(number, f"place {number}", cpu.providers) for number in range(devices)]
    loader = ModelLoader(settings.onnx, max_batch=2)
    catalog = AvatarCatalog(settings.models_root, settings.models)
    own_metrics = InferenceMetrics(metrics or Metrics())
    return ModelRegistry(catalog, places, loader, settings, own_metrics, on_lost=pytest.fail, clock=clock)


def ids(models: ModelRegistry) -> set[str]:
    return {lease.key for lease in models.loaded}


async def used(models: ModelRegistry, *avatar_ids: str) -> None:
    for avatar_id in avatar_ids:
        async with models.acquire(avatar_id):
            pass


@pytest.mark.parametrize(("policy", "left"), [("lfu", {"a", "c"}), ("lru", {"b", "c"})])
async def test_who_makes_room(make_avatar: MakeAvatar, tmp_path: Path, policy: str, left: set[str]) -> None:
    for avatar_id in "abc":
        make_avatar(avatar_id)
    models = registry(tmp_path, capacity={"max_models": 2, "eviction_policy": policy})
    await used(models, "a", "a", "b", "c")
    assert ids(models) == left
    await models.close()


async def test_memory_is_a_limit_too(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    for avatar_id in "ab":
        make_avatar(avatar_id)
    models = registry(tmp_path, capacity={"max_memory_gb": 1e-6})
    await used(models, "a")
    with pytest.raises(ResourceExhausted):
        async with models.acquire("a"):
            await used(models, "b")
    await models.close()


async def test_a_replaced_network_that_a_session_goes_on_with_takes_memory(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    """Another avatar finds room again once no session uses the replaced one."""
    old = make_avatar("a").version
    make_avatar("b")
    clock = VirtualClock()
    models = registry(tmp_path, clock=clock, capacity={"max_memory_gb": 1.5})
    first = await models.load("a")
    first.value.network_bytes = 2**30  # as of a large one
    make_avatar("a", frames=6, replace=True)
    second = await models.load("a", force_reload=True)
    second.value.network_bytes = 3 * 2**28
    async with models.acquire("a"):  # so that it is not unloaded for another
        async with models.acquire("a", version=old, is_live=True) as kept:
            assert kept is first
        assert models.placement.memory_bytes == first.value.memory_bytes + second.value.memory_bytes
        with pytest.raises(ResourceExhausted):
            await models.load("b")
        await clock.advance(11)
        models.forget_former()
        await models.load("b")
    assert ids(models) == {"a", "b"}
    await models.close()


async def test_a_load_on_a_device_by_its_number(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("a")
    models = registry(tmp_path, devices=3)

    async def place(**wanted: int) -> int:
        return (await models.load("a", **wanted)).value.engines[0].device.gpu_id

    assert await place(gpu_id=2) == 2
    stays = models.find("a")
    assert await place() == await place(gpu_id=2) == 2
    assert models.find("a") is stays
    assert await place(gpu_id=1) == 1
    assert ids(models) == {"a"}
    await models.close()


async def test_an_avatar_in_use_is_never_evicted(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    for avatar_id in "ab":
        make_avatar(avatar_id)
    models = registry(tmp_path, capacity={"max_models": 1})
    async with models.acquire("a"):
        with pytest.raises(ResourceExhausted) as raised:
            await used(models, "b")
        assert raised.value.retry_after_ms
        assert ids(models) == {"a"}
    await used(models, "b")
    assert ids(models) == {"b"}
    await models.close()


async def test_a_reload_reads_new_files_and_running_calls_keep_the_old(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("a", frames=3)
    models = registry(tmp_path)
    async with models.acquire("a") as old:
        make_avatar("a", frames=5, replace=True)
        assert (await models.load("a")) is old
        new = await models.load("a", force_reload=True)
        assert (old.value.avatar.frame_count, new.value.avatar.frame_count) == (3, 5)
        old.value.engines[0].bank.ensure([0])
    await models.close()


async def test_a_broken_avatar_counts_as_a_failed_load_until_it_is_mended_and_one_that_is_not_there_does_not(
    make_avatar: MakeAvatar, tmp_path: Path
) -> None:
    make_avatar("a", model=foreign_model())
    metrics = Metrics()
    models = registry(tmp_path, metrics=metrics)

    def failed() -> float | None:
        return metrics.registry.get_sample_value("lipsync_model_loads_total", {"outcome": "failed"})

    with pytest.raises(NotFound):
        await models.load("nobody")
    assert failed() == 0
    with pytest.raises(FailedPrecondition, match="320"):
        await models.load("a")
    assert failed() == 1
    make_avatar("a", model=network(), replace=True)
    assert (await models.load("a")).key == "a"
    await models.close()


@pytest.mark.parametrize(("avatar_id", "error"), [("nobody", NotFound), ("../a", InvalidRequest), ("", InvalidRequest)])
async def test_ids_that_nothing_bears(tmp_path: Path, avatar_id: str, error: type[Exception]) -> None:
    models = registry(tmp_path)
    with pytest.raises(error):
        await models.load(avatar_id)
    await models.close()


async def test_idle_avatars_leave(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("a")
    clock = VirtualClock()
    models = registry(tmp_path, clock=clock, capacity={"idle_timeout_minutes": 5})
    await used(models, "a")
    await clock.advance(299)
    models.unload_idle()
    assert ids(models) == {"a"}
    await clock.advance(2)
    models.unload_idle()
    assert ids(models) == set()
    await models.close()


async def test_avatars_go_to_devices_in_turn(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    for avatar_id in "abc":
        make_avatar(avatar_id)
    models = registry(tmp_path, devices=2)
    assert [(await models.load(avatar_id)).value.engines[0].device.gpu_id for avatar_id in "abc"] == [0, 1, 0]
    await models.close()


async def test_avatars_go_where_the_least_memory_is_taken(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    for avatar_id in "abcd":
        make_avatar(avatar_id)
    models = registry(tmp_path, devices=2, gpus={"assignment_strategy": "least-loaded"})
    taken = [0, 0]
    for avatar_id in "abcd":
        model = (await models.load(avatar_id)).value
        place = model.engines[0].device.gpu_id
        assert taken[place] == min(taken)
        taken[place] += model.memory_bytes
    await models.close()


async def test_an_avatar_may_be_on_every_device(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    make_avatar("a")
    models = registry(tmp_path, devices=2, gpus={"allow_multi_gpu_models": True})
    assert [engine.device.gpu_id for engine in (await models.load("a")).value.engines] == [0, 1]
    await models.close()


async def test_dedicated_devices_are_not_shared(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    for avatar_id in "abc":
        make_avatar(avatar_id)
    models = registry(tmp_path, devices=2, gpus={"assignment_strategy": "dedicated"})
    async with models.acquire("a"), models.acquire("b"):
        with pytest.raises(ResourceExhausted):
            await models.load("c")
    await models.load("c")
    assert len(models.loaded) == 2
    await models.close()


async def test_the_demos_encoder_under_another_avatar_is_warned_of(
    make_avatar: MakeAvatar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_avatar("trained", own_encoder=False)
    make_avatar("whole")
    shared = encoder()
    shared.producer_name = DEMO_PRODUCER
    (tmp_path / "models" / "audio_encoder.onnx").write_bytes(shared.SerializeToString())
    models = registry(tmp_path)
    await models.load("whole")
    assert "mouth will move wrongly" not in caplog.text
    await models.load("trained")
    assert "avatar trained has no audio encoder of its own" in caplog.text
    await models.close()


async def test_what_avatars_share_counts_once(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    for avatar_id in "abc":
        make_avatar(avatar_id)
    models = registry(tmp_path, onnx={"share_sessions": True})
    alone = (await models.load("a")).value
    shared = alone.engines[0].shared_memory
    assert shared is not None
    assert shared.nbytes > 0
    weights = alone.engines[0].weight_bytes
    assert weights == alone.network_bytes
    for avatar_id in "bc":
        assert (await models.load(avatar_id)).value.network_bytes == weights
    crops = sum(lease.value.engines[0].bank.memory_bytes for lease in models.loaded)
    assert models.placement.memory_bytes == 3 * weights + crops + shared.nbytes
    await models.close()


async def test_an_arena_of_crops_counts_once_beside_what_the_process_holds(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    """The arena of a GPU is played by one in the process's memory."""
    for avatar_id in "ab":
        make_avatar(avatar_id)
    models = registry(tmp_path)
    loaded = [(await models.load(avatar_id)).value for avatar_id in "ab"]
    before = models.placement.memory_bytes
    arena = CropArena(THE_CPU, 10 * CROP_BYTES)
    for model in loaded:
        model.engines[0].bank.arena = arena
    assert models.placement.memory_bytes == before + 10 * CROP_BYTES
    assert memory_of_all(loaded, on_devices=True) == sum(model.device_bytes for model in loaded) + 10 * CROP_BYTES
    await models.close()


async def test_shared_sessions_leave_room_for_more_avatars(make_avatar: MakeAvatar, tmp_path: Path) -> None:
    """The limit holds what all share once, and two avatars, not three."""
    for avatar_id in "abc":
        make_avatar(avatar_id)
    probe = registry(tmp_path, onnx={"share_sessions": True})
    one = (await probe.load("a")).value
    await probe.close()
    limit = one.shared_memory[0].nbytes + 2 * one.memory_bytes + one.memory_bytes // 2
    models = registry(tmp_path, onnx={"share_sessions": True}, capacity={"max_memory_gb": limit / 2**30})
    await models.load("a")
    models.find("a").value.shared_memory[0].nbytes = one.shared_memory[0].nbytes  # what a load takes is not the same each time
    await models.load("b")
    assert ids(models) == {"a", "b"}
    await models.load("c")
    assert ids(models) == {"b", "c"}
    await models.close()
