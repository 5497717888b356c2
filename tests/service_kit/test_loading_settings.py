"""Settings from all sources: what wins, what is refused and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import AfterValidator, AliasChoices, Field, SecretStr

from service_kit.addresses import BindAddress
from service_kit.sections import GrpcServerSection, Section
from service_kit.service_settings import GrpcSettings
from service_kit.settings import SettingsError, chosen, effective, load_settings
from tools.configuration_docs import describe


def even(number: int) -> int:
    if number % 2:
        raise ValueError("an odd number; accepted: even ones")
    return number


@dataclass(frozen=True)
class Box:
    x: int = 5
    y: int = 5


class Entry(Section):
    box: Box | None = None
    count: Annotated[int, Field(ge=1, le=9)] | None = None
    model_path: Path | None = None
    """Folder of
    the model."""
    preload: bool = Field(default=False, validation_alias=AliasChoices("preload", "preload_model"))
    preferred_gpu: int = Field(default=-1, ge=-1)


class OwnServer(GrpcServerSection):
    port: BindAddress = BindAddress("", 6000)
    queue_size: int = Field(default=64, ge=1, le=1000)


class Upstream(Section):
    url: str = "localhost:50051"
    token: SecretStr | None = None
    names: tuple[str, ...] = ()
    mode: bool | Literal["auto"] = "auto"
    share: float = Field(default=0.5, gt=0, lt=1)
    pairs: Annotated[int, AfterValidator(even)] = 2


class Runtime(Section):
    threads: int = 0


class OwnSettings(GrpcSettings):
    meaningless: ClassVar[Mapping[str, str]] = {
        "onnx.library_path": "ONNX Runtime comes with the package",
        "logging.log_cache_stats": "there is no cache here",
    }
    server: OwnServer = OwnServer()
    onnx: Runtime = Runtime()
    upstream: Upstream = Upstream()
    models_root: Path = Path("models")
    models: dict[str, Entry] = Field(default_factory=dict)


QUEUE_SIZES = "accepted: whole number from 1 to 1000"


def load(
    yaml: str = "", overrides: list[str] | None = None, environ: dict[str, str] | None = None, *, at: Path | None = None
) -> Any:
    config = None
    if yaml:
        assert at is not None
        config = at / "own.yaml"
        config.write_text(yaml, encoding="utf-8")
    return load_settings(OwnSettings, config=config, overrides=overrides or [], environ=environ or {})


def problems(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(*args, **kwargs)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_nothing_given_means_the_defaults() -> None:
    assert load() == OwnSettings()


def test_set_wins_over_environment_wins_over_file_key_by_key(tmp_path: Path) -> None:
    settings = load(
        "server: {port: ':1', queue_size: 10, grace_seconds: 1}\n",
        ["server.port=:3"],
        {"LIPSYNC_SERVER__PORT": ":2", "LIPSYNC_SERVER__QUEUE_SIZE": "20"},
        at=tmp_path,
    )
    assert (settings.server.port.port, settings.server.queue_size, settings.server.grace_seconds) == (3, 20, 1.0)


def test_the_last_set_wins() -> None:
    assert load(overrides=["server.port=:3", "server.port=:4"]).server.port.port == 4


def test_an_alias_in_the_file_is_overridden_by_the_key_of_the_environment(tmp_path: Path) -> None:
    assert load("logging: {log_level: INFO}", environ={"LIPSYNC_LOGGING__LEVEL": "debug"}, at=tmp_path).logging.level == "debug"
    assert load("logging: {level: info}", ["logging.log_level=WARN"], at=tmp_path).logging.level == "warning"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        pytest.param("server.port=[::1]:0", "server.port", BindAddress("::1", 0), id="ipv6-is-no-yaml"),
        pytest.param("server.port=12:22", "server.port", BindAddress("12", 22), id="no-sexagesimal"),
        pytest.param("models_root=007", "models_root", Path("007"), id="text-stays-text"),
        pytest.param("models_root=a b # c", "models_root", Path("a b # c"), id="no-yaml-comment-in-text"),
        pytest.param("models_root='a: b'", "models_root", Path("a: b"), id="quoted"),
        pytest.param("upstream.url=null", "upstream.url", "null", id="null-is-text-where-null-is-not-accepted"),
        pytest.param("upstream.url=a=b", "upstream.url", "a=b", id="equals-in-value"),
        pytest.param("upstream.url=", "upstream.url", "", id="empty-text"),
        pytest.param("upstream.names=[a, 'b c', 007]", "upstream.names", ("a", "b c", "007"), id="list"),
        pytest.param("upstream.mode=true", "upstream.mode", True, id="bool-of-a-choice"),
        pytest.param("upstream.mode=auto", "upstream.mode", "auto", id="word-of-a-choice"),
        pytest.param("upstream.share=1e-3", "upstream.share", 0.001, id="scientific"),
        pytest.param("server.max_connection_age_seconds=null", "server.max_connection_age_seconds", None, id="null"),
        pytest.param("server={port: ':9', queue_size: 3}", "server.queue_size", 3, id="a-whole-section"),
        pytest.param("models.a.box={x: 1}", "models", {"a": Entry(box=Box(1, 5))}, id="a-map-as-value"),
        pytest.param(" server.port =:9", "server.port", BindAddress("", 9), id="space-around-the-key"),
    ],
)
def test_values_of_set(override: str, path: str, value: Any) -> None:
    found = load(overrides=[override])
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("source", "avatar"),
    [
        pytest.param({"overrides": ["models.demo.preload=true"]}, "demo", id="set"),
        pytest.param({"overrides": ["models.my-avatar.v1.2.preload=true"]}, "my-avatar.v1.2", id="set-dots-and-dashes"),
        pytest.param({"overrides": ["models.007.preload_model=true"]}, "007", id="set-digits-and-alias"),
        pytest.param({"overrides": ["models.preload.preload=true"]}, "preload", id="set-id-like-a-key"),
        pytest.param({"overrides": ["models.my.avatar={preload: true}"]}, "my.avatar", id="set-tree"),
        pytest.param({"overrides": ["models={my.avatar: {preload: true}}"]}, "my.avatar", id="set-whole-map"),
        pytest.param({"environ": {"LIPSYNC_MODELS__demo__PRELOAD": "true"}}, "demo", id="environment"),
        pytest.param(
            {"environ": {"LIPSYNC_MODELS__My-Avatar.v1__PRELOAD": "true"}}, "My-Avatar.v1", id="environment-keeps-the-id"
        ),
        pytest.param({"environ": {"LIPSYNC_MODELS__a__b__PRELOAD": "true"}}, "a__b", id="environment-separator-in-id"),
        pytest.param({"environ": {"LIPSYNC_MODELS": "{my.avatar: {preload: true}}"}}, "my.avatar", id="environment-whole-map"),
        pytest.param({"yaml": "models: {1.10: {preload: true}}"}, "1.10", id="file-id-like-a-number"),
        pytest.param({"yaml": "models: {true: {preload_model: true}}"}, "true", id="file-id-like-a-boolean"),
    ],
)
def test_entries_of_maps_are_addressed_by_any_id(tmp_path: Path, source: dict[str, Any], avatar: str) -> None:
    assert load(**source, at=tmp_path).models == {avatar: Entry(preload=True)}


def test_sources_add_to_the_same_entry(tmp_path: Path) -> None:
    settings = load(
        "models: {v1.0: {preferred_gpu: 3}, other: }",
        ["models.v1.0.model_path=m.onnx"],
        {"LIPSYNC_MODELS__v1.0__PRELOAD": "true"},
        at=tmp_path,
    )
    assert settings.models == {"v1.0": Entry(preferred_gpu=3, model_path=Path("m.onnx"), preload=True), "other": Entry()}


# Each has one problem, which begins so.
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "near": ({"yaml": "server: {prot: 1}"}, "server.prot: unknown key (in {file}); did you mean server.port?"),
    "near-section": ({"yaml": "sever: {port: 1}"}, "sever: unknown key (in {file}); did you mean server?"),
    "near-map": ({"overrides": ["model.x.preload=1"]}, "model: unknown key (--set model.x.preload); did you mean models?"),
    "near-in-a-map": (
        {"overrides": ["models.a.b.preloda=true"]},
        "models.a.b.preloda: unknown key (--set models.a.b.preloda); did you mean models.a.b.preload?",
    ),
    "wrong-place": ({"yaml": "queue_size: 1"}, "queue_size: unknown key (in {file}); did you mean server.queue_size?"),
    "nothing-near": ({"yaml": "zzz: 1"}, "zzz: unknown key (in {file})"),
    "beside-a-key-without-meaning": ({"yaml": "onnx: {library_path: x, thraeds: 3}"}, "onnx.thraeds: unknown key (in {file})"),
    "single-underscore": (
        {"environ": {"LIPSYNC_SERVER_PORT": ":1"}},
        "server_port: unknown key (environment variable LIPSYNC_SERVER_PORT); did you mean server.port (LIPSYNC_SERVER__PORT)?",
    ),
    "range": ({"yaml": "server: {queue_size: 0}"}, f"server.queue_size: 0 given (in {{file}}); {QUEUE_SIZES}"),
    "bool-is-no-number": ({"yaml": "server: {queue_size: true}"}, f"server.queue_size: true given (in {{file}}); {QUEUE_SIZES}"),
    "null": ({"yaml": "server: {queue_size: }"}, f"server.queue_size: null given (in {{file}}); {QUEUE_SIZES}"),
    "nan": ({"yaml": "upstream: {share: .nan}"}, "upstream.share: nan given (in {file}); accepted: number above 0, below 1"),
    "choice": (
        {"overrides": ["upstream.mode=maybe"]},
        "upstream.mode: 'maybe' given (--set upstream.mode); accepted: true or false, or auto",
    ),
    "own-validator": (
        {"environ": {"LIPSYNC_UPSTREAM__PAIRS": "3"}},
        "upstream.pairs: 3 given (environment variable LIPSYNC_UPSTREAM__PAIRS); an odd number; accepted: even ones",
    ),
    "secret": (
        {"yaml": "upstream: {token: [hunter2]}"},
        "upstream.token: a hidden value given (in {file}); accepted: secret text",
    ),
    "scalar-for-section": ({"yaml": "server: 5"}, "server: 5 given (in {file}); accepted: a section with the keys "),
    "list-for-map": ({"yaml": "models: [a]"}, "models: ['a'] given (in {file}); accepted: a map from ids to "),
    "list-for-all": ({"yaml": "- 1"}, "the configuration: [1] given (in {file}); accepted: a section with "),
    "alias-and-key": (
        {"yaml": "logging: {level: info, log_level: debug}"},
        "logging.level and logging.log_level are the same key: give one (in {file})",
    ),
    "twice": ({"yaml": "server: {port: 1}\nserver: {port: 2}"}, "{file}: line 2: the key server is given twice"),
    "broken-yaml": ({"yaml": "a: [1"}, "{file}: line 1: expected ',' or ']'"),
    "python-object": ({"yaml": "a: !!python/object:os.system x"}, "{file}: line 1: could not determine"),
    "control-character": ({"yaml": "a: \x00"}, "{file}: not YAML: unacceptable character #x0000"),
    "deep": ({"yaml": "[" * 900}, "{file}: nested too deeply"),
    "list-as-key": ({"yaml": "? [a]\n: b"}, "{file}: line 1: a key must be plain text"),
    "set-without-value": ({"overrides": ["server.port"]}, "--set server.port: write it as --set section.key=value"),
    "set-without-key": ({"overrides": ["=1"]}, "--set =1: write it as --set section.key=value"),
}


@pytest.mark.parametrize(("source", "expected"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(tmp_path: Path, source: dict[str, Any], expected: str) -> None:
    [found] = problems(**source, at=tmp_path)
    assert found.startswith(expected.replace("{file}", str(tmp_path / "own.yaml")))


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    found = problems(
        "server: {port: x, prot: 1, queue_size: 0}\nmodels: {a: {preferred_gpu: -2}, b: {color: red}}",
        ["upstream.share=2", "nonsense", "models.c.preferred_gpu=many"],
        {"LIPSYNC_LOGGING__LEVEL": "loud"},
        at=tmp_path,
    )
    for key in (
        "server.port",
        "server.prot",
        "server.queue_size",
        "models.a.preferred_gpu",
        "models.b.color",
        "upstream.share",
        "--set nonsense",
        "models.c.preferred_gpu",
        "logging.level",
    ):
        assert len([each for each in found if each.startswith(f"{key}:")]) == 1
    assert len(found) == 9


def test_unknown_keys_are_told_of_each_source(tmp_path: Path) -> None:
    found = problems("gpus: {count: 1}", ["gpus.count=2"], {"LIPSYNC_GPUS__COUNT": "3"}, at=tmp_path)
    sources = f"in {tmp_path / 'own.yaml'}", "environment variable LIPSYNC_GPUS__COUNT", "--set gpus.count"
    assert found == tuple(f"gpus: unknown key ({source})" for source in sources)


def test_a_key_without_meaning_gives_one_warning(tmp_path: Path) -> None:
    settings = load(
        "onnx: {library_path: C:/onnxruntime.dll}",
        ["logging.log_cache_stats=true", "onnx.library_path=x"],
        {"LIPSYNC_ONNX__LIBRARY_PATH": "y"},
        at=tmp_path,
    )
    assert settings.warnings == (
        "onnx.library_path: no effect here; ONNX Runtime comes with the package",
        "logging.log_cache_stats: no effect here; there is no cache here",
    )
    assert settings.model_dump() == OwnSettings().model_dump()
    assert load().warnings == ()


def test_a_missing_and_a_huge_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.yaml: the configuration file cannot be read: No such file"):
        load_settings(OwnSettings, config=tmp_path / "nowhere.yaml", environ={})
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings(OwnSettings, config=tmp_path, environ={})
    assert "larger than 1 MiB" in problems("#" * (1 << 20) + "\n", at=tmp_path)[0]
    (tmp_path / "latin.yaml").write_bytes(b"models_root: m\xe4rchen")
    with pytest.raises(SettingsError, match=r"latin.yaml: not YAML: unacceptable character #x00e4"):
        load_settings(OwnSettings, config=tmp_path / "latin.yaml", environ={})


def test_a_file_of_windows_with_byte_order_mark_loads(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfmodels_root: there\r\nlogging:\r\n  log_level: info\r\n")
    assert load_settings(OwnSettings, config=tmp_path / "bom.yaml", environ={}).models_root == Path("there")


def test_a_file_with_only_comments_and_empty_sections_means_the_defaults(tmp_path: Path) -> None:
    assert load("# nothing\n", at=tmp_path) == OwnSettings()
    assert load("server:\n  # port: 1\nmodels:\n", at=tmp_path) == OwnSettings()


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    settings = load("models:\n  a: &a {preload: true, preferred_gpu: 1}\n  b: {<<: *a, preferred_gpu: 2}\n  c: *a\n", at=tmp_path)
    assert settings.models["b"] == Entry(preload=True, preferred_gpu=2)
    assert settings.models["c"] == settings.models["a"]


def test_an_alias_bomb_is_refused_briefly(tmp_path: Path) -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 20))
    found = problems(f"l0: &l0 [x, x]\n{levels}\nupstream: {{names: *l19}}", at=tmp_path)
    assert all(len(each) < 1000 for each in found)


def test_variables_that_are_not_ours_are_left_alone() -> None:
    of_kubernetes = {
        "LIPSYNC_SERVICE_HOST": "10.0.0.1",
        "LIPSYNC_SERVICE_PORT": "50051",
        "LIPSYNC_INFERENCE_SERVICE_PORT_GRPC": "50051",
        "LIPSYNC_PORT": "tcp://10.0.0.1:50051",
        "LIPSYNC_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert (
        load(environ={**of_kubernetes, "PATH": "/bin", "lipsync_server__port": "1", "LIPSYNC_SERVER__PORT": ""}) == OwnSettings()
    )


def test_the_effective_settings_are_complete_and_hide_secrets() -> None:
    told = effective(load(overrides=["upstream.token=hunter2", "models.a.b.preload=true"]))
    assert "hunter2" not in str(told)
    assert told["upstream.token"] == "*" * 10
    assert told["server.port"] == ":6000"
    assert told["models.a.b.preload"] is True
    assert load_settings(OwnSettings, config=None, overrides=["upstream.token=hunter2"], environ={}).upstream.token == SecretStr(
        "hunter2"
    )


def test_the_chosen_settings_are_those_that_are_not_the_defaults() -> None:
    assert chosen(load()) == {}
    told = chosen(load(overrides=["upstream.token=hunter2", "models.a.b.preload=true", "server.queue_size=64"]))
    assert told["upstream.token"] == "*" * 10
    assert told["models.a.b.preload"] is True
    assert set(told) == {"upstream.token", *(key for key in told if key.startswith("models."))}


def test_the_description_has_a_row_for_every_key() -> None:
    rows = {row.key: row for row in describe(OwnSettings)}
    assert rows["server.port"].default == '":6000"'
    assert (rows["server.queue_size"].type, rows["server.queue_size"].default) == ("whole number from 1 to 1000", "64")
    assert (rows["models.<id>.model_path"].type, rows["models.<id>.model_path"].default) == ("path, or null", "null")
    assert rows["models.<id>.model_path"].description == "Folder of the model."
    assert rows["models.<id>.box"].type == "map with the keys x, y, or null"
    assert rows["models.<id>.count"].type == "whole number from 1 to 9, or null"
    assert rows["models_root"].default == '"models"'
    assert "logging.log_cache_stats" not in rows
    assert all(row.description for row in describe(GrpcSettings))
