"""Expressions that write themselves down as ONNX, judged by numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from tools.demo_drawing.expressions import ExpressionGraph, Value

X = np.linspace(-2, 3, 12, dtype=np.float32).reshape(1, 3, 4)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda x: 2.0 - x * 3 + x / 2, 2.0 - X * 3 + X / 2),
        (lambda x: 1 / (x * x + 1), 1 / (X * X + 1)),
        (lambda x: np.arange(4, dtype=np.float32) - x, np.arange(4) - X),
        (lambda x: np.ones(4, np.float32) + np.full(4, 2, np.float32) * x, 1 + 2 * X),
        (lambda x: (-x).exp(), np.exp(-X)),
        (lambda x: (x.abs() + 1).sqrt(), np.sqrt(np.abs(X) + 1)),
        (lambda x: x.abs().power(1.5), np.abs(X) ** 1.5),
        (lambda x: x.clip(), np.clip(X, 0, 1)),
        (lambda x: x.at_least(0.5).at_most(2.0), np.clip(X, 0.5, 2)),
        (lambda x: x.sigmoid(), 1 / (1 + np.exp(-X))),
        (lambda x: x.part(2, 1, 3), X[:, :, 1:3]),
        (lambda x: x.reshape(0, -1), X.reshape(1, 12)),
        (lambda x: x.matmul(np.eye(4, dtype=np.float32) * 2), X * 2),
        (lambda x: x.graph.join([x, x + 1], axis=1), np.concatenate([X, X + 1], 1)),
    ],
)
def test_expressions_are_numpys(build: Callable[[Value], Value], expected: np.ndarray) -> None:
    graph = ExpressionGraph()
    model = graph.model("test", {"y": (build(graph.input("x", X.shape)), expected.shape)})
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"x": X})[0], expected, rtol=1e-6, atol=1e-6)


def test_equal_constants_are_stored_once() -> None:
    graph = ExpressionGraph()
    x: Value = graph.input("x", [4])
    y = (x + np.full(4, 7, np.float32)) * np.full(4, 7, np.float32) + 7.0 + 7
    model = graph.model("test", {"y": (y, [4])})
    assert len(model.graph.initializer) == 2


def test_open_dimensions_stay_open() -> None:
    graph = ExpressionGraph()
    model = graph.model("test", {"y": (graph.input("x", ["N", 2]) + 1, ["N", 2])})
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"
