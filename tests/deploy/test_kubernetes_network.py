"""The network of pods in Kubernetes: who reaches whom."""

from __future__ import annotations

import pytest

from .kubernetes_overlays import HARDWARE, Manifest, container, fits, of_kind, pods


@pytest.mark.parametrize("overlay", HARDWARE)
def test_only_compositing_reaches_inference(rendered: dict[str, list[Manifest]], overlay: str) -> None:
    workloads = ("front", "gateway", "compositing", "inference", "inference-balancer", "first-avatar")

    def reach(port: str) -> set[tuple[str, str]]:
        return {
            (source, target)
            for source in (*workloads, "somebody")
            for target in workloads
            if source != target and allowed(rendered[overlay], source, target, port)
        }

    assert reach("browsers") == {("somebody", "front"), ("front", "gateway")}
    assert reach("grpc") == {
        ("somebody", "front"),
        ("gateway", "front"),
        ("front", "compositing"),
        ("compositing", "inference-balancer"),
        ("compositing", "inference"),
        ("inference-balancer", "inference"),
    }


def allowed(manifests: list[Manifest], source: str, target: str, port: str) -> bool:
    """True if the policies let pods of `source` connect to that port of pods of `target`. `somebody` is outside the cluster."""
    specs = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")]
    labels = {name: template["metadata"]["labels"] for name, template in pods(manifests)}
    numbers = {known["name"]: known["containerPort"] for known in container(manifests, target).get("ports", ())}

    def admits(rule: Manifest, side: str, other: str) -> bool:
        if not any(entry["port"] in {port, numbers.get(port)} for entry in rule["ports"]):
            return False
        peers = [peer["podSelector"] for peer in rule.get(side, ()) if "podSelector" in peer]
        return side not in rule or (other in labels and any(selects(peer, labels[other]) for peer in peers))

    def opens(kind: str, side: str, of: str, other: str) -> bool:
        rules = [
            rule
            for spec in specs
            if kind in spec["policyTypes"] and selects(spec["podSelector"], labels[of])
            for rule in spec.get(kind.lower()) or ()
        ]
        return any(admits(rule, side, other) for rule in rules)

    leaves = source not in labels or opens("Egress", "to", source, target)
    return leaves and opens("Ingress", "from", target, source)


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    return fits(selector.get("matchLabels", {}), labels) and all(
        labels.get(term["key"]) in term["values"] for term in selector.get("matchExpressions", ())
    )
