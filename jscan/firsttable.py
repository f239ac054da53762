"""The first compression's table, told from the coefficients of most of an image once its grid is known.

Windows tell tables like those that their network was trained on; of another program's they tell something between. What
thousands of blocks on one grid say together needs no such knowledge. Where the two grids differ, coefficients lie
around the multiples of the first step, and the step is the one for which the mean cosine of their place between two
multiples speaks most. Where they are the same, the last compression has moved every multiple of the first step to the
nearest one of its own, and the gaps and heaps that this leaves tell the step by maximum likelihood; what the
coefficients were before, the picture tells on another grid (Lukas and Fridrich 2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jscan import kernels
from jscan.coefficients import of_blocks, shares_below
from jscan.history import Background
from jscan.jpegtables import N_COEFS, Q1_MAX, nearest_qf, standard_table
from jscan.records import WindowPosteriors
from jscan.tiling import BLOCK
from jscan.trace import beside, moved

ENOUGH = 10
"""Of the first 15 steps so many are told where they stand for the table, whatever single windows say of it."""
MOST_BLOCKS = 4000
"""Blocks that are looked at, evenly spread: more add time and hardly anything else."""
FEWEST_BLOCKS = 100
"""Blocks below which nothing is told."""
LARGEST = 99
"""Largest step that is looked for."""
FEWEST = 30
"""Coefficients that must speak for a step."""
SPEAKS = 0.5
"""Share of a step from which a coefficient speaks for it or against it. From 0.75 on, as for a step that is known, the
steep flank of a coefficient that was zero everywhere looked like a fine step: of 574 steps that were told beyond the
first 15, 53 were wrong, and 5 of 872 with this."""
FURTHER, SOME = 1.5, 0.08
"""Steps from 0 beyond which SOME of the coefficients that speak must lie where windows tell about a standard table. In
soft pictures nearly all that are not zero lie at the first multiple, nearer to 0 than they were, as the last
compression left them: of 26 steps that were told there 18 were one to three too small, where windows were right. Of
tables that windows do not know, 24 of 28 were right."""
PLACES = 41
"""Multiples of the last step, from 0 on, at which coefficients are counted."""
NOISES = np.array([0.35, 0.6, 1.0])
"""Standard deviations of what rounding to pixels adds to a coefficient: 0.29 of the luma, more of clipped colours."""
ODD = np.array([0.03, 0.12, 0.4])
"""Shares of the coefficients that obey no first step: a part may have been pasted in."""
SPEAKS_FOR, BEATS = 12.0, 10.0
"""Nats that a step must have for it, and have more than any other: wrong ones among the first 15 had less."""
DOUBT = 0.02
"""And nats more for each coefficient that is not zero, where the grids are the same: what the picture was before is
known from another grid, and not exactly."""
BUSY = 60.0
"""Sum of the sizes of a block's other coefficients from which its first one speaks for a step: where it is flat that is
a multiple of 8, compressed or not."""
FEW = 3
"""Steps that must differ from a table that windows tell, where that is a standard one: by chance it would not be."""
HIGHER = 2.0
"""Times as much is asked of the coefficients beyond the first 15, most of which are zeros."""


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """What an image as a whole tells of its background's first table."""

    steps: npt.NDArray[np.int64]
    """(64,) zigzag; 0 where a step is not told, or windows may tell it as well."""
    sure: bool
    """Whether ENOUGH of the first 15 are told beyond doubt."""

    def merged(self, table: tuple[int, ...]) -> tuple[int, ...]:
        """The table (15,) that windows tell, with those of its steps that are told here, as far as they go."""
        return tuple(min(int(k), most) if k else q for q, k, most in zip(table, self.steps, Q1_MAX, strict=False))


NOTHING = FirstSteps(np.zeros(BLOCK * BLOCK, np.int64), False)
"""No step is told."""


