"""The documents' statements about files, commands, settings, messages and metrics are true."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
import yaml
from redis.asyncio import Redis

from avatar_kit.catalog import AvatarCatalog
from benchmarks.report import BEGIN, END, README, every_figure, headlines, rewrite, with_figures
from benchmarks.suite import NAMES
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.metrics import CompositingMetrics
from compositing_service.settings import CompositingSettings
from gateway_service.metrics import GatewayMetrics
from gateway_service.settings import GatewaySettings
from inference_service.metrics import InferenceMetrics
from inference_service.settings import InferenceSettings
from lipsync_cli.main import app
from monolithic_service.settings import SETTINGS
from service_kit.clock import SYSTEM_CLOCK
from service_kit.limits.quotas import Quotas
from service_kit.limits.redis_store import RedisStore
from service_kit.limits.settings import QuotasSection, QuotaStoreSection
from service_kit.metrics import Metrics
from service_kit.settings import load_settings
from shared_proto import compositing_pb2, inference_pb2, monolithic_pb2, optimized_lipsyncsrv_pb2

from .pages import API, MESSAGES, PAGES, TREE, anchors, blocks, code_spans, commands, links, prose

PROTOS = (compositing_pb2, inference_pb2, monolithic_pb2, optimized_lipsyncsrv_pb2)
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@BY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert target.is_relative_to(TREE), link
        assert not anchor or anchor in anchors(target), link


def click_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words that are left for it."""
    found: Any = typer.main.get_command(app)  # of the click that typer carries, which is not to be imported
    while hasattr(found, "commands"):
        if words and words[0] in found.commands:
            found, words = found.commands[words[0]], words[1:]
        elif hasattr(found, "default_command"):
            found = found.commands[found.default_command]
        else:
            break
    return found, words


@BY_PAGE
def test_commands_of_examples_are_accepted(page: Path) -> None:
    for line in commands(page, "lipsync"):
        command, rest = click_command(shlex.split(line)[1:])
        assert not hasattr(command, "commands"), line
        command.make_context(command.name, list(rest))  # parses, and complains, without running
        if command.name == "suite":
            assert set(rest[: rest.index("--json") if "--json" in rest else None]) <= set(NAMES), line


@BY_PAGE
def test_commands_in_the_text_exist_with_their_options(page: Path) -> None:
    for span in code_spans(page):
        words = shlex.split(span) if re.match(r"(\.venv/bin/)?lipsync ", span) else []
        if not words:
            continue
        command, rest = click_command(words[1:])
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known, span
        assert rest != words[1:], f"{span}: no such command"


@BY_PAGE
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TREE / "Makefile").read_text(), re.MULTILINE))
    named = [*code_spans(page), *commands(page, "make")]
    assert {span.split()[1] for span in named if span.startswith("make ")} <= targets


@pytest.mark.parametrize("settings", SETTINGS.values())
def test_the_readmes_configuration_is_accepted_by_all_services(settings: type, tmp_path: Path) -> None:
    (example,) = blocks(README, "yaml")
    (tmp_path / "my.yaml").write_text(example)
    loaded = load_settings(settings, config=tmp_path / "my.yaml", environ={})
    assert loaded.warnings == ()
    assert set(loaded.models) == set(yaml.safe_load(example)["models"])


@BY_PAGE
def test_configuration_keys_in_the_text_exist(page: Path) -> None:
    keys = {
        f"{name}.{key}"
        for settings in (*SETTINGS.values(), GatewaySettings)
        for name, section in settings.model_fields.items()
        for key in getattr(section.annotation, "model_fields", {})
    }
    sections = {key.partition(".")[0] for key in keys}
    named = {span for span in code_spans(page) if re.fullmatch(r"[a-z_]+\.[a-z_]+", span) and span.partition(".")[0] in sections}
    assert named <= keys.union(*(settings.meaningless for settings in SETTINGS.values()))


