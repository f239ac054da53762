"""Signs of JPEG blocks that were resized after their compression: a period of block edges that is not 8 pixels.

Edges of blocks leave peaks in third differences, which are large nowhere else in a regular rhythm. In windows of
128 pixels the mean of these differences along one direction is taken as a profile, its spectrum divided by its own
running median, and the first three harmonics of each period are added up. A period found here is a candidate only:
the image is brought back to a period of 8 (`jscan/rescaled.py`), and the QF network judges.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from jscan.tiling import BLOCK

WINDOW = 128
"""Pixels along a side of the windows in which a rhythm is looked for; windows of twice that help to measure it."""
STEP = 64
PERIODS = np.exp(np.arange(np.log(4.8), np.log(12.8), 0.004))
"""Pixels; from images reduced to 0.6 to images enlarged to 1.6."""
FINE = np.exp(np.arange(-0.025, 0.0251, 0.001))
"""Factors tried around a candidate."""
LEAST = 9.3
"""Summed log-spectrum of the three best windows from which a period is a candidate; photographs reach 6 to 9."""
ORDINARY = 0.035
"""Periods this near to 8, relatively, are those of blocks that were not resized."""
AT_MOST = 2
"""Candidates; the second is mostly 3/2 or 2/3 of the first, of which either may be the right one."""
HARMONICS = (1, 2, 3)
MOVES = 0.05
"""Periods this near to 8, relatively, are those of blocks whose scale changes from place to place."""
OTHERS = np.array([c for c in np.exp(np.arange(np.log(5.8), np.log(11.6), MOVES)) if abs(np.log(c / 8)) > 2 * MOVES])
"""Periods with which they are compared, each with what is as near to it."""
FULL = 0.25
"""Share of a column's pixels in a window of which it takes part, and of the columns that may not, at most."""

_MEDIAN = 41


@dataclass(frozen=True, slots=True)
class Candidate:
    """A period of block edges, and where it shows most."""

    period: float
    """Pixels."""
    place: tuple[int, int]
    """(y, x) in pixels."""


def _frequencies(window: int) -> npt.NDArray[np.float64]:
    """Cycles a pixel at which a window's spectrum is taken."""
    return np.arange(1, 2 * window) / (4 * window)


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
    """(n, F) whitened log-spectra of the profiles of the square windows along a strip."""
    window = strip.shape[0]
    profile = _edges(strip).mean(axis=0)
    windows = np.stack([profile[s : s + window] for s in range(0, len(profile) - window + 1, STEP)])
    return _whitened(windows - windows.mean(axis=1, keepdims=True))


