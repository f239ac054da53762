"""Comb features of a window: what a quantisation leaves in its DCT coefficients, for each of the 64 grid shifts.

A coefficient quantised by q lies on a comb of spacing q. For each shift of the 8 x 8 grid the features are sums,
over the window's whole blocks at that shift, of fixed functions of |c|: cos(2 pi c / q) for the candidate steps, and
bells around zero for the dead zone. As every function depends on |c| alone, they are looked up in a table of |c| in
steps of 1/8, many functions to a row; the error of this rounding is below pi/8 in the phase of q = 1 and far
below that where it matters.

The same specification drives the Numba kernel used in training and the ONNX graph that `jscan` runs
(`train/export.py`), which the export compares.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from jscan.comb import ROWS, STEPS_PER_UNIT, Band
from jscan.jpegtables import N_COEFS, Q1_MAX, ZIGZAG, dct_basis, standard_table

FloatArray = npt.NDArray[np.float32]

WINDOW = 64
"""Pixels along a side of a window (Tondi 2021, section 4.2)."""


def q1_bands() -> tuple[Band, ...]:
    """The bands of the Q1 network: every step that Tondi 2021 tells apart, and the other coefficients more coarsely.

    Where the first steps are no larger than the second ones, little is left of them in the 15 coefficients that are
    estimated. The steps of the higher ones are larger, and what the second compression rounded to zero is hardly
    changed by it, so the grid, and with it the table, shows there (train/README.md has the figures).
    """
    bands = [Band((i,), tuple(range(1, Q1_MAX[i] + 1))) for i in range(N_COEFS)]
    bands += [Band((i,), (3, 4, 5, 6, 7, 9, 11, 14, 18, 23), (2.0,)) for i in range(N_COEFS, 28)]
    rest = sorted(range(28, 64), key=_by_step)
    bands += [Band(tuple(sorted(rest[k : k + 3])), (4, 6, 8, 11, 15), (2.0,)) for k in range(0, 36, 3)]
    return tuple(bands)


def _by_step(i: int) -> tuple[int, int]:
    """Orders zigzag indices by their step in the standard table."""
    return int(standard_table(50)[i]), i


def qf_bands() -> tuple[Band, ...]:
    """The bands of the QF network: 15 single coefficients up to step 120, and 8 groups of three of the others.

    The groups collect coefficients of like steps in the standard table, which at QF 97 to 100 differ only here. Half of
    the others are left out: they cost as much as all the rest together and tell little more.
    """
    wide = (
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        16,
        18,
        20,
        22,
        25,
        28,
        32,
        36,
        41,
        47,
        54,
        62,
        72,
        84,
        98,
        120,
    )
    bands = [Band((i,), wide, (0.7, 2.0)) for i in range(N_COEFS)]
    rest = sorted(range(N_COEFS, 63), key=_by_step)
    fine = (1, 2, 3, 4, 5, 6, 8, 10, 13, 17)
    bands += [Band(tuple(sorted(rest[k : k + 6 : 2])), fine, (0.4, 0.8, 1.6, 3.2, 6.4, 12.8)) for k in range(0, 48, 6)]
    return tuple(bands)


def blocks_per_shift(positions: int = WINDOW - 7) -> FloatArray:
    """(64,) float32: whole blocks at each shift (dy, dx), row by row, among positions x positions that one can have.

    A window of 64 x 64 pixels on its own has 49 to 64.
    """
    along = -(-(positions - np.arange(8)) // 8)
    return np.asarray((along[:, None] * along[None, :]).ravel(), np.float32)


@cache
def _adder(size: int) -> Callable[..., None]:
    """A compiled loop that adds up rows of exactly `size` functions.

    Its source is written out with one variable for each function: these stay in registers, and a loop over an array of
    them took three times as long. Unsigned indices save the test for negative ones, another half.
    """
    names = [f"a{k}" for k in range(size)]
    lines = ["def add(plane, places, table, out, offset):", " for s in range(places.shape[0]):"]
    lines += [f"  {n} = zero" for n in names]
    lines += ["  for k in range(places.shape[1]):", f"   row = np.uint64(plane[places[s, k]]) * np.uint64({size})"]
    lines += [f"   {n} += table[row + np.uint64({k})]" for k, n in enumerate(names)]
    lines += [f"  out[s, offset + {k}] += {n}" for k, n in enumerate(names)]
    scope: dict[str, Any] = {"np": np, "zero": np.float32(0)}
    exec("\n".join(lines), scope)
    return numba.njit(fastmath=True, nogil=True, boundscheck=False)(scope["add"])


@numba.njit(fastmath=True, nogil=True, boundscheck=False)
def _rows(patch: Any, basis: Any, u_max: int, out: Any) -> None:
    """DCT down the columns: out[u, y, x] over y positions, for u < u_max."""
    for u in range(u_max):
        for y in range(patch.shape[0] - 7):
            for x in range(patch.shape[1]):
                out[u, y, x] = 0.0
            for m in range(8):
                b = basis[u, m]
                for x in range(patch.shape[1]):
                    out[u, y, x] += b * patch[y + m, x]


@numba.njit(fastmath=True, nogil=True, boundscheck=False)
def _cols(rows: Any, basis: Any, v: int, step: Any, out: Any) -> float:
    """The table's rows for |DCT| along the rows, for frequency v of one vertical frequency; returns the mean |DCT|."""
    n_y, n_x = rows.shape[0], rows.shape[1] - 7
    b0, b1, b2, b3 = basis[v, 0], basis[v, 1], basis[v, 2], basis[v, 3]
    b4, b5, b6, b7 = basis[v, 4], basis[v, 5], basis[v, 6], basis[v, 7]
    total = np.float32(0)
    for y in range(n_y):
        row, to = rows[y], out[y]
        for x in range(n_x):
            c = b0 * row[x] + b1 * row[x + 1] + b2 * row[x + 2] + b3 * row[x + 3]
            c += b4 * row[x + 4] + b5 * row[x + 5] + b6 * row[x + 6] + b7 * row[x + 7]
            c = abs(c)
            total += c
            to[x] = np.int32(c * step + np.float32(0.5))
    return float(total / (n_y * n_x))


