"""Compiled loops of the comb features, for the CPU.

They compute what the models' own graphs compute (`train/graphs.py`), with two differences that make them some ten
times faster there: nothing that was looked up is written to memory before it is added up, and full features are
computed at a few grid shifts only. Numba compiles them when they are first called and keeps the result on disk.
"""

from __future__ import annotations

import os
from typing import Any

# Without it, LLVM adds up a row of eight functions one by one; it is read when Numba is imported.
os.environ.setdefault("NUMBA_SLP_VECTORIZE", "1")

import numba
import numpy as np

_compiled = numba.njit(fastmath=True, nogil=True, boundscheck=False, cache=True)

MOST_ROWS = 8
"""Rows of zeros at the end of a table: as many as the functions of a coefficient fill at most."""
SCOUT_SIZE = 8
"""Numbers that the scout adds up for each shift; one register of AVX holds them."""


@_compiled
def scout_sums(
    pixels: Any, rows: int, cols: int, basis: Any, down: Any, along: Any, begin: Any, table: Any, out: Any
) -> None:
    """Adds up the scout's functions of every block of a tile, by cell and grid shift.

    `pixels` (H + 7, W + 7) float32 around 0; only blocks that begin in the first `rows` rows and `cols` columns count.
    Of coefficient k, with frequencies `down`[k] and `along`[k], the functions at |c| = r / 8 are row `begin`[k] + r of
    `table` (n, 8). `out` (H / 16, 8, W / 16, 8, 8) float32 zeros: cell down, shift down, cell across, shift across,
    function.
    """
    width, n = pixels.shape[1], down.shape[0]
    columns = np.empty((8, width), np.float32)
    where = np.empty((n, cols), np.int32)
    for y in range(rows):
        for u in range(8):
            b0, b1, b2, b3 = basis[u, 0], basis[u, 1], basis[u, 2], basis[u, 3]
            b4, b5, b6, b7 = basis[u, 4], basis[u, 5], basis[u, 6], basis[u, 7]
            to = columns[u]
            p0, p1, p2, p3 = pixels[y], pixels[y + 1], pixels[y + 2], pixels[y + 3]
            p4, p5, p6, p7 = pixels[y + 4], pixels[y + 5], pixels[y + 6], pixels[y + 7]
            for x in range(width):
                c = b0 * p0[x] + b1 * p1[x] + b2 * p2[x] + b3 * p3[x]
                to[x] = c + b4 * p4[x] + b5 * p5[x] + b6 * p6[x] + b7 * p7[x]
        for k in range(n):
            d, to_row, v = columns[down[k]], where[k], along[k]
            first = begin[k]
            b0, b1, b2, b3 = basis[v, 0], basis[v, 1], basis[v, 2], basis[v, 3]
            b4, b5, b6, b7 = basis[v, 4], basis[v, 5], basis[v, 6], basis[v, 7]
            for x in range(cols):
                c = b0 * d[x] + b1 * d[x + 1] + b2 * d[x + 2] + b3 * d[x + 3]
                c += b4 * d[x + 4] + b5 * d[x + 5] + b6 * d[x + 6] + b7 * d[x + 7]
                to_row[x] = np.int32(abs(c) * np.float32(8) + np.float32(0.5)) + first
        sums = out[y // 16, y % 8]
        for x in range(cols):
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = np.float32(0)
            for k in range(n):
                row = table[np.uint64(where[k, x])]
                a0 += row[0]
                a1 += row[1]
                a2 += row[2]
                a3 += row[3]
                a4 += row[4]
                a5 += row[5]
                a6 += row[6]
                a7 += row[7]
            to_sum = sums[x // 16, x % 8]
            to_sum[0] += a0
            to_sum[1] += a1
            to_sum[2] += a2
            to_sum[3] += a3
            to_sum[4] += a4
            to_sum[5] += a5
            to_sum[6] += a6
            to_sum[7] += a7


@numba.njit(fastmath=True, nogil=True, boundscheck=False, inline="always")
def _put_eight(a: Any, b: Any, c: Any, d: Any, out: Any) -> None:
    """Writes the sums of four rows of eight; all are read before one is written, so that they fill one register."""
    s0 = (a[0] + b[0]) + (c[0] + d[0])
    s1 = (a[1] + b[1]) + (c[1] + d[1])
    s2 = (a[2] + b[2]) + (c[2] + d[2])
    s3 = (a[3] + b[3]) + (c[3] + d[3])
    s4 = (a[4] + b[4]) + (c[4] + d[4])
    s5 = (a[5] + b[5]) + (c[5] + d[5])
    s6 = (a[6] + b[6]) + (c[6] + d[6])
    s7 = (a[7] + b[7]) + (c[7] + d[7])
    out[0] = s0
    out[1] = s1
    out[2] = s2
    out[3] = s3
    out[4] = s4
    out[5] = s5
    out[6] = s6
    out[7] = s7


@numba.njit(fastmath=True, nogil=True, boundscheck=False, inline="always")
def _add_eight(a: Any, b: Any, c: Any, d: Any, out: Any) -> None:
    """Adds the sums of four rows of eight to what is there."""
    s0 = (a[0] + b[0]) + (c[0] + d[0]) + out[0]
    s1 = (a[1] + b[1]) + (c[1] + d[1]) + out[1]
    s2 = (a[2] + b[2]) + (c[2] + d[2]) + out[2]
    s3 = (a[3] + b[3]) + (c[3] + d[3]) + out[3]
    s4 = (a[4] + b[4]) + (c[4] + d[4]) + out[4]
    s5 = (a[5] + b[5]) + (c[5] + d[5]) + out[5]
    s6 = (a[6] + b[6]) + (c[6] + d[6]) + out[6]
    s7 = (a[7] + b[7]) + (c[7] + d[7]) + out[7]
    out[0] = s0
    out[1] = s1
    out[2] = s2
    out[3] = s3
    out[4] = s4
    out[5] = s5
    out[6] = s6
    out[7] = s7


@_compiled
def comb_sums(
    pixels: Any,
    rows: int,
    cols: int,
    basis: Any,
    shifts: Any,
    down: Any,
    along: Any,
    begin: Any,
    padded: Any,
    place: Any,
    again: Any,
    table: Any,
    features: Any,
    level: Any,
) -> None:
    """Adds up the comb functions of the blocks of a tile at some grid shifts, by cell.

    `pixels`, `rows` and `cols` as for `scout_sums`; `shifts` (S,) dy * 8 + dx. Of coefficient k, the functions at |c| =
    r / 8 fill the `padded`[k] rows from `begin`[k] + r * `padded`[k] on of `table` (n, 8), up to zeros at the end; the
    last MOST_ROWS rows of the table are zero. They are written to `features` (cells down, cells across, S, F +
    padding) from `place`[k] on, or, where `again`[k], added to what is there; what a row's zeros write over is written
    anew by the next. `level` (cells down, S, coefficients, cells across): sums of |c|.
    """
    n, cells_down, cells_across = down.shape[0], features.shape[0], features.shape[1]
    across = 2 * cells_across
    # Blocks side by side, pixel by pixel: every loop over a block row is a loop over neighbours in memory.
    apart, columns = np.empty((8, 8, across), np.float32), np.empty((8, 8, across), np.float32)
    where, loud = np.empty((2, n, across), np.uint32), np.empty((2, n, across), np.float32)
    nothing = np.uint32(table.shape[0] - MOST_ROWS)
    for s in range(shifts.shape[0]):
        dy, dx = shifts[s] // 8, shifts[s] % 8
        inside = min(across, max(0, (cols - dx + 7) // 8))  # blocks of a row that count
        for cy in range(cells_down):
            for half in range(2):
                y = 16 * cy + 8 * half + dy
                if y >= rows:
                    where[half, :, :] = nothing
                    loud[half, :, :] = 0
                    continue
                for m in range(8):
                    line = pixels[y + m]
                    for j in range(8):
                        to = apart[m, j]
                        for b in range(inside):
                            to[b] = line[8 * b + dx + j]
                for u in range(8):
                    b0, b1, b2, b3 = basis[u, 0], basis[u, 1], basis[u, 2], basis[u, 3]
                    b4, b5, b6, b7 = basis[u, 4], basis[u, 5], basis[u, 6], basis[u, 7]
                    for j in range(8):
                        to = columns[u, j]
                        for b in range(inside):
                            c = b0 * apart[0, j, b] + b1 * apart[1, j, b] + b2 * apart[2, j, b] + b3 * apart[3, j, b]
                            c += b4 * apart[4, j, b] + b5 * apart[5, j, b] + b6 * apart[6, j, b] + b7 * apart[7, j, b]
                            to[b] = c
                for k in range(n):
                    u, v, size, first = down[k], along[k], np.int32(padded[k]), np.int32(begin[k])
                    b0, b1, b2, b3 = basis[v, 0], basis[v, 1], basis[v, 2], basis[v, 3]
                    b4, b5, b6, b7 = basis[v, 4], basis[v, 5], basis[v, 6], basis[v, 7]
                    rows_of, to = where[half, k], loud[half, k]
                    for b in range(inside):
                        c = (
                            b0 * columns[u, 0, b]
                            + b1 * columns[u, 1, b]
                            + b2 * columns[u, 2, b]
                            + b3 * columns[u, 3, b]
                        )
                        c += (
                            b4 * columns[u, 4, b]
                            + b5 * columns[u, 5, b]
                            + b6 * columns[u, 6, b]
                            + b7 * columns[u, 7, b]
                        )
                        c = abs(c)
                        to[b] = c
                        rows_of[b] = first + size * np.int32(c * np.float32(8) + np.float32(0.5))
                    for b in range(inside, across):
                        to[b] = 0
                        rows_of[b] = nothing
            for k in range(n):
                wide, at = padded[k], place[k]
                to_level, above, below = level[cy, s, k], loud[0, k], loud[1, k]
                for cx in range(cells_across):
                    to_level[cx] = (above[2 * cx] + above[2 * cx + 1]) + (below[2 * cx] + below[2 * cx + 1])
                for cx in range(cells_across):
                    out = features[cy, cx, s]
                    for part in range(wide):
                        r0, r1 = table[where[0, k, 2 * cx] + part], table[where[0, k, 2 * cx + 1] + part]
                        r2, r3 = table[where[1, k, 2 * cx] + part], table[where[1, k, 2 * cx + 1] + part]
                        to = out[at + 8 * part : at + 8 * part + 8]
                        if again[k]:
                            _add_eight(r0, r1, r2, r3, to)
                        else:
                            _put_eight(r0, r1, r2, r3, to)


@_compiled
def window_sums(cells: Any, step: int, out: Any) -> None:
    """Sums over 4 x 4 cells (down, across, n), at every `step`-th cell: `out` (rows, columns, n)."""
    across, n = cells.shape[1], cells.shape[2]
    columns = np.empty((across, n), np.float32)
    for r in range(out.shape[0]):
        for x in range(across):
            a, b, c, d = cells[r * step, x], cells[r * step + 1, x], cells[r * step + 2, x], cells[r * step + 3, x]
            to = columns[x]
            for k in range(n):
                to[k] = (a[k] + b[k]) + (c[k] + d[k])
        for x in range(out.shape[1]):
            a, b, c, d = columns[x * step], columns[x * step + 1], columns[x * step + 2], columns[x * step + 3]
            to = out[r, x]
            for k in range(n):
                to[k] = (a[k] + b[k]) + (c[k] + d[k])


@_compiled
def some_window_sums(cells: Any, rows: Any, cols: Any, out: Any) -> None:
    """Sums over 4 x 4 cells (down, across, n) from cell (`rows`[k], `cols`[k]) on: `out` (windows, n)."""
    n = cells.shape[2]
    for w in range(rows.shape[0]):
        to = out[w]
        for j in range(4):
            line = cells[rows[w] + j]
            a, b, c, d = line[cols[w]], line[cols[w] + 1], line[cols[w] + 2], line[cols[w] + 3]
            if j == 0:
                for k in range(n):
                    to[k] = (a[k] + b[k]) + (c[k] + d[k])
            else:
                for k in range(n):
                    to[k] += (a[k] + b[k]) + (c[k] + d[k])