def _whitened(profiles: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """(n, F) log-spectra of profiles (n, window) around 0, divided by their running median."""
    window = profiles.shape[1]
    windows = profiles * np.hanning(window)
    basis = np.exp(-2j * np.pi * np.arange(window)[:, None] * _frequencies(window))
    power = (np.abs(windows @ basis) ** 2).astype(np.float32)
    return np.asarray(np.log1p(power / (_running_median(power) + 1e-9)), np.float32)


def _spectra(luma: npt.NDArray[np.uint8], window: int) -> npt.NDArray[np.float32]:
    """(n, F) whitened log-spectra of all square windows, across and down added up."""
    height, width = luma.shape
    across = [_rhythm(luma[y : y + window]) for y in range(0, height - window + 1, STEP)]
    down = [_rhythm(np.ascontiguousarray(luma[:, x : x + window].T)) for x in range(0, width - window + 1, STEP)]
    both = np.stack(across) + np.stack(down).transpose(1, 0, 2)
    return np.asarray(both.reshape(-1, both.shape[2]))


def _strength(
    spectra: npt.NDArray[np.float32], window: int, periods: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(periods,) sum over harmonics, in the mean of the three windows where it is largest."""
    return np.asarray(np.sort(_in_windows(spectra, window, periods), axis=0)[-3:].mean(axis=0))


def _in_windows(
    spectra: npt.NDArray[np.float32], window: int, periods: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(n, periods) sum over harmonics in each window."""
    frequencies = _frequencies(window)
    total = np.zeros((len(spectra), len(periods)))
    for harmonic in HARMONICS:
        place = harmonic / periods
        inside = place <= frequencies[-1]
        at = np.interp(place[inside], frequencies, np.arange(len(frequencies)))
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, len(frequencies) - 1)
        total[:, inside] += spectra[:, low] * (1 - (at - low)) + spectra[:, high] * (at - low)
    return total


def _place(spectra: npt.NDArray[np.float32], period: float, shape: tuple[int, ...]) -> tuple[int, int]:
    """(y, x) of the middle of the 3 x 3 windows in which a period shows most, in pixels of an image of this shape."""
    rows, cols = ((n - WINDOW) // STEP + 1 for n in shape)
    strength = cv2.blur(_in_windows(spectra, WINDOW, np.array([period])).reshape(rows, cols), (3, 3))
    y, x = divmod(int(strength.argmax()), cols)
    return y * STEP + WINDOW // 2, x * STEP + WINDOW // 2


def candidates(luma: npt.NDArray[np.uint8]) -> list[Candidate]:
    """Periods of block edges, the strongest first; empty where nothing stands out.

    `luma` is (H, W) uint8; an image smaller than 128 pixels in a direction gives none.
    """
    if min(luma.shape) < WINDOW:
        return []
    spectra = _spectra(luma, WINDOW)
    strength = _strength(spectra, WINDOW, PERIODS)
    found: list[float] = []
    for k in np.argsort(-strength):
        period = float(PERIODS[k])
        if strength[k] < LEAST or len(found) == AT_MOST:
            break
        if abs(period / 8 - 1) < ORDINARY:
            if not found:
                return []  # what stands out most is an ordinary grid, and the rest its echoes
            continue
        if all(abs(period / other - 1) > 0.05 for other in found):
            found.append(period)
    if found and min(luma.shape) >= 2 * WINDOW:
        wide = _spectra(luma, 2 * WINDOW)
        for k, period in enumerate(found):
            near = period * FINE
            both = _strength(spectra, WINDOW, near) + _strength(wide, 2 * WINDOW, near)
            found[k] = float(near[np.argmax(both)])
    return [Candidate(period, _place(spectra, period, luma.shape)) for period in found]


def rest(luma: npt.NDArray[np.uint8], parts: npt.NDArray[np.bool_]) -> float | None:
    """How much more a rhythm of about 8 pixels shows in the rest of an image (H, W) than others do.

    In the mean of its windows of WINDOW pixels. `parts` (ceil(H / 8), ceil(W / 8)) are the cells that are not of the
    rest. None where this holds no window.
    """
    total = weight = 0.0
    for pixels, cells in ((luma, ~parts), (luma.T, ~parts.T)):
        for y in range(0, pixels.shape[0] - WINDOW + 1, STEP):
            inside = cells[y // BLOCK : (y + WINDOW) // BLOCK].repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
            strip = np.ascontiguousarray(pixels[y : y + WINDOW])
            more, weights = _rest_of(strip, inside[:, : strip.shape[1]])
            total += float((more * weights).sum())
            weight += float(weights.sum())
    return total / weight if weight else None


def _rest_of(
    strip: npt.NDArray[np.uint8], inside: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(n,) the same along each window of a strip with enough pixels `inside`, and (n,) the share of these."""
    begins = range(0, strip.shape[1] - WINDOW + 1, STEP)
    count = inside.sum(axis=0)
    mean = np.where(inside, _edges(strip), 0).sum(axis=0) / np.maximum(count, 1)
    counts, values = (np.array([a[x : x + WINDOW] for x in begins]).reshape(-1, WINDOW) for a in (count, mean))
    full = counts >= FULL * WINDOW
    middle = (values * full).sum(axis=1) / np.maximum(full.sum(axis=1), 1)
    enough = full.mean(axis=1) >= 1 - FULL
    spectra = _whitened(np.where(full, values - middle[:, None], 0)[enough])

    def most(period: float) -> npt.NDArray[np.float64]:
        around = period * np.exp(np.arange(-MOVES, MOVES, 0.004))
        return np.asarray(_in_windows(spectra, WINDOW, around).max(axis=1))

    others = np.mean([most(period) for period in OTHERS], axis=0)
    return most(BLOCK) - others, counts[enough].mean(axis=1) / WINDOW
