"""The example files and the documentation against the settings classes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gateway_service.settings import GatewaySettings
from monolithic_service.settings import SETTINGS as AVATAR_SERVICES
from service_kit.settings import load_settings
from tools.configuration_docs import configuration_page, describe, main

from .tree import TREE

EXAMPLES = TREE / "deploy" / "config"
PAGE = TREE / "docs" / "configuration.md"
SETTINGS = {**AVATAR_SERVICES, "gateway": GatewaySettings}
each_service = pytest.mark.parametrize("service", SETTINGS)
each_example = pytest.mark.parametrize("service", ["inference", "compositing", "gateway"])


def dotted(tree: object, prefix: str = "") -> set[str]:
    """Every key of a file."""
    if not isinstance(tree, dict):
        return {prefix}
    return {key for name, below in tree.items() for key in dotted(below, f"{prefix}.{name}" if prefix else name)}


def with_its_models(service: str) -> str:
    """The example with the commented entries at its end switched on."""
    head, has_models, models = (EXAMPLES / f"{service}.yaml").read_text().partition("# models:\n")
    return head + has_models[2:] + re.sub(r"^# ", "", models, flags=re.MULTILINE)


@each_example
def test_an_example_is_the_defaults(service: str) -> None:
    settings = load_settings(SETTINGS[service], config=EXAMPLES / f"{service}.yaml", environ={})
    assert settings == SETTINGS[service]()
    assert settings.warnings == ()


@each_example
def test_an_example_names_every_key(service: str, tmp_path: Path) -> None:
    written = {key.replace("models.sanders.", "models.<id>.") for key in dotted(yaml.safe_load(with_its_models(service)))}
    assert written == {row.key for row in describe(SETTINGS[service])}
    path = tmp_path / f"{service}.yaml"
    path.write_text(with_its_models(service))
    loaded = load_settings(SETTINGS[service], config=path, environ={})
    assert loaded.warnings == ()
    if service in AVATAR_SERVICES:
        assert loaded.models["sanders"].num_frames == 523  # type: ignore[attr-defined]


@each_service
def test_every_key_says_what_it_accepts_and_does(service: str) -> None:
    for row in describe(SETTINGS[service]):
        assert row.description, row.key
        assert row.type[0].islower() or row.type[0] in ":[", f"{row.key}: {row.type} is no word for a person"


def test_entries_of_avatars_are_the_same_for_all() -> None:
    """One file may serve all."""
    entries = {frozenset(row for row in describe(cls) if row.key.startswith("models.")) for cls in AVATAR_SERVICES.values()}
    assert len(entries) == 1


def test_one_process_has_the_keys_of_both() -> None:
    keys = {name: {row.key for row in describe(cls)} for name, cls in SETTINGS.items()}
    both = {key for key in keys["inference"] | keys["compositing"] if not key.startswith("inference_server.")}
    more = {
        "server.compositing_port",
        "server.inference_port",
        "server.optimized_lipsyncsrv",
        "capacity.max_background_memory_gb",
    }
    sections = (
        "sockets",
        "earlier",
        "speech",
        "pictures",
        "webrtc",
        "guard",
        "tickets",
        "compositing_server",
        "metrics",
        "server.port",
    )
    not_here = {"compositing_server.url", "compositing_server.api_key_file"}
    gateway = {key for key in keys["gateway"] if key.startswith(sections)} - not_here
    more |= {"gateway.enabled", *(f"gateway.{key.removeprefix('server.')}" for key in gateway)}
    assert keys["all"] == both | more


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == configuration_page(), "run `make docs`"


@each_service
def test_the_page_has_every_key(service: str) -> None:
    page = configuration_page()
    rows = describe(SETTINGS[service])
    if service == "all":
        gateway = {row.key for row in describe(GatewaySettings)}
        rows = [row for row in rows if row.key.removeprefix("gateway.") not in gateway]
    for row in rows:
        assert f"| `{row.key}` | {row.type} | `{row.default}` | {row.description} |" in page
    for key, reason in SETTINGS[service].meaningless.items():
        assert f"- `{key}`: {reason}" in page


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "new" / "page.md")]) == 0
    assert main([]) == 0
    assert (tmp_path / "new" / "page.md").read_text() == capsys.readouterr().out == configuration_page()
    assert main(["a", "b"]) == 2
