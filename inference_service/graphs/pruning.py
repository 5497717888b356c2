"""Leaving out what a graph computes for nobody: ONNX Runtime runs such nodes all the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of the nodes, which are in order, that lead to one of the outputs."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(tensors_read(node))
            kept.append(node)
    return kept[::-1]


def tensors_read(node: onnx.NodeProto) -> Iterator[str]:
    """Its inputs, and what the branches and bodies inside it read."""
    yield from node.input
    for attribute in node.attribute:
        for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            yield from (value.name for value in body.output)
            for inner in body.node:
                yield from tensors_read(inner)
