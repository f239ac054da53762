"""The QF map and the compression-flag map of decoded pixels, whatever file they came in (Uchida 2019).

For every window: a posterior of the quality factor of the last compression, where its blocks begin, and the
probability that there was one. The flag speaks of traces on an 8 x 8 grid at the present scale: an image that was
compressed and then made smaller counts as not compressed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jscan.records import WindowPosteriors
from jscan.weights import Model
from jscan.windows import run_windows

MODEL = "qf-comb"

SMOOTHING = 0.3
"""Weight of each neighbouring window in `smooth`."""


def estimate(model: Model, luma: npt.NDArray[np.uint8]) -> WindowPosteriors:
    """The QF posteriors of an image, (H, W) uint8; `shift` is seen from (0, 0)."""
    return run_windows(model, luma)


def smooth(found: WindowPosteriors) -> npt.NDArray[np.float32]:
    """(R, C, 100) log-posteriors in which each window has asked its neighbours.

    A window adds its eight neighbours' log-posteriors, weighed by how sure they are of being compressed. A neighbour
    with another history cannot outvote a sure window: its log-posterior is bounded below.
    """
    logp = np.maximum(found.logp.astype(np.float32), -6.0)
    weighed = logp * found.present[..., None]
    padded = np.pad(weighed, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows, cols = found.present.shape
    total = logp.copy()
    for dy in range(3):
        for dx in range(3):
            if (dy, dx) != (1, 1):
                total += SMOOTHING * padded[dy : dy + rows, dx : dx + cols]
    total -= total.max(axis=2, keepdims=True)
    return np.asarray(total - np.log(np.exp(total).sum(axis=2, keepdims=True)))


def decode(logp: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """(...) median quality factor, 1 to 100, of log-posteriors (..., 100)."""
    cumulative = np.cumsum(np.exp(logp.astype(np.float32)), axis=-1)
    return ((cumulative < 0.5).sum(axis=-1) + 1).astype(np.float32)
