"""The compiled loops of the CPU's fast path, each against its definition in plain NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import photo, rng

from jscan import comb, compiler, kernels
from jscan.coefficients import shares_below
from jscan.comb import STEPS_PER_UNIT, Band
from jscan.jpegtables import Q1_OFFSET, ZIGZAG, dct_basis
from jscan.layout import Layout
from jscan.loops import _cosine
from train.comb import Comb, blocks_per_shift, q1_bands, qf_bands

BASIS = np.ascontiguousarray(dct_basis(), np.float32)
BANDS = (
    Band((1,), tuple(range(1, 12)), (2.0,)),  # 12 functions fill a register and a half
    Band((2, 5), (3, 4, 5)),  # 3 of them, of two coefficients: what is added must not spoil what follows
    Band((4, 9, 13), tuple(range(2, 17)), (0.5, 2.0)),  # 17: one in a third register
    Band((63,), (2, 3), (0.5,)),
)
UNTOUCHED = -32768


@pytest.fixture(autouse=True)
def machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """No loop needs Numba to run, which is what scans start without."""
    monkeypatch.setattr(compiler, "by_numba", lambda loop: pytest.fail(f"{loop.__name__} needs Numba to run"))


LIMITS = [(64, 96), (19, 41), (64, 3), (1, 96), (9, 8), (0, 96)]
"""Rows and columns of block positions that lie inside the image, of a tile of 64 x 96."""
SIDES = pytest.mark.parametrize("side", [2, 4])


def tile() -> npt.NDArray[np.float32]:
    """(71, 103) pixels around 0, out of a compressed photograph."""
    file = cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    grey = np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE))
    return grey[43:114, 61:164].astype(np.float32) - np.float32(128)


def coefficients(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(rows, cols, 8, 8) DCT of the block that begins at each pixel."""
    blocks = np.lib.stride_tricks.sliding_window_view(pixels.astype(np.float64), (8, 8))
    basis = dct_basis().astype(np.float64)
    return np.asarray(np.einsum("ua,yxab,vb->yxuv", basis, blocks, basis, optimize=True))


