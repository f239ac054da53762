"""From what was found for the windows of an image to the maps of its cells."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan import history, q1map, qfmap, tiling
from jscan.firsttable import FirstSteps
from jscan.history import Background
from jscan.jpegtables import N_COEFS, Q1_MAX, nearest_qf
from jscan.records import Maps, WindowPosteriors

AROUND = 4
"""Cells from those of a part up to which a window is near to it."""


class Cells:
    """Spreads what was found for windows over the cells of the image."""

    def __init__(self, found: WindowPosteriors) -> None:
        rows = tiling.nearest_window(found.size[0], found.present.shape[0], found.origin[0])
        cols = tiling.nearest_window(found.size[1], found.present.shape[1], found.origin[1])
        self._index = np.ix_(rows, cols)

    def __call__(self, windows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return windows[self._index]


def windows_in(part: npt.NDArray[np.bool_], found: WindowPosteriors) -> npt.NDArray[np.bool_]:
    """(R, C) windows that lie in or near the cells of a part."""
    side = 2 * AROUND + 1
    doubt = cv2.dilate(part.astype(np.uint8), np.ones((side, side), np.uint8))
    index = [tiling.centre_cells(*axis) for axis in zip(found.size, found.present.shape, found.origin, strict=True)]
    return np.asarray(doubt[np.ix_(*index)] > 0)


def of_jpeg(
    found: WindowPosteriors,
    suspected: npt.NDArray[np.float32],
    mute: npt.NDArray[np.bool_],
    q2: tuple[int, ...],
    base: Background,
    known: FirstSteps,
) -> Maps:
    """The maps of a JPEG, or of pixels in which there was one, with last table `q2`.

    Windows that show the background's grid, in cells that are not suspected, have its steps where these are `known`.
    """
    cells = Cells(found)
    decoded, sure = q1map.decode_surely(found.logp)
    own = (found.present > 0.5) & (found.shift.argmax(axis=2) == base.shift) & ~windows_in(suspected > 0.5, found)
    told = known.steps[:N_COEFS] > 0
    decoded = np.where(own[..., None] & told, np.minimum(known.steps[:N_COEFS], Q1_MAX), decoded)
    covered = np.where(mute, 0, _q1_coverage(found, sure))
    steps = decoded.astype(np.float32)
    steps[mute] = np.nan
    shift, placed = _shifts(found, mute)
    return Maps(
        suspicion=np.where(cells(mute), np.nan, suspected).astype(np.float32),
        qf=np.full(suspected.shape, nearest_qf(np.maximum(q2, 1)), np.float32),
        flag=np.ones(suspected.shape, np.float32),
        q1=np.ascontiguousarray(cells(steps).transpose(2, 0, 1)),
        double=cells(np.where(mute, np.nan, found.present).astype(np.float32)),
        coverage=cells(covered.astype(np.float32)),
        shift=np.ascontiguousarray(cells(shift).transpose(2, 0, 1)),
        shift_confidence=cells(placed),
    )


def of_pixels(found: WindowPosteriors, suspected: npt.NDArray[np.float32], mute: npt.NDArray[np.bool_]) -> Maps:
    """The maps of decoded pixels."""
    cells = Cells(found)
    quality, sure = qfmap.quality(found)
    covered = history.sureness(found) * np.where(found.present > 0.5, sure, 1)
    shift, placed = _shifts(found, mute)
    return Maps(
        suspicion=np.where(cells(mute), np.nan, suspected).astype(np.float32),
        qf=cells(np.where(mute | (found.present < 0.5), np.nan, quality).astype(np.float32)),
        flag=cells(np.where(mute, np.nan, found.present).astype(np.float32)),
        q1=np.full((N_COEFS, *suspected.shape), np.nan, np.float32),
        double=np.full(suspected.shape, np.nan, np.float32),
        coverage=cells(np.where(mute, 0, covered).astype(np.float32)),
        shift=np.ascontiguousarray(cells(shift).transpose(2, 0, 1)),
        shift_confidence=cells(placed),
    )


def _shifts(
    found: WindowPosteriors, mute: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(R, C, 2) likeliest (dy, dx) of each window seen from the image's corner, and (R, C) how probable it is.

    The probability is that of the compression times that of the shift, which the posterior gives for the case that
    there was one. NaN where the window holds no information.
    """
    best = found.shift.argmax(axis=2)
    p = np.exp(np.take_along_axis(found.shift, best[..., None], axis=2)[..., 0].astype(np.float32))
    shift = np.stack([(at + first) % 8 for at, first in zip(np.divmod(best, 8), found.origin, strict=True)], axis=2)
    # In half precision the log of a sum of one may lie a little above zero.
    sure = np.where(mute, np.nan, found.present * np.minimum(p, 1))
    return np.where(mute[..., None], np.nan, shift).astype(np.float32), sure.astype(np.float32)


def _q1_coverage(found: WindowPosteriors, sure: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(R, C) how sure the Q1 network is of its answer: of the steps where there was a first compression, or of none.

    `sure` (R, C) is the mean probability of the steps.
    """
    none = np.maximum(0, 1 - 2 * found.present)
    covered: npt.NDArray[np.float32] = found.present * sure + (1 - found.present) * none
    return covered


def extended(maps: Maps, height: int, width: int) -> Maps:
    """Maps of a truncated image of `height` x `width` with NaN (no coverage) where nothing was decoded."""
    rows, cols = tiling.cells(height), tiling.cells(width)

    def grown(x: npt.NDArray[np.float32], fill: float) -> npt.NDArray[np.float32]:
        out = np.full((*x.shape[:-2], rows, cols), fill, np.float32)
        out[..., : x.shape[-2], :] = x
        return out

    nan = float("nan")
    return Maps(
        suspicion=grown(maps.suspicion, nan),
        qf=grown(maps.qf, nan),
        flag=grown(maps.flag, nan),
        q1=grown(maps.q1, nan),
        double=grown(maps.double, nan),
        coverage=grown(maps.coverage, 0.0),
        shift=grown(maps.shift, nan),
        shift_confidence=grown(maps.shift_confidence, nan),
    )
