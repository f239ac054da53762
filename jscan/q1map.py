"""The Q1 map: for every window, posteriors of the first compression's table, its grid shift, and whether there was one.

The estimator is a comb network (see `train/networks/comb.py`); what is estimated, and how windows are cut, is that
of Tondi 2021: the first 15 zigzag coefficients of the primary quantisation table, in 64 x 64 windows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jscan import kernels
from jscan.jpegtables import N_COEFS, Q1_OFFSET
from jscan.records import WindowPosteriors
from jscan.windows import LooksAgain, Windows

MODEL = "q1-comb"
READER, SCOUT = "q1-reader", "q1-scout"

PULL = 0.1
"""How strongly `decode` is drawn to the posterior's mean: on training images it costs no accuracy against the likeliest
step and saves a quarter of the square error."""


def estimate(
    look: Windows, luma: npt.NDArray[np.uint8], q2: tuple[int, ...], origin: tuple[int, int] = (0, 0)
) -> WindowPosteriors:
    """The Q1 posteriors of an image whose last compression had table `q2` (zigzag) and blocks beginning at `origin`."""
    return look(luma, origin, q2=np.array([q2[:N_COEFS]], np.float32))


def again(
    look: LooksAgain,
    found: WindowPosteriors,
    where: npt.NDArray[np.bool_],
    luma: npt.NDArray[np.uint8],
    q2: tuple[int, ...],
) -> WindowPosteriors:
    """What `estimate` found, with the windows `where` (R, C) looked at once more, at all shifts."""
    return look.again(found, where, luma, q2=np.array([q2[:N_COEFS]], np.float32))


def decode(logp: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
    """(..., 15) int16 steps from log-posteriors (..., 226).

    The step that maximises log p(q) - PULL (q - mean)^2 / (deviation + 1/2): the most likely one where the posterior is
    sharp, and one near its middle where it is not. One of Q1_MAX means at least that.
    """
    return decode_surely(logp)[0]


def decode_surely(logp: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """What `decode` gives, and (...) the mean over the 15 coefficients of the largest probability."""
    bits = np.ascontiguousarray(logp, np.float16).view(np.uint16).reshape(1, -1, Q1_OFFSET[-1])
    steps = np.empty((1, bits.shape[1], N_COEFS), np.int16)
    sure = np.empty(bits.shape[:2], np.float32)
    kernels.q1_steps(bits, kernels.VALUE, kernels.EXP, np.array(Q1_OFFSET), np.float32(PULL), steps, sure)
    return steps.reshape(*logp.shape[:-1], N_COEFS), sure.reshape(logp.shape[:-1])