def looked_up(c: npt.NDArray[np.float64], table: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """(rows, cols, n) functions of |c|, and how far off they may be where |c| lies between two rows of the table."""
    place = np.abs(c) * STEPS_PER_UNIT + 0.5
    row = np.floor(place).astype(np.int64)
    other = np.where(place - row < 0.5, np.maximum(row - 1, 0), row + 1)
    edge = np.minimum(place - row, row + 1 - place) < 1e-3
    return table[row].astype(np.float64), np.abs(table[other] - table[row]) * edge[..., None]


def by_cell(values: npt.NDArray[Any], rows: int, cols: int, side: int) -> npt.NDArray[np.float64]:
    """(cells down, 8, cells across, 8, n) sums over the positions (64, 96, n) inside `rows` and `cols`.

    Cells are of `side` x `side` blocks.
    """
    inside = values.copy()
    inside[rows:], inside[:, cols:] = 0, 0
    return inside.reshape(8 // side, side, 8, 12 // side, side, 8, -1).sum((1, 4))


@pytest.mark.parametrize("limits", LIMITS)
def test_scout_sums_equal_their_definition(limits: tuple[int, int]) -> None:
    pixels, dct = tile(), coefficients(tile())
    project = rng(1).normal(0, 1, (sum(b.size for b in BANDS), kernels.SCOUT_SIZE))
    tables, begin, row, at, coefs = [], [], 0, 0, 0
    wanted, slack = np.zeros((64, 96, 8)), np.zeros((64, 96, 8))
    scale = np.float32(0.01)
    for band in BANDS:
        table = np.rint(band.table() @ project[at : at + band.size] / scale).astype(np.int16)
        for i in band.coefs:
            begin.append(row)
            found = looked_up(dct[..., ZIGZAG[i][0], ZIGZAG[i][1]], table.astype(np.float32))
            wanted += found[0]
            slack += found[1]
            coefs += 1
        tables.append(table)
        row, at = row + len(table), at + band.size
    assert coefs % 4  # they are looked up by fours
    out = np.zeros((2, 3, 8, 64), np.float32)
    kernels.scout_sums(
        pixels, *limits, BASIS, *Layout(BANDS).frequencies, np.array(begin), np.concatenate(tables), scale, out
    )  # fmt: skip
    wanted, slack = (by_cell(x * scale, *limits, 4).swapaxes(1, 2).reshape(out.shape) for x in (wanted, slack))
    assert (slack == 0).mean() > 0.4
    assert (np.abs(out - wanted) <= slack + 1e-4).all()
    assert np.abs(out).max() > 1 or limits[0] == 0


def comb_sums(
    pixels: npt.NDArray[np.float32],
    limits: tuple[int, int],
    shifts: npt.NDArray[np.int64],
    bands: tuple[Band, ...],
    side: int,
    wanted: npt.NDArray[np.bool_] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """What the kernel gives, the features without their padding and their scale. All cells are `wanted`.

    Of the shifts the first stands for one, the second for two and so on. The arrays hold UNTOUCHED and NaN before.
    """
    layout = Layout(bands)
    down, across = ((s - 7) // (8 * side) for s in pixels.shape)
    features = np.full((down, across, len(shifts), layout.width), UNTOUCHED, np.int16)
    loud = np.full((down, across, len(layout.coefs)), np.nan, np.float32)
    wanted = np.ones((down, across), bool) if wanted is None else wanted
    kernels.comb_sums(
        pixels, *limits, BASIS, shifts, np.arange(1, len(shifts) + 1, dtype=np.float32), *layout.frequencies,
        *layout.rows, side, wanted, features, loud,
    )  # fmt: skip
    return features[..., : sum(b.size for b in bands)] / comb.SCALE, loud


@SIDES
@pytest.mark.parametrize("limits", LIMITS)
def test_comb_sums_equal_their_definition(limits: tuple[int, int], side: int) -> None:
    pixels, dct = tile(), coefficients(tile())
    shifts = np.array([0, 7, 63, 26, 56])
    features, loud = comb_sums(pixels, limits, shifts, BANDS, side)
    at, k = 0, 0
    for band in BANDS:
        wanted, slack = np.zeros((64, 96, band.size)), np.zeros((64, 96, band.size))
        for i in band.coefs:
            c = dct[..., ZIGZAG[i][0], ZIGZAG[i][1]]
            found = looked_up(c, band.table())
            wanted += found[0]
            slack += found[1]
            level = by_cell(np.abs(c)[..., None], *limits, side)[..., 0]
            weighed = sum((s + 1) * level[:, shift // 8, :, shift % 8] for s, shift in enumerate(shifts))
            assert np.allclose(loud[..., k], weighed, rtol=1e-5, atol=1e-3)
            k += 1
        want, off = by_cell(wanted, *limits, side), by_cell(slack, *limits, side)
        for s, shift in enumerate(shifts):
            here = (slice(None), shift // 8, slice(None), shift % 8)
            got = features[:, :, s, at : at + band.size]
            rounded = side * side * len(band.coefs) * 0.5 / comb.SCALE
            assert (np.abs(got - want[here]) <= off[here] + rounded + 1e-4).all(), (band, shift)
        at += band.size


@SIDES
@pytest.mark.parametrize("limits", LIMITS)
def test_cells_that_nobody_wants_are_left_out(limits: tuple[int, int], side: int) -> None:
    shifts = np.array([0, 63, 26])
    all_of_them = comb_sums(tile(), limits, shifts, BANDS, side)
    for seed in range(4):
        wanted = rng(seed).random((8 // side, 12 // side)) < 0.4
        features, loud = comb_sums(tile(), limits, shifts, BANDS, side, wanted)
        assert np.array_equal(features[wanted], all_of_them[0][wanted])
        assert np.allclose(loud[wanted], all_of_them[1][wanted], rtol=1e-6)
        assert (features[~wanted] == UNTOUCHED / comb.SCALE).all() and np.isnan(loud[~wanted]).all()


# Training compiles a loop for each size of band: of Q1's, which are many, a few of each kind will do.
@pytest.mark.parametrize("bands", [q1_bands()[13:16] + q1_bands()[-2:], qf_bands()], ids=["q1", "qf"])
@SIDES
def test_comb_sums_are_those_of_training(bands: tuple[Band, ...], side: int) -> None:
    """Of a window inside an image, and of one that is all there is."""
    pixels = np.ascontiguousarray(tile()[:, :71])
    for size in (71, 64):
        patch = (pixels[:size, :size] + 128).astype(np.uint8)
        wanted, energy = Comb(bands)(patch[None], np.float32)
        given = np.zeros((71, 71), np.float32)
        given[:size, :size] = pixels[:size, :size]
        features, _ = comb_sums(given, (size - 7, size - 7), np.arange(64), bands, side)
        blocks = blocks_per_shift(size - 7)
        got = features.sum((0, 1)) / blocks[:, None]
        # A value on the edge between two rows of the table may fall on either side, in one block of 49 or 64.
        off = np.abs(got - wanted[0])
        rounded = np.concatenate([np.full(band.size, len(band.coefs) * 0.5 / comb.SCALE) for band in bands])
        assert np.quantile(off - rounded, 0.98) < 1e-4 and off.max() < 0.03
        layout = Layout(bands)
        cells = 8 // side
        loud = np.zeros((cells, cells, len(layout.coefs)), np.float32)
        room = np.empty((cells, cells, 64, layout.width), np.int16)
        kernels.comb_sums(
            given, size - 7, size - 7, BASIS, np.arange(64), np.ones(64, np.float32), *layout.frequencies,
            *layout.rows, side, np.ones((cells, cells), bool), room, loud,
        )  # fmt: skip
        loud, k = loud.sum((0, 1)) / blocks.sum(), 0
        for b, band in enumerate(bands):
            assert np.log1p(loud[k : k + len(band.coefs)].mean()) == pytest.approx(energy[0, b], abs=1e-4)
            k += len(band.coefs)


@pytest.mark.parametrize("bands", [BANDS, q1_bands(), qf_bands()], ids=["some", "q1", "qf"])
def test_rows_of_a_band_lie_inside_the_table(bands: tuple[Band, ...]) -> None:
    begin, padded, place, again, table = Layout(bands).rows
    assert padded.max() <= kernels.MOST_ROWS and (table[-kernels.MOST_ROWS :] == 0).all()
    assert begin[-1] + (comb.ROWS + 1) * padded[-1] == len(table) - kernels.MOST_ROWS
    assert (place + padded * comb.REGISTER).max() <= Layout(bands).width
    k = 0
    for band in bands:
        for i in range(len(band.coefs)):
            own = table[begin[k] : begin[k] + (comb.ROWS + 1) * padded[k]].reshape(comb.ROWS + 1, -1)
            assert again[k] == (i > 0) and np.abs(own[:, : band.size] / comb.SCALE - band.table()).max() < 2.6e-4
            assert (own[:, band.size :] == 0).all()
            k += 1


def test_the_largest_coefficients_have_a_row() -> None:
    """Blocks of black or white pixels, and the patterns that a single coefficient answers to most."""
    extremes = [np.full((8, 8), -128.0), np.full((8, 8), 127.0)]
    signs = np.sign(np.einsum("ua,vb->uvab", dct_basis(), dct_basis()).reshape(64, 8, 8))
    extremes += [np.where(sign > 0, 127.0, -128.0) for sign in signs]
    # A constant function of every coefficient: a row beyond the table, or one of its zeros, would be seen.
    layout = Layout(tuple(Band((i,), (1,)) for i in range(64)))
    begin, padded, place, again, table = layout.rows
    table = np.where(np.arange(len(table)) % (comb.ROWS + 1) < comb.ROWS, 1, 100).astype(np.int16)
    table = np.repeat(table[:, None], comb.REGISTER, axis=1)
    for block in extremes:
        pixels = np.tile(block, (3, 3))[:23, :23].astype(np.float32)
        features, loud = np.empty((1, 1, 1, layout.width), np.int16), np.empty((1, 1, 64), np.float32)
        kernels.comb_sums(
            pixels, 16, 16, BASIS, np.array([0]), np.ones(1, np.float32), *layout.frequencies, begin, padded, place,
            again, table, 2, np.ones((1, 1), bool), features, loud,
        )  # fmt: skip
        assert (features[..., :64] == 4).all() and loud.max() <= 4 * 1024 * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(7, 9), (2, 2), (11, 2)])
def test_window_means(shape: tuple[int, int]) -> None:
    cells = rng(2).normal(0, 1, (*shape, 24)).astype(np.float32)
    rows, cols = (n - 1 for n in shape)
    blocks = rng(3).integers(1, 65, (rows, cols, 3)).astype(np.float32)
    blocks[0, 0] = 64  # mostly all are equal
    out = np.full((rows, cols, 3, 16), np.nan, np.float32)
    kernels.window_means(cells, blocks, out)
    for r in range(rows):
        for c in range(cols):
            wanted = (cells[r : r + 2, c : c + 2].sum((0, 1)) / blocks[r, c].repeat(8)).reshape(3, 8)
            assert np.allclose(out[r, c, :, :8], wanted, atol=1e-5)
            assert np.allclose(out[r, c, :, 8:], wanted.mean(axis=0), atol=1e-5)


def test_some_window_sums() -> None:
    loud = rng(3).normal(0, 1, (8, 6, 2, 7)).astype(np.float32)
    small = rng(4).integers(-32768, 32768, (8, 6, 2, 7)).astype(np.int16)
    rows, cols = np.array([4, 0, 2, 2]), np.array([2, 0, 1, 1])
    for cells, scale in ((loud, np.float32(1)), (small, np.float32(1 / comb.SCALE))):
        out = np.full((4, 2, 5), np.nan, np.float32)
        for side in (2, 4):
            kernels.some_window_sums(cells, side, rows, cols, scale, out)
            for k in range(4):
                y, x = rows[k], cols[k]
                wanted = cells[y : y + side, x : x + side, :, :5].astype(np.float64).sum((0, 1)) * scale
                assert np.allclose(out[k], wanted, rtol=1e-5, atol=1e-5)


def test_sums_of_a_band_fit_into_16_bits() -> None:
    for coefs in range(1, 64):
        assert 16 * coefs * np.rint(comb.SCALE / coefs) <= 32767


# --- posteriors in half precision ---------------------------------------------------------------------------


def log_posteriors(groups: tuple[int, ...], shape: tuple[int, int] = (3, 5)) -> npt.NDArray[np.float16]:
    """Some sharp, some vague; a few as low as they become."""
    logits = rng(4).normal(0, 1, (*shape, groups[-1])) * rng(5).uniform(0.1, 12, (*shape, 1))
    parts = [logits[..., a:b] - np.log(np.exp(logits[..., a:b]).sum(2, keepdims=True)) for a, b in pairwise(groups)]
    return np.maximum(np.concatenate(parts, axis=2), -30).astype(np.float16)


def test_every_half_number_has_its_value() -> None:
    given = np.array([0.0, -0.0, 1.0, -30.0, -4.156, 0.333, 65504.0, 6e-8], np.float16)
    bits = given.view(np.uint16)
    assert np.array_equal(kernels.VALUE[bits], given.astype(np.float32))
    assert np.allclose(kernels.EXP[bits[:6]], np.exp(given[:6].astype(np.float64)), rtol=1e-6)
    assert len(kernels.VALUE) == 65536 and np.array_equal(kernels.of_half(lambda x: 2 * x)[bits[:6]], 2.0 * given[:6])


@pytest.mark.parametrize("shape", [(5, 7), (6, 4), (1, 2), (1, 1)])
def test_means_between_equal_their_definition(shape: tuple[int, int]) -> None:
    """Of sharp and of vague posteriors, of numbers at the ends of half precision, and of nothing."""
    first = tuple((n + 1) // 2 for n in shape)
    p = np.exp(log_posteriors((0, 30, 77), first).astype(np.float32))
    p[..., 0], p[..., 1], p[..., 2], p[..., 3] = 1, 0, 0.99999, 2e-9
    out = np.full((9, 8, 77), 0.25, np.float16)
    lines = [np.arange(shape[0]) // 2, np.minimum((np.arange(shape[0]) + 1) // 2, first[0] - 1)]
    lines += [np.arange(shape[1]) // 2, np.minimum((np.arange(shape[1]) + 1) // 2, first[1] - 1)]
    kernels.means_between(p, *lines, np.float32(np.exp(-30)), 2, 1, out.view(np.uint16))
    for i, (a, b) in enumerate(zip(*lines[:2], strict=True)):
        for j, (c, d) in enumerate(zip(*lines[2:], strict=True)):
            if i % 2 or j % 2:
                mean = np.mean([p[y, x].astype(np.float64) for y in (a, b) for x in (c, d)], axis=0)
                wanted, got = np.log(np.maximum(mean, np.exp(-30))), out[2 + i, 1 + j].astype(np.float64)
                # To the nearest of half precision; what is smaller than its smallest normal number becomes 0.
                assert (np.abs(got - wanted) <= np.abs(wanted) * 2**-11 + 2e-6 + (wanted > -6.2e-5) * 6.2e-5).all()
                assert (got <= 0).all()
            else:
                assert (out[2 + i, 1 + j] == 0.25).all()
    assert (out[:2] == 0.25).all() and (out[2 + shape[0] :] == 0.25).all() and (out[:, 1 + shape[1] :] == 0.25).all()


def test_weighted_sums_and_planes() -> None:
    logp = log_posteriors((0, 100), (4, 6))
    weight = rng(6).random((4, 6)).astype(np.float32)
    total = np.full(100, 2.0)
    kernels.weighted_sums(logp.view(np.uint16), kernels.EXP, weight, total)
    wanted = (np.exp(logp.astype(np.float64)) * weight[..., None]).sum((0, 1))
    assert np.allclose(total, 2 + wanted, rtol=1e-5, atol=1e-6)
    out = np.full((100, 4, 6), np.nan, np.float32)
    kernels.planes(logp.view(np.uint16), kernels.VALUE, out)
    assert np.array_equal(out, logp.transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize("size", [(5, 7), (16, 33), (40, 16)])
def test_cell_sums_equal_their_definition(size: tuple[int, int]) -> None:
    """At the edges, too, where a cell is cut off; black and white pixels are those next to the ends as well."""
    pixels = rng(8).integers(0, 256, size).astype(np.uint8)
    pixels[0, :6] = 0, 1, 2, 253, 254, 255
    down, across = (-(-n // 16) for n in size)
    out = np.full((down, across, 3), np.nan)
    kernels.cell_sums(pixels, 16, out)
    for r, c in np.ndindex(down, across):
        cell = pixels[16 * r :, 16 * c :][:16, :16].astype(np.int64)
        assert out[r, c].tolist() == [cell.sum(), (cell**2).sum(), ((cell < 2) | (cell > 253)).sum()]


@pytest.mark.parametrize("base", ["fine", "middle", "coarse"])
def test_q1_facts_equal_their_definition(base: str) -> None:
    """At both ends of the steps, too, where those near the background's are cut off."""
    logp, (rows, cols) = log_posteriors(Q1_OFFSET), (3, 5)
    most = np.diff(Q1_OFFSET)
    table = {"fine": np.ones(15, np.int64), "middle": (most + 1) // 2, "coarse": most}[base]
    near = np.maximum(table // 12, 1)
    tables = np.stack([rng(7).integers(0, most) for _ in range(6)]) + np.array(Q1_OFFSET[:-1])
    logs = np.concatenate([np.log(np.arange(1, m + 1)) for m in most]).astype(np.float32)
    floored = kernels.of_half(lambda x: np.log(np.exp(x) + np.float32(0.01)))
    at, sure, mean_log = (np.full((15, rows, cols), np.nan, np.float32) for _ in range(3))
    joint = np.full((6, rows, cols), np.nan, np.float32)
    kernels.q1_facts(
        logp.view(np.uint16), kernels.VALUE, kernels.EXP, floored, np.array(Q1_OFFSET), logs, table, near, tables,
        at, sure, mean_log, joint,
    )  # fmt: skip
    exact = logp.astype(np.float64)
    for g, (a, b) in enumerate(pairwise(Q1_OFFSET)):
        p, steps = np.exp(exact[..., a:b]), np.arange(1, b - a + 1)
        inside = p[..., np.abs(steps - table[g]) <= near[g]].sum(axis=2)
        assert np.allclose(at[g], np.log(inside + 3e-4), atol=1e-4), g
        assert np.allclose(sure[g], exact[..., a:b].max(axis=2), atol=1e-6), g
        assert np.allclose(mean_log[g], p @ np.log(steps), atol=1e-4), g
    assert np.allclose(joint, np.log(np.exp(exact) + 0.01)[..., tables].sum(axis=3).transpose(2, 0, 1), atol=1e-3)


def test_q1_steps_equal_their_definition() -> None:
    logp, pull = log_posteriors(Q1_OFFSET, (9, 11)), 0.1
    steps, sure = np.full((9, 11, 15), -1, np.int16), np.full((9, 11), np.nan, np.float32)
    kernels.q1_steps(
        logp.view(np.uint16), kernels.VALUE, kernels.EXP, np.array(Q1_OFFSET), np.float32(pull), steps, sure
    )
    exact, likely = logp.astype(np.float64), np.zeros((9, 11))
    for g, (a, b) in enumerate(pairwise(Q1_OFFSET)):
        part, k = exact[..., a:b], np.arange(b - a)
        p = np.exp(part)
        mean = (p @ k)[..., None]
        deviation = np.sqrt(np.maximum((p @ (k * k))[..., None] - mean * mean, 0))
        worth = np.maximum(part, -8) - pull * (k - mean) ** 2 / (deviation + 0.5)
        got = np.take_along_axis(worth, steps[..., g, None].astype(np.int64) - 1, axis=2)[..., 0]
        # Of two steps that are worth the same in float32 either may be taken.
        assert (got >= worth.max(axis=2) - 1e-3).all(), g
        assert (steps[..., g] == worth.argmax(axis=2) + 1).mean() > 0.97
        likely += p.max(axis=2) / 15
    assert np.allclose(sure, likely, atol=1e-5)


# --- the trace of single blocks -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 21])
def test_step_likelihoods_equal_their_definition(n: int) -> None:
    """Sizes half way between two multiples, which lie at the even one, among them."""
    deviation, odd, fine, most = 0.4, 0.03, 512, 19
    sizes = np.abs(rng(4).laplace(0, [[1.0], [9.0]], (2, n))).astype(np.float32)
    sizes[1, : n // 3] = 0.5 * np.arange(n // 3)
    other = np.abs(rng(5).laplace(0, [[2.0], [7.0]], (2, 40))).astype(np.float32)
    below, least = shares_below(other, 30), np.array([1e-9, 1e-5])
    z = np.arange(4 * fine + 1) / fine / deviation
    bell = (np.exp(-z * z / 2) / (deviation * np.sqrt(2 * np.pi))).astype(np.float32)
    got = np.empty((2, most))
    kernels.step_likelihoods(sizes, below, least, bell, fine, np.float32(odd), got)
    q = np.arange(1, most + 1)
    x, row = sizes.astype(np.float64)[..., None], np.arange(2)[:, None, None]

    def smaller(size: Any) -> Any:
        return below[row, np.clip(2 * size, 0, 60).astype(np.int64)]

    half = np.minimum(np.floor(2 * x) / 2, 29.5)
    density = odd * np.maximum(smaller(half + 0.5) - smaller(half), least[row])
    multiple = np.rint(x / q)
    for at in (multiple, np.where(x >= q * multiple, multiple + 1, multiple - 1)):
        cell = np.maximum((smaller((at + 0.5) * q) - smaller((at - 0.5) * q)) / 2, q * least[row])
        cell = np.where(at > 0, cell, smaller(q / 2))
        z = (x - q * at) / deviation
        density = density + (1 - odd) * cell * np.exp(-z * z / 2) / (deviation * np.sqrt(2 * np.pi))
    # Off by half of what the noise is told in, times how steeply its logarithm may fall.
    assert np.abs(got - np.log(density).sum(axis=1)).max() < n * (0.5 / fine) * 3 / deviation


def test_the_cosine_is_exact_to_a_millionth() -> None:
    turns = np.concatenate([np.linspace(-3, 3, 60_001), np.arange(-40, 41) / 4, [0.4999999, 0.5000001, 511.5]])
    turns = turns.astype(np.float32)
    got = np.array([_cosine(t) for t in turns])
    assert np.abs(got - np.cos(2 * np.pi * turns.astype(np.float64))).max() < 1e-6


def traced(clipped: bool) -> tuple[Any, Any, Any, Any]:
    """Pixels (61, 86) of which some are black or white, steps (8, 8), |c| that count, and strengths."""
    luma = (tile() + 128).astype(np.uint8)
    luma = np.ascontiguousarray(np.pad(luma, ((0, 6), (0, 15)), mode="reflect"))
    luma = np.clip(luma, 1, 254)
    if clipped:
        luma[20, 33], luma[41, 70] = 0, 255
    steps = rng(8).integers(1, 12, (8, 8)).astype(np.float32)
    # No share of a step on which a coefficient can lie exactly: there, either answer would do.
    least = np.where(steps > 1, 0.7131 * steps, 1e6).astype(np.float32)
    strength = rng(9).uniform(0, 0.95, (8, 8)).astype(np.float32)
    return luma, steps, least, strength


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("first", [(0, 0), (3, 6), (7, 7)])
def test_cosine_sums_and_ratios_equal_their_definition(first: tuple[int, int], clipped: bool) -> None:
    luma, steps, least, strength = traced(clipped)
    rows, cols = ((s - f) // 8 for s, f in zip(luma.shape, first, strict=True))
    dct = coefficients(luma.astype(np.float32) - 128)[first[0] :: 8, first[1] :: 8]
    assert dct.shape[:2] == (rows, cols)
    whole = luma[first[0] : first[0] + 8 * rows, first[1] : first[1] + 8 * cols].reshape(rows, 8, cols, 8)
    counts = ~((whole == 0) | (whole == 255)).any(axis=(1, 3))
    assert (~counts).sum() == (2 if clipped else 0)
    cosine = np.cos(2 * np.pi * dct / steps)
    speaks = (np.abs(dct) > least) & counts[..., None, None]
    assert (np.abs(np.abs(dct) - least) > 2e-5).all()
    total, count = np.zeros(64), np.zeros(64)
    waves = (1 / steps).ravel()
    kernels.cosine_sums(luma, *first, 1, BASIS, waves, least.ravel(), total, count)
    assert np.array_equal(count, speaks.sum((0, 1)).ravel()) and count.max() > 5
    assert np.allclose(total, (speaks * cosine).sum((0, 1)).ravel(), atol=2e-3)
    out = np.full((rows, cols), np.nan, np.float32)
    kernels.ratios(luma, *first, BASIS, waves, least.ravel(), strength.ravel(), out)
    assert np.allclose(out, (speaks * strength * (strength - 2 * cosine)).sum((2, 3)), atol=5e-3)
    assert (out[~counts] == 0).all() and np.ptp(out) > 1
