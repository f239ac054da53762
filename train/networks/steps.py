"""A shallow network for the steps of a first compression, of which a DenseNet can begin as an exact copy.

It looks for places where many DCT coefficients lie on a comb at once: there blocks of the first compression begin.
For each pixel, as the corner of a block, it has twelve coefficients; triangles around 0 and around some steps of each
say how near they are to a tooth; weighted sums of these over a threshold are peaks. Peaks count by the logarithm of how
many there are nearby, in pieces of straight lines, and a linear layer reads the means of these. All of that a DenseNet
computes as well (`plant`): its first four convolutions multiply out to an 8 x 8 transform, as every basis function is a
product of four kernels of 3 x 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from jscan.jpegtables import Q1_OFFSET, ZIGZAG, dct_basis, standard_table
from jscan.tiling import WINDOW
from train.networks.densenet import FIRST, GROWTH, LAYERS, SCALE, DenseLayer, DenseNet, Transition

COEFS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13)
"""Zigzag indices of the coefficients."""
QUALITIES = (62, 70, 77, 83, 88)
"""Quality factors whose steps the teeth begin at."""
SCORES = 36
UNIT = 4.0
"""Grey levels that a unit of a coefficient stands for."""
NARROWEST = 1.0
"""Grey levels from a tooth to the foot of its triangle, at least."""
KINKS = (2, 3)
"""Of each smoothed score, at half and at a quarter of the resolution."""
CORNER = 4
"""Pixels by which a DenseNet's answer lies below and right of the corner of its block."""
BOX = 1 / 9


class Steps(nn.Module):
    """Pixels (N, 1, H, W) in -0.5 to 0.5, H and W multiples of 4 -> logits (N, 226)."""

    def __init__(self) -> None:
        super().__init__()
        n, teeth = len(COEFS), len(QUALITIES)
        basis = torch.from_numpy(np.asarray(dct_basis())).float()
        kernels = [torch.outer(basis[ZIGZAG[i][0]], basis[ZIGZAG[i][1]]) for i in COEFS]
        self.register_buffer("kernels", torch.stack(kernels)[:, None] * (255 / UNIT))
        steps = torch.tensor([[float(standard_table(q)[i]) for i in COEFS] for q in QUALITIES]) / UNIT
        self.teeth = nn.Parameter(steps)
        zero = torch.full((1, n), 1.5 / UNIT)
        self.widths = nn.Parameter(torch.cat([zero, (steps / 3.5).clamp(min=NARROWEST / UNIT)]).log())
        mix = torch.randn(SCORES, 1 + teeth, n) * 0.02
        mix[:, 0] += 0.5
        for score in range(SCORES):
            mix[score, 1 + score % teeth] += 1.0
        self.mix = nn.Parameter(mix.flatten(1))
        self.threshold = nn.Parameter(0.5 * n * (0.4 + 0.7 * torch.rand(SCORES)))
        self.kinks = nn.ParameterList(
            nn.Parameter(low + (high - low) * torch.rand(count, SCORES))
            for count, low, high in zip(KINKS, (-3.5, -4.0), (0.0, -0.5), strict=True)
        )
        features = SCORES * sum(KINKS)
        self.norm = nn.BatchNorm1d(features, momentum=0.02)
        self.last = nn.Linear(features, Q1_OFFSET[-1])
        with torch.no_grad():
            self.last.weight.mul_(0.3)

    def peaks(self, pixels: Tensor) -> Tensor:
        """(N, SCORES, H, W), 0 where no whole block is."""
        size = functional.conv2d(pixels, self.kernels).abs()  # type: ignore[arg-type]
        width = self.widths.exp()[..., None, None]
        near = [functional.relu(1 - size / width[0])]
        near += [
            functional.relu(1 - (size - a[:, None, None]).abs() / w) for a, w in zip(self.teeth, width[1:], strict=True)
        ]
        found = functional.conv2d(torch.cat(near, 1), self.mix[:, :, None, None]) - self.threshold[:, None, None]
        return functional.pad(functional.relu(found), (CORNER, 7 - CORNER, CORNER, 7 - CORNER))

    def features(self, pixels: Tensor) -> Tensor:
        """(N, features): the means."""
        half = smooth(smooth(functional.avg_pool2d(self.peaks(pixels), 2)))
        quarter = smooth(functional.avg_pool2d(half, 2))
        said = [
            functional.relu(1 - place / kink.exp()[:, None, None]).mean((2, 3))
            for place, kinks in zip((half, quarter), self.kinks, strict=True)
            for kink in kinks
        ]
        return torch.cat(said, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.features(pixels)))
        return out


