"""The last compression of decoded pixels: where its grid lies, and its quantisation table.

Coefficients of a decoded JPEG lie on multiples of their step, blurred by the rounding of pixels. For each coefficient
the step is found by maximum likelihood over the blocks of the right grid: a finer step explains anything, but spreads
its probability over more places. After an earlier compression on the same grid most coefficients lie on a coarser comb
than the last table's; all of them together tell such a pair of tables from one coarser table. A coefficient that is
zero everywhere only says that its step is large; it takes the value of the nearest standard table.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from jscan import clipping, kernels
from jscan.clipping import Clipped
from jscan.coefficients import of_blocks, shares_below
from jscan.jpegtables import ZIGZAG, dct_basis, standard_table
from jscan.records import Agreement, LastCompression, WindowPosteriors
from jscan.tiling import BLOCK

ROUNDING_NOISE = 0.4
"""Standard deviation of a coefficient after rounding to 8-bit pixels: 0.29 from the luma, more from the colours."""
MAX_STEP = 160
MAX_BLOCKS = 2500
"""Blocks looked at; more add time and nothing else."""
MIN_COEFS, SPEAKS = 300, 2.0
"""Coefficients, blocks' first ones aside, of that size or more, below which nothing is said. In 154 pieces of 256 x 256
pixels, many of them sky, 8 of the 10 tables that were wrong by more than a quality of 1 and 5 of the 96 that were right
had fewer."""
UNEXPLAINED = 0.1
"""Share of coefficients that one standard table, or two, may leave unexplained: steps of coefficients that are nearly
always zero are often estimated wrongly. A maker's table leaves more."""
SURELY_TWO = 16.0
"""Times what a free step must gain by which two tables must explain the coefficients better than one: a fine last one
explains whatever is there. Of photographs saved once at 15 to 63 none left so much unexplained that it was asked."""
FINEST = 2
"""Steps up to which a last compression leaves coefficients about where a first one put them, and where pasted parts
look like one of the whole picture."""
LEAST_DENSE = 1e-12
"""Density of coefficients that is believed in anywhere, times their mean size: there are always a few odd ones."""
OUTLIERS = 0.03
"""Share of coefficients that obey no comb, from clipped or edited blocks."""
FAR, FINE = 4, 512
"""Where that noise ends, ten deviations away, and how finely it is told."""

CLIPPED_NOISE = 1.0
"""The same where colours were clipped, which moves all coefficients of a block."""
LEAST_STEP = 6
"""Steps between whose multiples that noise leaves room: finer ones fit whatever is there."""
FLOOR = -6.0
"""Nats that one coefficient can say against a table at most."""
ABOUT, FEWEST = 3, 40
"""How far off a part's quality may be told, and blocks of it that must tell something."""
BEST = 80
"""Percentile of these blocks that speaks for a part."""
STRIP = 64
"""Rows of blocks that are compared together, so that memory stays bounded."""


def agreement(luma: npt.NDArray[np.uint8], last: LastCompression) -> Agreement:
    """How well the blocks of an image (H, W) agree with its `last` compression.

    Whatever was pasted in after that compression lies anywhere between the multiples. Where it was compressed with the
    rest, it lies on them, however odd it looks.
    """
    oy, ox = last.origin
    rows, cols = (luma.shape[0] - oy) // BLOCK, (luma.shape[1] - ox) // BLOCK
    steps = np.empty((BLOCK, BLOCK), np.float32)
    steps[tuple(np.transpose(ZIGZAG))] = last.table
    basis = dct_basis().astype(np.float32)
    speaks = (steps >= LEAST_STEP) & (not _is_fine(last.table))  # a coarse step among fine ones is a mistaken one
    speaks[0, 0] = False
    nats, count = np.empty((rows, cols), np.float32), np.empty((rows, cols), np.float32)
    for top in range(0, rows, STRIP):
        here = slice(top, min(top + STRIP, rows))
        pixels = luma[oy + BLOCK * here.start : oy + BLOCK * here.stop, ox : ox + BLOCK * cols]
        blocks = pixels.reshape(-1, BLOCK, cols, BLOCK).astype(np.float32) - 128
        dct = np.einsum("ua,racb,vb->rcuv", basis, blocks, basis, optimize=True)
        place = np.rint(dct / steps)
        away = (dct - steps * place) / CLIPPED_NOISE
        each = np.log(steps / (CLIPPED_NOISE * np.float32(np.sqrt(2 * np.pi)))) - away * away / 2
        used = speaks & (place != 0)
        nats[here] = np.where(used, np.maximum(each, FLOOR), 0).sum(axis=(2, 3))
        count[here] = used.sum(axis=(2, 3))
    return Agreement(nats, count, (oy, ox))


