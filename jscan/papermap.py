"""The papers' own networks as estimators: the Q1 map of Tondi 2021, the QF and flag maps of Uchida 2019.

They are the baselines that jscan's comb networks are measured against (`--estimator paper`). The DenseNet of Tondi 2021
was made for patches; here it runs over tiles of the image and takes the mean of its last features over every window
of 64 x 64 pixels, 8 pixels apart. There is one DenseNet for each second quality factor; the nearest is taken. Neither
network says where the blocks of a first compression begin, or whether there was one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from jscan import weights
from jscan.errors import ModelError
from jscan.jpegtables import N_COEFS, Q1_MAX, Q1_OFFSET
from jscan.records import Maps
from jscan.tiling import BLOCK, WINDOW, cells
from jscan.weights import Model

UCHIDA = "uchida"
DENSENET = "densenet-"
"""What the names of the DenseNets begin with."""
STRIDE = 8
"""Pixels between windows."""
TILE = 57
"""Windows along a side of a tile: one of 512 x 512 pixels. What lies around it is computed as well."""
MARGIN = 88
"""Pixels around a tile that are read with it, so that no answer depends on where tiles end: the network sees 85 pixels
beyond a window, and its poolings want a multiple of 4."""
FLAG_TILE, FLAG_MARGIN = 512, 16
"""Pixels along a side of a tile of Uchida's network, and around it: half of its field of view of 33."""
FAR = 2.0
"""Difference of quality factors up to which a DenseNet is good for a file (Tondi 2021, section 4.2)."""
HOW = (
    "make it from a folder of uncompressed images: python -m train.fit_paper {name} --src FOLDER --run runs/{name}, "
    "then python -m train.export_paper write {name} --src FOLDER --run runs/{name}"
)

Scalar = TypeVar("Scalar", bound=np.generic)
Planes = npt.NDArray[np.uint8]
"""(channels, H, W): luma, or red, green and blue."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A DenseNet and what it is for."""

    name: str
    qf2: float
    """The second quality factor that it was trained on."""
    reads: str
    """`luma` or `rgb`."""


def densenets() -> tuple[Choice, ...]:
    """The DenseNets at hand, by their second quality factor."""
    said = (weights.manifest(name) for name in weights.names() if name.startswith(DENSENET))
    found = [Choice(m["name"], float(m["qf2"]), str(m["reads"])) for m in said]
    return tuple(sorted(found, key=lambda c: c.qf2))


def nearest(choices: tuple[Choice, ...], qf2: float) -> Choice:
    """The DenseNet for a file of this second quality factor."""
    return min(choices, key=lambda c: (abs(c.qf2 - qf2), c.qf2))


def check() -> tuple[Choice, ...]:
    """The DenseNets at hand. Raises ModelError, which says how they are made, where they or Uchida's are missing."""
    choices = densenets()
    missing = [] if choices else [f"{DENSENET}qf90"]
    missing += [] if UCHIDA in weights.names() else [UCHIDA]
    if missing:
        name = missing[0]
        raise ModelError(f"--estimator paper: there is no model {' or '.join(missing)}; {HOW.format(name=name)}")
    for name in (UCHIDA, *(c.name for c in choices)):
        weights.check(name)
    return choices


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of whole windows. Raises ValueError for an image smaller than a window."""
    if height < WINDOW or width < WINDOW:
        raise ValueError(f"an image of {width} x {height} pixels holds no window of {WINDOW} x {WINDOW}")
    return (height - WINDOW) // STRIDE + 1, (width - WINDOW) // STRIDE + 1


def _parts(count: int, size: int) -> Iterator[tuple[slice, slice, slice]]:
    """Along one axis: windows of a tile, pixels that are read for them, and which of the answers to these they are."""
    for first in range(0, count, TILE):
        last = min(first + TILE, count)
        start = max(0, first * STRIDE - MARGIN)
        # A partial block at the far end takes part as what is around the last windows, as far as the poolings take it.
        end = min(size, (last - 1) * STRIDE + WINDOW + MARGIN)
        skipped = first - start // STRIDE
        yield slice(first, last), slice(start, end), slice(skipped, skipped + last - first)


@dataclass(frozen=True, slots=True)
class Steps:
    """What a DenseNet says of every window."""

    steps: npt.NDArray[np.int16]
    """(R, C, 15)."""
    sure: npt.NDArray[np.float32]
    """(R, C) mean probability of the 15 likeliest steps; NaN for a regression network, which gives none."""


def estimate(model: Model, planes: Planes) -> Steps:
    """The steps of all windows of an image, tile by tile. Raises ValueError for an image smaller than a window."""
    rows, cols = grid(*planes.shape[1:])
    out = Steps(np.empty((rows, cols, N_COEFS), np.int16), np.empty((rows, cols), np.float32))
    for windows_y, read_y, own_y in _parts(rows, planes.shape[1]):
        for windows_x, read_x, own_x in _parts(cols, planes.shape[2]):
            answers = model(pixels=np.ascontiguousarray(planes[None, :, read_y, read_x]))[model.outputs[0]][0]
            own = answers[own_y, own_x]
            out.steps[windows_y, windows_x] = decode(own)
            out.sure[windows_y, windows_x] = sureness(own)
    return out


def sureness(answers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(...) mean probability of the likeliest steps of log-posteriors (..., 226); NaN for steps (..., 15)."""
    if answers.shape[-1] == N_COEFS:
        return np.full(answers.shape[:-1], np.nan, np.float32)
    likeliest = [np.exp(answers[..., a:b].max(axis=-1)) for a, b in pairwise(Q1_OFFSET)]
    return np.asarray(np.mean(likeliest, axis=0), np.float32)


