"""The network of Uchida 2019: seven dilated 3 x 3 convolutions, two maps of the size of the image.

Dilations 1, 2, 3, 4, 3, 2, 1, 64 channels, ReLU between: a field of view of 33 pixels and 187,586 parameters.

In training the outputs of all convolutions but the last are normalised over the batch, and the filters of the first
begin without a mean: compression shows in small differences between neighbours, and without either the loss stayed
that of a constant for 49,000 patches. Both become part of the weights (`plain`), so the network is the paper's.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

DILATIONS = (1, 2, 3, 4, 3, 2, 1)
CHANNELS = 64
REACH = sum(DILATIONS)
"""Pixels to each side that an answer depends on."""


class UchidaNet(nn.Module):
    """RGB (N, 3, H, W) in 0 to 1 -> (N, 2, H, W): `1 - QF / 100`, and 1 where there was no compression, else 0."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, *[CHANNELS] * (len(DILATIONS) - 1), 2]
        self.convs = nn.ModuleList(
            nn.Conv2d(into, out, 3, padding=dilation, dilation=dilation)
            for (into, out), dilation in zip(pairwise(sizes), DILATIONS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in DILATIONS[1:])
        with torch.no_grad():
            for conv in self._convs():
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            first, *_, last = self._convs()
            first.weight -= first.weight.mean((2, 3), keepdim=True)
            last.weight *= 0.1

    def _convs(self) -> list[nn.Conv2d]:
        return [conv for conv in self.convs if isinstance(conv, nn.Conv2d)]

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for conv, norm in zip(self.convs, self.norms, strict=False):
            x = functional.relu(norm(conv(x)))
        out: Tensor = self.convs[-1](x)
        return out

    def plain(self) -> list[nn.Conv2d]:
        """Seven convolutions that, with ReLU between them, give what the trained network gives."""
        norms = [norm for norm in self.eval().norms if isinstance(norm, nn.BatchNorm2d)]
        *inner, last = self._convs()
        return [*(fuse_conv_bn_eval(conv, norm) for conv, norm in zip(inner, norms, strict=True)), last]
