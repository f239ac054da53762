"""A DenseNet that began as the shallow network, as it is trained: the same function by a fraction of the work.

The first block of such a network is arithmetic (`steps.py`). Here it is computed as the shallow network computes it,
of coefficients that end at the borders as the DenseNet's do, and what it rests on is trained with all the rest: teeth,
widths, weights and floors. Sums of places at half and at a quarter of the resolution are computed as sums. What is left
are dense layers, each a convolution of hundreds of channels to twelve, whose gradients (and, on a GPU, answers) are
products with a matrix of 9 x 12 columns, of which each pixel adds up one from each neighbour, so that what is read is
read once. `steps.replant` then brings the first block of the DenseNet to what was trained here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jscan.tiling import WINDOW
from train.networks import lean_by_torch
from train.networks.densenet import GROWTH, LAYERS, SCALE, DenseNet, affine
from train.networks.steps import AT_HALF, AT_QUARTER, FULL, PLACE, READ, SECOND, SUMMED, THIRD, Steps, add, coefficients

AFTER_HALF, AFTER_QUARTER = SECOND + len(AT_HALF), THIRD + len(AT_QUARTER)
"""The first parts of the second and of the third block that are trained."""


class Lean(nn.Module):
    """Pixels (N, 1, H, W) in -0.5 to 0.5, H and W multiples of 4 -> answers (N, R, C, out) for windows of 64 x 64."""

    def __init__(self, steps: Steps, net: DenseNet) -> None:
        """Of a DenseNet that was planted from `steps`. The weights of both are trained in place."""
        super().__init__()
        self.steps, self.net = steps, net
        blocks: Any = net.blocks
        self.requires_grad_(False)
        parts = [blocks[LAYERS], *blocks[AFTER_HALF:THIRD], *blocks[AFTER_QUARTER:], net.norm, net.last]
        for weights in (*(w for part in parts for w in part.parameters()), *steps.arithmetic()):
            weights.requires_grad_(True)
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.requires_grad_(False)  # what it scales is scaled by the weights that read it as well
        self.read: Tensor
        place = net.last.weight.device
        self.sums = [[k.to(place) for k in kernels] for kernels in (FULL, AT_HALF, AT_QUARTER)]
        self.register_buffer("read", torch.tensor(READ, device=place), persistent=False)

    def features(self, pixels: Tensor) -> Tensor:
        """(N, 456, H / 4, W / 4)."""
        place = pixels.device.type
        kind = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else pixels.dtype
        blocks: Any = self.net.blocks
        with torch.autocast(place, enabled=False):
            x = _move(self._first(pixels, kind), *self._read_first(), blocks[LAYERS].conv.weight[:, self.read, 0, 0])
            x = dense(_with_sums(x, PLACE, self.sums[1]).to(kind), blocks[AFTER_HALF : THIRD - 1])
            x = _move(x, *affine(blocks[THIRD - 1].norm), blocks[THIRD - 1].conv.weight[..., 0, 0]).to(pixels.dtype)
            x = dense(_with_sums(x, SUMMED, self.sums[2]).to(kind), blocks[AFTER_QUARTER:])
            scale, shift = affine(self.net.norm)
            return functional.relu(torch.addcmul(shift, x.to(pixels.dtype), scale)).permute(0, 3, 1, 2)

    def forward(self, pixels: Tensor, stride: int = WINDOW) -> Tensor:
        """Answers for windows that begin at multiples of `stride` pixels, itself a multiple of 4."""
        mean = functional.avg_pool2d(self.features(pixels), WINDOW // SCALE, stride // SCALE)
        with torch.autocast(pixels.device.type, enabled=False):
            out: Tensor = self.net.last(mean.permute(0, 2, 3, 1))
        return out

    def _first(self, pixels: Tensor, kind: torch.dtype) -> Tensor:
        """(N, H, W, 72): what the first block gives in the channels READ, but for what it added to pass ReLU."""
        steps = self.steps
        far = steps.far_of(coefficients(self.net, pixels))
        near = steps.near(far).to(kind)
        # (12, 48, 3, 3) as a matrix.
        weights = steps.around.permute(1, 2, 3, 0).flatten(1).to(kind)
        around: Tensor = _Convolved.apply(near, weights).to(pixels.dtype)  # type: ignore[no-untyped-call]
        told = torch.cat([near, functional.relu(around - steps.over_around).to(kind)], 3)
        over = (told @ steps.mix.T.to(kind)).to(pixels.dtype) - (steps.threshold + steps.floor)
        place = add(over.permute(0, 3, 1, 2).contiguous(), self.sums[0]).permute(0, 2, 3, 1)
        return torch.cat([far, around, place], 3)

    def _read_first(self) -> tuple[Tensor, Tensor]:
        """Scale and shift with which these channels are read: the mean of the normalisation is what is left out."""
        blocks: Any = self.net.blocks
        norm = blocks[LAYERS].norm
        return affine(norm)[0][self.read], norm.bias[self.read]


def _move(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, H / 2, W / 2, channels): a transition, averaged before it is mixed, which is the same."""
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    half: Tensor = _Halved.apply(x.contiguous(), scale.detach(), shift)  # type: ignore[no-untyped-call]
    return half @ weight.T.to(x.dtype)


