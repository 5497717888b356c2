"""The layers that the two networks are described with, for any reading of a description.

`OnnxLayers` writes a description as a graph, `TorchLayers` computes it, `WeightShapes` collects the weights that it needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
"""A reading's tensor, [N, channels, height, width]."""

EXPANSION = 2  # a block's middle is twice as wide as its input


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution and the batch norm behind it, by the names that their weights have in the published checkpoints."""

    key: str
    norm: str | None
    inputs: int
    outputs: int
    kernel: int = 3
    stride: tuple[int, int] = (1, 1)
    padding: int = 0
    groups: int = 1
    bias: bool = True


class Layers(ABC, Generic[T]):
    """Operations on tensors. A `name` is what the result is called where results have names."""

    def inverted_residual(self, x: T, prefix: str, inputs: int, outputs: int, *, stride: int = 1, residual: bool = False) -> T:
        """1x1 to the wide middle, ReLU; depthwise 3x3, ReLU; 1x1 back, linear; for a residual block the sum with `x`."""
        p, middle = f"{prefix}.conv", EXPANSION * inputs
        y = self.relu(self.convolution(x, Convolution(f"{p}.0", f"{p}.1", inputs, middle, kernel=1, bias=False)))
        depthwise = Convolution(f"{p}.3", f"{p}.4", middle, middle, stride=(stride, stride), padding=1, groups=middle, bias=False)
        y = self.relu(self.convolution(y, depthwise))
        y = self.convolution(y, Convolution(f"{p}.6", f"{p}.7", middle, outputs, kernel=1, bias=False))
        return self.add(y, x) if residual else y

    def double(self, x: T, prefix: str, inputs: int, outputs: int, *, stride: int = 1) -> T:
        """Two inverted residuals, the second with the sum."""
        y = self.inverted_residual(x, f"{prefix}.double_conv.0", inputs, outputs, stride=stride)
        return self.inverted_residual(y, f"{prefix}.double_conv.1", outputs, outputs, residual=True)

    @abstractmethod
    def convolution(self, x: T, layer: Convolution) -> T:
        """The convolution, and its batch norm."""

    @abstractmethod
    def relu(self, x: T) -> T:
        """Negative values become 0."""

    @abstractmethod
    def add(self, x: T, y: T) -> T:
        """The sum of two tensors of one shape."""

    @abstractmethod
    def doubled_size(self, x: T) -> T:
        """Bilinear, twice the height and width; the corner pixels keep their places."""

    @abstractmethod
    def concatenated(self, parts: Sequence[T], name: str) -> T:
        """Along the channels."""

    @abstractmethod
    def sigmoid(self, x: T, name: str) -> T:
        """1 / (1 + e^-x)."""

    @abstractmethod
    def flattened(self, x: T, name: str) -> T:
        """[N, channels x height x width]."""
