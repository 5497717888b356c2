"""Dashboards and alerts: valid by Prometheus' own tool, and about metrics that the services really have."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.asyncio import Redis

from avatar_kit.catalog import AvatarCatalog
from compositing_service.backgrounds.store import BackgroundStore
from compositing_service.metrics import CompositingMetrics
from gateway_service.metrics import GatewayMetrics
from inference_service.metrics import InferenceMetrics
from service_kit.clock import SYSTEM_CLOCK
from service_kit.limits.redis_store import RedisStore
from service_kit.limits.settings import QuotaStoreSection
from service_kit.metrics import Metrics

PROXY = re.compile(r"\bhaproxy_[a-z_]+")
OURS = re.compile(r"\b(?:lipsync|grpc_server|process)_[a-z_]+")
RECORDED = re.compile(r"\blipsync:[a-z_:0-9]+")


@pytest.fixture(scope="session")
def monitoring(repository: Path) -> Path:
    return repository / "deploy/monitoring"


@pytest.fixture(scope="session")
def rules(monitoring: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((monitoring / "rules.yml").read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def known_metrics() -> set[str]:
    """The names of all series that the services can show."""
    metrics = Metrics()
    metrics.watch_calls(lambda: 0, limit=1)
    compositing = CompositingMetrics(metrics)
    store = BackgroundStore(
        AvatarCatalog(Path("nowhere")), max_bytes=1, max_avatars=1, frames_per_avatar=1, policy="lfu", default_quality=75
    )
    compositing.watch_store(store)
    InferenceMetrics(metrics)
    GatewayMetrics(metrics)
    RedisStore(Redis(), QuotaStoreSection(), SYSTEM_CLOCK, metrics)
    names = set()
    for family in metrics.registry.collect():
        plain = {f"{family.name}{end}" for end in ("", "_total", "_bucket", "_count", "_sum")}
        names |= {f"{family.name}_total"} if family.type == "counter" else plain - {f"{family.name}_total"}
    return names


def promtool_says(promtool: str, *arguments: str | Path) -> str:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_its_configuration_and_the_rules(promtool: str, monitoring: Path) -> None:
    assert "rule files found" in promtool_says(promtool, "check", "config", monitoring / "prometheus.yml")


def test_alerts_fire_when_they_should(promtool: str, monitoring: Path) -> None:
    assert "SUCCESS" in promtool_says(promtool, "test", "rules", monitoring / "rules_test.yml")


def test_rules_are_about_metrics_that_there_are(rules: list[dict[str, Any]], known_metrics: set[str]) -> None:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        assert set(OURS.findall(rule["expr"])) <= known_metrics, rule
        assert set(RECORDED.findall(rule["expr"])) <= recorded, rule


def test_what_alerts_count_is_there_before_it_first_happens() -> None:
    """A series that begins with 1 has not increased."""
    metrics = Metrics()
    InferenceMetrics(metrics)
    for name, labels in (
        ("lipsync_inference_dropped_requests_total", {"reason": "full"}),
        ("lipsync_model_loads_total", {"outcome": "failed"}),
        ("lipsync_model_evictions_total", {"reason": "capacity"}),
        ("lipsync_model_evictions_total", {"reason": "memory"}),
    ):
        assert metrics.registry.get_sample_value(name, labels) == 0


def test_every_alert_is_explained(rules: list[dict[str, Any]], repository: Path) -> None:
    manual = (repository / "docs/operations.md").read_text()
    alerts = [rule for rule in rules if "alert" in rule]
    assert len(alerts) >= 10
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["for"]
        assert alert["annotations"]["summary"]
        assert f"### {alert['alert']}\n" in manual, alert["alert"]


def test_the_dashboard_is_made_from_its_source(monitoring: Path) -> None:
    source = runpy.run_path(str(monitoring / "dashboard.py"))
    assert (monitoring / "grafana/dashboards/lipsync.json").read_text() == source["text"]()


def test_the_dashboard_shows_metrics_that_there_are(
    monitoring: Path, rules: list[dict[str, Any]], known_metrics: set[str]
) -> None:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    panels = json.loads((monitoring / "grafana/dashboards/lipsync.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(expressions) > 20
    for expression in expressions:
        names = set(OURS.findall(expression))
        assert names <= known_metrics, expression
        assert set(RECORDED.findall(expression)) <= recorded, expression
        assert names or RECORDED.search(expression) or expression.startswith("sum by (job) (up{")


def test_every_expression_of_the_dashboard_is_promql(promtool: str, monitoring: Path, tmp_path: Path) -> None:
    panels = json.loads((monitoring / "grafana/dashboards/lipsync.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    records = [
        {"record": f"panel:{place}", "expr": text.replace("$__rate_interval", "1m")} for place, text in enumerate(expressions)
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    promtool_says(promtool, "check", "rules", rules)


def test_panels_do_not_overlap(monitoring: Path) -> None:
    places = [panel["gridPos"] for panel in json.loads((monitoring / "grafana/dashboards/lipsync.json").read_text())["panels"]]
    taken: set[tuple[int, int]] = set()
    for place in places:
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_kubernetes_has_the_same_rules(monitoring: Path, repository: Path) -> None:
    resource = yaml.safe_load((repository / "deploy/kubernetes/overlays/monitoring/rules.yaml").read_text())
    assert resource["kind"] == "PrometheusRule"
    assert resource["spec"] == yaml.safe_load((monitoring / "rules.yml").read_text())
