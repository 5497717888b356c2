"""The two networks as PyTorch modules that take the published state dicts: what a conversion is compared with.

Importing this module imports PyTorch. It may be absent, and where it is there its types are not wanted: hence the import by name.
"""

from __future__ import annotations

import importlib
from typing import Any

from avatar_tools.networks.architecture import DOWN, ENCODER, EXPANSION, FUSE, OUTPUT, STEM, UP, EncoderLayer

torch: Any = importlib.import_module("torch")
nn: Any = torch.nn


class _Module(nn.Module):  # type: ignore[misc]  # its type is not known here, see above
    """Base of all; tensors are [N, channels, height, width]."""


class _Named(_Module):
    """A module under the name that its weights have in the checkpoints."""

    def __init__(self, name: str, module: Any) -> None:
        super().__init__()
        self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        (module,) = self.children()
        return module(x)


class _InvertedResidual(_Module):
    """1x1 to the wide middle, depthwise 3x3, 1x1 back without an activation; for a residual block plus the input."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, residual: bool = False) -> None:
        super().__init__()
        middle = EXPANSION * inputs
        self.residual = residual
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        return x + y if self.residual else y


def _double(inputs: int, outputs: int, *, stride: int = 1) -> _Named:
    first = _InvertedResidual(inputs, outputs, stride=stride)
    return _Named("double_conv", nn.Sequential(first, _InvertedResidual(outputs, outputs, residual=True)))


class _AudioBranch(_Module):
    """[N, 32, 16, 16] to [N, 512, 10, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _InvertedResidual(32, 64)
        self.conv2 = _InvertedResidual(64, 128)
        self.conv3 = nn.Conv2d(128, 256, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(256)
        self.conv4 = _InvertedResidual(256, 256, residual=True)
        self.conv5 = nn.Conv2d(256, 512, 3, stride=2, padding=3)
        self.bn5 = nn.BatchNorm2d(512)
        self.conv6 = _InvertedResidual(512, 512, residual=True)
        self.conv7 = _InvertedResidual(512, 512, residual=True)

    def forward(self, sound: Any) -> Any:
        x = self.conv2(self.conv1(sound))
        x = self.conv4(torch.relu(self.bn3(self.conv3(x))))
        x = torch.relu(self.bn5(self.conv5(x)))
        return self.conv7(self.conv6(x))


class UNet(_Module):
    """[N, 6, 320, 320] pictures and [N, 32, 16, 16] sound to [N, 3, 320, 320] mouths in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = _Named("inconv", nn.Sequential(_InvertedResidual(*STEM)))
        for number, (inputs, outputs) in enumerate(DOWN, 1):
            self.add_module(f"down{number}", _Named("maxpool_conv", nn.Sequential(_double(inputs, outputs, stride=2))))
        self.audio_model = _AudioBranch()
        self.fuse_conv = nn.Sequential(*(_double(inputs, outputs) for inputs, outputs in FUSE))
        for number, (inputs, outputs) in enumerate(UP, 1):
            self.add_module(f"up{number}", _Named("conv", _double(inputs, outputs)))
        self.outc = _Named("conv", nn.Conv2d(*OUTPUT, 1))

    def forward(self, picture: Any, sound: Any) -> Any:
        scales = [self.inc(picture)]
        for number in range(1, len(DOWN) + 1):
            scales.append(self.get_submodule(f"down{number}")(scales[-1]))
        x = self.fuse_conv(torch.cat([scales.pop(), self.audio_model(sound)], dim=1))
        for number in range(1, len(UP) + 1):
            enlarged = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self.get_submodule(f"up{number}")(torch.cat([enlarged, scales.pop()], dim=1))
        return torch.sigmoid(self.outc(x))


class _EncoderBlock(_Module):
    """Convolution and batch norm; for a residual block plus the input; ReLU."""

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        self.residual = layer.residual
        convolution = nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(layer.outputs))

    def forward(self, x: Any) -> Any:
        y = self.conv_block(x)
        return torch.relu(x + y if self.residual else y)


class AudioEncoder(nn.Sequential):  # type: ignore[misc]  # its type is not known here, see above
    """[N, 1, 80, 16] mel windows to [N, 512] rows."""

    def __init__(self) -> None:
        super().__init__(*(_EncoderBlock(layer) for layer in ENCODER))

    def forward(self, mel: Any) -> Any:
        return super().forward(mel).flatten(1)
