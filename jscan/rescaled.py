"""Signs of JPEG blocks that were resized after their compression: a period of block edges that is not 8 pixels.

Edges of blocks leave peaks in third differences, which are large nowhere else in a regular rhythm. In windows of
128 pixels the mean of these differences along one direction is taken as a profile, its spectrum divided by its own
running median, and the first three harmonics of each period are added up. A period found here is a candidate only: the
caller brings the image back to a period of 8 and lets the QF network judge.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

WINDOW = 128
STEP = 64
PERIODS = np.exp(np.arange(np.log(4.8), np.log(12.8), 0.004))
"""Pixels; from images reduced to 0.6 to images enlarged to 1.6."""
LEAST = 9.3
"""Summed log-spectrum of the three best windows from which a period is a candidate; photographs reach 6 to 9."""
ORDINARY = 0.02
"""Periods this near to 8, relatively, are those of blocks that were not resized."""
AT_MOST = 2
"""Candidates; the second is mostly 3/2 or 2/3 of the first, of which either may be the right one."""

_FREQUENCIES = np.arange(1, 2 * WINDOW) / (4 * WINDOW)
_MEDIAN = 41


def _running_median(spectrum: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n, F) median over 41 neighbouring frequencies."""
    half = _MEDIAN // 2
    padded = np.pad(spectrum, ((0, 0), (half, half)), mode="symmetric")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN, axis=1), axis=2))


def _edges(strip: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Third differences along the rows, relative to their neighbourhood, bounded: (h, w) -> (h, w) float32."""
    x = strip.astype(np.float32)
    d = np.zeros_like(x)
    d[:, 1:-2] = np.abs(x[:, :-3] - 3 * x[:, 1:-2] + 3 * x[:, 2:-1] - x[:, 3:])
    return np.asarray(np.minimum(d / (cv2.blur(d, (9, 9)) + 1), 4), np.float32)


def _rhythm(strip: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(n, F) whitened log-spectra of the profiles of the windows along a strip of 128 rows."""
    profile = _edges(strip).mean(axis=0)
    starts = range(0, len(profile) - WINDOW + 1, STEP)
    windows = np.stack([profile[s : s + WINDOW] for s in starts])
    windows = (windows - windows.mean(axis=1, keepdims=True)) * np.hanning(WINDOW)
    basis = np.exp(-2j * np.pi * np.arange(WINDOW)[:, None] * _FREQUENCIES)
    power = (np.abs(windows @ basis) ** 2).astype(np.float32)
    return np.asarray(np.log1p(power / (_running_median(power) + 1e-9)), np.float32)


def candidates(luma: npt.NDArray[np.uint8]) -> list[float]:
    """Periods of block edges in pixels, the strongest first; empty where nothing stands out.

    `luma` is (H, W) uint8; an image smaller than 128 pixels in a direction gives none.
    """
    height, width = luma.shape
    if min(height, width) < WINDOW:
        return []
    across = [_rhythm(luma[y : y + WINDOW]) for y in range(0, height - WINDOW + 1, STEP)]
    down = [_rhythm(np.ascontiguousarray(luma[:, x : x + WINDOW].T)) for x in range(0, width - WINDOW + 1, STEP)]
    both = np.stack(across) + np.stack(down).transpose(1, 0, 2)
    spectra = both.reshape(-1, len(_FREQUENCIES))
    total = np.zeros((len(spectra), len(PERIODS)))
    for harmonic in (1, 2, 3):
        place = harmonic / PERIODS
        inside = place <= _FREQUENCIES[-1]
        at = np.interp(place[inside], _FREQUENCIES, np.arange(len(_FREQUENCIES)))
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, len(_FREQUENCIES) - 1)
        total[:, inside] += spectra[:, low] * (1 - (at - low)) + spectra[:, high] * (at - low)
    best = np.sort(total, axis=0)[-3:].mean(axis=0)
    found: list[float] = []
    for k in np.argsort(-best):
        period = float(PERIODS[k])
        if best[k] < LEAST or len(found) == AT_MOST:
            break
        ordinary = abs(period / 8 - 1) < ORDINARY
        if not ordinary and all(abs(period / other - 1) > 0.05 for other in found):
            found.append(period)
    return found
