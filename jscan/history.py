"""The background's history, and how each window compares with it.

The background is the history that most of the image's evidence speaks for. It is found coefficient by coefficient,
so that it need not be a standard table. The comparison is a stack of maps, one value a window, that the
consistency model reads (`regions.py`); what a map holds is told by its name in `JPEG_CHANNELS` and `PIXEL_CHANNELS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan import kernels
from jscan.jpegtables import N_COEFS, Q1_MAX, Q1_OFFSET, standard_table
from jscan.records import WindowPosteriors
from jscan.tiling import STRIDE, WINDOW

FloatArray = npt.NDArray[np.floating[Any]]

_FLOOR = 0.01
"""Added to a window's posterior before its log is summed up, so that no window can veto a history."""
_DEPENDENCE = 4.0
"""The 15 posteriors of a window come from the same pixels; their joint log-likelihood is divided by this."""
_QF1_RANGE = range(45, 101)
_STRIP = 64
_FLOORED = kernels.of_half(lambda x: np.log(np.exp(x) + np.float32(_FLOOR)))
_BOUNDED = kernels.of_half(lambda x: np.maximum(x, np.log(np.float32(_FLOOR))))
_LOG_STEPS = np.concatenate([np.log(np.arange(1, b - a + 1)) for a, b in pairwise(Q1_OFFSET)]).astype(np.float32)

MUTE_DEVIATION = 0.7
"""Windows whose pixels deviate less than this from their mean hold no information."""
MUTE_SATURATED = 0.95
"""Windows of which more than this share is black or white hold no information."""

JPEG_CHANNELS = (
    "double_logit",
    "background_low",
    "background_high",
    "sure_low",
    "sure_high",
    "coarser_low",
    "coarser_high",
    "shift_background",
    "shift_best",
    "shift_elsewhere_3",
    "shift_elsewhere_7",
    "table_elsewhere_3",
    "table_elsewhere_7",
    "over_q2",
    "against_24",
    "against_40",
    "against_72",
    "texture",
    "saturated",
    "mean_double_logit",
    "mean_background_low",
    "mean_shift_background",
    "mean_shift_best",
    "mean_table_elsewhere",
    "mean_against_72",
    "background_over_q2",
    "log_q2",
)
PIXEL_CHANNELS = (
    "flag_logit",
    "background_qf",
    "sure_qf",
    "qf_difference",
    "shift_background",
    "shift_best",
    "shift_elsewhere_3",
    "shift_elsewhere_7",
    "qf_elsewhere_3",
    "qf_elsewhere_7",
    "texture",
    "saturated",
    "mean_flag_logit",
    "mean_background_qf",
    "mean_shift_background",
    "mean_shift_best",
    "background_qf_value",
)


@dataclass(frozen=True, slots=True)
class Background:
    """The history that most of an image shares."""

    table: tuple[int, ...]
    """15 steps of the first compression (JPEG), where one of Q1_MAX means at least that, or (qf,) of the last one
    (pixels); a guess where `fraction` is low."""
    shift: int
    """Where its blocks begin, dy * 8 + dx, seen from the windows' origin."""
    fraction: float
    """Share of the windows, weighed by how sure they are, that show the compression."""


def _strips(rows: int) -> Iterator[slice]:
    """Rows of windows that are looked at together: float copies of all posteriors would be twice as large as these."""
    for top in range(0, rows, _STRIP):
        yield slice(top, min(top + _STRIP, rows))


def summed(logp: npt.NDArray[np.float16], weight: FloatArray) -> npt.NDArray[np.float64]:
    """(K,) sum over windows of weight * log(p + floor)."""
    total = np.zeros(logp.shape[2], np.float64)
    kernels.weighted_sums(_bits(logp), _FLOORED, np.asarray(weight, np.float32), total)
    return total


def _bits(half: npt.NDArray[np.float16]) -> npt.NDArray[np.uint16]:
    """Numbers in half precision as compiled loops take them; see `kernels.of_half`."""
    return np.ascontiguousarray(half, np.float16).view(np.uint16)


def sureness(found: WindowPosteriors) -> FloatArray:
    """(R, C) how sure each window is whether there was a compression: 0 (no idea) to 1."""
    return np.abs(2 * found.present - 1)


