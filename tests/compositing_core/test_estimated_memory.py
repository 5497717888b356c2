"""The memory that `lipsync avatar verify` tells, against what the store counts of the same avatar."""

from collections.abc import Callable
from pathlib import Path

import pytest

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_tools.benchmark_avatar import build_benchmark
from avatar_tools.demo import build_demo
from avatar_tools.facts import compositing_bytes
from compositing_service.backgrounds.store import BackgroundStore


def drawn(root: Path) -> Avatar:
    return build_demo(root)


def grainy(root: Path) -> Avatar:
    return build_benchmark(root, frame_count=12, network="free")


@pytest.mark.parametrize("build", [drawn, grainy])
async def test_the_estimate_is_what_the_store_counts(build: Callable[[Path], Avatar], tmp_path: Path) -> None:
    avatar = build(tmp_path)
    store = BackgroundStore(
        AvatarCatalog(tmp_path), max_bytes=1 << 30, max_avatars=1, frames_per_avatar=600, policy="lfu", default_quality=75
    )
    lease = await store.load(avatar.id, preload=True)
    counted = lease.value.memory_bytes()
    await store.close()
    assert compositing_bytes(avatar) == pytest.approx(counted, rel=0.1)