def of_part(
    luma: npt.NDArray[np.uint8], where: npt.NDArray[np.bool_], qf: float, first: tuple[int, int]
) -> float | None:
    """How well a part of an image (H, W) agrees with a standard table of about quality `qf` and blocks from `first` on.

    In nats a coefficient: four of five blocks in its cells `where` (ceil(H / 8), ceil(W / 8)) that tell it have at most
    so many, for the table for which it is most; None where fewer than FEWEST of them do. The best ones speak, as a part
    may have been taken for twice as large as it is.
    """
    inner = cv2.erode(where.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rows, cols = (np.flatnonzero(inner.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(cols[0])
    box = (slice(top, int(rows[-1]) + 2), slice(left, int(cols[-1]) + 2))  # the last blocks may begin in these cells
    pixels = luma[tuple(slice(s.start * BLOCK, s.stop * BLOCK) for s in box)]
    found = []
    for quality in range(max(1, round(qf) - ABOUT), min(100, round(qf) + ABOUT) + 1):
        table = LastCompression(first, tuple(int(q) for q in standard_table(quality)), quality, True)
        each = agreement(pixels, table)
        # A block lies in the cell that holds its centre.
        middle = [np.arange(n) + (o + BLOCK // 2) // BLOCK for n, o in zip(each.nats.shape, first, strict=True)]
        tell = (each.count > 0) & np.pad(inner, ((0, 1), (0, 1)))[box][np.ix_(*middle)]
        if tell.any():
            found.append((float(np.percentile(each.nats[tell] / each.count[tell], BEST)), int(tell.sum())))
    nats, count = max(found, default=(0.0, 0))
    return nats if count >= FEWEST else None


def _log_likelihoods(values: npt.NDArray[np.float32], elsewhere: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(64, MAX_STEP) log-likelihood of each step 1, 2, ... for the values (64, n) of each coefficient.

    How many are how large without a step is what those `elsewhere` (64, m), of another grid, tell. Laplacian ones of
    the same mean size are small less often, so that large steps were taken for what makes so many zeros.
    """
    sizes = np.abs(values)
    below = shares_below(elsewhere, int(max(sizes.max(initial=0), MAX_STEP)) + 1)
    least = LEAST_DENSE / (2 * np.maximum(sizes.mean(axis=1, dtype=np.float64), 0.1))
    z = np.arange(FAR * FINE + 1) / (FINE * ROUNDING_NOISE)
    bell = np.exp(-z * z / 2) / (ROUNDING_NOISE * np.sqrt(2 * np.pi))
    out = np.empty((len(values), MAX_STEP), np.float64)
    kernels.step_likelihoods(sizes, below, least, bell.astype(np.float32), FINE, np.float32(OUTLIERS), out)
    return out


def _last_of_two(
    likelihood: npt.NDArray[np.float64], tables: npt.NDArray[np.int64], least: float
) -> tuple[int, float, npt.NDArray[np.bool_]]:
    """The last of the two standard compressions on one grid that explain the coefficients best: its index among the
    `tables` (100, 64), their log-likelihood, and (64,) which coefficients free steps explain better than these two by
    more than `least`.

    A coefficient on multiples of q1 is moved by the second compression to multiples of q2: while it is small to those
    of the multiple of q2 that is nearest to q1, and that is what free steps find.
    """
    last, first, k = tables[:, None], tables[None], np.arange(64)
    seen = np.minimum(last * np.maximum(np.rint(first / last), 1), MAX_STEP).astype(np.int64)
    explained = np.maximum(likelihood[k, seen - 1], likelihood[k, last - 1])
    explained = np.maximum(explained, np.where(last <= FINEST, likelihood[k, first - 1], -np.inf))
    total = explained.sum(axis=2)
    best = int(np.argmax(total))
    gain = likelihood.max(axis=1) - explained.reshape(-1, 64)[best]
    return best // len(tables), float(total.flat[best]), gain > least


def estimate(
    luma: npt.NDArray[np.uint8], found: WindowPosteriors, shift: int, clipped: Clipped | None = None
) -> LastCompression | None:
    """The last compression of an image (H, W) uint8, or None where too few blocks speak.

    `found` are its QF posteriors, `shift` (dy * 8 + dx, seen from the image's corner) where most blocks begin. Where
    no standard table explains what is there, blocks with `clipped` colours are left out, if enough others are left:
    colours are clipped where a coarse compression rings, and that moves the luma off the multiples of its steps.
    """
    origin = (shift // BLOCK, shift % BLOCK)
    shown = (found.present > 0.5) & (found.shift.argmax(axis=2) == shift)

    def values(first: tuple[int, int], without: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
        odd = clipping.blocks(without, luma.shape, first)
        return of_blocks(luma, first, found.origin, shown, MAX_BLOCKS, odd)

    def tell(without: npt.NDArray[np.float32] | None) -> tuple[LastCompression | None, bool]:
        return _tell(values(origin, without), values(_moved(origin), without), origin)

    told, plain = tell(None)
    share = None if plain or clipped is None else clipped()
    if share is None or not share.any():
        return told
    rest, _ = tell(share)
    return rest or (told if told is not None and not _is_fine(told.table) else None)


def _moved(origin: tuple[int, int]) -> tuple[int, int]:
    """Where a grid begins that is as far off this one as can be."""
    return (origin[0] + BLOCK // 2) % BLOCK, (origin[1] + BLOCK // 2) % BLOCK


def _is_fine(table: Sequence[int] | npt.NDArray[np.int64]) -> bool:
    """Whether a table explains whatever is there."""
    return bool(np.median(table) <= FINEST)


def _tell(
    values: npt.NDArray[np.float32], elsewhere: npt.NDArray[np.float32], origin: tuple[int, int]
) -> tuple[LastCompression | None, bool]:
    """What the coefficients (64, n) of blocks on the last grid tell of its table; None where too few of them speak.

    And whether there is no more to be asked: they do not, or one standard table explains them that is not so fine that
    it would explain anything. Those `elsewhere` (64, m) are of another grid.
    """
    if not elsewhere.shape[1] or np.count_nonzero(np.abs(values[1:]) >= SPEAKS) < MIN_COEFS:
        return None, True
    likelihood = _log_likelihoods(values, elsewhere)
    tables = np.stack([np.minimum(standard_table(qf), MAX_STEP) for qf in range(1, 101)])
    joint = likelihood[np.arange(64), tables - 1].sum(axis=1)
    qf = int(np.argmax(joint)) + 1
    standard = tables[qf - 1]
    free = np.argmax(likelihood, axis=1) + 1
    gain = likelihood.max(axis=1) - likelihood[np.arange(64), standard - 1]
    # A free step must beat the standard one clearly; by chance the best of many is a little better.
    least = 12 + 0.005 * values.shape[1]
    better = gain > least
    if better.sum() == 1:
        better[:] = False  # no table differs from a standard one in a single step; mean levels may be few
    plain = not better.any() and not _is_fine(standard)
    if better.mean() > UNEXPLAINED:
        last, both, unexplained = _last_of_two(likelihood, tables, least)
        surely = both - joint[qf - 1] >= SURELY_TWO * least and not _is_fine(tables[last])
        if surely and unexplained.mean() <= min(UNEXPLAINED, float(better.mean()) / 2):
            qf, better = last + 1, unexplained
    table = np.where(better, free, standard_table(qf))
    return LastCompression(origin, tuple(int(q) for q in table), qf, not bool(better.any())), plain
