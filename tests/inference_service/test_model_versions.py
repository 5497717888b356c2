"""The avatar that a caller has, or none: versions, files that are replaced, and one reload for all who ask."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from avatar_kit.avatar import Avatar, load_avatar
from avatar_kit.catalog import AvatarCatalog
from inference_service.engines.devices import find_devices
from inference_service.metrics import InferenceMetrics
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.models.registry import LOAD_THREADS, ModelRegistry
from inference_service.settings import InferenceSettings
from service_kit.errors import Aborted, FailedPrecondition, NotFound, ResourceExhausted
from service_kit.metrics import Metrics

from .conftest import MakeAvatar, network

PATIENCE_S = 60


class Loader(ModelLoader):
    """Counts what it loads, and does something before or after it."""

    def __init__(self, settings: InferenceSettings) -> None:
        super().__init__(settings.onnx, max_batch=2)
        self.versions: list[str] = []
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    def load(self, avatar: Avatar, *args: Any, **options: Any) -> LoadedModel:
        self.versions.append(avatar.version)
        self.before()
        model = super().load(avatar, *args, **options)
        self.after()
        return model


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(InferenceSettings.model_validate({"models_root": tmp_path / "models"}))


@pytest.fixture
async def models(make_avatar: MakeAvatar, tmp_path: Path, loader: Loader) -> AsyncIterator[ModelRegistry]:
    make_avatar("a", frames=3)
    settings = InferenceSettings.model_validate({"models_root": tmp_path / "models"})
    devices = find_devices(settings.gpus, settings.onnx)
    metrics = InferenceMetrics(Metrics())
    registry = ModelRegistry(AvatarCatalog(settings.models_root), devices, loader, settings, metrics, on_lost=pytest.fail)
    async with asyncio.timeout(2 * PATIENCE_S):
        yield registry
        await registry.close()


@pytest.fixture
def replace(make_avatar: MakeAvatar) -> Callable[..., Avatar]:
    """Puts another avatar in the place of "a"."""
    return lambda frames=5, scale=0.5, **options: make_avatar(
        "a", frames=frames, replace=True, **{"model": network(scale=scale), **options}
    )


async def version(models: ModelRegistry, wanted: str = "") -> str:
    async with models.acquire("a", version=wanted) as model:
        return model.value.avatar.version


async def test_the_loaded_version_is_served_whatever_lies_on_disk(
    models: ModelRegistry, replace: Callable[..., Avatar], loader: Loader
) -> None:
    old = await version(models)
    replace()
    assert await version(models) == old
    assert await version(models, old) == old
    assert loader.versions == [old]


async def test_the_version_on_disk_is_loaded_for_who_has_it(
    models: ModelRegistry, replace: Callable[..., Avatar], loader: Loader
) -> None:
    old = await version(models)
    async with models.acquire("a") as under_way:
        new = replace().version
        assert set(await asyncio.gather(*(version(models, new) for _ in range(12)))) == {new}
        assert under_way.value.avatar.version == old, "requests under way keep what they have"
    assert loader.versions == [old, new]


async def test_a_new_version_is_loaded_beside_the_old_in_use_where_one_avatar_is_allowed(
    models: ModelRegistry, replace: Callable[..., Avatar], make_avatar: MakeAvatar
) -> None:
    make_avatar("b")
    models.placement.max_models = 1
    async with models.acquire("a") as under_way:
        new = replace(frames=3).version
        assert await version(models, new) == new
        assert under_way.value.avatar.version != new
        async with models.acquire("a"):
            with pytest.raises(ResourceExhausted):
                await models.load("b")
        await models.load("b")
    assert [lease.key for lease in models.loaded] == ["b"], "who only finishes on the old one keeps nothing loaded"


@pytest.mark.parametrize("wanted", ["0123456789abcdef", "no version at all"])
async def test_a_version_that_is_nowhere_is_refused(models: ModelRegistry, loader: Loader, wanted: str) -> None:
    loaded = await version(models)
    for _ in range(3):
        with pytest.raises(Aborted, match="replaced"):
            await version(models, wanted)
    assert await version(models) == loaded
    assert loader.versions == [loaded], "a caller cannot make it load again and again"


async def test_the_first_load_may_be_of_another_version(models: ModelRegistry, replace: Callable[..., Avatar]) -> None:
    old = load_avatar(models.catalog.models_root / "a").version
    new = replace().version
    with pytest.raises(Aborted):
        await version(models, old)
    assert await version(models, new) == new


async def test_files_that_went_away_are_no_version(models: ModelRegistry) -> None:
    loaded = await version(models)
    shutil.rmtree(models.catalog.models_root / "a")
    with pytest.raises(Aborted):
        await version(models, "0123456789abcdef")
    assert await version(models, loaded) == loaded


async def test_a_broken_new_version_leaves_the_old_one(models: ModelRegistry, replace: Callable[..., Avatar]) -> None:
    old = await version(models)
    new = replace(model=b"no network").version
    with pytest.raises(FailedPrecondition, match="ONNX"):
        await version(models, new)
    assert await version(models) == old


@pytest.mark.parametrize("gone", [True, False])
async def test_new_files_that_can_not_be_loaded(models: ModelRegistry, replace: Callable[..., Avatar], gone: bool) -> None:
    async with models.acquire("a") as old:
        folder = replace(model=b"no network").root
        if gone:
            shutil.rmtree(folder)
        with pytest.raises(Aborted, match="cannot be loaded"):
            await models.renew(old)
    assert models.find("a") is old


@pytest.mark.parametrize("when", ["before", "after"])
async def test_files_replaced_during_a_load_are_read_instead(
    models: ModelRegistry, replace: Callable[..., Avatar], loader: Loader, when: str
) -> None:
    """The avatar was read; its network would be the other one's, or was its own and is the other's now."""
    swapped: list[Avatar] = []
    setattr(loader, when, lambda: None if swapped else swapped.append(replace()))
    assert await version(models) == swapped[0].version
    assert len(loader.versions) == 2


async def test_a_failure_in_the_middle_of_a_swap_is_not_told(
    models: ModelRegistry, replace: Callable[..., Avatar], loader: Loader, tmp_path: Path
) -> None:
    """Nothing is there when the network is read; the new avatar, a moment later."""
    root = models.catalog.models_root
    away = [True]

    def vanish() -> None:
        if away:
            away.pop()
            shutil.rmtree(root / "a")
            replace(frames=4)
            (root / "a" / "network.onnx").rename(root / "a" / "net.onnx")
            text = (root / "a" / "avatar.yaml").read_text()
            (root / "a" / "avatar.yaml").write_text(text.replace("path: network.onnx", "path: net.onnx"))

    loader.before = vanish
    async with models.acquire("a") as model:
        assert model.value.avatar.frame_count == 4


async def test_an_avatar_that_never_rests_is_refused(
    models: ModelRegistry, replace: Callable[..., Avatar], loader: Loader
) -> None:
    scales = iter(range(1, 100))
    loader.after = lambda: replace(scale=float(next(scales)))
    with pytest.raises(Aborted):
        await version(models)
    assert len(loader.versions) == 2
    loader.after = lambda: None
    assert await version(models)


async def test_loads_wait_for_none_other_and_hold_up_no_look_at_files(
    models: ModelRegistry, loader: Loader, make_avatar: MakeAvatar
) -> None:
    names = [f"slow{number}" for number in range(LOAD_THREADS)]
    for name in names:
        make_avatar(name)
    together, go_on = threading.Barrier(len(names) + 1), threading.Event()

    def wait() -> None:
        together.wait(PATIENCE_S)
        assert go_on.wait(PATIENCE_S)

    loader.before = wait
    loads = [asyncio.create_task(models.load(name)) for name in names]
    await asyncio.to_thread(together.wait, PATIENCE_S)
    with pytest.raises(NotFound):
        await models.load("nobody")
    go_on.set()
    assert [lease.key for lease in await asyncio.gather(*loads)] == names
    assert all(lease.value.network_bytes > 0 for lease in models.loaded)
