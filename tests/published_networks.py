"""The two networks in PyTorch, written from the published tables alone: their state dicts have the published keys.

Without PyTorch the tests that need them are skipped; `make test-torch` installs it and lets none be skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

WIDTHS_DOWN = [(32, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
WIDTHS_UP = [(512, 128), (256, 64), (128, 32), (64, 32), (64, 16)]


def named(**children: Any) -> Any:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


class IR(nn.Module):
    def __init__(self, i: int, o: int, s: int = 1, res: bool = False) -> None:
        super().__init__()
        m = 2 * i
        self.res = res
        self.conv = nn.Sequential(
            *(nn.Conv2d(i, m, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU()),
            *(nn.Conv2d(m, m, 3, s, 1, groups=m, bias=False), nn.BatchNorm2d(m), nn.ReLU()),
            *(nn.Conv2d(m, o, 1, bias=False), nn.BatchNorm2d(o)),
        )

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.res else self.conv(x)


def dbl(i: int, o: int, s: int = 1) -> Any:
    return named(double_conv=nn.Sequential(IR(i, o, s), IR(o, o, 1, True)))


class Unet(nn.Module):
    """[N, 6, 320, 320] and [N, 32, 16, 16] to [N, 3, 320, 320] in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = named(inconv=nn.Sequential(IR(6, 32)))
        for k, (i, o) in enumerate(WIDTHS_DOWN, 1):
            self.add_module(f"down{k}", named(maxpool_conv=nn.Sequential(dbl(i, o, 2))))
        self.audio_model = named(
            conv1=IR(32, 64),
            conv2=IR(64, 128),
            conv3=nn.Conv2d(128, 256, 3, 1, 1),
            bn3=nn.BatchNorm2d(256),
            conv4=IR(256, 256, 1, True),
            conv5=nn.Conv2d(256, 512, 3, 2, 3),
            bn5=nn.BatchNorm2d(512),
            conv6=IR(512, 512, 1, True),
            conv7=IR(512, 512, 1, True),
        )
        self.fuse_conv = nn.Sequential(dbl(1024, 512), dbl(512, 256))
        for k, (i, o) in enumerate(WIDTHS_UP, 1):
            self.add_module(f"up{k}", named(conv=dbl(i, o)))
        self.outc = named(conv=nn.Conv2d(16, 3, 1))

    def forward(self, picture: Any, sound: Any) -> Any:
        x = [self.inc.inconv(picture)]
        for k in range(1, 6):
            x.append(getattr(self, f"down{k}").maxpool_conv[0].double_conv(x[-1]))
        m = self.audio_model
        a = torch.relu(m.bn3(m.conv3(m.conv2(m.conv1(sound)))))
        a = m.conv7(m.conv6(torch.relu(m.bn5(m.conv5(m.conv4(a))))))
        y = torch.cat([x[5], a], 1)
        for block in self.fuse_conv:
            y = block.double_conv(y)
        for k in range(1, 6):
            y = getattr(self, f"up{k}").conv.double_conv(torch.cat([self.twice(y), x[5 - k]], 1))
        return torch.sigmoid(self.outc.conv(y))

    def twice(self, y: Any) -> Any:
        return nn.functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)


class EncoderLayer(nn.Module):
    def __init__(self, i: int, o: int, k: int, s: Any, p: int, res: bool = False) -> None:
        super().__init__()
        self.res = res
        self.conv_block = nn.Sequential(nn.Conv2d(i, o, k, s, p), nn.BatchNorm2d(o))

    def forward(self, x: Any) -> Any:
        y = self.conv_block(x)
        return torch.relu(y + x if self.res else y)


def encoder() -> Any:
    """[N, 1, 80, 16] to [N, 512, 1, 1]."""

    def res(width: int) -> EncoderLayer:
        return EncoderLayer(width, width, 3, 1, 1, True)

    return nn.Sequential(
        *(EncoderLayer(1, 32, 3, 1, 1), res(32), res(32), EncoderLayer(32, 64, 3, (3, 1), 1), res(64), res(64)),
        *(EncoderLayer(64, 128, 3, 3, 1), res(128), res(128), EncoderLayer(128, 256, 3, (3, 2), 1), res(256)),
        *(EncoderLayer(256, 512, 3, 1, 0), EncoderLayer(512, 512, 1, 1, 0)),
    )


def as_if_trained(make: Callable[[], Any], *inputs: Any, seed: int) -> Any:
    """Random weights, and batch norms that have seen `inputs`: values neither die out nor explode on their way through."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = make()
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1.0
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.2)
        module.train()(*inputs)
    return module.eval()
