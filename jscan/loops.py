"""The loops of `jscan.kernels`, as they are compiled. Only the compiler imports this: it takes Numba half a second."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from jscan import comb
from jscan.compiler import part
from jscan.kernels import AT_A_TIME, BLOCKS_AT_A_TIME, LANES, MOST_ROWS, SCOUT_SIZE, SIDE_BY_SIDE, TOGETHER

_N = tuple(np.uint64(k) for k in range(SCOUT_SIZE + 1))
_LINE, _LANES, _ROW, _HALF = (np.uint64(n) for n in (AT_A_TIME, LANES, BLOCKS_AT_A_TIME, 4 * BLOCKS_AT_A_TIME))
_WIDE = np.uint64(AT_A_TIME + LANES)
_L = tuple(np.uint64(8 * BLOCKS_AT_A_TIME * m) for m in range(8))
"""Indices that Numba knows not to be negative: for others it would look whether they count from the end."""


def _rows(size: int, runs: int, each: int, *, more: bool) -> Any:
    """What compiled loops call to add up rows of a flat table, each `size` numbers, in as few instructions.

    `(table, off, where, first, apart, out, at)`: `out[at : at + size]` becomes the sum of the rows that begin `off`
    behind what `where` says from `first` on, in so many `runs` of so many `each`, which begin `apart` places from each
    other; or, with `more`, has it added to it. LLVM finds such sums in a loop over the numbers now and then; here they
    are said.
    """

    @intrinsic
    def add(typing_context: Any, table: Any, off: Any, where: Any, first: Any, apart: Any, out: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = context.get_value_type(signature.args[0].dtype)
            row = ir.VectorType(kind, size).as_pointer()
            align = context.get_abi_sizeof(kind)
            flat, places, to = (
                context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 2, 5)
            )
            flat, places = builder.gep(flat, [args[1]]), builder.gep(places, [args[3]])
            to = builder.bitcast(builder.gep(to, [args[6]]), row)
            total = builder.load(to, align=align) if more else ir.Constant(row.pointee, None)
            for _ in range(runs):
                for n in range(each):
                    place = builder.load(builder.gep(places, [ir.Constant(ir.IntType(64), n)]))
                    place = builder.gep(flat, [builder.zext(place, ir.IntType(64))])
                    total = builder.add(total, builder.load(builder.bitcast(place, row), align=align))
                places = builder.gep(places, [args[4]])
            builder.store(total, to, align=align)
            return context.get_dummy_value()

        return types.void(table, off, where, first, apart, out, at), generate

    return add


def _blocks_apart(blocks: int) -> Any:
    """What compiled loops call to write the pixels of a row of so many blocks pixel by pixel, in as few instructions.

    `(pixels, at, out, to, apart)`: number 8 i + j behind `pixels[at]` is written to number `to` + j * `apart` + i of
    the memory of `out`.
    """

    @intrinsic
    def write(typing_context: Any, pixels: Any, at: Any, out: Any, to: Any, apart: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = context.get_value_type(signature.args[0].dtype)
            align = context.get_abi_sizeof(kind)
            line, memory = (context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 2))
            row = ir.VectorType(kind, 8 * blocks).as_pointer()
            line = builder.load(builder.bitcast(builder.gep(line, [args[1]]), row), align=align)
            place, each = builder.gep(memory, [args[3]]), ir.VectorType(kind, blocks).as_pointer()
            for j in range(8):
                which = ir.Constant(ir.VectorType(ir.IntType(32), blocks), [8 * i + j for i in range(blocks)])
                values = builder.shuffle_vector(line, ir.Constant(line.type, ir.Undefined), which)
                builder.store(values, builder.bitcast(place, each), align=align)
                place = builder.gep(place, [args[4]])
            return context.get_dummy_value()

        return types.void(pixels, at, out, to, apart), generate

    return write


def _as_bits_of(kind: Any, other: Any) -> Any:
    """What compiled loops call for the number of the other type that has the bits of one of this type."""

    @intrinsic
    def reinterpreted(typing_context: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(other))

        return other(kind), generate

    return reinterpreted


_bits_of, _float_of = _as_bits_of(types.float32, types.int32), _as_bits_of(types.int32, types.float32)
_put_eight, _add_eight = (_rows(SCOUT_SIZE, TOGETHER, 1, more=more) for more in (False, True))
_put_four_blocks, _add_four_blocks = (_rows(comb.REGISTER, 2, 2, more=more) for more in (False, True))
_put_all_blocks, _add_all_blocks = (_rows(comb.REGISTER, 4, 4, more=more) for more in (False, True))
"""Of a cell of 2 x 2 blocks, and of one of 4 x 4."""

_two_apart, _four_apart = _blocks_apart(2), _blocks_apart(4)


@part(inline=True)
def _transform(basis: Any, p0: Any, p1: Any, p2: Any, p3: Any, p4: Any, p5: Any, p6: Any, p7: Any) -> tuple[Any, ...]:
    """The eight coefficients of eight pixels: rows of the `basis` are symmetric, or minus their mirror image."""
    s0, s1, s2, s3 = p0 + p7, p1 + p6, p2 + p5, p3 + p4
    d0, d1, d2, d3 = p0 - p7, p1 - p6, p2 - p5, p3 - p4
    outer, inner, x, y = s0 + s3, s1 + s2, s0 - s3, s1 - s2
    return (
        basis[0, 0] * (outer + inner),
        basis[1, 0] * d0 + basis[1, 1] * d1 + basis[1, 2] * d2 + basis[1, 3] * d3,
        basis[2, 0] * x + basis[2, 1] * y,
        basis[3, 0] * d0 + basis[3, 1] * d1 + basis[3, 2] * d2 + basis[3, 3] * d3,
        basis[0, 0] * (outer - inner),
        basis[5, 0] * d0 + basis[5, 1] * d1 + basis[5, 2] * d2 + basis[5, 3] * d3,
        basis[6, 0] * x + basis[6, 1] * y,
        basis[7, 0] * d0 + basis[7, 1] * d1 + basis[7, 2] * d2 + basis[7, 3] * d3,
    )


@part(inline=True)
def _rows_down(pixels: Any, y: int, left: int, width: int, basis: Any, columns: Any) -> None:
    """The transform of `width` columns of eight pixels that begin in row `y`, to `columns` (8, _WIDE), flat."""
    p0, p1, p2, p3 = pixels[y, left:], pixels[y + 1, left:], pixels[y + 2, left:], pixels[y + 3, left:]
    p4, p5, p6, p7 = pixels[y + 4, left:], pixels[y + 5, left:], pixels[y + 6, left:], pixels[y + 7, left:]
    for at in range(width):
        x = np.uint64(at)
        c0, c1, c2, c3, c4, c5, c6, c7 = _transform(basis, p0[x], p1[x], p2[x], p3[x], p4[x], p5[x], p6[x], p7[x])
        columns[x], columns[x + _N[1] * _WIDE] = c0, c1
        columns[x + _N[2] * _WIDE], columns[x + _N[3] * _WIDE] = c2, c3
        columns[x + _N[4] * _WIDE], columns[x + _N[5] * _WIDE] = c4, c5
        columns[x + _N[6] * _WIDE], columns[x + _N[7] * _WIDE] = c6, c7


@part(inline=True)
def _mirrored(columns: Any, first: Any, width: int, halves: Any) -> None:
    """Numbers i and 7 - i of every eight neighbours from `first` on, added up and subtracted: `halves` (2, 4, _LINE).

    A frequency that is even needs the sums alone, another one the differences: see `_down`.
    """
    for at in range(width):
        x = np.uint64(at)
        i = first + x
        a0, a1, a2, a3 = columns[i], columns[i + _N[1]], columns[i + _N[2]], columns[i + _N[3]]
        a4, a5, a6, a7 = columns[i + _N[4]], columns[i + _N[5]], columns[i + _N[6]], columns[i + _N[7]]
        halves[x] = a0 + a7
        halves[x + _LINE] = a1 + a6
        halves[x + _N[2] * _LINE] = a2 + a5
        halves[x + _N[3] * _LINE] = a3 + a4
        halves[x + _N[4] * _LINE] = a0 - a7
        halves[x + _N[5] * _LINE] = a1 - a6
        halves[x + _N[6] * _LINE] = a2 - a5
        halves[x + _N[7] * _LINE] = a3 - a4


def scout_sums(
    pixels: Any,
    rows: int,
    cols: int,
    basis: Any,
    down: Any,
    along: Any,
    begin: Any,
    table: Any,
    scale: Any,
    out: Any,
    flat: Any,
    columns: Any,
    halves: Any,
    where: Any,
    sums: Any,
) -> None:
    """Adds up the scout's functions of every block of a tile, by cell of 32 x 32 pixels and grid shift.

    `pixels` (H + 7, W + 7) float32 around 0; only blocks that begin in the first `rows` rows and `cols` columns count.
    Of coefficient k, with frequencies `down`[k] and `along`[k], the functions at |c| = r / 8 are row `begin`[k] + r of
    `table` (n, 8), int16, in units of `scale`; its last row is zero. `out` (H / 32, W / 32, 8, 64) float32 zeros: cell
    down, cell across, shift down, shift across and function. `flat` is the table in one axis; the rest is room.
    """
    n = down.shape[0]
    # TOGETHER are looked up at a time; where the coefficients do not come out even, zeros are.
    where[AT_A_TIME * n :] = SCOUT_SIZE * (table.shape[0] - 1)
    tallest = 0
    for k in range(n):
        tallest = max(tallest, down[k] + 1)
    for left in range(0, cols, AT_A_TIME):
        width = min(AT_A_TIME, cols - left)
        for y in range(rows):
            _rows_down(pixels, y, left, width + 7, basis, columns)
            for u in range(tallest):
                _mirrored(columns, _WIDE * np.uint64(u), width, halves)
                for k in range(n):
                    if down[k] == u:
                        v, begins, to = along[k], np.int32(SCOUT_SIZE * begin[k]), np.uint64(AT_A_TIME * k)
                        b0, b1, b2, b3 = basis[v, 0], basis[v, 1], basis[v, 2], basis[v, 3]
                        of = np.uint64(4 * AT_A_TIME * (v % 2))
                        for at in range(width):
                            x = of + np.uint64(at)
                            c = b0 * halves[x] + b1 * halves[x + _LINE]
                            c += b2 * halves[x + _N[2] * _LINE] + b3 * halves[x + _N[3] * _LINE]
                            row = np.int32(abs(c) * np.float32(8) + np.float32(0.5))
                            where[to + np.uint64(at)] = np.int32(SCOUT_SIZE) * row + begins
            for k in range(0, n, TOGETHER):
                for at in range(width):
                    first, place = np.uint64(AT_A_TIME * k) + np.uint64(at), _N[SCOUT_SIZE] * np.uint64(at)
                    if k == 0:  # the first ones are written, the others added
                        _put_eight(flat, _N[0], where, first, _LINE, sums, place)
                    else:
                        _add_eight(flat, _N[0], where, first, _LINE, sums, place)
            for block in range((width + 7) // 8):
                cell = out[y // 32, (left + 8 * block) // 32, y % 8]
                some = sums[64 * block : min(64 * block + 64, SCOUT_SIZE * width)]
                for k in range(some.shape[0]):
                    cell[k] += np.float32(some[k]) * scale


@part(inline=True)
def _apart(
    pixels: Any, cells: Any, across: int, side: int, dy: int, dx: int, limits: Any, apart: Any, outside: Any
) -> int:
    """Copies a row of blocks of each of some cells, `dy` and `dx` pixels behind its corner, to `apart` (8, 8, b).

    Blocks lie side by side there, pixel by pixel: every loop over a row of blocks is a loop over neighbours in memory.
    A cell is its row * `across` + its column. Blocks that do not begin within the `limits` are 0; which these are, is
    written to `outside`, and their number returned.
    """
    number = 0
    for i in range(cells.shape[0]):
        y, x = 8 * side * (cells[i] // across) + dy, 8 * side * (cells[i] % across) + dx
        if y < limits[0] and x + 8 * (side - 1) < limits[1]:
            for m in range(8):
                to = np.uint64(8 * BLOCKS_AT_A_TIME * m + side * i)
                if side == 4:
                    _four_apart(pixels[y + m], np.uint64(x), apart, to, _ROW)
                else:
                    _two_apart(pixels[y + m], np.uint64(x), apart, to, _ROW)
            continue
        for b in range(side):
            inside = y < limits[0] and x + 8 * b < limits[1]
            if not inside:
                outside[number] = side * i + b
                number += 1
            for m in range(8):
                for j in range(8):
                    value = pixels[y + m, x + 8 * b + j] if inside else np.float32(0)
                    apart[BLOCKS_AT_A_TIME * (8 * m + j) + side * i + b] = value
    return number


@part(inline=True)
def _down(apart: Any, basis: Any, many: int, columns: Any) -> None:
    """The transform of columns of `apart` (8, 8, b), that of j and 7 - j added up, and subtracted.

    To `columns` (8, 2, 4, b): frequency down, sum or difference, j; both are flat. A frequency across that is even
    needs the sums alone, another one the differences: the basis is symmetric there, or minus its mirror image.
    """
    for j in range(4):
        for first in range(np.uint64(0), np.uint64(many), _LANES):
            for odd in range(2):
                sign, of, mirror = np.float32(1 - 2 * odd), first + _ROW * np.uint64(j), first + _ROW * np.uint64(7 - j)
                to = of + np.uint64(odd) * _HALF
                for b in range(LANES):
                    x, y, z = of + np.uint64(b), mirror + np.uint64(b), to + np.uint64(b)
                    q0, q1 = apart[x] + sign * apart[y], apart[x + _L[1]] + sign * apart[y + _L[1]]
                    q2, q3 = apart[x + _L[2]] + sign * apart[y + _L[2]], apart[x + _L[3]] + sign * apart[y + _L[3]]
                    q4, q5 = apart[x + _L[4]] + sign * apart[y + _L[4]], apart[x + _L[5]] + sign * apart[y + _L[5]]
                    q6, q7 = apart[x + _L[6]] + sign * apart[y + _L[6]], apart[x + _L[7]] + sign * apart[y + _L[7]]
                    c0, c1, c2, c3, c4, c5, c6, c7 = _transform(basis, q0, q1, q2, q3, q4, q5, q6, q7)
                    columns[z], columns[z + _L[1]], columns[z + _L[2]], columns[z + _L[3]] = c0, c1, c2, c3
                    columns[z + _L[4]], columns[z + _L[5]], columns[z + _L[6]], columns[z + _L[7]] = c4, c5, c6, c7


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
    side: int,
    wanted: Any,
    features: Any,
    loud: Any,
    flat: Any,
    apart: Any,
    columns: Any,
    where: Any,
    volume: Any,
    some: Any,
    outside: Any,
    out: Any,
    into: Any,
) -> None:
    """Adds up the comb functions of the blocks of a tile at some grid shifts, for the cells that are `wanted`.

    `pixels`, `rows` and `cols` as for `scout_sums`; `shifts` (S,) dy * 8 + dx. Cells are `side` x `side` blocks, of
    which `side` is 2 or 4; `wanted` (cells down, cells across). Of coefficient k, the functions at |c| = r / 8 fill the
    `padded`[k] rows from `begin`[k] + r * `padded`[k] on of `table` (n, 16), int16, up to zeros at the end; the last
    MOST_ROWS rows of the table are zero. They are written to `features` (cells down, cells across, S, F + padding),
    int16, from `place`[k] on, or, where `again`[k], added to what is there; what a row's zeros write over is written
    anew by the next. `loud` (cells down, cells across, coefficients), float32: sums of |c| over shifts, each times what
    it `stands_for` (S,). Nothing is written for the other cells. `flat` and `out` are table and features in one axis;
    the rest is room.
    """
    n, cells_down, cells_across = down.shape[0], features.shape[0], features.shape[1]
    together, wide = BLOCKS_AT_A_TIME // side, comb.REGISTER
    of_line = n * BLOCKS_AT_A_TIME
    nothing = np.uint32(wide * (table.shape[0] - MOST_ROWS))
    apart[:] = 0
    found = 0
    for cell in range(cells_down * cells_across):
        if wanted[cell // cells_across, cell % cells_across]:
            some[found] = cell
            found += 1
    for start in range(0, found, together):
        here = some[start : min(start + together, found)]
        chosen = here.shape[0]
        many = (side * chosen + LANES - 1) // LANES * LANES
        volume[:] = 0
        for s in range(shifts.shape[0]):
            for line in range(side):
                dy, dx = 8 * line + shifts[s] // 8, shifts[s] % 8
                nowhere = _apart(pixels, here, cells_across, side, dy, dx, (rows, cols), apart, outside)
                _down(apart, basis, many, columns)
                for k in range(n):
                    v, size, begins = along[k], np.int32(wide * padded[k]), np.int32(wide * begin[k])
                    b0, b1, b2, b3 = basis[v, 0], basis[v, 1], basis[v, 2], basis[v, 3]
                    rows_of, level = where[of_line * line + BLOCKS_AT_A_TIME * k :], volume[k]
                    of = np.uint64(8 * BLOCKS_AT_A_TIME * down[k] + 4 * BLOCKS_AT_A_TIME * (v % 2))
                    for first in range(np.uint64(0), np.uint64(many), _LANES):
                        for b in range(LANES):
                            x = first + np.uint64(b)
                            z = of + x
                            c = b0 * columns[z] + b1 * columns[z + _ROW]
                            c += b2 * columns[z + _N[2] * _ROW] + b3 * columns[z + _N[3] * _ROW]
                            c = abs(c)
                            level[x] += stands_for[s] * c
                            rows_of[x] = begins + size * np.int32(c * np.float32(8) + np.float32(0.5))
                    for b in outside[:nowhere]:
                        rows_of[b] = nothing
            for i in range(chosen):
                into[i] = np.uint64((here[i] * shifts.shape[0] + s) * features.shape[3])
            for k in range(n):
                for i in range(chosen):
                    a = np.uint64(BLOCKS_AT_A_TIME * k + side * i)
                    for register in range(padded[k]):
                        off = np.uint64(wide * register)
                        at = into[i] + np.uint64(place[k]) + off
                        if side == 4:
                            if again[k]:
                                _add_all_blocks(flat, off, where, a, np.uint64(of_line), out, at)
                            else:
                                _put_all_blocks(flat, off, where, a, np.uint64(of_line), out, at)
                        elif again[k]:
                            _add_four_blocks(flat, off, where, a, np.uint64(of_line), out, at)
                        else:
                            _put_four_blocks(flat, off, where, a, np.uint64(of_line), out, at)
        for i in range(chosen):
            to_loud = loud[here[i] // cells_across, here[i] % cells_across]
            for k in range(n):
                total = np.float32(0)
                for j in range(side):
                    total += volume[k, side * i + j]
                to_loud[k] = total


def window_means(cells: Any, blocks: Any, out: Any, mean: Any) -> None:
    """Sums over 2 x 2 cells (down, across, shifts * 8), divided by `blocks` (rows, columns, shifts): `out`.

    `out` is (rows, columns, shifts, 16): the means of a shift, and the means of these over all shifts. Nearly all
    windows have as many blocks at all shifts. `mean` is room.
    """
    size, shifts = cells.shape[2], blocks.shape[2]
    for r in range(out.shape[0]):
        for x in range(out.shape[1]):
            a, b, c, d = cells[r, x], cells[r, x + 1], cells[r + 1, x], cells[r + 1, x + 1]
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


def some_window_sums(cells: Any, side: int, rows: Any, cols: Any, scale: Any, out: Any) -> None:
    """Sums over `side` x `side` cells (down, across, S, n) from cell (`rows`[k], `cols`[k]) on, times `scale`.

    `side` is even. `out` (windows, S, m) float32; of the n numbers the first m are wanted.
    """
    for w in range(rows.shape[0]):
        for s in range(out.shape[1]):
            to = out[w, s]
            to[:] = 0
            for down in range(0, side, 2):
                for across in range(0, side, 2):
                    y, x = rows[w] + down, cols[w] + across
                    a, b, c, d = cells[y, x, s], cells[y, x + 1, s], cells[y + 1, x, s], cells[y + 1, x + 1, s]
                    for k in range(to.shape[0]):
                        four = (np.float32(a[k]) + np.float32(b[k])) + (np.float32(c[k]) + np.float32(d[k]))
                        to[k] += four
            for k in range(to.shape[0]):
                to[k] *= scale


def means_between(
    p: Any,
    above: Any,
    below: Any,
    left: Any,
    right: Any,
    least: Any,
    row: int,
    col: int,
    out: Any,
    mean: Any,
    part: Any,
    power: Any,
) -> None:
    """Writes the logs, in half precision, of probabilities interpolated between those of windows that were looked at.

    `p` (r, c, K) float32; of window (i, j), unless both are even, the mean of the four at rows `above`[i] and
    `below`[i] and columns `left`[j] and `right`[j] is taken, or `least` where that is more. `out` is (rows, columns, K)
    uint16, the bits of half precision, of a whole image, in which the first window lies at (`row`, `col`). The log is
    that of (m - 1) / (m + 1), as a series, plus that of a power of two; it is exact to 1e-6. `mean`, `part`
    and `power` are room.
    """
    size = p.shape[2]
    for i in range(above.shape[0]):
        for j in range(left.shape[0]):
            if i % 2 == 0 and j % 2 == 0:
                continue
            a, b = p[above[i], left[j]], p[above[i], right[j]]
            c, d = p[below[i], left[j]], p[below[i], right[j]]
            for k in range(size):
                mean[k] = max(((a[k] + b[k]) + (c[k] + d[k])) * np.float32(0.25), least)
            for k in range(size):
                # The exponent for which the rest lies between the roots of 1/2 and 2.
                bits = _bits_of(mean[k])
                e = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
                power[k] = np.float32(e) * np.float32(0.6931472)
                part[k] = _float_of(bits - (e << np.int32(23)))
            for k in range(size):
                m = part[k]
                t = (m - np.float32(1)) / (m + np.float32(1))
                u = t * t
                series = np.float32(0.4) + u * (np.float32(0.2857143) + u * np.float32(0.2222222))
                mean[k] = min(power[k] + t * (np.float32(2) + u * (np.float32(0.6666667) + u * series)), np.float32(0))
            to = out[row + i, col + j]
            for k in range(size):
                # To the nearest, ties to even; what is too small for half precision is taken for 0.
                size_only = _bits_of(mean[k]) & np.int32(0x7FFFFFFF)
                nearest = size_only + np.int32(0xFFF) + ((size_only >> np.int32(13)) & np.int32(1))
                half = (nearest >> np.int32(13)) - np.int32(112 << 10)
                to[k] = np.uint16(half | np.int32(0x8000)) if size_only > np.int32(0x38800000) else np.uint16(0)


def weighted_sums(bits: Any, function: Any, weight: Any, out: Any, row: Any) -> None:
    """Adds to `out` (K,) float64 the `function` of `bits` (R, C, K), uint16, times weights (R, C). `row` is room."""
    for r in range(bits.shape[0]):
        row[:] = 0
        for c in range(bits.shape[1]):
            here, w = bits[r, c], weight[r, c]
            for k in range(bits.shape[2]):
                row[k] += function[here[k]] * w
        for k in range(bits.shape[2]):
            out[k] += row[k]


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
    p: Any,
    bounded: Any,
) -> None:
    """What `history.jpeg_channels` wants to know of each window's steps.

    `bits` (R, C, K) log-posteriors in half precision, as uint16, in `groups` (G + 1,); `logs` (K,) logs of the steps;
    `table` (G,) the background's steps and `near` (G,) how far a step may be from them; `tables` (T, G) indices of
    steps. Writes (G, R, C) each: `at`, the log of what the background's steps get, `sure`, the largest log-posterior,
    and `mean_log`, the mean log of the step; and `joint` (T, R, C), for each table the sum over groups of the floored
    logs. `p` and `bounded` are room.
    """
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


def planes(bits: Any, function: Any, out: Any) -> None:
    """Writes the `function` of `bits` (R, C, K), uint16, to `out` (K, R, C)."""
    for r in range(bits.shape[0]):
        for c in range(bits.shape[1]):
            here = bits[r, c]
            for k in range(bits.shape[2]):
                out[k, r, c] = function[here[k]]


def cell_sums(pixels: Any, side: int, out: Any, total: Any, square: Any, clipped: Any) -> None:
    """Sums over cells of `side` x `side` pixels (H, W) uint8, those at the lower and right edge as far as they reach.

    `out` (cells down, cells across, 3) float64: of the pixels, of their squares, and how many are black or white.
    The rest is room.
    """
    width = pixels.shape[1]
    for r in range(out.shape[0]):
        total[:], square[:], clipped[:] = 0, 0, 0
        for y in range(side * r, min(side * r + side, pixels.shape[0])):
            line = pixels[y]
            for x in range(width):
                v = np.int32(line[x])
                total[x] += v
                square[x] += v * v
                clipped[x] += np.int32((v < 2) | (v > 253))
        for c in range(out.shape[1]):
            a = b = n = 0
            for x in range(side * c, min(side * c + side, width)):
                a += total[x]
                b += square[x]
                n += clipped[x]
            out[r, c, 0], out[r, c, 1], out[r, c, 2] = a, b, n


@part(inline=False)
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


@part(inline=True)
def _cosine(turns: Any) -> Any:
    """cos(2 pi t), by the series of sin(pi t) around the nearest whole turn; its error is below 1e-6."""
    t = turns - np.floor(turns + np.float32(0.5))
    x = t * t
    s = np.float32(0.08214589) - x * np.float32(0.00737043)
    s = np.float32(2.55016404) - x * (np.float32(0.59926453) - x * s)
    s = t * (np.float32(3.14159265) - x * (np.float32(5.16771278) - x * s))
    return np.float32(1) - np.float32(2) * s * s


def cosine_sums(
    pixels: Any,
    dy: int,
    dx: int,
    every: int,
    basis: Any,
    waves: Any,
    least: Any,
    total: Any,
    count: Any,
    apart: Any,
    half: Any,
    c: Any,
    extreme: Any,
) -> None:
    """Adds up cos(2 pi c / q) of the blocks of an image from (`dy`, `dx`) on, and counts them, for each coefficient.

    Of the rows of blocks every `every`-th is read.

    `pixels` (H, W) uint8; `waves` (64,) 1 / q and `least` (64,) the |c| from which a coefficient counts, at 8 * down +
    along. Blocks with black or white pixels do not count. `total` and `count` are (64,) float64.
    """
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


def step_cosines(values: Any, share: Any, total: Any, count: Any) -> None:
    """Adds up cos(2 pi c / q) of coefficients for every step q, and counts those that speak: |c| above `share` q.

    `values` (K, n) float32; `total` and `count` are (K, Q) float64, of the steps 0 to Q - 1; 0 and 1 are left out.
    """
    for k in range(values.shape[0]):
        here = values[k]
        for q in range(2, total.shape[1]):
            wave, least = np.float32(1) / np.float32(q), share * np.float32(q)
            some, number = np.float32(0), np.float32(0)
            for b in range(here.shape[0]):
                speaks = np.float32(abs(here[b]) > least)
                some += speaks * _cosine(here[b] * wave)
                number += speaks
            total[k, q], count[k, q] = total[k, q] + some, count[k, q] + number


def step_likelihoods(
    values: Any,
    below: Any,
    least: Any,
    bell: Any,
    fine: Any,
    odd: Any,
    out: Any,
    mass: Any,
    p: Any,
    loose: Any,
    zero: Any,
) -> None:
    """Writes the log-likelihood of every step q of coefficients that lie around its multiples.

    `values` (K, n) float32 are the sizes of coefficients. Of such without a step a share `below`[k, h] has a size below
    h / 2; either sign is as likely, and each value at least as dense as `least`[k]. A step moves what lies nearest to a
    multiple to it; around it lies noise, whose density at m / `fine` is `bell`[m], and 0 behind it. A share `odd` of
    the coefficients obeys no step. `below` (K, H), `least` (K,) and `out` (K, Q), of the steps 1
    to Q, are float64. `mass`, `p`, `loose` and `zero` are room.
    """
    last, n = np.int32(bell.shape[0] - 1), values.shape[1]
    one, half, parts = np.float32(1), np.float32(0.5), np.float32(fine)
    p[:] = 1
    for k in range(values.shape[0]):
        here, share = values[k], below[k]
        end = share.shape[0] - 1
        most = np.float32(0)
        for b in range(n):
            most = max(most, here[b])
            at = min(np.int32(2 * here[b]), end - 1)
            loose[b] = odd * max(share[at + 1] - share[at], least[k])
            zero[b] = bell[min(np.int32(here[b] * parts + half), last)]
        for q in range(1, out.shape[1] + 1):
            step, wave = np.float32(q), one / np.float32(q)
            mass[0] = (one - odd) * share[min(q, end)]
            for m in range(1, int(most * wave) + 3):
                own = 0.5 * (share[min((2 * m + 1) * q, end)] - share[min((2 * m - 1) * q, end)])
                mass[m] = (one - odd) * max(own, least[k] * q)
            if q * fine >= 2 * last and most < half * step:  # all of them are zeros
                for b in range(n):
                    p[b] = mass[0] * zero[b] + loose[b]
            elif q * fine >= 2 * last:
                for b in range(n):
                    x = here[b] * wave
                    multiple = np.rint(x)
                    at = min(np.int32(abs(x - multiple) * step * parts + half), last)
                    p[b] = mass[np.int32(multiple)] * bell[at] + loose[b]
            else:  # the noise reaches from one multiple to the next
                for b in range(n):
                    x = here[b] * wave
                    multiple = np.rint(x)
                    off = abs(x - multiple) * step
                    other = np.int32(multiple + one if x >= multiple else multiple - one)
                    at, beyond = np.int32(off * parts + half), np.int32((step - off) * parts + half)
                    near = mass[np.int32(multiple)] * bell[min(at, last)] + mass[other] * bell[min(beyond, last)]
                    p[b] = near + loose[b]
            total = 0.0
            for b in range(0, n, 8):  # one logarithm of eight
                left = np.float64(p[b]) * p[b + 1] * p[b + 2] * p[b + 3]
                right = np.float64(p[b + 4]) * p[b + 5] * p[b + 6] * p[b + 7]
                total += math.log(left * right)
            out[k, q - 1] = total


def lattice_likelihoods(
    places: Any, below: Any, last: Any, noises: Any, odd: Any, out: Any, smooth: Any, comb: Any
) -> None:
    """Writes the log-likelihood of every first step q of coefficients that a last step put on its own multiples.

    Of coefficient k `places`[k, n] lie at n times its `last` step, either side of 0 taken together, and of those
    before any compression `below`[k, h] have a size below h / 2. The first compression moves what is nearest to a
    multiple of q to it, rounding to pixels adds normal noise of one of the deviations `noises`, and the last one moves
    the sum to the nearest multiple of its step. One of the shares `odd` has no first step; what explains best those
    that are not zero counts.
    `places` (K, N), `below` (K, H), and `out` (K, Q), of the steps 0 to Q - 1, of which 0 is left out, are float64.
    `smooth` and `comb` are room.
    """
    n_places, most = places.shape[1], below.shape[1] - 1
    for k in range(places.shape[0]):
        q2, number = last[k], places[k, 1:].sum()
        for n in range(n_places):
            lower = below[k, min((2 * n - 1) * q2, most)] if n > 0 else 0.0
            smooth[n] = below[k, min((2 * n + 1) * q2, most)] - lower
        for q in range(1, out.shape[1]):
            best = -1e300
            for s in range(noises.shape[0]):
                comb[:] = 0
                scale = 1 / (noises[s] * math.sqrt(2.0))
                for m in range((n_places * q2) // q + 2):
                    lower = below[k, min((2 * m - 1) * q, most)] if m > 0 else 0.0
                    mass = below[k, min((2 * m + 1) * q, most)] - lower
                    near = (m * q + q2 // 2) // q2
                    for n in range(max(near - 1, 0), min(near + 2, n_places)):
                        upper = math.erf(((n + 0.5) * q2 - m * q) * scale)
                        comb[n] += mass * (upper - math.erf(((n - 0.5) * q2 - m * q) * scale)) / 2
                for i in range(odd.shape[0]):
                    total, logs = 0.0, 0.0
                    for n in range(1, n_places):
                        p = odd[i] * smooth[n] + (1 - odd[i]) * comb[n] + 1e-7
                        total += p
                        logs += places[k, n] * math.log(p)
                    best = max(best, logs - number * math.log(total))
            out[k, q] = best


def ratios(
    pixels: Any,
    dy: int,
    dx: int,
    basis: Any,
    waves: Any,
    least: Any,
    strength: Any,
    out: Any,
    apart: Any,
    half: Any,
    c: Any,
    extreme: Any,
) -> None:
    """Of each block the sum over coefficients that count of a (a - 2 cos(2 pi c / q)), a being their `strength` (64,).

    The rest is as for `cosine_sums`; `out` is (rows, columns), 0 for blocks that do not count.
    """
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


@part(inline=True)
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
    apart: Any,
    half: Any,
    c: Any,
    extreme: Any,
) -> None:
    """Adds up what `cosine_sums` does for each kind of block, and how large its coefficients are.

    The kind is by `edges` (K - 1,), see `_activity`; blocks that are `skipped` (rows, columns) do not count. `total`,
    `count` and `size`, the sums of |c|, are (K, 64) float64, `seen` (K,) counts the blocks. The rest is as for
    `cosine_sums`.
    """
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


@part(inline=True)
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
    apart: Any,
    half: Any,
    c: Any,
    extreme: Any,
) -> None:
    """Writes the log-likelihood ratio of no comb against a comb for each block: `out` (rows, columns).

    `noise` (K, 64) is the deviation around the multiples of a step, 0 where a coefficient is not asked, `spread` (K,
    64) the mean of |c|, for each kind of block, both in steps; `odd` is the share of coefficients that obey no comb in
    any case. The density without a comb is Laplace's; with one the same, rounded, and noise. The rest is as for
    `comb_facts`.
    """
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
