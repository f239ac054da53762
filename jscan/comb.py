"""The comb functions of DCT coefficients, which features are made of.

A coefficient quantised by q lies on a comb of spacing q. A feature is the sum of a fixed function of |c| over blocks:
cos(2 pi c / q) for a candidate step, or a bell around zero for the dead zone. As every function depends on |c| alone,
they are looked up in a table of |c| in steps of 1/8, many functions to a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

STEPS_PER_UNIT = 8
"""Rows of a table for each unit of |c|."""
ROWS = 1025 * STEPS_PER_UNIT
"""Rows of a table: |c| of 8-bit pixels is below 1025; the row after the last one is all zero and means "no block"."""

REGISTER = 16
"""Numbers that are added up together, in 16 bits each: one register of AVX2 holds them."""
SCALE = 2000
"""What a function of 1 is there; the sum of a band's functions over sixteen blocks stays below 32768."""


@dataclass(frozen=True)
class Band:
    """Coefficients that share one row of functions; their sums are added up."""

    coefs: tuple[int, ...]
    """Zigzag indices, 0 to 63."""
    steps: tuple[int, ...]
    """Candidate steps q of cos(2 pi c / q)."""
    bells: tuple[float, ...] = ()
    """Widths w of exp(-(c / w)^2)."""

    @property
    def size(self) -> int:
        """Features that this band gives."""
        return len(self.steps) + len(self.bells)

    def table(self) -> npt.NDArray[np.float32]:
        """(ROWS + 1, size) float32: the functions at |c| = row / 8, divided by the coefficients in the band."""
        out = np.zeros((ROWS + 1, self.size), np.float32)
        for k, q in enumerate(self.steps):
            # A cosine of this step is the same again after q units: so few are computed that a table takes no time.
            turn = np.cos(2 * np.pi * np.arange(q * STEPS_PER_UNIT, dtype=np.float64) / (q * STEPS_PER_UNIT))
            out[:ROWS, k] = np.tile(turn / len(self.coefs), -(-ROWS // turn.size))[:ROWS]
        if self.bells:
            c = np.arange(ROWS, dtype=np.float64)[:, None] / STEPS_PER_UNIT
            out[:ROWS, len(self.steps) :] = np.exp(-((c / np.asarray(self.bells)) ** 2)) / len(self.coefs)
        return out

    def said(self) -> dict[str, list[float]]:
        """The band as a manifest holds it."""
        return {"coefs": list(self.coefs), "steps": list(self.steps), "bells": list(self.bells)}


def from_manifest(manifest: Mapping[str, Any]) -> tuple[Band, ...]:
    """The bands that a model's features are made of, from its manifest."""
    return tuple(Band(tuple(b["coefs"]), tuple(b["steps"]), tuple(b["bells"])) for b in manifest["bands"])


def padded(band: Band) -> int:
    """Functions of a band's row once it is filled up to whole registers."""
    return -(-band.size // REGISTER) * REGISTER


def padding(bands: tuple[Band, ...]) -> int:
    """Numbers behind the features that the padding of the last rows takes up."""
    end = longest = 0
    for band in bands:
        longest = max(longest, end + padded(band))
        end += band.size
    return longest - end