def smooth(x: Tensor) -> Tensor:
    """The mean of 3 x 3, of zeros beyond the borders."""
    return functional.avg_pool2d(x, 3, 1, 1)


# --- as a DenseNet ----------------------------------------------------------------------------------------------------

LIFT = 8.0
"""Deviations that are added to what has to pass ReLU as it is."""
ONE = FIRST - 1
"""Channel of the first convolution that the layers of the first block read as 1."""
SQUARES = 4
"""Layers of the first block after which there are coefficients and their sizes."""
HELD = SQUARES + len(QUALITIES)
"""Layers of the first block that are arithmetic, and stay as they begin."""
LEAST = 0.02
"""Deviation of a mean below which it is not read."""
PASSED_ON = (*range(12, 19), *range(25, 29))
"""Parts after the first block that move and average the peaks: these are few, and a small change would drown them."""
SPREAD = 0.3
"""Deviation, from window to window, of the mean of a feature that is not read at first."""


def factors(frequency: int) -> tuple[list[npt.NDArray[np.float64]], float]:
    """Four kernels of three taps and a factor that multiply out to a basis function of the DCT, differences first."""
    basis = np.asarray(dct_basis(), np.float64)[frequency]
    roots = np.roots(basis)
    real = sorted((r.real for r in roots if abs(r.imag) < 1e-6), key=lambda r: abs(r - 1))
    parts = [np.real(np.poly([r, r.conjugate()])) for r in roots if r.imag > 1e-6]
    while len(real) > 1:
        parts.append(np.poly([real.pop(0), real.pop(0)]))
    parts.append(np.append(np.poly(real), 0))
    kernels = [p / np.linalg.norm(p) for p in sorted(parts, key=lambda p: abs(p.sum()) > 1e-6)]
    whole = kernels[0]
    for kernel in kernels[1:]:
        whole = np.convolve(whole, kernel)
    return kernels, float(whole[:8] @ basis / (whole[:8] @ whole[:8]))


def hold(net: DenseNet) -> None:
    """Nothing; what is arithmetic in a DenseNet that begins as the shallow network is not trained."""
    net.hold(HELD)
    for part in PASSED_ON:
        net.blocks[part].requires_grad_(False)


