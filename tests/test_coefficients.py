"""Coefficients of the blocks of some windows, against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from material import rng

from jscan.coefficients import UNSEEN, of_blocks, shares_below
from jscan.jpegtables import ZIGZAG, dct_basis
from jscan.tiling import STRIDE


@pytest.mark.parametrize("origin", [(0, 0), (3, 6)])
@pytest.mark.parametrize("first", [(0, 0), (4, 4), (7, 1)])
def test_coefficients_are_those_of_the_blocks_in_the_windows_that_are_shown(
    first: tuple[int, int], origin: tuple[int, int]
) -> None:
    luma = rng(1).integers(1, 255, (117, 141)).astype(np.uint8)
    luma[40, 50], luma[90, 100] = 0, 255
    shown = rng(2).random(tuple((n - o - 64) // STRIDE + 1 for n, o in zip(luma.shape, origin, strict=True))) < 0.4
    basis, wanted = dct_basis(), []
    for y in range(first[0], luma.shape[0] - 7, 8):
        for x in range(first[1], luma.shape[1] - 7, 8):
            # How far the centre of each window is from that of the block, along each side.
            far = [
                np.abs(o + STRIDE * np.arange(n) + 32 - (at + 4))
                for at, o, n in zip((y, x), origin, shown.shape, strict=True)
            ]
            block = luma[y : y + 8, x : x + 8]
            nearest = tuple(np.flatnonzero(f == f.min())[-1] for f in far)
            if shown[nearest] and block.min() > 0 and block.max() < 255:
                wanted.append(basis @ (block.astype(float) - 128) @ basis.T)
    assert len(wanted) > 20
    got = of_blocks(luma, first, origin, shown, 1000)
    assert got.shape == (64, len(wanted)) and got.dtype == np.float32
    assert np.allclose(got, np.array(wanted)[:, *np.transpose(ZIGZAG)].T, atol=1e-3)
    some = np.zeros(tuple((n - f) // 8 for n, f in zip(luma.shape, first, strict=True)), bool)
    some[3:9, 5:12] = True
    left, others = (of_blocks(luma, first, origin, shown, 1000, without) for without in (some, ~some))
    both = np.concatenate([left, others], axis=1)
    assert left.shape[1] > 10 < others.shape[1]
    assert np.allclose(sorted(both.T.tolist()), sorted(got.T.tolist()))


def test_of_many_blocks_evenly_spread_ones_are_taken() -> None:
    luma = np.repeat(np.arange(10, 250, dtype=np.uint8)[:, None], 160, axis=1)
    shown = np.ones((12, 7), bool)
    every, some = (of_blocks(luma, (0, 0), (0, 0), shown, most) for most in (10_000, 60))
    assert every.shape == (64, 600) and some.shape == (64, 60)
    assert some[0, 0] == every[0, 0] and some[0, -1] == every[0, -1] and np.ptp(np.diff(some[0])) <= 8 * 8 + 1e-3
    assert of_blocks(luma, (0, 0), (0, 0), ~shown, 60).shape == (64, 0)


def test_shares_below_are_those_of_the_sizes_that_were_seen_and_of_a_few_larger_ones() -> None:
    values = np.array([[0.2, -0.7, 1.5, -30], [0, 0, 0, 0]], np.float32)
    got = shares_below(values, 40)
    assert got.shape == (2, 81) and (np.diff(got, axis=1) >= 0).all() and (got[:, 0] == 0).all()
    for half, seen in ((1, 1), (2, 2), (3, 2), (4, 3), (60, 3), (61, 4), (80, 4)):
        rest = 1 - np.exp(-half / 2 / 8.1)  # of the mean size
        assert got[0, half] == pytest.approx((1 - UNSEEN) * seen / 4 + UNSEEN * rest)
    assert got[1, 1] > 0.99, "zeros alone are small ones"
