"""A shallow network for the steps of a first compression, of which a DenseNet can begin as an exact copy.

It looks for places where many DCT coefficients lie on a comb at once: there blocks of the first compression begin.
For each pixel, as the corner of a block, it has twelve coefficients; triangles around 0 and around some steps of each
say how near they are to a tooth; twelve weighted sums of these, also of the pixels around, say what place this is:
where all is flat, everything is near to 0 wherever a block begins. Weighted sums of both are scores, one for each of
twelve qualities of the first compression. They are added up over blocks that are 8 pixels apart: over 2 x 2 of them
before anything is averaged, as a place among 64 is lost in an average; what is then over a threshold, over more at half
and at a quarter of the resolution. What is over some thresholds is averaged, and a linear layer reads that. All of it a
DenseNet computes as well (`plant`): the 8 x 8 transform and the sums of places that are 8 apart are products of kernels
of 3 x 3.

It learns from what is known of every pixel (`of_blocks`) besides what is asked of the patch: from the latter alone the
loss of Eq. 5 of Tondi 2021 came to 2.47 in 55,000 patches, with both to 1.72 in 51,000 (low coefficients alone).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from jscan.jpegtables import Q1_OFFSET, ZIGZAG, dct_basis, standard_table
from jscan.tiling import BLOCK, WINDOW
from train.networks.densenet import FIRST, GROWTH, LAYERS, SCALE, DenseLayer, DenseNet, Transition

COEFS = (1, 2, 3, 4, 5, 6, 7, 9, 14, 15, 23, 26)
"""Zigzag indices of the coefficients: of high ones the steps are large, where those of low ones no longer show."""
QUALITIES = (60, 70, 80)
"""Quality factors whose steps the teeth begin at."""
LOWEST, HIGHEST = 61.0, 94.0
"""Quality factors of the first and the last score; the others lie between, evenly."""
UNIT = 4.0
"""Grey levels that a unit of a coefficient stands for."""
NARROWEST, AT_LEAST = 1.0, 0.25
"""Grey levels from a tooth to the foot of its triangle, at least, in the beginning and later: one that had become 0.06
wide told places by less than what a DenseNet's coefficients are rounded by."""
KINKS = 4
"""Thresholds of each sum at half and at a quarter of the resolution."""
PRIOR = math.log(BLOCK * BLOCK * GROWTH)
"""Of a score against none of them, where a block may begin at any pixel."""
NOWHERE = 1e4
"""A coefficient where there is no whole block, as far from all teeth as none in a picture."""
CORNER = 4
"""Pixels by which a DenseNet's answer lies below and right of the corner of its block."""


def apart(distance: int) -> list[Tensor]:
    """Kernels of 3 x 3 that multiply out to half the sum of four places, so many pixels apart, an even number."""
    roots = [r for r in np.roots([1, *[0] * (distance - 1), 1]) if r.imag > 1e-6]
    kernels = [np.outer(k, k) for k in (np.real(np.poly([r, r.conjugate()])) for r in roots)]
    kernels[-1] /= 2
    return [torch.from_numpy(k).float() for k in kernels]


