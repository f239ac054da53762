"""DCT coefficients of blocks that lie in some of an image's windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jscan.jpegtables import ZIGZAG, dct_basis
from jscan.tiling import BLOCK, STRIDE, WINDOW

UNSEEN = 0.03
"""Share of a Laplace density in what coefficients were before a compression: of large ones another grid has few."""


def of_blocks(
    luma: npt.NDArray[np.uint8],
    first: tuple[int, int],
    origin: tuple[int, int],
    shown: npt.NDArray[np.bool_],
    most: int,
    without: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    """(64, n) coefficients, zigzag, of the blocks from `first` on whose nearest window is `shown` (R, C).

    `origin` is where the first window begins; of two windows that are as near the lower, or right, one counts. Of more
    than `most` blocks evenly spread ones are taken; those with black or white pixels are left out, and before that
    those `without` (r, c) some: all whole blocks from `first` on have their place there.
    """
    sides = [(n - f) // BLOCK for n, f in zip(luma.shape, first, strict=True)]
    nearest = []
    for count, begin, windows, at in zip(sides, first, shown.shape, origin, strict=True):
        off = begin - at + (STRIDE + BLOCK - WINDOW) // 2
        nearest.append(np.clip((BLOCK * np.arange(count) + off) // STRIDE, 0, windows - 1))
    wanted = shown[np.ix_(*nearest)]
    y, x = np.nonzero(wanted if without is None else wanted & ~without)
    if len(y) > most:
        some = np.linspace(0, len(y) - 1, most).astype(np.int64)
        y, x = y[some], x[some]
    whole = luma[first[0] : first[0] + BLOCK * sides[0], first[1] : first[1] + BLOCK * sides[1]]
    blocks = whole.reshape(sides[0], BLOCK, sides[1], BLOCK)[y, :, x, :]
    blocks = blocks[~((blocks == 0) | (blocks == 255)).any(axis=(1, 2))]
    basis = dct_basis().astype(np.float64)
    dct = np.einsum("ua,nab,vb->uvn", basis, blocks.astype(np.float64) - 128, basis, optimize=True)
    return np.ascontiguousarray(dct[tuple(np.transpose(ZIGZAG))], np.float32)


def shares_below(elsewhere: npt.NDArray[np.float32], most: int) -> npt.NDArray[np.float64]:
    """(64, 2 * most + 1) shares of the coefficients of which the size was below h / 2 before they were given steps.

    As those (64, n) of another grid tell: they are as many small and as many large ones, and lie on no multiples.
    """
    sizes, halves = np.abs(elsewhere), np.arange(2 * most + 1) / 2
    out = np.empty((len(sizes), len(halves)))
    for k, row in enumerate(sizes):
        seen = np.searchsorted(np.sort(row), halves) / len(row)
        out[k] = (1 - UNSEEN) * seen + UNSEEN * (1 - np.exp(-halves / max(float(row.mean()), 0.1)))
    return out
