"""The QF map and the compression-flag map of decoded pixels, whatever file they came in (Uchida 2019).

For every window: a posterior of the quality factor of the last compression, where its blocks begin, and the
probability that there was one. The flag speaks of traces on an 8 x 8 grid at the present scale: an image that was
compressed and then made smaller counts as not compressed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from jscan.records import WindowPosteriors
from jscan.windows import LooksAgain, Windows

MODEL = "qf-comb"
READER, SCOUT = "qf-reader", "qf-scout"

SMOOTHING = 0.3
"""Weight of each neighbouring window in `smooth`."""
NEAR = 5
"""Quality factors this far from the decoded one speak for it."""
_STRIP = 64  # rows of windows smoothed at a time, so that no second stack of posteriors is held


def estimate(look: Windows, luma: npt.NDArray[np.uint8]) -> WindowPosteriors:
    """The QF posteriors of an image, (H, W) uint8; `shift` is seen from (0, 0)."""
    return look(luma, (0, 0))


def again(look: LooksAgain, found: WindowPosteriors, luma: npt.NDArray[np.uint8]) -> WindowPosteriors:
    """What `estimate` found, with all windows looked at once more, at all shifts."""
    return look.again(found, np.ones(found.present.shape, bool), luma)


def smooth(found: WindowPosteriors) -> npt.NDArray[np.float32]:
    """(R, C, 100) log-posteriors in which each window has asked its neighbours.

    A window adds its eight neighbours' log-posteriors, weighed by how sure they are of being compressed. A neighbour
    with another history cannot outvote a sure window: its log-posterior is bounded below.
    """
    logp = np.maximum(found.logp.astype(np.float32), -6.0)
    weighed = logp * found.present[..., None]
    padded = np.pad(weighed, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows, cols = found.present.shape
    total: npt.NDArray[np.float32] = logp.copy()
    for dy in range(3):
        for dx in range(3):
            if (dy, dx) != (1, 1):
                total += SMOOTHING * padded[dy : dy + rows, dx : dx + cols]
    total -= total.max(axis=2, keepdims=True)
    total -= np.log(np.exp(total).sum(axis=2, keepdims=True))
    return total


def decode(logp: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """(...) median quality factor, 1 to 100, of log-posteriors (..., 100)."""
    cumulative = np.cumsum(np.exp(logp.astype(np.float32)), axis=-1)
    median: npt.NDArray[np.float32] = ((cumulative < 0.5).sum(axis=-1) + 1).astype(np.float32)
    return median


def quality(found: WindowPosteriors) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(R, C) quality factors after smoothing, and the probability, 0 to 1, that they are off by NEAR at most."""
    rows, cols = found.present.shape
    decoded, sure = np.empty((rows, cols), np.float32), np.empty((rows, cols), np.float32)
    for top in range(0, rows, _STRIP):
        end = min(top + _STRIP, rows)
        # With one row of neighbours on either side, so that the strips' borders leave no trace.
        above, below = max(top - 1, 0), min(end + 1, rows)
        part = replace(found, logp=found.logp[above:below], present=found.present[above:below])
        logp = smooth(part)[top - above : end - above]
        decoded[top:end] = decode(logp)
        near = np.abs(np.arange(1, 101, dtype=np.float32) - decoded[top:end, :, None]) <= NEAR
        sure[top:end] = (np.exp(logp) * near).sum(axis=2)
    return decoded, sure