FULL = apart(BLOCK)
"""Kernels that add up places 8 apart: neighbouring blocks, and at half the resolution every second one."""
AT_HALF = apart(BLOCK // 2) + FULL
"""Those that add up blocks at half the resolution: neighbours first, then every second one."""
AT_QUARTER = 2 * apart(BLOCK // 4)
"""Those at a quarter of it: neighbours, twice."""


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
        self.widths = nn.Parameter(torch.cat([zero, (steps / 3).clamp(min=NARROWEST / UNIT)]).log())
        mix = torch.randn(GROWTH, 1 + teeth, n) * 0.02
        mix[:, 0] += 0.5
        for score in range(GROWTH):
            mix[score, 1 + score * teeth // GROWTH] += 1.0
        self.mix = nn.Parameter(torch.cat([mix.flatten(1), torch.zeros(GROWTH, GROWTH)], 1))
        around = torch.randn(GROWTH, (1 + teeth) * n, 3, 3) * 0.02
        around[:, :n] += 0.03
        self.around = nn.Parameter(around)
        self.over_around = nn.Parameter(torch.linspace(0, 2, GROWTH))
        self.threshold = nn.Parameter(torch.full((GROWTH,), n / 2))
        self.floor = nn.Parameter(torch.full((GROWTH,), -PRIOR - 1))
        self.over = nn.ParameterList(nn.Parameter(torch.full((GROWTH,), start)) for start in (1.0, 0.25))
        self.kinks = nn.ParameterList(
            nn.Parameter(torch.linspace(0, most, KINKS)[:, None].repeat(1, GROWTH)) for most in (8.0, 2.0)
        )
        self.norm = nn.BatchNorm1d(2 * KINKS * GROWTH, momentum=0.02)
        self.last = nn.Linear(2 * KINKS * GROWTH, Q1_OFFSET[-1])
        with torch.no_grad():
            self.last.weight.mul_(0.3)

    def arithmetic(self) -> tuple[nn.Parameter, ...]:
        """What scores rest on, and what of them is added up."""
        return self.teeth, self.widths, self.around, self.over_around, self.mix, self.floor

    def feet(self) -> Tensor:
        """(4, 12): from 0, and from each row of teeth, to the feet of their triangles, in units."""
        return self.widths.exp().clamp(min=AT_LEAST / UNIT)

    def far(self, pixels: Tensor) -> Tensor:
        """(N, H, W, 48): how far each coefficient is from 0 and from each tooth, in units and negative.

        That of a block is CORNER pixels below and right of its corner, NOWHERE where there is no whole block.
        """
        blocks = pixels[:, 0].unfold(1, BLOCK, 1).unfold(2, BLOCK, 1).flatten(3)
        coefficients = blocks @ self.kernels.flatten(1).T  # type: ignore[operator]
        sides = (0, 0, *(CORNER, BLOCK - 1 - CORNER) * 2)
        return self.far_of(functional.pad(coefficients, sides, value=NOWHERE))

    def far_of(self, coefficients: Tensor) -> Tensor:
        """The same of coefficients (N, H, W, 12)."""
        size = coefficients.abs()
        return torch.cat([-size, *(-(size - a).abs() for a in self.teeth)], 3)

    def near(self, far: Tensor) -> Tensor:
        """(N, H, W, 48): 1 at 0 and at teeth, 0 at the foot of their triangles and beyond."""
        return functional.relu(1 + far / self.feet().flatten())

    def scores(self, pixels: Tensor) -> Tensor:
        """(N, 12, H, W): logarithms of odds, CORNER below and right of the corner of a block."""
        near = self.near(self.far(pixels))
        around = functional.conv2d(near.permute(0, 3, 1, 2), self.around, padding=1).permute(0, 2, 3, 1)
        told = torch.cat([near, functional.relu(around - self.over_around)], 3)
        return (told @ self.mix.T - self.threshold).permute(0, 3, 1, 2)

    def features(self, scores: Tensor) -> Tensor:
        """(N, features): means of what is over the thresholds."""
        half = add(scores - self.floor[:, None, None], FULL)
        half = add(functional.avg_pool2d(functional.relu(half - self.over[0][:, None, None]), 2), AT_HALF)
        quarter = add(functional.avg_pool2d(functional.relu(half - self.over[1][:, None, None]), 2), AT_QUARTER)
        said = [
            functional.relu(place - kink[:, None, None]).mean((2, 3))
            for place, kinks in zip((half, quarter), self.kinks, strict=True)
            for kink in kinks
        ]
        return torch.cat(said, 1)

    def answers(self, scores: Tensor) -> Tensor:
        """Logits (N, 226) of scores."""
        out: Tensor = self.last(self.norm(self.features(scores)))
        return out

    def forward(self, pixels: Tensor) -> Tensor:
        return self.answers(self.scores(pixels))


def add(x: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Each channel with one kernel after the other; beyond the borders are zeros each time, as in a DenseNet."""
    for kernel in kernels:
        weight = kernel.to(x).expand(x.shape[1], 1, 3, 3)
        x = functional.conv2d(x, weight, padding=1, groups=x.shape[1])
    return x


def of_blocks(scores: Tensor, corner: Tensor, qf1: Tensor) -> Tensor:
    """The mean cross-entropy of the pixels of scores (N, 12, H, W), each as the corner of a block.

    First blocks begin at `corner` (N, 2), down and right, and at every eighth pixel from there; `qf1` (N,) is their
    quality factor, which is shared by the two scores between which it lies. Everywhere else there is none.
    """
    height, width = (side - BLOCK + 1 for side in scores.shape[2:])
    odds = scores[:, :, CORNER : CORNER + height, CORNER : CORNER + width]
    said = torch.cat([torch.zeros_like(odds[:, :1]), odds], 1).log_softmax(1)
    of_score = torch.linspace(LOWEST, HIGHEST, GROWTH, device=scores.device)
    away = (of_score - qf1[:, None].clamp(LOWEST, HIGHEST)).abs() * ((GROWTH - 1) / (HIGHEST - LOWEST))
    wanted = (1 - away).clamp(min=0)
    down, right = (torch.arange(side, device=scores.device) % BLOCK for side in (height, width))
    begins = (down == corner[:, :1])[:, :, None] & (right == corner[:, 1:])[:, None]
    right_score = torch.einsum("nkyx,nk->nyx", said[:, 1:], wanted)
    return -torch.where(begins, right_score, said[:, 0]).mean()


# --- as a DenseNet ----------------------------------------------------------------------------------------------------

LIFT = 4.0
"""Added to what has to pass ReLU as it is: four times the most that pixels can give, so that beyond the borders, where
nothing is added, is as little as there is nowhere else. With as much as pixels can give the loss is 1.02 instead of
0.98. With 32 deviations of some patches, which are those of their borders, coefficients were rounded to 0.07 of a grey
level."""
ROOM = 2.0
"""Sums of scores pass ReLU with so many times their largest value added."""
ONE = FIRST - 1
"""Channel of the first convolution that layers read as 1."""
SQUARES = 4
"""Layers of the first block after which there are coefficients and their sizes."""
TRIANGLES = SQUARES + len(QUALITIES)
"""Layers of the first block after which there are triangles: what is left is one for the pixels around, and four that
add up scores."""
SECOND, THIRD = LAYERS + 1, 2 * LAYERS + 2
"""Parts at which the other blocks begin."""
PASSED_ON = (*range(SECOND, SECOND + len(AT_HALF)), *range(THIRD, THIRD + len(AT_QUARTER)))
"""Parts after the first block that add, and are not trained: a small change of all else that they read would drown
the sums."""
NEAR = tuple(slice(FIRST + GROWTH * k, FIRST + GROWTH * (k + 1)) for k in range(SQUARES - 1, TRIANGLES))
"""Channels of the first block: distances from 0, and from each row of teeth."""
AROUND, PLACE = (slice(FIRST + GROWTH * k, FIRST + GROWTH * (k + 1)) for k in (TRIANGLES, LAYERS - 1))
"""What the pixels around are like, and scores of 2 x 2 blocks."""
READ = tuple(k for where in (*NEAR, AROUND, PLACE) for k in range(where.start, where.stop))
"""All channels of the first block that the next one reads."""
NEARS, TOLD = (READ[: -k * GROWTH] for k in (2, 1))
"""Those of them that tell how near places are to what, and with what is around them, which scores are told."""
SUMMED = slice(PLACE.stop + GROWTH * (len(AT_HALF) - 1), PLACE.stop + GROWTH * len(AT_HALF))
"""Channels of the second block that are added up once more in the third."""
LEAST = 0.02
"""Deviation of a mean below which it is not read."""
SPREAD = 0.3
"""Deviation, from window to window, of the mean of a feature that is not read at first."""


def factors(frequency: int) -> tuple[npt.NDArray[np.float64], float]:
    """Four kernels of three taps (4, 3) and a factor that multiply out to a basis function of the DCT."""
    basis = np.asarray(dct_basis(), np.float64)[frequency]
    roots = np.roots(basis)
    real = sorted((r.real for r in roots if abs(r.imag) < 1e-6), key=lambda r: abs(r - 1))
    parts = [np.real(np.poly([r, r.conjugate()])) for r in roots if r.imag > 1e-6]
    while len(real) > 1:
        parts.append(np.poly([real.pop(0), real.pop(0)]))
    parts.append(np.append(np.poly(real), 0))
    kernels = np.stack([p / np.linalg.norm(p) for p in parts])
    whole = products(kernels)[-1]
    return kernels, float(whole[:8] @ basis / (whole[:8] @ whole[:8]))


def products(kernels: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """What one kernel after the other comes to."""
    found = [kernels[0]]
    for kernel in kernels[1:]:
        found.append(np.convolve(found[-1], kernel))
    return found


def orders(kernels: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Those that begin with a difference, if there is one: what is equal all around becomes nothing at once."""
    first = np.abs(kernels.sum(1)).argmin()
    return [kernels[list(order)] for order in permutations(range(len(kernels))) if order[0] == first]


def rounded(kernels: npt.NDArray[np.float64]) -> list[float]:
    """How much what is left after each kernel but the last is rounded, once the others are through with that.

    It is rounded by a share of the most that it can be.
    """
    after = products(kernels[::-1])[-2::-1]
    return [float(np.abs(k).sum() * np.linalg.norm(o)) for k, o in zip(products(kernels), after, strict=False)]


def chain(coefficient: int) -> list[npt.NDArray[np.float64]]:
    """Four kernels (3, 3), one after the other, of a zigzag index: of pixels they give its coefficient in units.

    What each of the first three gives is between -1 and 1, and all of them are rounded by as little as their
    order allows.
    """
    (down, of_down), (along, of_along) = (factors(frequency) for frequency in ZIGZAG[coefficient])
    downs, alongs = orders(down), orders(along)
    square = [np.array([rounded(kernels) for kernels in of]) ** 2 for of in (downs, alongs)]
    best = np.unravel_index((square[0] @ square[1].T).argmin(), (len(downs), len(alongs)))
    down, along = downs[best[0]], alongs[best[1]]
    most = [0.5 * np.abs(a).sum() * np.abs(b).sum() for a, b in zip(products(down), products(along), strict=True)]
    most[3] = UNIT / (255 * of_down * of_along)
    held = [1.0, *most]
    return [np.outer(down[k], along[k]) * held[k] / held[k + 1] for k in range(4)]


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

    def begin(self, layer: Any) -> None:
        """The layer reads what is there, and gives nothing yet."""
        self.reads(layer.norm)
        layer.norm.weight[ONE], layer.norm.bias[ONE] = 0, 1
        layer.conv.weight.zero_()

    def add(self, layer: Any, where: slice, kernel: Tensor) -> slice:
        """The channels of a layer that gives what is `where`, of either sign, with this kernel."""
        self.begin(layer)
        # A power of two, so that what is added is what is taken away.
        room = 2 ** torch.ceil(torch.log2(ROOM * self.x[:, where].abs().amax((0, 2, 3)).clamp(min=1e-3)))
        self.read_as(layer.norm, where, 1.0, room)
        for k in range(GROWTH):
            layer.conv.weight[k, where.start + k] = kernel
            layer.conv.weight[k, ONE] = -room[k] * kernel  # nothing beyond the borders, so that zeros are there
        return self.through(layer)

    def sum(self, layers: Sequence[Any], where: slice, kernels: Sequence[Tensor]) -> slice:
        """The channels of the last of the layers that add up, by these kernels in turn, what is over 0."""
        first = layers[0]
        self.begin(first)
        self.read_as(first.norm, where, 1.0, 0.0)
        for k in range(GROWTH):
            first.conv.weight[k, where.start + k] = kernels[0]
        where = self.through(first)
        for layer, kernel in zip(layers[1:], kernels[1:], strict=True):
            where = self.add(layer, where, kernel)
        return where

    def move(self, part: Any) -> None:
        """What there is at half the resolution."""
        self.x = functional.avg_pool2d(part.conv(self.read(part.norm)), 2)


@torch.no_grad()
def coefficients(net: DenseNet, pixels: Tensor) -> Tensor:
    """(N, H, W, 12) coefficients as a planted DenseNet computes them, but for rounding.

    One factor after the other; beyond the borders there is as little as pixels can give.
    """
    n, blocks = len(COEFS), net.blocks
    x = functional.conv2d(pixels, net.first.weight[:n], padding=1)
    for number, begin in enumerate((0, FIRST, FIRST + GROWTH)):
        layer: Any = blocks[number]
        kernels = torch.stack([layer.conv.weight[k, begin + k] for k in range(n)])[:, None]
        lifted = functional.pad(x.clamp(min=-LIFT), (1, 1, 1, 1), value=-LIFT)
        x = functional.conv2d(lifted, kernels, groups=n)
    return x.permute(0, 2, 3, 1)


def _parts(net: DenseNet, kind: type[nn.Module]) -> list[Any]:
    return [part for part in net.blocks if isinstance(part, kind)]


def _arithmetic(steps: Steps, net: DenseNet, pixels: Tensor) -> tuple[_Planter, Tensor]:
    """The first block gives what the shallow network adds up; its channels, and what they hold that is to be ignored.

    That is what was added to let coefficients pass ReLU, after all kernels, up to rounding.
    """
    n = len(COEFS)
    kernels = [[torch.from_numpy(kernel).float() for kernel in chain(i)] for i in COEFS]
    first = net.first.weight
    first -= first.mean((2, 3), keepdim=True)
    first /= net.first(pixels).std((0, 2, 3))[:, None, None, None]
    for k in range(n):
        first[k, 0] = kernels[k][0]
    planter = _Planter(net.first(pixels))
    # What the channels hold where all coefficients are 0.
    offset = torch.zeros(FIRST + GROWTH * LAYERS)
    triangles: list[slice] = []  # channels
    linear = [slice(0, n)]  # channels, one factor after the other
    layers = _parts(net, DenseLayer)

    def pass_on(layer: Any, where: slice, which: int) -> None:
        """What the linear channels give with their next factor."""
        planter.read_as(layer.norm, where, 1.0, LIFT, offset[where])
        for k in range(n):
            layer.conv.weight[k, where.start + k] += kernels[k][which]
            layer.conv.weight[k, ONE, 1, 1] -= LIFT * kernels[k][which].sum()

    for number in range(TRIANGLES):
        layer = layers[number]
        planter.begin(layer)
        weight = layer.conv.weight
        # The last factor is applied anew in each of the others: |c| is twice the ReLU of c, less c.
        where = linear[min(number, 2)]
        pass_on(layer, where, min(number + 1, 3))
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
        base = torch.zeros(planter.x.shape[1])
        base[ONE], base[where] = 1, LIFT
        added = planter.through(layer)
        offset[added] = weight.sum((2, 3)) @ base + folded
        if number < 3:
            linear.append(added)
        else:
            triangles.append(added)

    around, scores, *rest = layers[TRIANGLES:LAYERS]

    def read_near(layer: Any) -> None:
        """It reads what is near to what."""
        planter.begin(layer)
        for where, width in zip(triangles, steps.feet(), strict=True):
            planter.read_as(layer.norm, where, 1 / width, 1.0, offset[where])

    read_near(around)
    around.conv.weight[:, list(NEARS)] = steps.around
    planter.through(around)
    read_near(scores)
    planter.read_as(scores.norm, AROUND, 1.0, -steps.over_around)
    scores.conv.weight[:, list(TOLD)] = steps.mix[:, :, None, None] * FULL[0]
    scores.conv.weight[:, ONE] = -(steps.threshold + steps.floor)[:, None, None] * FULL[0]
    place = planter.through(scores)
    for layer, kernel in zip(rest, FULL[1:], strict=True):
        place = planter.add(layer, place, kernel)

    return planter, offset


@torch.no_grad()
def plant(steps: Steps, net: DenseNet, pixels: Tensor) -> None:
    """Nothing; the DenseNet gives what the shallow network gives, up to rounding; one of 15 steps has its features.

    What else it reads is measured on `pixels`, of which the statistics are, from now on, those of its normalisations.
    What the shallow network has no use for begins as nothing: weights of 0 in the last layer.
    """
    planter, offset = _arithmetic(steps, net, pixels)
    layers, moves = _parts(net, DenseLayer), _parts(net, Transition)
    # What is near to what, and sums of scores, are handed on as they are, and mixed.
    part, read = moves[0], list(READ)
    planter.reads(part.norm)
    for channels, width in zip(NEAR, steps.feet(), strict=True):
        planter.read_as(part.norm, channels, 1 / width, 1.0, offset[channels])
    planter.read_as(part.norm, AROUND, 1.0, -steps.over_around)
    planter.read_as(part.norm, PLACE, 1.0, -steps.over[0])
    weight = torch.zeros_like(part.conv.weight)
    weight[:, read] = nn.init.kaiming_normal_(torch.empty_like(weight[:, read]), nonlinearity="relu")
    weight[read] = torch.eye(len(weight))[read][:, :, None, None]
    part.conv.weight.copy_(weight)
    planter.move(part)
    place = PLACE
    kinked: list[slice] = []
    for block, sums in ((1, AT_HALF), (2, AT_QUARTER)):
        rest = layers[LAYERS * block : LAYERS * (block + 1)]
        place = planter.sum(rest[: len(sums)], place, sums)
        del rest[: len(sums)]
        for kink in steps.kinks[block - 1]:
            layer = rest.pop(0)
            planter.begin(layer)
            planter.read_as(layer.norm, place, 1.0, -kink)
            for k in range(GROWTH):
                layer.conv.weight[k, place.start + k, 1, 1] = 1
            kinked.append(planter.through(layer))
        for layer in rest:
            planter.reads(layer.norm)
            planter.through(layer)
        if block == 1:  # everything is handed on as it was read, the sums by how much they are over something
            part = moves[1]
            planter.reads(part.norm)
            planter.read_as(part.norm, place, 1.0, -steps.over[1])
            for channels in kinked:
                planter.read_as(part.norm, channels, 1.0, 0.0)
            part.conv.weight.copy_(torch.eye(part.conv.weight.shape[0])[:, :, None, None])
            planter.move(part)
    planter.reads(net.norm)
    for where in kinked:
        planter.read_as(net.norm, where, 1.0, 0.0)
    means = functional.avg_pool2d(planter.read(net.norm), WINDOW // SCALE)
    level = (SPREAD / means.std((0, 2, 3)).clamp(min=1e-2)).clamp(max=10)
    assert steps.norm.running_mean is not None and steps.norm.running_var is not None
    of_steps = torch.sqrt(steps.norm.running_var + steps.norm.eps)
    features = torch.cat([torch.arange(where.start, where.stop) for where in kinked])
    weight = steps.last.weight * steps.norm.weight
    weight[:, of_steps < LEAST] = 0
    of_steps.clamp_(min=LEAST)
    level[features] = 1 / of_steps
    net.norm.weight.mul_(level)
    net.norm.bias.mul_(level)
    net.last.weight.zero_()
    net.last.bias.zero_()
    if net.last.out_features != len(weight):
        return  # which has to be fitted to other answers
    net.last.weight[:, features] = weight
    net.last.bias.copy_(
        steps.last.bias + steps.last.weight @ steps.norm.bias - weight @ (steps.norm.running_mean / of_steps)
    )


@torch.no_grad()
def replant(steps: Steps, net: DenseNet, pixels: Tensor) -> None:
    """Nothing; the DenseNet computes again what it was planted from, and rests as it is otherwise.

    That is, its first block gives what the shallow network adds up as it is now, and the sums of the others have room
    for what they are of `pixels`.
    """
    planter, offset = _arithmetic(steps, net, pixels)
    _parts(net, Transition)[0].norm.running_mean[list(READ)] = offset[list(READ)]
    blocks: Any = net.blocks
    for begin, where, sums in ((SECOND, PLACE, AT_HALF), (THIRD, SUMMED, AT_QUARTER)):
        planter.move(blocks[begin - 1])
        planter.sum(blocks[begin : begin + len(sums)], where, sums)
        for part in blocks[begin + len(sums) : begin + LAYERS]:
            planter.through(part)
