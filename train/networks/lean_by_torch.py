"""What layers of `lean.py` do, by torch: the same functions as `lean_gpu.py` has for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.networks.densenet import GROWTH


def read(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(N, H, W, C): ReLU(x scale + shift)."""
    return torch.addcmul(shift, x, scale).relu_()


def read_back(inner: Tensor, read: Tensor, gradient: Tensor, scale: Tensor) -> Tensor:
    """(C,) gradient of the shift of `read`; `gradient` (N, H, W, C), of x, has grown by what `inner`, of it, adds."""
    inner = torch.ops.aten.threshold_backward(inner, read, 0)
    gradient.addcmul_(inner, scale)
    return inner.sum((0, 1, 2))


def convolve(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Nothing; `out` (N, H, W, 12) is x (N, H, W, C) with a kernel of 3 x 3, of which the matrix is (C, 108)."""
    kernel = weight.view(-1, 3, 3, GROWTH).permute(3, 0, 1, 2).contiguous(memory_format=torch.channels_last)
    out.copy_(functional.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1).permute(0, 2, 3, 1))


def spread(g: Tensor) -> Tensor:
    """(N, H, W, 108): the gradient of x @ weight of `convolve`, given that of `out`, g (N, H, W, 12)."""
    (height, width), padded = g.shape[1:3], functional.pad(g, (0, 0, 1, 1, 1, 1))
    return torch.cat([padded[:, y : y + height, x : x + width] for y in (2, 1, 0) for x in (2, 1, 0)], 3)


def halved(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(N, H / 2, W / 2, C): means of ReLU(x scale + shift) over 2 x 2."""
    return functional.avg_pool2d(read(x, scale, shift).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).contiguous()


def halved_back(g: Tensor, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the shift, of `halved`, given that of its result."""
    quarter = (g / 4).repeat_interleave(2, 1).repeat_interleave(2, 2)
    inner = torch.ops.aten.threshold_backward(quarter, torch.addcmul(shift, x, scale), 0)
    return inner * scale, inner.sum((0, 1, 2))
