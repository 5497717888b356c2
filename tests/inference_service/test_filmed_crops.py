"""The crops of an avatar that keeps its video: made in one go in the background, and singly for those who ask meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import inference_service.models.memory
from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import EngineOutput
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.metrics import InferenceMetrics
from inference_service.models.model import ModelLoader
from inference_service.models.registry import ModelRegistry
from inference_service.settings import GpuSection, InferenceSettings, OnnxSection
from service_kit.metrics import Metrics

from ..filmed import both_forms, damage, watch_decoding
from .conftest import MakeAvatar

CPU = find_devices(GpuSection(enabled=False), OnnxSection())[0]
FRAMES = 30
PATIENCE_S = 60


@pytest.fixture
def forms(make_avatar: MakeAvatar, tmp_path: Path) -> tuple[Avatar, Avatar]:
    return both_forms(make_avatar(), tmp_path / "filmed", rounds=FRAMES // 5, keyframes=10)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    counts: Counter[int] = Counter()
    watch_decoding(monkeypatch, lambda number: counts.update([number]))
    return counts


def crops(avatar: Avatar) -> np.ndarray:
    bank = CropBank(avatar, CPU)
    bank.fill()
    with bank.fed(np.arange(FRAMES)) as fed:
        return np.asarray(fed.bank)[fed.slots]


def test_the_crops_are_those_of_the_pictures(forms: tuple[Avatar, Avatar], decoded: Counter[int]) -> None:
    kept, extracted = forms
    np.testing.assert_array_equal(crops(kept), crops(extracted))
    assert decoded == Counter(range(FRAMES))


def test_requests_while_it_is_filled_wait_for_no_other_frames(forms: tuple[Avatar, Avatar], decoded: Counter[int]) -> None:
    """The filling stands still before its second frame, as long as anybody asks."""
    kept, extracted = forms
    bank, wanted = CropBank(kept, CPU), crops(extracted)
    decoded.clear()
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> bool:
        begun.set()
        return go_on.wait(PATIENCE_S)

    def ask(first: int) -> None:
        asked = list(range(first, first + 6))
        bank.ensure(asked)
        with bank.fed(np.array(asked)) as feed:
            fed = feed
        np.testing.assert_array_equal(np.asarray(fed.bank)[fed.slots], wanted[asked])

    with ThreadPoolExecutor(9) as pool:
        filling = pool.submit(bank.fill, hold)
        assert begun.wait(PATIENCE_S)
        for asking in [pool.submit(ask, first) for first in (24, 3, 17, 11, 0, 20, 8, 14)]:
            asking.result(PATIENCE_S)
        go_on.set()
        filling.result(PATIENCE_S)
    assert bank.missing(range(FRAMES)) == []


def test_without_a_filling_frames_come_one_by_one(forms: tuple[Avatar, Avatar]) -> None:
    kept, extracted = forms
    bank, wanted = CropBank(kept, CPU), crops(extracted)
    for frame in (29, 4, 13):
        bank.ensure([frame])
        with bank.fed(np.array([frame])) as feed:
            fed = feed
        np.testing.assert_array_equal(np.asarray(fed.bank)[fed.slots][0], wanted[frame])
    assert bank.missing(range(FRAMES)) == [frame for frame in range(FRAMES) if frame not in {29, 4, 13}]
    bank.fill()
    assert bank.missing(range(FRAMES)) == []


def test_damage_is_told(forms: tuple[Avatar, Avatar]) -> None:
    damage(forms[0])
    bank = CropBank(forms[0], CPU)
    with pytest.raises(BrokenAvatar, match=r"background\.mp4 has changed"):
        bank.fill()


@pytest.mark.parametrize(("limit_gb", "filled"), [(0, True), (20, True), (1e-6, False)], ids=["no limit", "room", "no room"])
async def test_a_loaded_avatar_is_filled_where_its_crops_fit(
    forms: tuple[Avatar, Avatar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_gb: float, filled: bool
) -> None:
    assert forms[0].root.parent == tmp_path / "filmed"
    done = threading.Event()
    fill = CropBank.fill

    def fill_and_tell(bank: CropBank, *goes_on: Callable[[], bool]) -> None:
        fill(bank, *goes_on)
        done.set()

    monkeypatch.setattr(CropBank, "fill", fill_and_tell)
    models = registry(tmp_path / "filmed", limit_gb)
    kept, extracted = await models.load("kept"), await models.load("extracted")
    if filled:
        assert await asyncio.to_thread(done.wait, PATIENCE_S)
    await models.close()
    assert (kept.value.engines[0].bank.missing(range(FRAMES)) == []) == filled
    assert extracted.value.engines[0].bank.missing([FRAMES - 1]) == [FRAMES - 1], "pictures are read when they are asked for"


async def test_a_long_filling_holds_up_no_other_avatar(
    forms: tuple[Avatar, Avatar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = forms
    names = ["kept", "twin", "third"]
    for name in names[1:]:
        shutil.copytree(kept.root, kept.root.with_name(name))
    go_on = threading.Event()
    monkeypatch.setattr(CropBank, "fill", lambda *_: go_on.wait(PATIENCE_S))
    models = registry(tmp_path / "filmed", 20)
    try:
        async with asyncio.timeout(PATIENCE_S / 2):
            for name in [*names, "extracted"]:
                await models.load(name)
    finally:
        go_on.set()
        await models.close()


@pytest.mark.parametrize("ended_by", ["unloading", "reloading", "closing"])
async def test_nobody_goes_on_filling_what_was_dropped(
    forms: tuple[Avatar, Avatar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold_up(number: int) -> None:
        if threading.current_thread().name.startswith("fill") and number == 1:
            begun.set()
            assert go_on.wait(PATIENCE_S)

    watch_decoding(monkeypatch, hold_up)
    models = registry(tmp_path / "filmed", 20)
    bank = (await models.load("kept")).value.engines[0].bank
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    if ended_by == "unloading":
        assert models.unload("kept")
    elif ended_by == "reloading":
        await models.load("kept", force_reload=True)
    closing = asyncio.create_task(models.close())
    await asyncio.sleep(0)
    go_on.set()
    await closing
    bank.ensure([FRAMES - 1])
    assert len(bank.missing(range(FRAMES))) >= FRAMES - 4


def registry(root: Path, limit_gb: float) -> ModelRegistry:
    settings = InferenceSettings.model_validate({"models_root": root, "capacity": {"max_memory_gb": limit_gb}})
    loader = ModelLoader(settings.onnx, max_batch=2)
    return ModelRegistry(AvatarCatalog(root), [CPU], loader, settings, InferenceMetrics(Metrics()), on_lost=pytest.fail)


async def test_crops_made_meanwhile_are_not_measured_as_another_avatars_network(
    forms: tuple[Avatar, Avatar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process's memory is measured before and after a load; a filling takes its part of it."""
    models = registry(tmp_path / "filmed", 1e-6)
    filled = (await models.load("kept")).value.engines[0].bank
    warm_up = OnnxEngine.warm_up

    def fill_meanwhile(engine: OnnxEngine) -> EngineOutput:
        filled.ensure(range(FRAMES))
        return warm_up(engine)

    monkeypatch.setattr(OnnxEngine, "warm_up", fill_meanwhile)
    monkeypatch.setattr(inference_service.models.memory, "_used_bytes", lambda _devices: filled.memory_bytes + 10**9)
    loaded = (await models.load("extracted")).value
    assert loaded.network_bytes == loaded.avatar.network_path.stat().st_size
    await models.close()
