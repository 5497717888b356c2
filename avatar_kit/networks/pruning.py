"""Leaving out what a graph computes for nobody: ONNX Runtime runs such nodes all the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of the nodes, which are in order, that lead to one of the outputs."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