def decode(answers: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """(..., 15) int16 steps: the likeliest of log-posteriors (..., 226), or steps (..., 15) rounded and capped."""
    if answers.shape[-1] == N_COEFS:
        rounded = np.rint(answers)
        return np.clip(rounded, 1, np.array(Q1_MAX)).astype(np.int16)
    return np.stack([answers[..., a:b].argmax(axis=-1) + 1 for a, b in pairwise(Q1_OFFSET)], axis=-1).astype(np.int16)


def background(steps: npt.NDArray[np.int16]) -> tuple[int, ...]:
    """The image's 15 steps: of each coefficient the one that most windows have."""
    flat = steps.reshape(-1, N_COEFS)
    return tuple(int(np.bincount(flat[:, i]).argmax()) for i in range(N_COEFS))


def disagreement(steps: npt.NDArray[np.int16], table: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """(R, C) share, 0 to 1, of a window's 15 steps that are not the background's."""
    return np.asarray((steps != np.array(table)).mean(axis=-1), np.float32)


def to_cells(windows: npt.NDArray[Scalar], size: tuple[int, int]) -> npt.NDArray[Scalar]:
    """What was found for windows (R, C, ...), at the cells of the image: that of the window whose centre is nearest.

    Windows begin on blocks, so their centres lie between cells; of two equally near the one above, or left, is taken.
    """
    index = [
        np.clip(np.arange(cells(length)) - WINDOW // BLOCK // 2, 0, count - 1)
        for length, count in zip(size, windows.shape[:2], strict=True)
    ]
    return windows[np.ix_(*index)]


def flag_maps(model: Model, rgb: Planes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """QF, 0 to 100, and probability of compression, 0 to 1, at the cells of an image (3, H, W): means of its pixels.

    Uchida's maps hold a value for each pixel, and 1 where there was no compression.
    """
    height, width = rgb.shape[1:]
    shape = (cells(height), cells(width))
    quality, flag = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for top in range(0, height, FLAG_TILE):
        for left in range(0, width, FLAG_TILE):
            bottom, right = min(top + FLAG_TILE, height), min(left + FLAG_TILE, width)
            y, x = max(0, top - FLAG_MARGIN), max(0, left - FLAG_MARGIN)
            part = np.ascontiguousarray(rgb[None, :, y : bottom + FLAG_MARGIN, x : right + FLAG_MARGIN])
            found = model(pixels=part)
            here = (slice(top // BLOCK, cells(bottom)), slice(left // BLOCK, cells(right)))
            own = (slice(top - y, bottom - y), slice(left - x, right - x))
            quality[here] = _cell_means(found["qf"][0][own])
            flag[here] = 1 - _cell_means(found["uncompressed"][0][own])
    return np.clip(quality, 0, 100), np.clip(flag, 0, 1)


def _cell_means(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Means over 8 x 8 pixels; cells at the far ends may hold fewer."""
    rows, cols = (np.arange(0, s, BLOCK) for s in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), cols, axis=1)
    counts = np.outer(*(np.diff(np.append(edges, s)) for edges, s in zip((rows, cols), values.shape, strict=True)))
    return (sums / counts).astype(np.float32)


def jpeg_maps(found: Steps, size: tuple[int, int], qf2: float) -> Maps:
    """The maps of a JPEG of `size` (H, W): its steps, and as suspicion the share of them that is not the background's.

    Suspicion is no probability here. What the network does not say, whether there was a first compression, is NaN.
    """
    shape = (cells(size[0]), cells(size[1]))
    steps = to_cells(found.steps, size).astype(np.float32)
    return Maps(
        suspicion=to_cells(disagreement(found.steps, background(found.steps)), size),
        qf=np.full(shape, qf2, np.float32),
        flag=np.ones(shape, np.float32),
        q1=np.ascontiguousarray(steps.transpose(2, 0, 1)),
        double=np.full(shape, np.nan, np.float32),
        coverage=to_cells(found.sure, size),
        **_no_shift(shape),
    )


def pixel_maps(quality: npt.NDArray[np.float32], flag: npt.NDArray[np.float32]) -> Maps:
    """The maps of decoded pixels from QF and flag: as suspicion, how far the flag is from what most of the image has.

    Suspicion is no probability here; coverage is how decided the flag is. There are no steps.
    """
    return Maps(
        suspicion=np.abs(flag - np.median(flag)).astype(np.float32),
        qf=np.where(flag > 0.5, quality, np.nan).astype(np.float32),
        flag=flag,
        q1=np.full((N_COEFS, *flag.shape), np.nan, np.float32),
        double=np.full(flag.shape, np.nan, np.float32),
        coverage=np.abs(2 * flag - 1).astype(np.float32),
        **_no_shift(flag.shape),
    )


def _no_shift(shape: tuple[int, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """The maps of the grid shift, of which neither network says anything."""
    return {
        "shift": np.full((2, *shape), np.nan, np.float32),
        "shift_confidence": np.full(shape, np.nan, np.float32),
    }


def held_by_most(found: Steps) -> tuple[int, ...] | None:
    """The background's 15 steps, or None where less than half of the windows' steps are these."""
    table = background(found.steps)
    return table if float((found.steps == np.array(table)).mean()) >= 0.5 else None