def background(found: WindowPosteriors, without: npt.NDArray[np.bool_] | None = None) -> Background:
    """The background of an image from its windows' posteriors, those of the windows `without` (R, C) left out."""
    counts = np.ones(found.present.shape, np.float32) if without is None else (~without).astype(np.float32)
    weight = counts * found.present.astype(np.float32)
    groups = list(pairwise(Q1_OFFSET)) if found.logp.shape[2] == Q1_OFFSET[-1] else [(0, found.logp.shape[2])]
    sure = counts * sureness(found)
    fraction = float((found.present * sure).sum() / max(float(sure.sum()), 1e-6))
    shift = int(np.argmax(summed(found.shift, weight)))
    if fraction > 0.5:
        # Of the windows that show that grid: where two histories are about as large, each could give one of the two.
        weight = weight * np.exp(found.shift[..., shift].astype(np.float32))
    steps = summed(found.logp, weight)
    table = tuple(int(np.argmax(steps[a:b])) + 1 for a, b in groups)
    return Background(table, shift, fraction)


def _logit(p: FloatArray) -> FloatArray:
    return np.clip(np.log((p + 1e-4) / (1 - p + 1e-4)), -6, 6).astype(np.float32)


def _mean_filter(x: FloatArray, side: int) -> FloatArray:
    """Mean over side x side windows of (R, C), edges repeated."""
    return np.asarray(cv2.blur(x, (side, side), borderType=cv2.BORDER_REPLICATE), np.float32)


def _elsewhere(scores: FloatArray, at: int) -> tuple[FloatArray, FloatArray]:
    """By how much the best other candidate of (K, R, C) beats candidate `at`, in means over 3 x 3 and 7 x 7 windows."""
    rivals = [k for k in range(len(scores)) if k != at]

    def lead(side: int) -> FloatArray:
        best = np.full(scores.shape[1:], -np.inf, np.float32)
        for k in rivals:  # one candidate at a time: the filtered stack would be as large as the posteriors
            np.maximum(best, _mean_filter(scores[k], side), out=best)
        return np.clip(best - _mean_filter(scores[at], side), -8, 8) / np.float32(3)

    return lead(3), lead(7)


def _places(found: WindowPosteriors) -> FloatArray:
    """(64, R, C) log-posteriors of the shifts, bounded below."""
    out = np.empty((found.shift.shape[2], *found.present.shape), np.float32)
    kernels.planes(_bits(found.shift), _BOUNDED, out)
    return out


@dataclass(frozen=True, slots=True)
class Content:
    """What the pixels of each window are like, (R, C) each."""

    texture: npt.NDArray[np.float32]
    """log(1 + standard deviation) / 3."""
    saturated: npt.NDArray[np.float32]
    """Share of black and white pixels."""


def content(luma: npt.NDArray[np.uint8], found: WindowPosteriors) -> Content:
    """What the pixels (H, W) of the windows are like."""
    rows, cols = found.present.shape
    part, more = luma[found.origin[0] :, found.origin[1] :], WINDOW // STRIDE - 1
    cells = np.empty((rows + more, cols + more, 3), np.float64)
    kernels.cell_sums(part, STRIDE, cells)
    down = sum((cells[k : k + rows] for k in range(1, more + 1)), cells[:rows])
    total = sum((down[:, k : k + cols] for k in range(1, more + 1)), down[:, :cols])
    sides = zip(part.shape, (rows, cols), strict=True)
    high, wide = (np.minimum(WINDOW, side - STRIDE * np.arange(n)) for side, n in sides)
    mean, square, flat = np.moveaxis(total / (high[:, None] * wide)[..., None], 2, 0)
    texture = np.log1p(np.sqrt(np.maximum(square - mean * mean, 0))).astype(np.float32)
    return Content(texture / np.float32(3), flat.astype(np.float32))


def _stack(names: tuple[str, ...], maps: dict[str, FloatArray | float], shape: tuple[int, int]) -> FloatArray:
    out = np.empty((len(names), *shape), np.float32)
    for k, name in enumerate(names):
        out[k] = maps[name]
    return out


