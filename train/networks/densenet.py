"""DenseNet-40, the network of Tondi 2021 and of Niu 2020 before it (Huang 2017, without bottlenecks or compression).

Three dense blocks of 12 convolutions with 12 filters each, 24 filters before the first, two transitions that halve
the resolution, and the mean over the whole patch before a linear layer: 226 logits in 15 groups (Tondi 2021), or 15
steps (Niu 2020). With three input channels and 10 outputs it has the 1,059,298 parameters of the DenseNet-40 of Huang
2017; with 226 outputs 1,158,010.

The mean may as well be taken over every 64 x 64 window of a larger image, as the two halvings leave one feature for
each 4 x 4 pixels: one pass then answers for all windows whose corners lie on multiples of 4. Borders are where the two
differ: a patch on its own is surrounded by zeros, a window in an image by its neighbours.

What is the project's own is where its training may begin: with detectors of what compression leaves
(`see_flatness`), or as another network (`steps.py`).
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jscan.tiling import WINDOW
from train.networks.uchida import BT601, COARSEST, FLATTEST, RAMPS, average

LAYERS, GROWTH, FIRST = 12, 12, 24
DROPOUT = 0.2
SCALE = 4
"""Pixels along a side for which one feature of the last block stands."""
REACH = 85
"""Pixels around a window that its answer can depend on: 13 at full resolution, 12 * 2 at half, 12 * 4 at a quarter."""
SEEING = 3
"""Layers that begin as detectors of flat places."""
MOMENTUM = 0.03
"""Of the running statistics; the checkpoint of a run that was stopped must be usable."""


class DenseLayer(nn.Module):
    """(N, C, H, W) -> (N, C + 12, H, W)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, momentum=MOMENTUM)
        self.conv = nn.Conv2d(channels, GROWTH, 3, padding=1, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        new = self.drop(self.conv(functional.relu(self.norm(x))))
        return torch.cat([x, new], 1)


class Transition(nn.Module):
    """(N, C, H, W) -> (N, C, H / 2, W / 2)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, momentum=MOMENTUM)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(self.drop(self.conv(functional.relu(self.norm(x)))), 2)


class DenseNet(nn.Module):
    """Pixels (N, channels, H, W) in -0.5 to 0.5 -> answers (N, R, C, out) for the windows of 64 x 64 pixels."""

    def __init__(self, channels: int, out: int, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, FIRST, 3, padding=1, bias=False)
        parts: list[nn.Module] = []
        width = FIRST
        for block in range(3):
            if block:
                parts.append(Transition(width, dropout))
            for _ in range(LAYERS):
                parts.append(DenseLayer(width, dropout))
                width += GROWTH
        self.blocks = nn.Sequential(*parts)
        self.norm = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.last = nn.Linear(width, out)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def features(self, pixels: Tensor) -> Tensor:
        """(N, 456, H / 4, W / 4), H and W rounded down to multiples of 4."""
        return functional.relu(self.norm(self.blocks(self.first(pixels))))

    def forward(self, pixels: Tensor, stride: int = WINDOW) -> Tensor:
        """Answers for windows that begin at multiples of `stride` pixels, itself a multiple of 4.

        A patch of 64 x 64 pixels has one window, and its mean is the global one of the paper.
        """
        mean = functional.avg_pool2d(self.features(pixels).float(), WINDOW // SCALE, stride // SCALE)
        with torch.autocast(pixels.device.type, enabled=False):  # half precision would round what windows differ in
            out: Tensor = self.last(mean.permute(0, 2, 3, 1))
        return out


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift, (channels,) each, of a normalisation with the statistics that it holds."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


@torch.no_grad()
def see_flatness(net: DenseNet, pixels: Tensor) -> None:
    """Nothing; the first layers begin as detectors of places that are flatter than content leaves them.

    From random weights nothing was learned in 25,000 patches. As in `UchidaNet`, the first convolution begins as
    differences between neighbours, in both signs, and each output of the first SEEING layers as -|d| / t, averaged
    over a few neighbours; the normalisations that read them begin so that ReLU leaves 1 - |d| / t. These want the mean
    and the deviation of what they read, measured on `pixels` (N, channels, H, W), scaled as in training.
    """
    kinds = [kind for kind in product(range(3), repeat=2) if any(kind)]
    colours = torch.tensor(BT601[0]) if net.first.in_channels == len(BT601) else torch.ones(1)
    levels, first = 255.0, net.first.weight
    first -= first.mean((2, 3), keepdim=True)
    first *= levels / 16
    for k, (down, along) in enumerate(kinds):
        step = levels * torch.einsum("c,y,x->cyx", colours, RAMPS[down], RAMPS[along])
        first[2 * k], first[2 * k + 1] = step, -step
    seen, x = 2 * len(kinds), net.first(pixels)
    for number, part in enumerate(net.blocks):
        if not isinstance(part, DenseLayer):
            break
        mean, deviation = x.mean((0, 2, 3)), x.std((0, 2, 3))
        flat = slice(FIRST, FIRST + GROWTH * min(number, SEEING))
        part.norm.weight[flat], part.norm.bias[flat] = deviation[flat], mean[flat] + 1
        if number < SEEING:
            part.norm.weight[:seen], part.norm.bias[:seen] = deviation[:seen], mean[:seen]
            part.conv.weight.zero_()
            for k in range(GROWTH):
                which = 2 * ((GROWTH * number + k) % len(kinds))
                below = FLATTEST * math.exp(float(torch.rand(())) * math.log(COARSEST / FLATTEST))
                part.conv.weight[k, which : which + 2] = -average(int(torch.randint(7, ()))) / below
        # What the layer gives with the statistics of these very pixels.
        scaled = (x - mean[:, None, None]) / deviation[:, None, None]
        y = functional.relu(scaled * part.norm.weight[:, None, None] + part.norm.bias[:, None, None])
        x = torch.cat([x, part.conv(y)], 1)
