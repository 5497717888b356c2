"""Any text at all gives settings or a list of problems."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from service_kit.sections import Section
from service_kit.service_settings import GrpcSettings
from service_kit.settings import SettingsError, effective, load_settings


class Entry(Section):
    preload: bool = False
    model_path: Path | None = None


class MapSettings(GrpcSettings):
    models: dict[str, Entry] = Field(default_factory=dict)
    names: tuple[str, ...] = ()


def answer(config: str | None = None, overrides: list[str] | None = None, environ: Mapping[str, str] | None = None) -> Any:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write((config or "").encode("utf-8", "surrogatepass"))
        file.flush()
        try:
            return load_settings(MapSettings, config=Path(file.name), overrides=overrides or [], environ=environ or {})
        except SettingsError as error:
            problems = error.problems
    assert problems
    assert all(problem and len(problem) < 2000 for problem in problems)
    return None


known_keys = st.sampled_from([*effective(MapSettings()), "models.a.preload", "server", "logging", "models.a", "serv", ""])
yaml_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10) | known_keys, children, max_size=3),
    max_leaves=10,
)
avatar_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(st.text())
@example("a: &a [*a]")
@example("models: &m {a: *m}")
@example("<<: 1")
@example("? ? ?")
@example("0: 1")
@example("---\n---")
def test_any_file(text: str) -> None:
    answer(text)


@given(st.dictionaries(st.sampled_from(["server", "logging", "metrics", "models", "names", "other"]), yaml_trees))
def test_any_tree(tree: dict[str, Any]) -> None:
    answer(yaml.safe_dump(tree))


@given(st.lists(st.builds("{}={}".format, known_keys | st.text(), st.text() | yaml_trees.map(json.dumps)), max_size=3))
def test_any_overrides(overrides: list[str]) -> None:
    answer(overrides=overrides)


@given(
    st.dictionaries(
        st.builds("LIPSYNC_{}".format, known_keys.map(lambda key: key.replace(".", "__").upper()) | st.text()), st.text()
    )
)
def test_any_environment(environ: dict[str, str]) -> None:
    answer(environ=environ)


@given(st.lists(avatar_ids, min_size=1, unique=True, max_size=4))
@example(["preload"])
@example(["a.preload"])
@example(["1e5", "0x10", "007", "null", "true", "1_0", "12.50"])
def test_any_avatar_id_is_addressed_alike_by_all_sources(ids: list[str]) -> None:
    expected = {each: Entry(preload=True) for each in ids}
    by_set = answer(overrides=[f"models.{each}.preload=true" for each in ids])
    by_environment = answer(environ={f"LIPSYNC_MODELS__{each}__PRELOAD": "true" for each in ids})
    by_file = answer("models:\n" + "".join(f"  {each}: {{preload: true}}\n" for each in ids))
    assert [settings.models for settings in (by_set, by_environment, by_file)] == [expected] * 3


@given(st.text(min_size=1).filter(lambda text: text.isprintable() and text[0] not in "'\"" and text not in {"~", "null"}))
def test_text_arrives_as_it_was_given(text: str) -> None:
    assert answer(overrides=[f"models.a.model_path={text}"]).models["a"].model_path == Path(text)
    assert answer(environ={"LIPSYNC_MODELS__a__MODEL_PATH": text}).models["a"].model_path == Path(text)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "server.max_message_size_mb": st.integers(1, 2047),
            "server.grace_seconds": st.floats(0, 3600),
            "server.max_connection_age_seconds": st.none() | st.floats(1, 1e6),
            "logging.level": st.sampled_from(["debug", "info", "warning", "error"]),
            "logging.buffered_logging": st.booleans(),
            "metrics.port": st.none() | st.integers(0, 65535).map(":{}".format),
            "names": st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])), max_size=3),
        },
    )
)
def test_what_is_in_force_can_be_given_again(values: dict[str, Any]) -> None:
    """The effective settings, written as JSON after --set, give the same settings."""
    first = load_settings(
        MapSettings,
        config=None,
        overrides=[f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()],
        environ={},
    )
    told = effective(first)
    again = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in told.items() if key != "models"]
    assert load_settings(MapSettings, config=None, overrides=again, environ={}) == first
    assert {key: told[key] for key in values} == values