def sections(page: str) -> dict[str, dict[str, str]]:
    """For each heading of the page, such as compositing.ModelInfo, the names in its table with the rest of their rows."""
    _, *parts = re.split(r"^##+ ", page, flags=re.MULTILINE)
    return {part.partition("\n")[0]: dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", part, re.MULTILINE)) for part in parts}


def test_every_rpc_message_field_and_value_of_the_wire_is_documented() -> None:
    """By the descriptors of the generated code, so that a line that the page's program cannot read is not lost."""
    documented = sections(MESSAGES.read_text())
    assert set(documented) == {
        each.full_name for proto in PROTOS for each in [*file_types(proto), *proto.DESCRIPTOR.services_by_name.values()]
    }
    for file in (proto.DESCRIPTOR for proto in PROTOS):
        for service in file.services_by_name.values():
            assert set(documented[service.full_name]) == {method.name for method in service.methods}
        for enum in file.enum_types_by_name.values():
            rows = {name: int(row.partition(" ")[0]) for name, row in documented[enum.full_name].items()}
            assert rows == {value.name: value.number for value in enum.values}
        for message in file.message_types_by_name.values():
            rows = {name: int(row.partition(" ")[0]) for name, row in documented[message.full_name].items()}
            assert rows == {field.name: field.number for field in message.fields}


def file_types(proto: ModuleType) -> list[Any]:
    return [*proto.DESCRIPTOR.message_types_by_name.values(), *proto.DESCRIPTOR.enum_types_by_name.values()]


def test_everything_on_the_wire_says_what_it_means() -> None:
    silent = [
        f"{title}.{name}"
        for title, rows in sections(MESSAGES.read_text()).items()
        for name, row in rows.items()
        if not row.rpartition("| ")[2].strip()
    ]
    assert silent == []


def collected(metrics: Metrics) -> set[str]:
    """The names as they are exported, without the suffixes of histograms."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.registry.collect()
        if not family.name.startswith(("process_", "python_"))
    }


def test_the_documented_metrics_are_those_of_the_services() -> None:
    inference, compositing = Metrics(), Metrics()
    inference.watch_calls(lambda: 0, limit=1)
    InferenceMetrics(inference)
    store = BackgroundStore(
        AvatarCatalog(Path("nowhere")), max_bytes=1, max_avatars=1, frames_per_avatar=1, policy="lfu", default_quality=75
    )
    CompositingMetrics(compositing).watch_store(store)
    store_of_quotas = RedisStore(Redis(), QuotaStoreSection(), SYSTEM_CLOCK, compositing)
    Quotas(QuotasSection(), store_of_quotas, SYSTEM_CLOCK, compositing)
    gateway = Metrics()
    GatewayMetrics(gateway)
    exported = collected(inference) | collected(compositing) | collected(gateway)
    named = {name for span in code_spans(API) for name in re.findall(r"\b(?:lipsync|grpc_server)_[a-z_]+\b", span)}
    assert named - {"lipsync_client"} == exported
    rows = set(re.findall(r"^\| `(lipsync_\w+)` \|", prose(API), re.MULTILINE))
    assert rows == {name for name in exported if name.startswith("lipsync_")}


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("batch_size", f"1 to {CompositingSettings().limits.max_batch_size}."),
        ("raw_audio", f"up to {CompositingSettings().limits.max_audio_seconds:g} s."),
        ("lead_in_frames", f"0 to {CompositingSettings().limits.max_audio_seconds * 25:g}."),
        ("jpeg_quality", f"the service's own ({CompositingSettings().output.jpeg_quality})"),
        ("row_count", f"1 to {InferenceSettings().limits.max_feature_rows}."),
        (
            "max_models",
            f"(compositing {CompositingSettings().capacity.max_models}, inference {InferenceSettings().capacity.max_models})",
        ),
        ("max_memory_bytes", f"(compositing {CompositingSettings().capacity.max_memory_gb:g} GiB)"),
    ],
)
def test_limits_are_the_defaults(field: str, words: str) -> None:
    rows = [line for line in MESSAGES.read_text().splitlines() if line.startswith(f"| `{field}` |")]
    assert any(words in row for row in rows), rows


def test_the_compositor_waits_as_long_as_documented() -> None:
    upstream = CompositingSettings().inference_server
    assert f"`inference_server.timeout_seconds` ({upstream.timeout_seconds:g} s)" in API.read_text()
    assert f"up to {upstream.max_retries} times (`inference_server.max_retries`)" in API.read_text()


MEASURED = {
    "measured": "2026-01-02T03:04:05+00:00",
    "machine": {"cpu": "A CPU", "cores": 2, "memory_gb": 8.0, "python": "3.11.7", "packages": {"numpy": "2.4.6"}},
    "benchmarks": {
        "compositor": {
            "figures": [
                {"name": "whole", "value": 1234.5, "unit": "us"},
                {"name": "a|b", "value": 0.125, "unit": "ms", "ratio": 8, "compared_with": "c", "goal": ">= 6x", "reached": True},
                {"name": "late", "value": 12.34, "unit": "ms", "goal": "<= 8 ms", "reached": False},
                {"name": "spliced, reference (quickest 1)", "value": 242.0, "unit": "us", "goal": ">= 6x", "reached": True},
            ],
            "error": None,
        },
        "gone": {"figures": [], "error": "ValueError: no\nluck"},
    },
}


def test_a_report_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    measured, pages = tmp_path / "m.json", (tmp_path / "performance.md", tmp_path / "readme.md")
    measured.write_text(json.dumps(MEASURED))
    for page in pages:
        page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    rewrite([measured], pages)
    once = [page.read_text() for page in pages]
    rewrite([measured], pages)
    assert [page.read_text() for page in pages] == once
    every, short = once
    for text in once:
        assert text.startswith(f"before\n{BEGIN}\n")
        assert text.endswith(f"\n{END}\nafter\n")
        assert "old" not in text
    assert "2026-01-02, on A CPU, 2 cores, 8 GB, Python 3.11.7, numpy 2.4.6. From `m.json`." in every
    assert "2026-01-02, on A CPU, 2 cores. From `m.json`." in short
    assert "| whole | 1,234 us |" in every
    assert "| a\\|b | 0.125 ms | 8.00x c | >= 6x | yes |" in every
    assert "| late | 12.3 ms |  | <= 8 ms | **no** |" in every
    assert "Failed: ValueError: no luck" in every
    goals = every.partition("### Goals")[2].partition("### compositor")[0]
    assert "2 of 3 are reached." in goals
    assert "| compositor: late | 12.3 ms |  | <= 8 ms | **no** |" in goals
    assert "whole" not in goals
    rows = [line for line in short.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| paste and encode a frame of 1280x720, one core | 242 us | >= 6x | yes |"]


@pytest.mark.parametrize("document", ["none", f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_document_without_its_place_for_figures_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="figures: begin"):
        with_figures(document, "x")


@pytest.mark.parametrize(("page", "figures"), [(TREE / "docs" / "performance.md", every_figure), (README, headlines)])
def test_figures_in_the_documents_are_those_of_the_file_that_they_name(page: Path, figures) -> None:
    text = page.read_text()
    sources = re.findall(r"From `(benchmarks/results/\S+\.json)`", text)
    assert sources
    shown = "\n\n".join(figures(json.loads((TREE / source).read_text()), source) for source in sources)
    assert with_figures(text, shown) == text
