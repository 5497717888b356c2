"""No avatar, whatever its files hold, keeps a list or another avatar from being read; what is wrong is told in a short text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar_kit.avatar import Avatar
from avatar_kit.catalog import AvatarCatalog
from avatar_kit.errors import BrokenAvatar
from avatar_tools.verify import verify_avatar

from ..hostile import HOSTILE, LONGEST_TEXT

many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**4400, max_value=10**4500)
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.binary(max_size=8)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(scalars, inner, max_size=4), max_leaves=12
)


@pytest.fixture
def pair(write_avatar: Callable[..., Avatar], models_root: Path) -> Path:
    """The folder of an avatar to be harmed, beside a good one."""
    write_avatar("good")
    return write_avatar("bad").root


def check(folder: Path) -> str:
    """Lists and reads both avatars; what is said of the harmed one, "" if it can be read after all."""
    catalog = AvatarCatalog(folder.parent)
    assert {"bad", "good"} <= set(catalog.ids())
    assert catalog.get("good").frame_count == 6
    try:
        catalog.get("bad")
    except BrokenAvatar as error:
        said = error.caller_text
        assert said
        assert said.isprintable()
        assert len(said.encode()) <= LONGEST_TEXT
        assert str(folder) not in said
        return said
    return ""


@pytest.mark.parametrize("harm", HOSTILE.values(), ids=HOSTILE.keys())
def test_it_is_told_and_harms_no_other(pair: Path, harm: Callable[[Path], None]) -> None:
    harm(pair)
    said = check(pair)
    report = verify_avatar(pair)
    assert not report.ok
    assert not said or any(problem in said for problem in report.problems), "verifying says what serving does"
    assert len(str(report.problems)) <= 4 * LONGEST_TEXT


@many
@given(
    key=st.sampled_from(
        ["frame_count", "id", "fps", "width", "mask", "loop", "reference", "idle", "idle_mouth", "files", "more"]
    ),
    value=values,
)
def test_any_value_in_the_manifest(pair: Path, key: str, value: Any) -> None:
    content = yaml.safe_load((pair.parent / "good" / "avatar.yaml").read_text())
    content[key] = value
    (pair / "avatar.yaml").write_text(_yaml(content), encoding="utf-8", errors="replace")
    check(pair)


@many
@given(role=st.sampled_from(["network", "crop_rects", "audio_encoder", "features", "background_video"]), value=values)
def test_any_value_in_an_entry_of_a_file(pair: Path, role: str, value: Any) -> None:
    content = yaml.safe_load((pair.parent / "good" / "avatar.yaml").read_text())
    content["files"][role] = {"path": value, "sha256": "0" * 64}
    (pair / "avatar.yaml").write_text(_yaml(content), encoding="utf-8", errors="replace")
    check(pair)


@many
@given(st.dictionaries(scalars, values, max_size=6))
def test_any_keys_in_the_manifest(pair: Path, content: Any) -> None:
    (pair / "avatar.yaml").write_text(_yaml(content), encoding="utf-8", errors="replace")
    assert check(pair)


numbers = st.integers(-3, 200) | st.sampled_from([2**63, -(10**30), 1e308, 1e400])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5) | st.integers(-2, 9).map(str), inner, max_size=7)
    ),
    max_leaves=30,
)


@many
@given(json_values)
def test_any_rectangles(pair: Path, content: Any) -> None:
    (pair / "crop_rects.json").write_text(json.dumps(content))
    check(pair)


@many
@given(
    st.lists(
        st.lists(st.integers(-3, 200) | st.sampled_from([2**63, -(10**30), 1e308, 1e400]), min_size=4, max_size=4),
        min_size=6,
        max_size=6,
    )
)
def test_any_four_numbers(pair: Path, rects: list[list[float]]) -> None:
    (pair / "crop_rects.json").write_text(json.dumps(rects))
    check(pair)


@many
@given(st.binary(max_size=300))
def test_any_bytes(pair: Path, content: bytes) -> None:
    for name in ("avatar.yaml", "crop_rects.json", "frames/frame_000000.jpg"):
        whole = (pair.parent / "good" / name).read_bytes()
        (pair / name).write_bytes(content)
        assert check(pair)
        (pair / name).write_bytes(whole)


def test_what_nobody_foresaw_is_a_broken_avatar(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real files raise these too, but no test can count on which ones: the memory of a machine, a disk that fails."""
    for error in (
        MemoryError(),
        RecursionError("deep"),
        ZeroDivisionError(str(pair)),
        OSError(5, "Input/output error", str(pair)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("avatar_kit.rectangles.json.loads", _raising(error))
            assert check_read(pair)


def check_read(folder: Path) -> str:
    with pytest.raises(BrokenAvatar) as caught:
        AvatarCatalog(folder.parent).get("bad")
    assert str(folder) not in str(caught.value)
    return str(caught.value)


def _raising(error: Exception) -> Callable[[object], object]:
    def fail(_: object) -> object:
        raise error

    return fail


def _yaml(content: Any) -> str:
    """YAML in which whole numbers are hexadecimal, which has no limit of digits."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def whole(dumper: yaml.SafeDumper, number: int) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:int", hex(number))

    Dumper.add_representer(int, whole)
    return yaml.dump(content, Dumper=Dumper, allow_unicode=True)
