"""The work that a load keeps for later ones; nothing in the folder can harm them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from inference_service.engines import openvino_models
from inference_service.engines.devices import find_devices
from inference_service.engines.engine import NO_PICTURES, EngineInput
from inference_service.engines.load_cache import LoadCache, cache_key
from inference_service.models.choosing import IN_FLOAT32, EngineChoice
from inference_service.models.model import LoadedModel, ModelLoader
from inference_service.settings import CacheSection, GpuSection, OnnxSection

from .conftest import MakeAvatar, network
from .test_engine_choice import IN_BFLOAT16, coarse_network, needs_bfloat16

CPU = find_devices(GpuSection(enabled=False), OnnxSection())
KEY, OTHER, THIRD = (cache_key(word) for word in ("one", "other", "third"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "loads"


def load(avatar: Avatar, folder: Path, choice: EngineChoice = IN_BFLOAT16) -> LoadedModel:
    """Loads it in a loader of its own, as a process has that was started again."""
    loader = ModelLoader(OnnxSection(intra_op_threads=1), choice=choice, cache=LoadCache(folder, max_bytes=1 << 30))
    return loader.load(avatar, AvatarCatalog(avatar.root.parent).audio_encoder_path(avatar), CPU)


def mouth(model: LoadedModel) -> NDArray[np.uint8]:
    windows = np.random.default_rng(3).uniform(0, 4, (1, 16, 512)).astype(np.float32)
    model.engines[0].bank.ensure([1])
    made = model.engines[0].run(EngineInput(windows, np.array([1]), NO_PICTURES, want_float=False, want_uint8=True))
    assert made.mouths_uint8 is not None
    return made.mouths_uint8


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a later load must not do this")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@needs_bfloat16
def test_a_later_load_opens_the_network_once_and_compiles_nothing(
    make_avatar: MakeAvatar, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    avatar = make_avatar("her")
    first = load(avatar, folder)
    kept = files(folder)
    monkeypatch.setattr("inference_service.models.model.OnnxEngine", refuse)
    monkeypatch.setattr(openvino_models, "_compiled", refuse)
    caplog.clear()
    later = load(avatar, folder)
    assert (later.numerics, later.psnr_db) == (first.numerics, first.psnr_db)
    assert f"avatar her runs in bfloat16: {first.psnr_db:.1f} dB from float32" in caplog.text
    np.testing.assert_array_equal(mouth(later), mouth(first))
    assert files(folder) == kept


@needs_bfloat16
def test_a_network_that_failed_the_gate_is_not_opened_in_bfloat16_again(
    make_avatar: MakeAvatar, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    avatar = make_avatar("her", model=coarse_network())
    load(avatar, folder)
    monkeypatch.setattr("inference_service.models.model.OpenVinoEngine", refuse)
    caplog.clear()
    model = load(avatar, folder)
    assert model.engines[0].arithmetic == IN_FLOAT32.numerics
    assert "avatar her runs in float32, as bfloat16 would be seen" in caplog.text


@needs_bfloat16
@pytest.mark.parametrize("change", ["network", "pictures", "mask"])
def test_another_network_or_other_frames_are_compared_anew(make_avatar: MakeAvatar, folder: Path, change: str) -> None:
    from avatar_kit.geometry import Mask

    load(make_avatar("her"), folder)
    before = files(folder)
    other = {
        "network": {"model": network(scale=0.5)},
        "pictures": {"frames": 6},
        "mask": {"mask": Mask(10, 20, 300, 280)},
    }[change]
    load(make_avatar("her", replace=True, **other), folder)
    assert len(files(folder) - before) == (2 if change == "network" else 1)


@needs_bfloat16
def test_a_damaged_cache_changes_nothing_but_the_time(
    make_avatar: MakeAvatar, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    avatar = make_avatar()
    first = load(avatar, folder)
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    again = load(avatar, folder)
    assert caplog.text.count("is damaged and is not used") == 2
    assert (again.numerics, again.psnr_db) == (first.numerics, first.psnr_db)
    caplog.clear()
    load(avatar, folder)  # the damaged ones were replaced
    assert "damaged" not in caplog.text


@needs_bfloat16
def test_a_kept_network_that_openvino_refuses_is_compiled_anew(
    make_avatar: MakeAvatar, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one of a build that has the same version."""
    avatar = make_avatar()
    first = load(avatar, folder)
    cache = LoadCache(folder, max_bytes=1 << 30)
    for path in folder.iterdir():
        if path.stat().st_size > 1000:
            cache.put(path.stem, b"of another build")
    assert load(avatar, folder).numerics == first.numerics
    assert "is compiled anew: " in caplog.text


def entry(cache: LoadCache, *keys: str) -> list[bytes | None]:
    return [cache.get(key) for key in keys]


def test_what_was_kept_is_found_again_by_another_process(folder: Path) -> None:
    one, other = (LoadCache(folder, max_bytes=1000) for _ in range(2))
    one.put(KEY, b"content")
    assert entry(other, KEY, OTHER) == [b"content", None]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_was_not_used_for_longest_makes_room(folder: Path) -> None:
    cache = LoadCache(folder, max_bytes=300)
    for age, key in ((30, KEY), (20, OTHER)):
        cache.put(key, bytes(100))
        os.utime(folder / f"{key}.kept", (1e9 - age, 1e9 - age))
    assert cache.get(KEY) == bytes(100)  # now the other was not used for longer
    cache.put(THIRD, bytes(100))
    assert entry(cache, KEY, OTHER, THIRD) == [bytes(100), None, bytes(100)]
    cache.put(OTHER, bytes(300))  # more than all
    assert entry(cache, KEY, OTHER, THIRD) == [bytes(100), None, bytes(100)]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 300


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:20], lambda data: data[:-1], lambda data: data + b"x"])
def test_a_file_that_is_not_whole_is_none(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    cache = LoadCache(folder, max_bytes=1000)
    cache.put(KEY, b"content")
    path = folder / f"{KEY}.kept"
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get(KEY) is None


def test_a_folder_that_others_may_write_is_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = LoadCache(folder, max_bytes=1000)
    cache.put(KEY, b"content")
    folder.chmod(0o770)
    assert LoadCache(folder, max_bytes=1000).get(KEY) is None
    assert "is not used, as other users may write there" in caplog.text
    LoadCache(folder, max_bytes=1000).put(OTHER, b"content")
    assert files(folder) == {f"{KEY}.kept"}


def test_without_a_folder_that_can_be_made_nothing_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_text("in the way")
    cache = LoadCache(tmp_path / "file" / "loads", max_bytes=1000)
    for _ in range(2):
        cache.put(KEY, b"content")
    assert entry(cache, KEY) == [None]
    assert caplog.text.count("nothing is kept for later loads in") == 1
    nowhere = LoadCache(None)
    nowhere.put(KEY, b"content")
    assert entry(nowhere, KEY) == [None]


def test_keys_tell_their_parts_apart() -> None:
    assert len({cache_key(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), (b"ab", "c", ""))}) == 4


def test_the_folder_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert CacheSection().place == Path("/some/where/lipsync/loads")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/her/own")
    assert CacheSection().place == Path("/her/own/.cache/lipsync/loads")
    assert CacheSection(folder=Path("/kept")).place == Path("/kept/loads")
    assert CacheSection(folder=None).place is None
