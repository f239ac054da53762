"""The network of Uchida 2019: seven dilated 3 x 3 convolutions, two maps of the size of the image.

Dilations 1, 2, 3, 4, 3, 2, 1, 64 channels, ReLU between: a field of view of 33 pixels and 187,586 parameters.

What is the project's own is where its training begins. Compression leaves places that are flatter than they would be,
in steps of a grey level, before a content of a hundred; from random weights the loss stayed that of a constant for
49,000 patches. So the first convolution begins as differences between neighbours and most of the second as detectors
of places where these are small (`_see_flatness`), and the outputs of the next ones are normalised over the batch, which
becomes part of their weights (`plain`). The trained network is the paper's.
"""

from __future__ import annotations

import math
from itertools import pairwise, product

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

DILATIONS = (1, 2, 3, 4, 3, 2, 1)
CHANNELS = 64
REACH = sum(DILATIONS)
"""Pixels to each side that an answer depends on."""
RAW = 2
"""Convolutions at the beginning whose outputs are not normalised: their units are grey levels."""
FLAT = 48
"""Channels of the second convolution that begin as detectors of flat places."""
FLATTEST, COARSEST = 0.3, 12.0
"""Grey levels below which the first and the last of them find a place flat."""
BT601 = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
"""Y, Cb and Cr of R, G and B."""
RAMPS = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]]) / torch.tensor([[3.0], [2], [4]])
"""The mean of three neighbours, half their slope, and their bend."""


class UchidaNet(nn.Module):
    """RGB (N, 3, H, W) in 0 to 1 -> (N, 2, H, W): `1 - QF / 100`, and 1 where there was no compression, else 0."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, *[CHANNELS] * (len(DILATIONS) - 1), 2]
        self.convs = nn.ModuleList(
            nn.Conv2d(into, out, 3, padding=dilation, dilation=dilation)
            for (into, out), dilation in zip(pairwise(sizes), DILATIONS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in DILATIONS[RAW:-1])
        with torch.no_grad():
            for conv in self._convs():
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            first, second, *_, last = self._convs()
            _see_flatness(first, second)
            last.weight *= 0.1

    def _convs(self) -> list[nn.Conv2d]:
        return [conv for conv in self.convs if isinstance(conv, nn.Conv2d)]

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for conv in self.convs[:RAW]:
            x = functional.relu(conv(x))
        for conv, norm in zip(self.convs[RAW:-1], self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        out: Tensor = self.convs[-1](x)
        return out

    def plain(self) -> list[nn.Conv2d]:
        """Seven convolutions that, with ReLU between them, give what the trained network gives."""
        norms = [norm for norm in self.eval().norms if isinstance(norm, nn.BatchNorm2d)]
        convs = self._convs()
        fused = [fuse_conv_bn_eval(conv, norm) for conv, norm in zip(convs[RAW:-1], norms, strict=True)]
        return [*convs[:RAW], *fused, convs[-1]]


def _see_flatness(first: nn.Conv2d, second: nn.Conv2d) -> None:
    """Nothing; the two convolutions begin as detectors of flat places, and random as to the rest of their channels.

    ReLU of a difference d and of -d add up to |d|, and ReLU of 1 - |d| / t, averaged over all nine neighbours or over a
    row or a column of three, is above 0 where d is below t: where a block lost that frequency.
    """
    assert first.bias is not None and second.bias is not None
    of_luma = [(0, down, along) for down, along in product(range(3), repeat=2) if down or along]
    of_colour = [(plane, down, along) for plane in (1, 2) for down, along in ((0, 1), (1, 0))]
    differences = of_luma + of_colour
    levels = 255.0
    first.weight -= first.weight.mean((2, 3), keepdim=True)
    first.weight *= levels / 16
    for k, (plane, down, along) in enumerate(differences):
        step = levels * torch.einsum("c,y,x->cyx", torch.tensor(BT601[plane]), RAMPS[down], RAMPS[along])
        first.weight[2 * k], first.weight[2 * k + 1] = step, -step
    nn.init.zeros_(first.bias)
    second.weight *= 0.1 / 4
    for k in range(FLAT):
        row = average(int(torch.randint(7, ())))
        below = FLATTEST * math.exp(float(torch.rand(())) * math.log(COARSEST / FLATTEST))
        which = 2 * (k % len(differences))
        second.weight[k] = 0
        second.weight[k, which : which + 2] = -row / below
        second.bias[k] = 1


def average(kind: int) -> Tensor:
    """(3, 3) weights of the mean over a row of neighbours (kind 0 to 2), a column (3 to 5), or all nine (6)."""
    weights = torch.zeros(3, 3)
    if kind < 3:
        weights[kind] = 1 / 3
    elif kind < 6:
        weights[:, kind - 3] = 1 / 3
    else:
        weights[:] = 1 / 9
    return weights
