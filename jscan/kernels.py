"""Compiled loops of the comb features, for the CPU.

They compute what the models' own graphs compute (`train/graphs.py`), with two differences that make them some ten
times faster there: nothing that was looked up is written to memory before it is added up, and full features are
computed at a few grid shifts only. Numba compiles them when they are first called and keeps the result on disk.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

# Without it, LLVM adds up a row of eight functions one by one; it is read when Numba is imported.
os.environ.setdefault("NUMBA_SLP_VECTORIZE", "1")

import numba
import numpy as np
import numpy.typing as npt

from jscan import comb, limits

_HOW: dict[str, Any] = {"fastmath": True, "nogil": True, "boundscheck": False}


def _compiled(loop: Callable[..., None]) -> Callable[..., None]:
    """The loop, compiled when it is first called and kept on disk; for this process alone where nothing can be written.

    Numba raises RuntimeError where neither the folder of this file nor a cache of the user's can be written to. What it
    takes of memory to compile, or to load from the disk, is no image's.
    """
    try:
        fast = numba.njit(cache=True, **_HOW)(loop)
    except RuntimeError:
        fast = numba.njit(**_HOW)(loop)

    @functools.wraps(loop)
    def run(*args: Any) -> None:
        with contextlib.nullcontext() if fast.signatures else limits.uncounted():
            fast(*args)

    return run


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
    `table` (n, 8). `out` (H / 16, W / 16, 8, 8, 8) float32 zeros: cell down, cell across, shift down, shift across,
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
        cells, dy = out[y // 16], y % 8
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
            to_sum = cells[x // 16, dy, x % 8]
            to_sum[0] += a0
            to_sum[1] += a1
            to_sum[2] += a2
            to_sum[3] += a3
            to_sum[4] += a4
            to_sum[5] += a5
            to_sum[6] += a6
            to_sum[7] += a7


_WIDE = np.uint64(comb.REGISTER)
_N = tuple(np.uint64(k) for k in range(comb.REGISTER))
"""Indices that Numba knows not to be negative: for others it would look whether they count from the end."""


@numba.njit(fastmath=True, nogil=True, boundscheck=False, inline="always")
def _put_sixteen(table: Any, a: Any, b: Any, c: Any, d: Any, out: Any, at: Any) -> None:
    """Writes the sums of four rows of sixteen; all are read before one is written, so that they fill one register."""
    s0 = np.int16((table[a] + table[b]) + (table[c] + table[d]))
    s1 = np.int16((table[a + _N[1]] + table[b + _N[1]]) + (table[c + _N[1]] + table[d + _N[1]]))
    s2 = np.int16((table[a + _N[2]] + table[b + _N[2]]) + (table[c + _N[2]] + table[d + _N[2]]))
    s3 = np.int16((table[a + _N[3]] + table[b + _N[3]]) + (table[c + _N[3]] + table[d + _N[3]]))
    s4 = np.int16((table[a + _N[4]] + table[b + _N[4]]) + (table[c + _N[4]] + table[d + _N[4]]))
    s5 = np.int16((table[a + _N[5]] + table[b + _N[5]]) + (table[c + _N[5]] + table[d + _N[5]]))
    s6 = np.int16((table[a + _N[6]] + table[b + _N[6]]) + (table[c + _N[6]] + table[d + _N[6]]))
    s7 = np.int16((table[a + _N[7]] + table[b + _N[7]]) + (table[c + _N[7]] + table[d + _N[7]]))
    s8 = np.int16((table[a + _N[8]] + table[b + _N[8]]) + (table[c + _N[8]] + table[d + _N[8]]))
    s9 = np.int16((table[a + _N[9]] + table[b + _N[9]]) + (table[c + _N[9]] + table[d + _N[9]]))
    s10 = np.int16((table[a + _N[10]] + table[b + _N[10]]) + (table[c + _N[10]] + table[d + _N[10]]))
    s11 = np.int16((table[a + _N[11]] + table[b + _N[11]]) + (table[c + _N[11]] + table[d + _N[11]]))
    s12 = np.int16((table[a + _N[12]] + table[b + _N[12]]) + (table[c + _N[12]] + table[d + _N[12]]))
    s13 = np.int16((table[a + _N[13]] + table[b + _N[13]]) + (table[c + _N[13]] + table[d + _N[13]]))
    s14 = np.int16((table[a + _N[14]] + table[b + _N[14]]) + (table[c + _N[14]] + table[d + _N[14]]))
    s15 = np.int16((table[a + _N[15]] + table[b + _N[15]]) + (table[c + _N[15]] + table[d + _N[15]]))
    out[at] = s0
    out[at + _N[1]] = s1
    out[at + _N[2]] = s2
    out[at + _N[3]] = s3
    out[at + _N[4]] = s4
    out[at + _N[5]] = s5
    out[at + _N[6]] = s6
    out[at + _N[7]] = s7
    out[at + _N[8]] = s8
    out[at + _N[9]] = s9
    out[at + _N[10]] = s10
    out[at + _N[11]] = s11
    out[at + _N[12]] = s12
    out[at + _N[13]] = s13
    out[at + _N[14]] = s14
    out[at + _N[15]] = s15


@numba.njit(fastmath=True, nogil=True, boundscheck=False, inline="always")
def _add_sixteen(table: Any, a: Any, b: Any, c: Any, d: Any, out: Any, at: Any) -> None:
    """Adds the sums of four rows of sixteen to what is there."""
    s0 = np.int16((table[a] + table[b]) + (table[c] + table[d]) + out[at])
    s1 = np.int16((table[a + _N[1]] + table[b + _N[1]]) + (table[c + _N[1]] + table[d + _N[1]]) + out[at + _N[1]])
    s2 = np.int16((table[a + _N[2]] + table[b + _N[2]]) + (table[c + _N[2]] + table[d + _N[2]]) + out[at + _N[2]])
    s3 = np.int16((table[a + _N[3]] + table[b + _N[3]]) + (table[c + _N[3]] + table[d + _N[3]]) + out[at + _N[3]])
    s4 = np.int16((table[a + _N[4]] + table[b + _N[4]]) + (table[c + _N[4]] + table[d + _N[4]]) + out[at + _N[4]])
    s5 = np.int16((table[a + _N[5]] + table[b + _N[5]]) + (table[c + _N[5]] + table[d + _N[5]]) + out[at + _N[5]])
    s6 = np.int16((table[a + _N[6]] + table[b + _N[6]]) + (table[c + _N[6]] + table[d + _N[6]]) + out[at + _N[6]])
    s7 = np.int16((table[a + _N[7]] + table[b + _N[7]]) + (table[c + _N[7]] + table[d + _N[7]]) + out[at + _N[7]])
    s8 = np.int16((table[a + _N[8]] + table[b + _N[8]]) + (table[c + _N[8]] + table[d + _N[8]]) + out[at + _N[8]])
    s9 = np.int16((table[a + _N[9]] + table[b + _N[9]]) + (table[c + _N[9]] + table[d + _N[9]]) + out[at + _N[9]])
    s10 = np.int16((table[a + _N[10]] + table[b + _N[10]]) + (table[c + _N[10]] + table[d + _N[10]]) + out[at + _N[10]])
    s11 = np.int16((table[a + _N[11]] + table[b + _N[11]]) + (table[c + _N[11]] + table[d + _N[11]]) + out[at + _N[11]])
    s12 = np.int16((table[a + _N[12]] + table[b + _N[12]]) + (table[c + _N[12]] + table[d + _N[12]]) + out[at + _N[12]])
    s13 = np.int16((table[a + _N[13]] + table[b + _N[13]]) + (table[c + _N[13]] + table[d + _N[13]]) + out[at + _N[13]])
    s14 = np.int16((table[a + _N[14]] + table[b + _N[14]]) + (table[c + _N[14]] + table[d + _N[14]]) + out[at + _N[14]])
    s15 = np.int16((table[a + _N[15]] + table[b + _N[15]]) + (table[c + _N[15]] + table[d + _N[15]]) + out[at + _N[15]])
    out[at] = s0
    out[at + _N[1]] = s1
    out[at + _N[2]] = s2
    out[at + _N[3]] = s3
    out[at + _N[4]] = s4
    out[at + _N[5]] = s5
    out[at + _N[6]] = s6
    out[at + _N[7]] = s7
    out[at + _N[8]] = s8
    out[at + _N[9]] = s9
    out[at + _N[10]] = s10
    out[at + _N[11]] = s11
    out[at + _N[12]] = s12
    out[at + _N[13]] = s13
    out[at + _N[14]] = s14
    out[at + _N[15]] = s15


@_compiled
def comb_sums(
    pixels: Any,
    rows: int,
    cols: int,
    basis: Any,
    shifts: Any,
    stands_for: Any,
    down: Any,
    along: Any,
    begin: Any,
    padded: Any,
    place: Any,
    again: Any,
    table: Any,
    wanted: Any,
    features: Any,
    loud: Any,
) -> None:
    """Adds up the comb functions of the blocks of a tile at some grid shifts, for the cells that are `wanted`.

    `pixels`, `rows` and `cols` as for `scout_sums`; `shifts` (S,) dy * 8 + dx; `wanted` (cells down, cells across). Of
    coefficient k, the functions at |c| = r / 8 fill the `padded`[k] rows from `begin`[k] + r * `padded`[k] on of
    `table` (n, 16), int16, up to zeros at the end; the last MOST_ROWS rows of the table are zero. They are written to
    `features` (cells down, cells across, S, F + padding), int16, from `place`[k] on, or, where `again`[k], added to
    what is there; what a row's zeros write over is written anew by the next. `loud` (cells down, cells across,
    coefficients), float32: sums of |c| over shifts, each times what it `stands_for` (S,). Nothing is written for the
    other cells.
    """
    n, cells_down, cells_across = down.shape[0], features.shape[0], features.shape[1]
    across = 2 * cells_across
    # Blocks side by side, pixel by pixel: every loop over a block row is a loop over neighbours in memory.
    apart, columns = np.empty((8, 8, across), np.float32), np.empty((8, 8, across), np.float32)
    where, size_of = np.empty((2, n, across), np.uint32), np.empty((2, n, across), np.float32)
    volume = np.empty((n, cells_across), np.float32)
    nothing, flat = np.uint32(table.shape[0] - MOST_ROWS), table.reshape(-1)
    some, first_pixel = np.empty(cells_across, np.int64), np.empty(across, np.int64)
    for cy in range(cells_down):
        chosen = 0
        for cx in range(cells_across):
            if wanted[cy, cx]:
                some[chosen] = cx
                chosen += 1
        if chosen == 0:
            continue
        blocks = 2 * chosen
        volume[:] = 0
        for s in range(shifts.shape[0]):
            dy, dx = shifts[s] // 8, shifts[s] % 8
            inside = 0  # blocks of the row that count; they come first
            for b in range(blocks):
                first_pixel[b] = 16 * some[b // 2] + 8 * (b % 2) + dx
                if first_pixel[b] < cols:
                    inside = b + 1
            for half in range(2):
                y = 16 * cy + 8 * half + dy
                if y >= rows:
                    where[half, :, :] = nothing
                    size_of[half, :, :] = 0
                    continue
                for m in range(8):
                    line = pixels[y + m]
                    for j in range(8):
                        to = apart[m, j]
                        for b in range(inside):
                            to[b] = line[first_pixel[b] + j]
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
                    rows_of, to = where[half, k], size_of[half, k]
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
                    for b in range(inside, blocks):
                        to[b] = 0
                        rows_of[b] = nothing
            for k in range(n):
                loudness, above, below = volume[k], size_of[0, k], size_of[1, k]
                for i in range(chosen):
                    c = (above[2 * i] + above[2 * i + 1]) + (below[2 * i] + below[2 * i + 1])
                    loudness[i] += stands_for[s] * c
                upper, lower = where[0, k], where[1, k]
                # Two loops: where it is asked within one, each row is read in pieces before the answer and after it.
                if again[k]:
                    for i in range(chosen):
                        out = features[cy, some[i], s]
                        for part in range(padded[k]):
                            off = _WIDE * np.uint64(part)
                            r0, r1 = _WIDE * np.uint64(upper[2 * i]) + off, _WIDE * np.uint64(upper[2 * i + 1]) + off
                            r2, r3 = _WIDE * np.uint64(lower[2 * i]) + off, _WIDE * np.uint64(lower[2 * i + 1]) + off
                            _add_sixteen(flat, r0, r1, r2, r3, out, np.uint64(place[k]) + off)
                else:
                    for i in range(chosen):
                        out = features[cy, some[i], s]
                        for part in range(padded[k]):
                            off = _WIDE * np.uint64(part)
                            r0, r1 = _WIDE * np.uint64(upper[2 * i]) + off, _WIDE * np.uint64(upper[2 * i + 1]) + off
                            r2, r3 = _WIDE * np.uint64(lower[2 * i]) + off, _WIDE * np.uint64(lower[2 * i + 1]) + off
                            _put_sixteen(flat, r0, r1, r2, r3, out, np.uint64(place[k]) + off)
        for i in range(chosen):
            to_loud = loud[cy, some[i]]
            for k in range(n):
                to_loud[k] = volume[k, i]


@_compiled
def window_means(cells: Any, blocks: Any, out: Any) -> None:
    """Sums over 4 x 4 cells (down, across, shifts * 8), divided by `blocks` (rows, columns, shifts): `out`.

    `out` is (rows, columns, shifts, 16): the means of a shift, and the means of these over all shifts. Nearly all
    windows have as many blocks at all shifts.
    """
    across, size, shifts = cells.shape[1], cells.shape[2], blocks.shape[2]
    columns, mean = np.empty((across, size), np.float32), np.empty(size, np.float32)
    for r in range(out.shape[0]):
        for x in range(across):
            a, b, c, d = cells[r, x], cells[r + 1, x], cells[r + 2, x], cells[r + 3, x]
            to = columns[x]
            for k in range(size):
                to[k] = (a[k] + b[k]) + (c[k] + d[k])
        for x in range(out.shape[1]):
            a, b, c, d = columns[x], columns[x + 1], columns[x + 2], columns[x + 3]
            count = blocks[r, x]
            share = np.float32(1) / count[0]
            for k in range(size):
                mean[k] = ((a[k] + b[k]) + (c[k] + d[k])) * share
            for s in range(shifts):
                if count[s] != count[0]:
                    for k in range(8 * s, 8 * s + 8):
                        mean[k] *= count[0] / count[s]
            t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = np.float32(0)
            for s in range(shifts):
                at, to = np.uint64(8 * s), out[r, x, s]
                m0, m1, m2, m3 = mean[at], mean[at + _N[1]], mean[at + _N[2]], mean[at + _N[3]]
                m4, m5, m6, m7 = mean[at + _N[4]], mean[at + _N[5]], mean[at + _N[6]], mean[at + _N[7]]
                to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7] = m0, m1, m2, m3, m4, m5, m6, m7
                t0 += m0
                t1 += m1
                t2 += m2
                t3 += m3
                t4 += m4
                t5 += m5
                t6 += m6
                t7 += m7
            share = np.float32(1) / np.float32(shifts)
            for s in range(shifts):
                to = out[r, x, s]
                to[8], to[9], to[10], to[11] = t0 * share, t1 * share, t2 * share, t3 * share
                to[12], to[13], to[14], to[15] = t4 * share, t5 * share, t6 * share, t7 * share


@_compiled
def some_window_sums(cells: Any, rows: Any, cols: Any, scale: Any, out: Any) -> None:
    """Sums over 4 x 4 cells (down, across, S, n) from cell (`rows`[k], `cols`[k]) on, times `scale`.

    `out` (windows, S, m) float32; of the n numbers the first m are wanted.
    """
    for w in range(rows.shape[0]):
        for s in range(out.shape[1]):
            to = out[w, s]
            for j in range(4):
                line = cells[rows[w] + j]
                a, b, c, d = line[cols[w], s], line[cols[w] + 1, s], line[cols[w] + 2, s], line[cols[w] + 3, s]
                for k in range(to.shape[0]):
                    four = (np.float32(a[k]) + np.float32(b[k])) + (np.float32(c[k]) + np.float32(d[k]))
                    to[k] = four if j == 0 else to[k] + four
            for k in range(to.shape[0]):
                to[k] *= scale


def of_half(function: Any) -> npt.NDArray[np.float32]:
    """(65536,) float32 `function` of every number in half precision, in the order of its bits.

    Posteriors are kept in half precision, which compiled loops cannot read; they look up what they need of them.
    """
    with np.errstate(all="ignore"):
        values: npt.NDArray[np.float32] = function(
            np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
        )
    return values


VALUE, EXP = of_half(lambda x: x), of_half(np.exp)


@_compiled
def weighted_sums(bits: Any, function: Any, weight: Any, out: Any) -> None:
    """Adds to `out` (K,) float64 the `function` of `bits` (R, C, K), uint16, times the weights (R, C)."""
    row = np.empty(bits.shape[2], np.float32)
    for r in range(bits.shape[0]):
        row[:] = 0
        for c in range(bits.shape[1]):
            here, w = bits[r, c], weight[r, c]
            for k in range(bits.shape[2]):
                row[k] += function[here[k]] * w
        for k in range(bits.shape[2]):
            out[k] += row[k]


@_compiled
def q1_facts(
    bits: Any,
    value: Any,
    exp: Any,
    floored: Any,
    groups: Any,
    logs: Any,
    table: Any,
    near: Any,
    tables: Any,
    at: Any,
    sure: Any,
    mean_log: Any,
    joint: Any,
) -> None:
    """What `history.jpeg_channels` wants to know of each window's steps.

    `bits` (R, C, K) log-posteriors in half precision, as uint16, in `groups` (G + 1,); `logs` (K,) logs of the steps;
    `table` (G,) the background's steps and `near` (G,) how far a step may be from them; `tables` (T, G) indices of
    steps. Writes (G, R, C) each: `at`, the log of what the background's steps get, `sure`, the largest log-posterior,
    and `mean_log`, the mean log of the step; and `joint` (T, R, C), for each table the sum over groups of the floored
    logs.
    """
    p, bounded = np.empty(bits.shape[2], np.float32), np.empty(bits.shape[2], np.float32)
    for r in range(bits.shape[0]):
        for c in range(bits.shape[1]):
            here = bits[r, c]
            for k in range(bits.shape[2]):
                p[k], bounded[k] = exp[here[k]], floored[here[k]]
            for g in range(groups.shape[0] - 1):
                first, end = groups[g], groups[g + 1]
                best, mean, inside = np.float32(-1e9), np.float32(0), np.float32(0)
                for k in range(first, end):
                    best = max(best, value[here[k]])
                    mean += p[k] * logs[k]
                for k in range(max(first, first + table[g] - 1 - near[g]), min(end, first + table[g] + near[g])):
                    inside += p[k]
                at[g, r, c], sure[g, r, c], mean_log[g, r, c] = np.log(inside + np.float32(3e-4)), best, mean
            for t in range(tables.shape[0]):
                total = np.float32(0)
                for g in range(tables.shape[1]):
                    total += bounded[tables[t, g]]
                joint[t, r, c] = total


@_compiled
def q1_steps(bits: Any, value: Any, exp: Any, groups: Any, pull: Any, steps: Any, sure: Any) -> None:
    """Decodes posteriors as `q1map.decode` says: `steps` (R, C, G) int16, `sure` (R, C) the mean of the best p."""
    for r in range(bits.shape[0]):
        for c in range(bits.shape[1]):
            here, likely = bits[r, c], np.float32(0)
            for g in range(groups.shape[0] - 1):
                first, end = groups[g], groups[g + 1]
                mean, square, most = np.float32(0), np.float32(0), np.float32(0)
                for k in range(first, end):
                    p, step = exp[here[k]], np.float32(k - first)
                    mean += p * step
                    square += p * step * step
                    most = max(most, p)
                likely += most
                spread = np.sqrt(max(square - mean * mean, np.float32(0))) + np.float32(0.5)
                best, where = np.float32(-1e9), 0
                for k in range(first, end):
                    away = np.float32(k - first) - mean
                    score = max(value[here[k]], np.float32(-8)) - pull * away * away / spread
                    if score > best:
                        best, where = score, k - first
                steps[r, c, g] = where + 1
            sure[r, c] = likely / np.float32(groups.shape[0] - 1)


@_compiled
def planes(bits: Any, function: Any, out: Any) -> None:
    """Writes the `function` of `bits` (R, C, K), uint16, to `out` (K, R, C)."""
    for r in range(bits.shape[0]):
        for c in range(bits.shape[1]):
            here = bits[r, c]
            for k in range(bits.shape[2]):
                out[k, r, c] = function[here[k]]


SIDE_BY_SIDE = 64
"""Blocks of a row whose coefficients are computed together: what that takes stays in the nearest cache."""


@numba.njit(fastmath=True, nogil=True, boundscheck=False)
def _coefficients(pixels: Any, y: int, x: int, basis: Any, apart: Any, half: Any, out: Any, extreme: Any) -> int:
    """How many blocks follow each other from (y, x) on, up to SIDE_BY_SIDE; `out` (64, .) holds their coefficients.

    `extreme` is 127.5 for those with black or white pixels, and less for others; `apart` and `half` (8, 8, .) are room.
    """
    n: int = min((pixels.shape[1] - x) // 8, out.shape[1])
    for b in range(n):
        extreme[b] = 0
    for m in range(8):
        line = pixels[y + m]
        for j in range(8):
            to = apart[m, j]
            for b in range(n):
                to[b] = np.float32(line[x + 8 * b + j]) - np.float32(128)
            for b in range(n):
                extreme[b] = max(extreme[b], abs(to[b] + np.float32(0.5)))
    for u in range(8):
        b0, b1, b2, b3 = basis[u, 0], basis[u, 1], basis[u, 2], basis[u, 3]
        b4, b5, b6, b7 = basis[u, 4], basis[u, 5], basis[u, 6], basis[u, 7]
        for j in range(8):
            to = half[u, j]
            for b in range(n):
                c = b0 * apart[0, j, b] + b1 * apart[1, j, b] + b2 * apart[2, j, b] + b3 * apart[3, j, b]
                c += b4 * apart[4, j, b] + b5 * apart[5, j, b] + b6 * apart[6, j, b] + b7 * apart[7, j, b]
                to[b] = c
    for v in range(8):
        b0, b1, b2, b3 = basis[v, 0], basis[v, 1], basis[v, 2], basis[v, 3]
        b4, b5, b6, b7 = basis[v, 4], basis[v, 5], basis[v, 6], basis[v, 7]
        for u in range(8):
            to = out[8 * u + v]
            for b in range(n):
                c = b0 * half[u, 0, b] + b1 * half[u, 1, b] + b2 * half[u, 2, b] + b3 * half[u, 3, b]
                c += b4 * half[u, 4, b] + b5 * half[u, 5, b] + b6 * half[u, 6, b] + b7 * half[u, 7, b]
                to[b] = c
    return n


@numba.njit(fastmath=True, nogil=True, boundscheck=False, inline="always")
def _cosine(turns: Any) -> Any:
    """cos(2 pi t), by the series of sin(pi t) around the nearest whole turn; its error is below 1e-6."""
    t = turns - np.floor(turns + np.float32(0.5))
    x = t * t
    s = np.float32(0.08214589) - x * np.float32(0.00737043)
    s = np.float32(2.55016404) - x * (np.float32(0.59926453) - x * s)
    s = t * (np.float32(3.14159265) - x * (np.float32(5.16771278) - x * s))
    return np.float32(1) - np.float32(2) * s * s


@_compiled
def cosine_sums(
    pixels: Any, dy: int, dx: int, every: int, basis: Any, waves: Any, least: Any, total: Any, count: Any
) -> None:
    """Adds up cos(2 pi c / q) of the blocks of an image from (`dy`, `dx`) on, and counts them, for each coefficient.

    Of the rows of blocks every `every`-th is read.

    `pixels` (H, W) uint8; `waves` (64,) 1 / q and `least` (64,) the |c| from which a coefficient counts, at 8 * down +
    along. Blocks with black or white pixels do not count. `total` and `count` are (64,) float64.
    """
    apart, half = np.empty((8, 8, SIDE_BY_SIDE), np.float32), np.empty((8, 8, SIDE_BY_SIDE), np.float32)
    c, extreme = np.empty((64, SIDE_BY_SIDE), np.float32), np.empty(SIDE_BY_SIDE, np.float32)
    for y in range(dy, pixels.shape[0] - 7, 8 * every):
        for x in range(dx, pixels.shape[1] - 7, 8 * SIDE_BY_SIDE):
            n = _coefficients(pixels, y, x, basis, apart, half, c, extreme)
            for k in range(64):
                some, number = np.float32(0), np.float32(0)
                for b in range(n):
                    speaks = np.float32((abs(c[k, b]) > least[k]) & (extreme[b] < np.float32(127.5)))
                    some += speaks * _cosine(c[k, b] * waves[k])
                    number += speaks
                total[k] += some
                count[k] += number


@_compiled
def ratios(pixels: Any, dy: int, dx: int, basis: Any, waves: Any, least: Any, strength: Any, out: Any) -> None:
    """Of each block the sum over coefficients that count of a (a - 2 cos(2 pi c / q)), a being their `strength` (64,).

    The rest is as for `cosine_sums`; `out` is (rows, columns), 0 for blocks that do not count.
    """
    apart, half = np.empty((8, 8, SIDE_BY_SIDE), np.float32), np.empty((8, 8, SIDE_BY_SIDE), np.float32)
    c, extreme = np.empty((64, SIDE_BY_SIDE), np.float32), np.empty(SIDE_BY_SIDE, np.float32)
    out[:] = 0
    loudest = np.float32(0)
    for k in range(64):
        loudest = max(loudest, strength[k])
    if loudest == 0:
        return
    for row in range(out.shape[0]):
        for first in range(0, out.shape[1], SIDE_BY_SIDE):
            to = out[row, first : first + SIDE_BY_SIDE]
            _coefficients(pixels, dy + 8 * row, dx + 8 * first, basis, apart, half, c, extreme)
            for k in range(64):
                a = strength[k]
                if a > 0:
                    for b in range(to.shape[0]):
                        speaks = np.float32(abs(c[k, b]) > least[k])
                        to[b] += speaks * a * (a - np.float32(2) * _cosine(c[k, b] * waves[k]))
            for b in range(to.shape[0]):
                if extreme[b] == np.float32(127.5):
                    to[b] = 0


@numba.njit(fastmath=True, nogil=True, boundscheck=False, inline="always")
def _activity(c: Any, b: int, edges: Any) -> int:
    """How many of the `edges`, ascending, the sum of |c| over all but the first coefficient of block b reaches."""
    total = np.float32(0)
    for k in range(1, 64):
        total += abs(c[k, b])
    kind = 0
    for i in range(edges.shape[0]):
        if total >= edges[i]:
            kind = i + 1
    return kind


@_compiled
def comb_facts(
    pixels: Any,
    dy: int,
    dx: int,
    every: int,
    basis: Any,
    waves: Any,
    least: Any,
    edges: Any,
    skipped: Any,
    total: Any,
    count: Any,
    size: Any,
    seen: Any,
) -> None:
    """Adds up what `cosine_sums` does for each kind of block, and how large its coefficients are.

    The kind is by `edges` (K - 1,), see `_activity`; blocks that are `skipped` (rows, columns) do not count. `total`,
    `count` and `size`, the sums of |c|, are (K, 64) float64, `seen` (K,) counts the blocks. The rest is as for
    `cosine_sums`.
    """
    apart, half = np.empty((8, 8, SIDE_BY_SIDE), np.float32), np.empty((8, 8, SIDE_BY_SIDE), np.float32)
    c, extreme = np.empty((64, SIDE_BY_SIDE), np.float32), np.empty(SIDE_BY_SIDE, np.float32)
    for row in range(0, skipped.shape[0], every):
        for first in range(0, skipped.shape[1], SIDE_BY_SIDE):
            _coefficients(pixels, dy + 8 * row, dx + 8 * first, basis, apart, half, c, extreme)
            for b in range(min(SIDE_BY_SIDE, skipped.shape[1] - first)):
                if skipped[row, first + b] or extreme[b] == np.float32(127.5):
                    continue
                kind = _activity(c, b, edges)
                seen[kind] += 1
                for k in range(64):
                    x = abs(c[k, b])
                    size[kind, k] += x
                    if x > least[k]:
                        total[kind, k] += _cosine(x * waves[k])
                        count[kind, k] += 1


@numba.njit(fastmath=True, nogil=True, boundscheck=False, inline="always")
def _comb(x: Any, s: Any, spread: Any) -> Any:
    """The density at x, in steps, of a Laplace density that was rounded, as a multiple of that without rounding.

    `spread` is its mean |x|, `s` the deviation of noise that was added to the rounded.
    """
    rate = np.float32(1) / spread
    nearest = np.floor(x + np.float32(0.5))
    comb = np.float32(0)
    for d in range(-1, 2):
        n = nearest + np.float32(d)
        off = x - n
        z = off / s
        # What is rounded to n, as a multiple of the density without a comb at x.
        if n > 0:
            mass = np.exp(np.float32(0.5) * rate) - np.exp(np.float32(-0.5) * rate)
        elif n == 0:
            mass = np.float32(2) - np.float32(2) * np.exp(np.float32(-0.5) * rate)
        else:
            mass = np.float32(0)
        comb += mass * np.exp(off * rate - np.float32(0.5) * z * z)
    # Noise widens the density without a comb as well.
    wider = min(np.float32(0.5) * s * s * rate * rate, np.float32(2))
    return comb * spread / (s * np.float32(2.5066283)) * np.exp(-wider)


@_compiled
def comb_ratios(
    pixels: Any,
    dy: int,
    dx: int,
    basis: Any,
    waves: Any,
    least: Any,
    edges: Any,
    skipped: Any,
    noise: Any,
    spread: Any,
    odd: Any,
    out: Any,
) -> None:
    """Writes the log-likelihood ratio of no comb against a comb for each block: `out` (rows, columns).

    `noise` (K, 64) is the deviation around the multiples of a step, 0 where a coefficient is not asked, `spread` (K,
    64) the mean of |c|, for each kind of block, both in steps; `odd` is the share of coefficients that obey no comb in
    any case. The density without a comb is Laplace's; with one the same, rounded, and noise. The rest is as for
    `comb_facts`.
    """
    apart, half = np.empty((8, 8, SIDE_BY_SIDE), np.float32), np.empty((8, 8, SIDE_BY_SIDE), np.float32)
    c, extreme = np.empty((64, SIDE_BY_SIDE), np.float32), np.empty(SIDE_BY_SIDE, np.float32)
    one = np.float32(1)
    for row in range(out.shape[0]):
        for first in range(0, out.shape[1], SIDE_BY_SIDE):
            to = out[row, first : first + SIDE_BY_SIDE]
            _coefficients(pixels, dy + 8 * row, dx + 8 * first, basis, apart, half, c, extreme)
            for b in range(to.shape[0]):
                to[b] = 0
                if skipped[row, first + b] or extreme[b] == np.float32(127.5):
                    continue
                kind = _activity(c, b, edges)
                nats = np.float32(0)
                for k in range(64):
                    s = noise[kind, k]
                    if s == 0 or abs(c[k, b]) <= least[k]:
                        continue
                    nats -= np.log(odd + (one - odd) * _comb(abs(c[k, b]) * waves[k], s, spread[kind, k]))
                to[b] = nats
