"""What blocks could tell of small squares, were everything known about their image."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the extra `train` is not installed")
data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")

from jscan import clipping, likelihood, trace  # noqa: E402
from train import bounds_squares, measure_sizes  # noqa: E402

IMAGE = np.ascontiguousarray(data.astronaut()[..., ::-1])


def test_what_its_maker_knows_shows_the_background_everywhere_but_in_the_square() -> None:
    made = measure_sizes.make(IMAGE, measure_sizes.CONTRASTS[0], 95, 32, random.Random(5))
    luma, seen, noise = bounds_squares.known(made)
    assert luma.shape == made.pixels.shape[:2] and seen.first == (-made.shift[0] % 8, -made.shift[1] % 8)
    assert (noise.deviation > 0).any(axis=0).sum() > 20 and noise.deviation.max() <= 0.4
    skip = clipping.blocks(None, luma.shape, seen.first)
    missing = trace.around_cells(likelihood.against(luma, seen, noise, skip), (luma.shape[0], luma.shape[1]))
    assert np.isfinite(missing).all() and np.median(missing) < -5
    row, col = np.unravel_index(int(missing.argmax()), missing.shape)
    y, x = made.place
    assert y <= 8 * row + 4 < y + 32 and x <= 8 * col + 4 < x + 32


def test_an_image_with_a_square_and_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds_squares, "load", lambda _: IMAGE)
    monkeypatch.setattr(measure_sizes, "load", lambda _: IMAGE)
    pasted, none = measure_sizes.CONTRASTS[0], measure_sizes.CONTRASTS[-1]
    with_square = [bounds_squares.look((tmp_path, pasted, 95, 32, str(seed))) for seed in range(4)]
    assert sum(found.with_all for found in with_square) >= 2
    without = bounds_squares.look((tmp_path, none, 95, 0, "5"))
    assert not without.with_all and not without.in_a_scan
