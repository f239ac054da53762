"""From posteriors of the last quality factor to the map of it."""

from __future__ import annotations

import numpy as np
import pytest
from material import frozen, mixed, posteriors, rng

from jscan import qfmap
from jscan.records import WindowPosteriors


def noisy(rows: int = 11, cols: int = 7) -> WindowPosteriors:
    """Posteriors that differ from window to window."""
    logits = rng(3).normal(0, 3, (rows, cols, 100))
    logp = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    present = rng(4).random((rows, cols)).astype(np.float32)
    shift = np.full((rows, cols, 64), -4.16, np.float16)
    return frozen(WindowPosteriors(logp.astype(np.float16), shift, present, (0, 0), (rows * 16 + 48, cols * 16 + 48)))


def test_smoothing_equals_its_definition() -> None:
    found = noisy()
    rows, cols = found.present.shape
    smoothed = qfmap.smooth(found)
    assert smoothed.shape == found.logp.shape and smoothed.dtype == np.float32
    assert np.allclose(np.exp(smoothed).sum(axis=2), 1, atol=1e-4)
    bounded = np.maximum(found.logp.astype(float), -6)
    for r in range(rows):
        for c in range(cols):
            total = bounded[r, c].copy()
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy, dx) != (0, 0):
                        y, x = min(max(r + dy, 0), rows - 1), min(max(c + dx, 0), cols - 1)
                        total += qfmap.SMOOTHING * found.present[y, x] * bounded[y, x]
            total -= np.log(np.exp(total - total.max()).sum()) + total.max()
            assert np.allclose(smoothed[r, c], total, atol=1e-3)


def test_neighbours_cannot_outvote_a_sure_window() -> None:
    base, other = posteriors((80,), 0, p=0.999), posteriors((50,), 0, p=0.999)
    found = mixed(base, other, slice(4, 5), slice(4, 5))
    decoded = qfmap.decode(qfmap.smooth(found))
    assert decoded[4, 5] == 80
    # Eight neighbours that are as sure do outvote one window; they do not where they are not sure of being compressed.
    unsure = frozen(WindowPosteriors(found.logp, found.shift, found.present * 0, found.origin, found.size))
    assert qfmap.decode(qfmap.smooth(unsure))[4, 4] == 50


def test_decoding_gives_the_median() -> None:
    logp = noisy().logp
    decoded = qfmap.decode(logp)
    assert decoded.dtype == np.float32 and decoded.shape == logp.shape[:2]
    p = np.exp(logp.astype(float))
    for index in np.ndindex(decoded.shape):
        q = int(decoded[index])
        assert 1 <= q <= 100
        assert p[index][:q].sum() >= 0.5 - 1e-3 and p[index][: q - 1].sum() <= 0.5 + 1e-3


@pytest.mark.parametrize("qf", [1, 5, 50, 99, 100])
def test_sharp_posteriors_give_their_quality(qf: int) -> None:
    found = posteriors((qf,), 9, p=0.97)
    decoded, sure = qfmap.quality(found)
    assert (decoded == qf).all() and (sure > 0.9).all() and (sure <= 1 + 1e-5).all()


@pytest.mark.parametrize("strip", [1, 2, 3, 100])
def test_strips_leave_no_trace(monkeypatch: pytest.MonkeyPatch, strip: int) -> None:
    found = noisy()
    smoothed = qfmap.smooth(found)
    monkeypatch.setattr(qfmap, "_STRIP", strip)
    decoded, sure = qfmap.quality(found)
    assert np.array_equal(decoded, qfmap.decode(smoothed))
    near = np.abs(np.arange(1, 101) - decoded[..., None]) <= qfmap.NEAR
    assert np.allclose(sure, (np.exp(smoothed) * near).sum(axis=2), atol=1e-5)