def jpeg_channels(
    found: WindowPosteriors, base: Background, q2: tuple[int, ...], pixels: Content, against: FloatArray
) -> FloatArray:
    """(channels, R, C) float32: Q1 posteriors compared with the background; the order is `JPEG_CHANNELS`.

    `against` (3, R, C) is what the background's trace says, of 24, 40 and 72 pixels (`trace.background_trace`).
    """
    shape = found.present.shape
    log_q2 = np.log(np.array(q2[:N_COEFS], np.float64))
    log_base = np.log(np.array(base.table, np.float64))
    standard = np.stack([np.minimum(standard_table(qf)[:N_COEFS], Q1_MAX) for qf in _QF1_RANGE])
    own = np.array(base.table, np.int64)
    tables = np.concatenate([standard, own[None]]) - 1 + np.array(Q1_OFFSET[:-1])
    at, sure, mean_log = (np.empty((N_COEFS, *shape), np.float32) for _ in range(3))
    joint = np.empty((len(tables), *shape), np.float32)
    kernels.q1_facts(
        _bits(found.logp), kernels.VALUE, kernels.EXP, _FLOORED, np.array(Q1_OFFSET), _LOG_STEPS, own, own // 12,
        tables, at, sure, mean_log, joint,
    )  # fmt: skip
    joint /= _DEPENDENCE
    coarser = mean_log - log_base.astype(np.float32)[:, None, None]
    over = mean_log.mean(axis=0) - np.float32(log_q2.mean())
    places = _places(found)
    shift_3, shift_7 = _elsewhere(places, base.shift)
    table_3, table_7 = _elsewhere(joint, len(tables) - 1)
    logit = _logit(found.present) / 3
    low, elsewhere = at[:6].mean(axis=0) / 4, np.clip(joint[:-1].max(axis=0) - joint[-1], -8, 8) / 3
    at_shift, best_shift = places[base.shift] / 4, places.max(axis=0) / 4
    maps: dict[str, FloatArray | float] = {
        "double_logit": logit,
        "background_low": low,
        "background_high": at[6:].mean(axis=0) / 4,
        "sure_low": sure[:6].mean(axis=0),
        "sure_high": sure[6:].mean(axis=0),
        "coarser_low": coarser[:6].mean(axis=0),
        "coarser_high": coarser[6:].mean(axis=0),
        "shift_background": at_shift,
        "shift_best": best_shift,
        "shift_elsewhere_3": shift_3,
        "shift_elsewhere_7": shift_7,
        "table_elsewhere_3": table_3,
        "table_elsewhere_7": table_7,
        "over_q2": over,
        "against_24": against[0],
        "against_40": against[1],
        "against_72": against[2],
        "texture": pixels.texture,
        "saturated": pixels.saturated,
        "mean_double_logit": float(logit.mean()),
        "mean_background_low": float(low.mean()),
        "mean_shift_background": float(at_shift.mean()),
        "mean_shift_best": float(best_shift.mean()),
        "mean_table_elsewhere": float(elsewhere.mean()),
        "mean_against_72": float(against[2].mean()),
        "background_over_q2": float((log_base - log_q2).mean()),
        "log_q2": float(log_q2.mean()) / 2,
    }
    return _stack(JPEG_CHANNELS, maps, shape)


def pixel_channels(found: WindowPosteriors, base: Background, pixels: Content) -> FloatArray:
    """(channels, R, C) float32: QF posteriors compared with the background; the order is `PIXEL_CHANNELS`."""
    shape = found.present.shape
    qf = np.arange(1, 101, dtype=np.float32)
    at, sure, mean = (np.empty(shape, np.float32) for _ in range(3))
    coarse = np.empty((20, *shape), np.float32)
    for strip in _strips(shape[0]):
        logp = found.logp[strip].astype(np.float32)
        p = np.exp(logp)
        at[strip] = np.log(p[..., np.abs(qf - base.table[0]) <= 3].sum(axis=2) + 3e-4) / 4
        sure[strip] = logp.max(axis=2)
        mean[strip] = p @ qf
        floored = np.log(p + _FLOOR)
        for k in range(20):
            coarse[k, strip] = floored[..., 5 * k : 5 * k + 5].max(axis=2)
    places = _places(found)
    shift_3, shift_7 = _elsewhere(places, base.shift)
    qf_3, qf_7 = _elsewhere(coarse, (base.table[0] - 1) // 5)
    logit = _logit(found.present) / 3
    at_shift, best_shift = places[base.shift] / 4, places.max(axis=0) / 4
    maps: dict[str, FloatArray | float] = {
        "flag_logit": logit,
        "background_qf": at,
        "sure_qf": sure / 3,
        "qf_difference": (mean - base.table[0]) / 20,
        "shift_background": at_shift,
        "shift_best": best_shift,
        "shift_elsewhere_3": shift_3,
        "shift_elsewhere_7": shift_7,
        "qf_elsewhere_3": qf_3,
        "qf_elsewhere_7": qf_7,
        "texture": pixels.texture,
        "saturated": pixels.saturated,
        "mean_flag_logit": float(logit.mean()),
        "mean_background_qf": float(at.mean()),
        "mean_shift_background": float(at_shift.mean()),
        "mean_shift_best": float(best_shift.mean()),
        "background_qf_value": base.table[0] / 50 - 1,
    }
    return _stack(PIXEL_CHANNELS, maps, shape)


def mute(pixels: Content) -> npt.NDArray[np.bool_]:
    """(R, C) windows without information, flat or saturated ones."""
    silent: npt.NDArray[np.bool_] = (pixels.texture < np.log1p(MUTE_DEVIATION) / 3) | (
        pixels.saturated > MUTE_SATURATED
    )
    return silent


def deviation(pixels: Content) -> FloatArray:
    """(R, C) standard deviation of the pixels of each window."""
    return np.asarray(np.expm1(3 * pixels.texture))
