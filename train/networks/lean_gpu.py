"""What layers of `lean.py` do, on a GPU: but for their products once over memory each, in place of several times.

torch alone reads and writes a layer's inputs eighteen times; so it is half of that. Written for Triton, which comes
with torch where that is built for CUDA.
"""

# mypy: ignore-errors
# Kernels are not Python to a type checker, and their annotations must not become strings.
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = 32, 64
"""Pixels and channels of a piece; with all twelve outputs of a layer a piece has PIXELS."""
PIXELS, LANES, GROWTH = 128, 16, 12


@triton.jit
def _read(x, out, scale, shift, pixels, channels, stride, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = (row < pixels) & (channel < channels)
    a = tl.load(scale + channel, channel < channels).to(tl.float32)
    b = tl.load(shift + channel, channel < channels).to(tl.float32)
    value = tl.load(x + row * stride + channel, inside).to(tl.float32) * a + b
    tl.store(out + row * channels + channel, tl.maximum(value, 0.0), inside)


@triton.jit
def _read_back(
    inner, read, gradient, scale, shift, pixels, channels, stride, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    a = tl.load(scale + channel, channel < channels).to(tl.float32)
    total = tl.zeros((1, CHANNELS), tl.float32)
    for piece in range(8):
        row = (tl.program_id(0).to(tl.int64) * 8 + piece) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (row < pixels) & (channel < channels)
        value = tl.load(inner + row * channels + channel, inside, 0.0).to(tl.float32)
        value = tl.where(tl.load(read + row * channels + channel, inside, 0.0) > 0, value, 0.0)
        total += tl.sum(value, 0, keep_dims=True)
        there = gradient + row * stride + channel
        tl.store(there, tl.load(there, inside).to(tl.float32) + value * a, inside)
    tl.atomic_add(shift + channel, total, channel < channels)


@triton.jit
def _moved(y, out, pixels, height, width, stride, PIXELS: tl.constexpr, LANES: tl.constexpr, GROWTH: tl.constexpr):
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    row, column = pixel // width % height, pixel % width
    total = tl.zeros((PIXELS, LANES), tl.float32)
    for tap in tl.static_range(9):
        down, right = tap // 3 - 1, tap % 3 - 1
        inside = (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        there = y + (pixel + down * width + right) * (9 * GROWTH) + tap * GROWTH + lane
        total += tl.load(there, inside & (pixel < pixels) & (lane < GROWTH), 0.0).to(tl.float32)
    tl.store(out + pixel * stride + lane, total, (pixel < pixels) & (lane < GROWTH))


@triton.jit
def _spread(g, out, pixels, height, width, stride, PIXELS: tl.constexpr, LANES: tl.constexpr, GROWTH: tl.constexpr):
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    row, column = pixel // width % height, pixel % width
    for tap in tl.static_range(9):
        down, right = 1 - tap // 3, 1 - tap % 3
        inside = (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        there = g + (pixel + down * width + right) * stride + lane
        value = tl.load(there, inside & (pixel < pixels) & (lane < GROWTH), 0.0)
        tl.store(out + pixel * (9 * GROWTH) + tap * GROWTH + lane, value, (pixel < pixels) & (lane < GROWTH))


@triton.jit
def _halved(x, out, scale, shift, pixels, width, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = (pixel < pixels) & (channel < channels)
    a = tl.load(scale + channel, channel < channels).to(tl.float32)
    b = tl.load(shift + channel, channel < channels).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for part in tl.static_range(4):
        from_pixel = (pixel // width * 2 + part // 2) * (2 * width) + pixel % width * 2 + part % 2
        value = tl.load(x + from_pixel * channels + channel, inside).to(tl.float32) * a + b
        total += tl.maximum(value, 0.0)
    tl.store(out + pixel * channels + channel, total * 0.25, inside)


@triton.jit
def _halved_back(g, x, out, scale, shift, found, pixels, width, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    a = tl.load(scale + channel, channel < channels).to(tl.float32)
    b = tl.load(shift + channel, channel < channels).to(tl.float32)
    count = tl.zeros((1, CHANNELS), tl.float32)
    for piece in range(4):
        pixel = (tl.program_id(0).to(tl.int64) * 4 + piece) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (pixel < pixels) & (channel < channels)
        gradient = tl.load(g + pixel * channels + channel, inside, 0.0).to(tl.float32) * 0.25
        for part in tl.static_range(4):
            there = ((pixel // width * 2 + part // 2) * (2 * width) + pixel % width * 2 + part % 2) * channels + channel
            value = tl.where(tl.load(x + there, inside, 0.0).to(tl.float32) * a + b > 0, gradient, 0.0)
            count += tl.sum(value, 0, keep_dims=True)
            tl.store(out + there, value * a, inside)
    tl.atomic_add(found + channel, count, channel < channels)


def _pieces(x: Tensor) -> tuple[int, int]:
    pixels, channels = x.shape[0] * x.shape[1] * x.shape[2], x.shape[3]
    return pixels, channels


def read(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(N, H, W, C): ReLU(x scale + shift). The pixels of x may lie further apart than C."""
    pixels, channels = _pieces(x)
    out = x.new_empty(x.shape)
    grid: Any = (triton.cdiv(pixels, ROWS), triton.cdiv(channels, CHANNELS))
    _read[grid](x, out, scale, shift, pixels, channels, x.stride(2), ROWS, CHANNELS)
    return out


def read_back(inner: Tensor, read: Tensor, gradient: Tensor, scale: Tensor) -> Tensor:
    """(C,) gradient of the shift of `read`; `gradient` (N, H, W, C), of x, has grown by what `inner`, of it, adds."""
    pixels, channels = _pieces(gradient)
    shift = torch.zeros(channels, device=gradient.device)
    grid: Any = (triton.cdiv(pixels, 8 * ROWS), triton.cdiv(channels, CHANNELS))
    _read_back[grid](inner, read, gradient, scale, shift, pixels, channels, gradient.stride(2), ROWS, CHANNELS)
    return shift.to(scale.dtype)


def convolve(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Nothing; `out` (N, H, W, 12) is x (N, H, W, C) with a kernel of 3 x 3, of which the matrix is (C, 108).

    A product reads x once; what each place of the kernel gives is then added up for the pixel that it stands for.
    """
    y = x @ weight
    pixels, _ = _pieces(y)
    grid: Any = (triton.cdiv(pixels, PIXELS),)
    _moved[grid](y, out, pixels, y.shape[1], y.shape[2], out.stride(2), PIXELS, LANES, GROWTH)


def spread(g: Tensor) -> Tensor:
    """(N, H, W, 108): what `lean_by_torch.spread` gives of g (N, H, W, 12)."""
    pixels, _ = _pieces(g)
    out = g.new_empty(*g.shape[:3], 9 * GROWTH)
    grid: Any = (triton.cdiv(pixels, PIXELS),)
    _spread[grid](g, out, pixels, g.shape[1], g.shape[2], g.stride(2), PIXELS, LANES, GROWTH)
    return out


def halved(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(N, H / 2, W / 2, C): means of ReLU(x scale + shift) over 2 x 2, of x (N, H, W, C) without gaps."""
    n, height, width, channels = x.shape
    out = x.new_empty(n, height // 2, width // 2, channels)
    pixels, _ = _pieces(out)
    grid: Any = (triton.cdiv(pixels, ROWS), triton.cdiv(channels, CHANNELS))
    _halved[grid](x, out, scale, shift, pixels, width // 2, channels, ROWS, CHANNELS)
    return out


def halved_back(g: Tensor, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the shift, of `halved`, given that of its result."""
    out, found = torch.empty_like(x), torch.zeros(x.shape[3], device=x.device)
    pixels, channels = _pieces(g)
    grid: Any = (triton.cdiv(pixels, 4 * ROWS), triton.cdiv(channels, CHANNELS))
    _halved_back[grid](g, x, out, scale, shift, found, pixels, g.shape[2], channels, ROWS, CHANNELS)
    return out, found.to(shift.dtype)
