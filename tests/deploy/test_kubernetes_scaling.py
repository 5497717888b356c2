"""Pods in Kubernetes that come and go: what autoscalers go by, and old ones that stay until new ones are known."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .kubernetes_overlays import HARDWARE, Manifest, container, named, of_kind

# As long as CoreDNS keeps an answer by default.
DNS_CACHE_S = 30


@pytest.mark.parametrize(
    ("workload", "metrics"),
    [
        ("gateway", ["cpu", "lipsync_gateway_sessions"]),
        ("compositing", ["cpu", "lipsync_running_calls", "lipsync_sessions"]),
        ("inference", ["cpu", "lipsync_inference_load"]),
    ],
)
def test_autoscalers_go_by_processor_time_and_by_what_pods_have_to_do(
    rendered: dict[str, list[Manifest]], workload: str, metrics: list[str]
) -> None:
    autoscaler = named(rendered["gpu"], "HorizontalPodAutoscaler", workload)["spec"]
    target = autoscaler["scaleTargetRef"]
    assert "replicas" not in named(rendered["gpu"], target["kind"], target["name"])["spec"]
    assert container(rendered["gpu"], target["name"])["resources"]["requests"]["cpu"]
    cpu, *own = autoscaler["metrics"]
    assert [cpu["resource"]["name"], *(metric["pods"]["metric"]["name"] for metric in own)] == metrics
    given = {rule["name"].get("as", rule["name"]["matches"].strip("^$")) for rule in adapter_rules(rendered)}
    assert given >= set(metrics[1:])


def adapter_rules(rendered: dict[str, list[Manifest]]) -> list[dict[str, Any]]:
    """The rules for prometheus-adapter."""
    (data,) = [
        manifest["data"] for manifest in of_kind(rendered["monitoring"], "ConfigMap") if "adapter" in manifest["metadata"]["name"]
    ]
    (text,) = data.values()
    rules: list[dict[str, Any]] = yaml.safe_load(text)
    return rules


def adapter_query(rule: dict[str, Any]) -> str:
    """The query as the adapter asks it about one pod."""
    values = {"<<.Series>>": rule["seriesQuery"].partition("{")[0], "<<.LabelMatchers>>": 'pod="a"', "<<.GroupBy>>": "pod"}
    text: str = rule["metricsQuery"]
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def test_the_adapters_rules_say_what_pods_have_to_do(rendered: dict[str, list[Manifest]], promtool: str, tmp_path: Path) -> None:
    """Asked by Prometheus' own tool: 18 sessions where 900 frames a second can be made are half of what new ones may take."""
    queries = {
        rule["name"].get("as", rule["name"]["matches"].strip("^$")): adapter_query(rule) for rule in adapter_rules(rendered)
    }
    series = {
        "lipsync_running_calls": 30, "lipsync_sessions": 20, "lipsync_gateway_sessions": 7, "lipsync_inference_sessions": 18,
        "lipsync_inference_capacity_frames_per_second": 1000, "lipsync_inference_processor_load": 0.18,
    }  # fmt: skip
    wanted = {"lipsync_running_calls": 10, "lipsync_sessions": 20, "lipsync_gateway_sessions": 7, "lipsync_inference_load": 0.5}
    unmeasured = series | {"lipsync_inference_capacity_frames_per_second": 0, "lipsync_inference_processor_load": 0}
    busy = series | {"lipsync_inference_processor_load": 0.9}
    cases = [
        (series, wanted),
        (unmeasured, wanted | {"lipsync_inference_load": 0}),
        (busy, wanted | {"lipsync_inference_load": 1}),
    ]
    tests = [
        {
            "interval": "10s",
            "input_series": [{"series": f'{name}{{pod="a"}}', "values": f"{value}x12"} for name, value in given.items()],
            "promql_expr_test": [
                {"expr": queries[name], "eval_time": "2m", "exp_samples": [{"labels": '{pod="a"}', "value": value}]}
                for name, value in results.items()
            ],
        }
        for given, results in cases
    ]
    assert queries.keys() == wanted.keys()
    file = tmp_path / "adapter.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", HARDWARE)
def test_old_pods_stay_until_new_ones_are_known(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    looked_up = {
        service["metadata"]["name"] for service in of_kind(rendered[overlay], "Service") if "clusterIP" in service["spec"]
    }
    assert looked_up == {"inference", "inference-balancer", "compositing", "gateway"}
    for workload in of_kind(rendered[overlay], "Deployment", "StatefulSet"):
        if workload["metadata"]["name"] in looked_up:
            assert workload["spec"]["minReadySeconds"] > DNS_CACHE_S