def estimate(
    luma: npt.NDArray[np.uint8],
    found: WindowPosteriors,
    base: Background,
    q2: Sequence[int],
    without: npt.NDArray[np.bool_] | None = None,
) -> FirstSteps:
    """The steps of the background's first compression in an image (H, W).

    `q2` (64,), zigzag, are those of the last one. Looked at are blocks in windows that show a compression, but for
    those `without` (R, C).
    """
    shown = found.present > 0.5
    if without is not None:
        shown &= ~without
    first = moved(divmod(base.shift, BLOCK), found.origin)
    apart, alike = beside(base.shift)
    here, elsewhere = (of_blocks(luma, moved(first, off), found.origin, shown, MOST_BLOCKS) for off in ((0, 0), apart))
    if min(here.shape[1], elsewhere.shape[1]) < FEWEST_BLOCKS:
        return NOTHING
    times = np.where(np.arange(BLOCK * BLOCK) < N_COEFS, 1, HIGHER)
    asked = np.full(BLOCK * BLOCK, BEATS)
    if base.shift:
        for values in (here, elsewhere):
            values[0, np.abs(values[1:]).sum(axis=0) < BUSY] = 0
        nats = _by_cosines(here, elsewhere)
        speaks = nats.max(axis=1) > SPEAKS_FOR * times
    else:
        last = np.clip(np.array(q2, np.int64), 1, LARGEST)  # behind larger ones none is told
        nats, nonzero = _by_places(here, elsewhere, last)
        speaks = nats.argmax(axis=1) > last  # of finer ones the gaps say too little
        asked = np.maximum(asked, DOUBT * nonzero)
    best, second = np.partition(nats, -2, axis=1)[:, :-3:-1].T
    likeliest = nats.argmax(axis=1)
    if base.shift:
        if _off_standard(base.table) <= 1:
            speaks[:N_COEFS] &= _has_multiples(here[:N_COEFS], likeliest[:N_COEFS])
        speaks[N_COEFS:] &= alike
    told = speaks & (best - second > asked * times)
    # Which of two neighbours it is may be in doubt, and that it is not what windows say beyond it.
    said = np.array([nats[k, q:].max() if q >= Q1_MAX[k] else nats[k, q] for k, q in enumerate(base.table)])
    other = told.copy()
    other[:N_COEFS] |= speaks[:N_COEFS] & (best[:N_COEFS] - said > asked[:N_COEFS])
    steps = np.where(other, likeliest, 0)
    sure = bool(told[:N_COEFS].sum() >= ENOUGH)
    differ = [k for k, q in enumerate(base.table) if steps[k] and min(steps[k], Q1_MAX[k]) != q]
    if len(differ) < FEW and _off_standard(base.table) == 0:
        steps[differ] = 0
    return FirstSteps(steps, sure)


def _off_standard(table: tuple[int, ...]) -> int:
    """The largest difference of steps (15,) from those of the standard quality that is nearest to them."""
    nearest = np.minimum(standard_table(round(nearest_qf(table)))[:N_COEFS], Q1_MAX)
    return int(np.abs(nearest - np.array(table)).max())


def _has_multiples(values: npt.NDArray[np.float32], steps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(K,) whether SOME of the coefficients (K, n) that speak for a step lie beyond its first multiple."""
    sizes = np.abs(values)
    further, speak = ((sizes > share * steps[:, None]).sum(axis=1) for share in (FURTHER, SPEAKS))
    some: npt.NDArray[np.bool_] = further >= SOME * speak
    return some


def _by_cosines(here: npt.NDArray[np.float32], elsewhere: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(64, Q) nats for each step from the mean cosine of the coefficients, beyond that on another grid.

    They are those of the von Mises distribution with this mean against a uniform one.
    """
    means, number = [], np.zeros(())
    for values in (elsewhere, here):
        total, number = np.zeros((2, len(values), LARGEST + 1))
        kernels.step_cosines(values, np.float32(SPEAKS), total, number)
        means.append(np.where(number < FEWEST, 0, total / np.maximum(number, 1)))
    mean = np.clip(means[1] - np.maximum(means[0], 0), 0, _MEANS[-1])
    return np.where(number < FEWEST, 0, number * np.interp(mean, _MEANS, _NATS))


def _by_places(
    here: npt.NDArray[np.float32], elsewhere: npt.NDArray[np.float32], last: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(64, Q) log-likelihood of each step where both compressions have one grid, and (64,) how many are not zero."""
    place = np.abs(np.rint(here / last[:, None])).astype(np.int64)
    counts = np.stack([np.bincount(row[row < PLACES], minlength=PLACES) for row in place]).astype(np.float64)
    below = shares_below(elsewhere, (PLACES + 1) * int(last.max()))  # in halves, as all edges between multiples are
    nats = np.full((len(here), LARGEST + 1), -1e300)
    kernels.lattice_likelihoods(counts, below, last, NOISES, ODD, nats)
    return nats, (place > 0).sum(axis=1)


def _von_mises() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean cosines, ascending, and the nats that each sample has on average for the distribution of such a mean."""
    turn = np.linspace(0, np.pi, 2001)
    strength = np.concatenate([[0], np.geomspace(1e-2, 150, 400)])
    weight = np.exp(strength[:, None] * (np.cos(turn) - 1))  # the largest is 1
    mean = (weight * np.cos(turn)).mean(axis=1) / weight.mean(axis=1)
    mean[0] = 0
    return mean, strength * (mean - 1) - np.log(weight.mean(axis=1))


_MEANS, _NATS = _von_mises()