class _Planter:
    """Goes through a network's parts, gives each its weights, and keeps what it then gives for some pixels."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def reads(self, norm: nn.BatchNorm2d) -> None:
        """The normalisation is that of what it reads."""
        norm.running_mean.copy_(self.x.mean((0, 2, 3)))  # type: ignore[union-attr]
        norm.running_var.copy_(self.x.var((0, 2, 3)))  # type: ignore[union-attr]
        norm.weight.fill_(1)
        norm.bias.zero_()

    def read_as(
        self, norm: nn.BatchNorm2d, where: slice, scale: Tensor | float, shift: Tensor | float, zero: Any = 0.0
    ) -> None:
        """Channels are read as ReLU((x - zero) * scale + shift)."""
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean[where] = zero
        norm.weight[where] = torch.sqrt(norm.running_var[where] + norm.eps) * scale
        norm.bias[where] = shift

    def read(self, norm: nn.BatchNorm2d) -> Tensor:
        mean, var = norm.running_mean, norm.running_var
        return functional.relu(functional.batch_norm(self.x, mean, var, norm.weight, norm.bias, False, 0, norm.eps))

    def through(self, layer: Any) -> slice:
        """The channels that a layer has added."""
        count = self.x.shape[1]
        self.x = torch.cat([self.x, layer.conv(self.read(layer.norm))], 1)
        return slice(count, self.x.shape[1])


@torch.no_grad()
def plant(steps: Steps, net: DenseNet, pixels: Tensor) -> None:
    """Nothing; the DenseNet gives what the shallow network gives, up to rounding; one of 15 steps has its features.

    What else it reads is measured on `pixels`, of which the statistics are, from now on, those of its normalisations.
    What the shallow network has no use for begins as nothing: weights of 0.
    """
    n = len(COEFS)
    kernels, gains = [], []
    for i in COEFS:
        (down, of_down), (along, of_along) = (factors(frequency) for frequency in ZIGZAG[i])
        kernels.append([torch.from_numpy(np.outer(a, b)).float() for a, b in zip(down, along, strict=True)])
        gains.append(of_down * of_along * 255 / UNIT)
    first = net.first.weight
    first -= first.mean((2, 3), keepdim=True)
    for k in range(n):
        first[k, 0] = kernels[k][0]
    deviation = net.first(pixels).std((0, 2, 3))
    first /= deviation[:, None, None, None]
    first.copy_(first.half())  # as they are exported
    gain = torch.tensor(gains) * deviation[:n]
    planter = _Planter(net.first(pixels))
    # What the channels hold where all coefficients are 0: what is added to pass ReLU is taken away up to rounding.
    offset = torch.zeros(FIRST + GROWTH * LAYERS)
    triangles: list[slice] = []  # channels
    linear = [slice(0, n)]  # channels, one factor after the other
    layers = [part for part in net.blocks if isinstance(part, DenseLayer)]
    moves = [part for part in net.blocks if isinstance(part, Transition)]

    def pass_on(layer: Any, where: slice, which: int, factor: Tensor, held: Tensor) -> None:
        """What the linear channels give with their next factor."""
        planter.read_as(layer.norm, where, 1 / held, LIFT, offset[where])
        for k in range(n):
            kernel = kernels[k][which] * factor[k] * held[k]
            layer.conv.weight[k, where.start + k] += kernel
            layer.conv.weight[k, ONE, 1, 1] -= LIFT * kernel.sum()

    def triangle_widths(norm: nn.BatchNorm2d) -> None:
        for where, width in zip(triangles, steps.widths.exp(), strict=True):
            planter.read_as(norm, where, 1 / width, 1.0, offset[where])

    for number in range(HELD):
        layer = layers[number]
        planter.reads(layer.norm)
        layer.norm.weight[ONE], layer.norm.bias[ONE] = 0, 1
        weight = layer.conv.weight.zero_()
        # The last factor is applied anew in each of the others: |c| is twice the ReLU of c, less c.
        where = linear[min(number, 2)]
        held = planter.x[:, where].std((0, 2, 3))
        if number < 2:
            pass_on(layer, where, number + 1, torch.ones(n), held)
            deviation = layer.conv(planter.read(layer.norm)).std((0, 2, 3))
            weight /= deviation[:, None, None, None]
            gain = gain * deviation
        else:
            pass_on(layer, where, 3, gain, held)
        folded: Tensor | float = 0.0
        if number > 2:  # -|c|
            planter.read_as(layer.norm, linear[3], 1.0, 0.0, offset[linear[3]])
            for k in range(n):
                weight[k, linear[3].start + k, 1, 1] = -2
        if number >= SQUARES:  # -||c| - a|
            folded = steps.teeth[number - SQUARES]
            weight.neg_()
            planter.read_as(layer.norm, triangles[0], -1.0, -folded, offset[triangles[0]])
            for k in range(n):
                weight[k, triangles[0].start + k, 1, 1] = -2
                weight[k, ONE, 1, 1] -= folded[k]
        weight.copy_(weight.half())
        base = torch.zeros(planter.x.shape[1])
        base[ONE], base[where] = 1, LIFT
        added = planter.through(layer)
        offset[added] = weight.sum((2, 3)) @ base + folded
        if number < 3:
            linear.append(added)
        else:
            triangles.append(added)
    scores: list[slice] = []
    for number in range(HELD, LAYERS):
        layer = layers[number]
        planter.reads(layer.norm)
        layer.norm.weight[linear[3]] *= 0.02  # at borders, where they hold anything, they are huge
        triangle_widths(layer.norm)
        layer.conv.weight.zero_()
        mix = steps.mix[GROWTH * len(scores) : GROWTH * (len(scores) + 1)].reshape(GROWTH, -1, n)
        for where, part in zip(triangles, mix.transpose(0, 1), strict=True):
            layer.conv.weight[:, where, 1, 1] = part
        scores.append(planter.through(layer))

    def move(part: Any, plain: list[slice]) -> None:
        """Everything is handed on as it was read."""
        for where in plain:
            planter.read_as(part.norm, where, 1.0, 0.0)
        part.conv.weight.copy_(torch.eye(part.conv.weight.shape[0])[:, :, None, None])
        planter.x = functional.avg_pool2d(part.conv(planter.read(part.norm)), 2)

    planter.reads(moves[0].norm)
    moves[0].norm.weight[linear[3]] *= 0.02
    triangle_widths(moves[0].norm)
    for where, threshold in zip(scores, torch.split(steps.threshold, GROWTH), strict=True):
        planter.read_as(moves[0].norm, where, 1.0, -threshold)
    move(moves[0], [])
    places, kinked = scores, list[slice]()
    for block, rounds in ((1, 2), (2, 1)):
        rest = layers[LAYERS * block : LAYERS * (block + 1)]
        for _ in range(rounds):
            smoothed = []
            for where in places:
                layer = rest.pop(0)
                planter.reads(layer.norm)
                planter.read_as(layer.norm, where, 1.0, 0.0)
                layer.conv.weight.zero_()
                for k in range(GROWTH):
                    layer.conv.weight[k, where.start + k] = BOX
                smoothed.append(planter.through(layer))
            places = smoothed
        for number, layer in enumerate(rest):
            planter.reads(layer.norm)
            kinks = torch.split(steps.kinks[block - 1][number // len(places)].exp(), GROWTH)
            for where, kink in zip(places, kinks, strict=True):
                planter.read_as(layer.norm, where, -1 / kink, 1.0)
            layer.conv.weight.zero_()
            for k in range(GROWTH):
                layer.conv.weight[k, places[number % len(places)].start + k, 1, 1] = 1
            kinked.append(planter.through(layer))
        if block == 1:
            planter.reads(moves[1].norm)
            move(moves[1], places + kinked)
    planter.reads(net.norm)
    for where in kinked:
        planter.read_as(net.norm, where, 1.0, 0.0)
    means = functional.avg_pool2d(planter.read(net.norm), WINDOW // SCALE)
    level = (SPREAD / means.std((0, 2, 3)).clamp(min=1e-2)).clamp(max=10)
    assert steps.norm.running_mean is not None and steps.norm.running_var is not None
    of_steps = torch.sqrt(steps.norm.running_var + steps.norm.eps)
    read = torch.cat([torch.arange(where.start, where.stop) for where in kinked])
    weight = steps.last.weight * steps.norm.weight
    weight[:, of_steps < LEAST] = 0
    of_steps.clamp_(min=LEAST)
    level[read] = 1 / of_steps
    net.norm.weight.mul_(level)
    net.norm.bias.mul_(level)
    net.last.weight.zero_()
    net.last.bias.zero_()
    if net.last.out_features != len(weight):
        return  # which has to be fitted to other answers
    net.last.weight[:, read] = weight
    net.last.bias.copy_(
        steps.last.bias + steps.last.weight @ steps.norm.bias - weight @ (steps.norm.running_mean / of_steps)
    )