def _with_sums(x: Tensor, where: slice, kernels: list[Tensor]) -> Tensor:
    """(N, H, W, C + 12 len(kernels)): sums of what these channels are over 0 are added, after each kernel."""
    place, out = functional.relu(x[..., where].permute(0, 3, 1, 2)).contiguous(), [x]
    for kernel in kernels:
        place = add(place, [kernel])
        out.append(place.permute(0, 2, 3, 1))
    return torch.cat(out, 3)


def _on(x: Tensor) -> Any:
    """The functions of `lean_by_torch`, or on a GPU those of `lean_gpu`."""
    if x.is_cuda:
        from train.networks import lean_gpu

        return lean_gpu
    return lean_by_torch


class _Halved(torch.autograd.Function):
    """(N, H / 2, W / 2, C): means of ReLU(x scale + shift) over 2 x 2. The scale has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, shift)
        out: Tensor = _on(x).halved(x, scale, shift)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, shift = _on(gradient).halved_back(gradient.contiguous(), *ctx.saved_tensors)
        return x, None, shift


class _Convolved(torch.autograd.Function):
    """(N, H, W, C) and a kernel of 3 x 3 as a matrix (C, 108) -> (N, H, W, 12)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = x.new_empty(*x.shape[:3], GROWTH)
        _on(x).convolve(x, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        back = _on(gradient).spread(gradient)
        return back @ weight.T, x.flatten(0, 2).T @ back.flatten(0, 2)


def dense(x: Tensor, layers: Iterable[Any]) -> Tensor:
    """(N, H, W, C) -> (N, H, W, C + 12 layers)."""
    weights: list[Tensor] = []
    for layer in layers:
        scale, shift = affine(layer.norm)
        weights += [scale.to(x.dtype), shift.to(x.dtype), layer.conv.weight.permute(1, 2, 3, 0).flatten(1).to(x.dtype)]
    out: Tensor = _Dense.apply(x, *weights)  # type: ignore[no-untyped-call]
    return out


class _Dense(torch.autograd.Function):
    """Layers of a dense block, whose outputs are written beside what they read, and whose gradients are added up there.

    Of each: scale (C,), which has no gradient, shift (C,), and weights (C, 108).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        count = x.shape[3]
        out = x.new_empty(*x.shape[:3], count + GROWTH * (len(weights) // 3))
        out[..., :count] = x
        on, read = _on(x), []
        for scale, shift, weight in zip(weights[::3], weights[1::3], weights[2::3], strict=True):
            read.append(on.read(out[..., :count], scale, shift))
            on.convolve(read[-1], weight, out[..., count : count + GROWTH])
            count += GROWTH
        ctx.save_for_backward(*weights[::3], *weights[2::3], *read)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layers = len(ctx.saved_tensors) // 3
        scales, weights, read = (ctx.saved_tensors[layers * k : layers * (k + 1)] for k in range(3))
        on, gradient, found = _on(gradient), gradient.clone(memory_format=torch.contiguous_format), []
        count = gradient.shape[3]
        for scale, weight, x in zip(reversed(scales), reversed(weights), reversed(read), strict=True):
            count -= GROWTH
            back = on.spread(gradient[..., count : count + GROWTH])
            found += [x.flatten(0, 2).T @ back.flatten(0, 2)]
            found += [on.read_back(back @ weight.T, x, gradient[..., :count], scale), None]
        return gradient[..., :count], *reversed(found)