def _places(positions: int) -> npt.NDArray[np.uint64]:
    """(64, n) where the blocks of each shift begin in a flat plane of positions x positions; beyond it, its end."""
    along = -(-positions // 8)
    out = np.full((64, along * along), positions * positions, np.uint64)
    for shift in range(64):
        y, x = np.arange(shift // 8, positions, 8), np.arange(shift % 8, positions, 8)
        where = (y[:, None] * positions + x[None, :]).ravel()
        out[shift, : len(where)] = where
    return out


class Comb:
    """Computes the features of windows for one set of bands."""

    def __init__(self, bands: tuple[Band, ...]) -> None:
        self.bands = bands
        self.size = sum(b.size for b in bands)
        self._tables = [b.table().ravel() for b in bands]
        self._basis = dct_basis()
        self._u_max = 1 + max(ZIGZAG[i][0] for b in bands for i in b.coefs)

    def __call__(self, patches: npt.NDArray[np.uint8], dtype: Any = np.float16) -> tuple[Any, FloatArray]:
        """(N, S, S) uint8 -> features (N, 64 shifts, size) of `dtype`, log(1 + mean |c|) (N, bands) float32.

        S is 64 where a window is all there is, and 71 where, as inside an image, its blocks may reach beyond it.
        """
        n, side = len(patches), patches.shape[1]
        positions = side - 7
        share = 1 / blocks_per_shift(positions)[:, None]
        features = np.zeros((n, 64, self.size), dtype)
        energy = np.zeros((n, len(self.bands)), np.float32)
        rows = np.empty((self._u_max, positions, side), np.float32)
        plane = np.full(positions * positions + 1, ROWS, np.int32)  # the last one means "no block"
        square, places = plane[:-1].reshape(positions, positions), _places(positions)
        out = np.empty((64, self.size), np.float32)
        for k in range(n):
            out.fill(0)
            _rows(patches[k].astype(np.float32) - np.float32(128), self._basis, self._u_max, rows)
            offset = 0
            for b, band in enumerate(self.bands):
                add = _adder(band.size)
                for i in band.coefs:
                    u, v = ZIGZAG[i]
                    energy[k, b] += _cols(rows[u], self._basis, v, np.float32(STEPS_PER_UNIT), square) / len(band.coefs)
                    add(plane, places, self._tables[b], out, offset)
                offset += band.size
            np.multiply(out, share, out=out)
            features[k] = out
        return features, np.log1p(energy)
