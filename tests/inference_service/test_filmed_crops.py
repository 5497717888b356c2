"""The crops of an avatar that keeps its video: one going through it fills the bank, and those that are waited for come first."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import inference_service.models.memory
from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from avatar_kit.video.cursor import VideoCursor
from inference_service.engines.crops import CropBank
from inference_service.engines.devices import find_devices
from inference_service.engines.onnxruntime import OnnxEngine
from inference_service.metrics import InferenceMetrics
from inference_service.models.model import ModelLoader
from inference_service.models.registry import ModelRegistry
from inference_service.settings import GpuSection, InferenceSettings, OnnxSection
from service_kit.metrics import Metrics

from ..filmed import both_forms, damage
from .conftest import MakeAvatar

CPU = find_devices(GpuSection(enabled=False), OnnxSection())[0]
FRAMES = 30
PATIENCE_S = 20


@pytest.fixture
def forms(make_avatar: MakeAvatar, tmp_path: Path) -> tuple[Avatar, Avatar]:
    return both_forms(make_avatar(), tmp_path / "filmed", rounds=FRAMES // 5, keyframes=10)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    counts: Counter[int] = Counter()
    advance = VideoCursor.advance

    def counting(cursor: VideoCursor) -> object:
        counts[cursor.next] += 1
        return advance(cursor)

    monkeypatch.setattr(VideoCursor, "advance", counting)
    return counts


def crops(avatar: Avatar) -> np.ndarray:
    bank = CropBank(avatar, CPU)
    bank.fill()
    fed = bank.feed(np.arange(FRAMES))
    return np.asarray(fed.bank)[fed.slots]


def test_the_crops_are_those_of_the_pictures(forms: tuple[Avatar, Avatar], decoded: Counter[int]) -> None:
    kept, extracted = forms
    np.testing.assert_array_equal(crops(kept), crops(extracted))
    assert decoded == Counter(range(FRAMES))


def test_requests_while_it_is_filled_cost_no_decoding(forms: tuple[Avatar, Avatar], decoded: Counter[int]) -> None:
    kept, extracted = forms
    bank, wanted = CropBank(kept, CPU), crops(extracted)
    begun = threading.Event()
    read = bank._take

    def take(frame: int, picture: np.ndarray, wished: frozenset[None]) -> bool:
        begun.set()
        return read(frame, picture, wished)

    bank._take = take  # type: ignore[method-assign]

    def ask(first: int) -> None:
        assert begun.wait(PATIENCE_S)
        asked = list(range(first, first + 6))
        if wish := bank.wish(asked):
            wish.result(PATIENCE_S)
        bank.ensure(asked)
        fed = bank.feed(np.array(asked))
        np.testing.assert_array_equal(np.asarray(fed.bank)[fed.slots], wanted[asked])

    with ThreadPoolExecutor(9) as pool:
        asking = [pool.submit(ask, first) for first in (24, 3, 17, 11, 0, 20, 8, 14)]
        pool.submit(bank.fill).result(PATIENCE_S)
        for each in asking:
            each.result(PATIENCE_S)
    assert decoded == Counter(range(FRAMES))
    assert bank.wish([5]) is None


def test_without_a_filling_frames_come_one_by_one(forms: tuple[Avatar, Avatar]) -> None:
    kept, extracted = forms
    bank, wanted = CropBank(kept, CPU), crops(extracted)
    for frame in (29, 4, 13):
        assert bank.wish([frame]) is None
        bank.ensure([frame])
        fed = bank.feed(np.array([frame]))
        np.testing.assert_array_equal(np.asarray(fed.bank)[fed.slots][0], wanted[frame])
    assert bank.missing(range(FRAMES)) == [frame for frame in range(FRAMES) if frame not in {29, 4, 13}]
    bank.fill()
    assert bank.missing(range(FRAMES)) == []


def test_what_is_there_is_not_decoded_for_the_filling(forms: tuple[Avatar, Avatar], decoded: Counter[int]) -> None:
    bank = CropBank(forms[0], CPU)
    bank.ensure(range(10))
    bank.fill()
    assert decoded == Counter(range(FRAMES))


def test_damage_is_told_and_lets_go_of_who_waits(forms: tuple[Avatar, Avatar]) -> None:
    damage(forms[0])
    bank = CropBank(forms[0], CPU)
    with pytest.raises(BrokenAvatar, match=r"background\.mp4 has changed"):
        bank.fill()
    assert bank.wish([3]) is None


@pytest.mark.parametrize(("limit_gb", "filled"), [(0, True), (20, True), (1e-6, False)], ids=["no limit", "room", "no room"])
async def test_a_loaded_avatar_is_filled_where_its_crops_fit(
    forms: tuple[Avatar, Avatar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_gb: float, filled: bool
) -> None:
    assert forms[0].root.parent == tmp_path / "filmed"
    done = threading.Event()
    fill = CropBank.fill

    def fill_and_tell(bank: CropBank) -> None:
        fill(bank)
        done.set()

    monkeypatch.setattr(CropBank, "fill", fill_and_tell)
    models = registry(tmp_path / "filmed", limit_gb)
    kept, extracted = await models.load("kept"), await models.load("extracted")
    if filled:
        assert await asyncio.to_thread(done.wait, PATIENCE_S)
    await models.close()
    assert (kept.engines[0].bank.missing(range(FRAMES)) == []) == filled
    assert extracted.engines[0].bank.missing([FRAMES - 1]) == [FRAMES - 1], "pictures are read when they are asked for"


async def test_a_long_filling_holds_up_no_other_avatar(
    forms: tuple[Avatar, Avatar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = forms
    names = ["kept", "twin", "third"]
    for name in names[1:]:
        shutil.copytree(kept.root, kept.root.with_name(name))
    go_on = threading.Event()
    monkeypatch.setattr(CropBank, "fill", lambda _bank: go_on.wait(PATIENCE_S))
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
    take = CropBank._take

    def take_the_first(bank: CropBank, frame: int, picture: np.ndarray, wished: frozenset[None]) -> bool:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return take(bank, frame, picture, wished)

    monkeypatch.setattr(CropBank, "_take", take_the_first)
    models = registry(tmp_path / "filmed", 20)
    old = await models.load("kept")
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    bank = old.engines[0].bank
    waiting = bank.wish([FRAMES - 1])
    assert waiting
    if ended_by == "unloading":
        assert models.unload("kept")
    elif ended_by == "reloading":
        await models.load("kept", force_reload=True)
    closing = asyncio.create_task(models.close())
    await asyncio.sleep(0)
    go_on.set()
    await closing
    assert waiting.done(), "who waits for a frame is let go, and makes it itself"
    bank.ensure([FRAMES - 1])
    assert len(bank.missing(range(FRAMES))) >= FRAMES - 4


def registry(root: Path, limit_gb: float) -> ModelRegistry:
    settings = InferenceSettings.model_validate({"models_root": root, "capacity": {"max_memory_gb": limit_gb}})
    loader = ModelLoader(settings.onnx, max_batch=2)
    return ModelRegistry(AvatarCatalog(root), [CPU], loader, settings, InferenceMetrics(Metrics()), on_lost=pytest.fail)


async def test_crops_made_meanwhile_are_not_measured_as_another_avatars_network(
    forms: tuple[Avatar, Avatar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the process takes is measured before and after a load; a filling takes its part of it."""
    models = registry(tmp_path / "filmed", 1e-6)
    filled = (await models.load("kept")).engines[0].bank
    warm_up = OnnxEngine.warm_up

    def fill_meanwhile(engine: OnnxEngine) -> None:
        filled.ensure(range(FRAMES))
        warm_up(engine)

    monkeypatch.setattr(OnnxEngine, "warm_up", fill_meanwhile)
    monkeypatch.setattr(inference_service.models.memory, "_used_bytes", lambda _devices: filled.memory_bytes + 10**9)
    loaded = await models.load("extracted")
    assert loaded.network_bytes == loaded.avatar.network_path.stat().st_size
    await models.close()
